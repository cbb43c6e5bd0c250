"""Plans: what would be removed, and for which file. Anybody may write one, so nothing in it is trusted.

    {"simile_plan": 1, "created_at", "home",
     "removals": [{"path", "sha256", "keep_path", "keep_sha256", "tier", "group", "reason"}],
     "decisions": [{"first_sha256", "second_sha256", "same", "keep_sha256"}]}

Here it is only read and written; dedup/apply.py checks every line of it against the files.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from re import compile as pattern
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NoSuchPath
from simile.dedup.grouping.findings import Findings, find_decision
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.records import TIERS, CleanupPlan, Decision, DuplicateGroup, GroupMember, Removal
from simile.images.sources.paths import is_utf8
from simile.store.home import translate_write_errors

PLAN_VERSION = 1
REMOVABLE_TIERS = ("bytes", "pixels", "near")  # what is only similar is never removed
MAX_PLAN_BYTES = 1 << 30  # bytes of a plan: some millions of lines

_SHA256_PATTERN = pattern("[0-9a-f]{64}")
_REMOVAL_FIELDS = dict.fromkeys(("path", "sha256", "keep_path", "keep_sha256", "tier", "group", "reason"), str)
_DECISION_FIELDS = {"first_sha256": str, "second_sha256": str, "same": bool, "keep_sha256": (str, type(None))}


def plan_to_json(plan: CleanupPlan) -> dict[str, Any]:
    """The plan as the JSON that `read_plan` takes."""
    return {
        "simile_plan": PLAN_VERSION,
        "created_at": plan.created_at,
        "home": plan.home,
        "removals": [asdict(removal) for removal in plan.removals],
        "decisions": [asdict(decision) for decision in plan.decisions],
    }


def write_plan(path: Path, plan: CleanupPlan) -> None:
    """Writes the plan, whole or not at all. Raises HomeNotWritable."""
    text = json.dumps(plan_to_json(plan), ensure_ascii=False, indent=1)
    with translate_write_errors(path):
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def read_plan(path: Path) -> CleanupPlan:
    """Reads a plan. Raises NoSuchPath, and BadSetting, which names the line that can't be used."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a fifo would wait
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_PLAN_BYTES:
                raise BadSetting(f"{path} is no plan: not a regular file of at most 1 GB. Name another file.")
            body = json.loads(file.read(MAX_PLAN_BYTES))
    except FileNotFoundError:
        raise NoSuchPath(path) from None
    except OSError as error:
        raise BadSetting(f"{path} can't be read ({error.strerror}). Name another file.") from None
    except (ValueError, RecursionError) as error:
        raise BadSetting(f"{path} is no plan: it is not JSON ({error}). Make it anew, or name another file.") from None
    return parse_plan(body, str(path))


def parse_plan(body: object, name: str) -> CleanupPlan:
    """The plan that a JSON body means; `name` is for messages. Raises BadSetting, which names the item."""
    if not isinstance(body, dict) or "simile_plan" not in body:
        raise BadSetting(f"{name} is no plan: it has no field simile_plan. Make one with `simile dedup --plan FILE`.")
    version = body["simile_plan"]
    if type(version) is not int or version != PLAN_VERSION:
        raise BadSetting(f"{name} is a plan of version {version!r}, and only {PLAN_VERSION} is known. Make it anew.")
    fields = {"simile_plan", "created_at", "home", "removals", "decisions"}
    if unknown := sorted(body.keys() - fields):
        raise BadSetting(f"{name} has a field that no plan has: {unknown[0]!r}. Correct it, or make the plan anew.")
    return CleanupPlan(
        tuple(_parse_removal(item, f"{name}, {where}") for item, where in _iterate_items(body, "removals", name)),
        tuple(_parse_decision(item, f"{name}, {where}") for item, where in _iterate_items(body, "decisions", name)),
        _get_text(body, "created_at", name),
        _get_text(body, "home", name),
    )


def _iterate_items(body: dict[str, Any], field: str, name: str) -> Iterator[tuple[Any, str]]:
    items = body.get(field, [])
    if not isinstance(items, list):
        raise BadSetting(f"{name}: {field} is no list. Correct it, or make the plan anew.")
    return ((item, f"{field}[{number}]") for number, item in enumerate(items))


def _get_text(body: dict[str, Any], field: str, name: str) -> str:
    text = body.get(field, "")
    if not isinstance(text, str) or not is_utf8(text):
        raise BadSetting(f"{name}: {field} is no text. Correct it, or make the plan anew.")
    return text


def _parse_removal(item: object, location: str) -> Removal:
    fields = _check_fields(item, _REMOVAL_FIELDS, location)
    _check_hashes(location, fields["sha256"], fields["keep_sha256"])
    if fields["tier"] not in REMOVABLE_TIERS:
        raise BadSetting(f"{location}: tier can't be {fields['tier']!r}. It is bytes, pixels or near.")
    for name in ("path", "keep_path"):
        _check_path(location, name, fields[name])
    return Removal(**fields)


def _parse_decision(item: object, location: str) -> Decision:
    decision = Decision(**_check_fields(item, _DECISION_FIELDS, location))
    pair = (decision.first_sha256, decision.second_sha256)
    _check_hashes(location, *pair)
    if decision.first_sha256 >= decision.second_sha256:
        raise BadSetting(f"{location}: the smaller hash stands first, and it is of two pictures. Make the plan anew.")
    if decision.keep_sha256 is not None and decision.keep_sha256 not in pair:
        raise BadSetting(f"{location}: keep_sha256 is none of the two. Make the plan anew.")
    return decision


def _check_fields(item: object, expected: dict[str, Any], location: str) -> dict[str, Any]:
    """The item, if it has these fields, of these types, and no others."""
    if not isinstance(item, dict):
        raise BadSetting(f"{location} is no object. Correct it, or make the plan anew.")
    odd = sorted(map(str, item.keys() ^ expected.keys()))
    if odd:
        what = "is missing" if odd[0] in expected else "is no field of it"
        raise BadSetting(f"{location}: {odd[0]} {what}. Correct it, or make the plan anew.")
    for name, kind in expected.items():
        if not isinstance(item[name], kind) or (isinstance(item[name], str) and not is_utf8(item[name])):
            raise BadSetting(f"{location}: {name} can't be {item[name]!r}. Correct it, or make the plan anew.")
    return item


def _check_hashes(location: str, *hashes: str) -> None:
    for sha256 in hashes:
        if not _SHA256_PATTERN.fullmatch(sha256):
            raise BadSetting(
                f"{location}: {sha256!r} is no SHA-256 (64 digits and small letters a to f). Make it anew."
            )


def _check_path(location: str, name: str, path: str) -> None:
    """A path stands for one place: absolute, without `..`, `.` or doubled separators, and it can be opened."""
    plain = path.startswith(os.sep) and os.path.normpath(path) == path and not path.startswith("//")
    if not plain or "\0" in path or path == os.sep:
        raise BadSetting(f"{location}: {name} can't be {path!r}. It is an absolute path without `..`.")


@dataclass(frozen=True)
class _RemovalStep:
    """A file that its group does not keep."""

    member: GroupMember
    group: DuplicateGroup


def plan_of(findings: Findings, groups: Sequence[DuplicateGroup], *, only_decided: bool = False) -> CleanupPlan:
    """What could go of the groups, and all decisions. Nothing is touched by it.

    What a line keeps is never removed by another line: of copies of copies, all keep the last one, and the tier is the
    weakest on the way. Files in archives and uploads are neither removed nor relied on. only_decided: of pixels and
    near copies only those that people called the same.
    """
    steps = {step.member.file.path: step for step in _iterate_steps(findings, groups, only_decided=only_decided)}
    return CleanupPlan(
        removals=tuple(_make_removal(path, steps) for path in steps),
        decisions=tuple(findings.decisions.values()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        home=findings.home,
    )


def count_freed_bytes(plan: CleanupPlan, groups: Iterable[DuplicateGroup]) -> dict[str, int]:
    """Bytes that the plan's removals take up, by tier."""
    sizes = {member.file.path: member.file.size for group in groups for member in group.members}
    found: dict[str, int] = {}
    for removal in plan.removals:
        found[removal.tier] = found.get(removal.tier, 0) + sizes[removal.path]
    return found


def _iterate_steps(
    findings: Findings, groups: Sequence[DuplicateGroup], *, only_decided: bool
) -> Iterable[_RemovalStep]:
    for group in groups:
        if is_protected(group.kept_member.file.path, findings.uploads_folder):
            continue
        for member in group.members[1:]:
            asked = only_decided and group.tier != "bytes"
            if not is_protected(member.file.path, findings.uploads_folder) and not (
                asked and not _is_decided_same(findings, group.kept_member, member)
            ):
                yield _RemovalStep(member, group)


def _is_decided_same(findings: Findings, kept_member: GroupMember, other_member: GroupMember) -> bool:
    said = find_decision(findings, kept_member.file.sha256, other_member.file.sha256)
    return said is not None and said.same


def _make_removal(path: str, steps: dict[str, _RemovalStep]) -> Removal:
    first = step = steps[path]
    tier = step.group.tier
    while (further := steps.get(step.group.kept_member.file.path)) is not None:
        step = further
        tier = max(tier, step.group.tier, key=TIERS.index)
    kept = step.group.kept_member.file
    why = "; ".join(text for text in (first.member.reason, first.member.keep_reason) if text)
    return Removal(path, first.member.file.sha256, kept.path, kept.sha256, tier, first.group.id, why)
