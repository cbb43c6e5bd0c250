"""Make, write and read plans. Any program may write a plan, so nothing in it is trusted.

    {"simile_plan": 1, "created_at", "home",
     "removals": [{"path", "sha256", "keep_path", "keep_sha256", "tier", "group", "reason"}],
     "decisions": [{"first_sha256", "second_sha256", "same", "keep_sha256"}]}

This module checks only the format; apply.py checks every line against the files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NoSuchPath
from simile.dedup.grouping.findings import Findings, find_decision
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.records import TIERS, CleanupPlan, Decision, DuplicateGroup, GroupMember, Removal
from simile.images.sources.paths import is_utf8
from simile.store.home import translate_write_errors

PLAN_VERSION = 1
REMOVABLE_TIERS = ("bytes", "pixels", "near")  # similar images are never removed
MAX_PLAN_BYTES = 1 << 30  # some millions of lines

_PLAN_FIELDS = {"simile_plan", "created_at", "home", "removals", "decisions"}
_SHA256_PATTERN = re.compile("[0-9a-f]{64}")
_REMOVAL_FIELDS = dict.fromkeys(("path", "sha256", "keep_path", "keep_sha256", "tier", "group", "reason"), str)
_DECISION_FIELDS = {"first_sha256": str, "second_sha256": str, "same": bool, "keep_sha256": (str, type(None))}


def plan_to_json(plan: CleanupPlan) -> dict[str, Any]:
    """Return the plan as the JSON that `read_plan` reads."""
    return {
        "simile_plan": PLAN_VERSION,
        "created_at": plan.created_at,
        "home": plan.home,
        "removals": [asdict(removal) for removal in plan.removals],
        "decisions": [asdict(decision) for decision in plan.decisions],
    }


def write_plan(path: Path, plan: CleanupPlan) -> None:
    """Write the plan completely or not at all. Raises HomeNotWritable."""
    text = json.dumps(plan_to_json(plan), ensure_ascii=False, indent=1)
    with translate_write_errors(path):
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def read_plan(path: Path) -> CleanupPlan:
    """Read a plan. Raises NoSuchPath, or BadSetting that names the invalid line."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_PLAN_BYTES:
                raise BadSetting(f"{path} is not a plan: not a regular file of at most 1 GB. Name another file.")
            body = json.loads(file.read(MAX_PLAN_BYTES))
    except FileNotFoundError:
        raise NoSuchPath(path) from None
    except OSError as error:
        raise BadSetting(f"{path} can't be read ({error.strerror}). Name another file.") from None
    except (ValueError, RecursionError) as error:
        raise BadSetting(
            f"{path} is not a plan: it is not JSON ({error}). Make it again, or name another file."
        ) from None
    return parse_plan(body, str(path))


def parse_plan(body: object, name: str) -> CleanupPlan:
    """Parse a plan's JSON; `name` is for error messages. Raises BadSetting that names the invalid item."""
    if not isinstance(body, dict) or "simile_plan" not in body:
        raise BadSetting(
            f"{name} is not a plan: it has no field simile_plan. Make one with `simile dedup --plan FILE`."
        )
    version = body["simile_plan"]
    if type(version) is not int or version != PLAN_VERSION:
        raise BadSetting(
            f"{name} is a plan of version {version!r}, and only version {PLAN_VERSION} is supported. Make it again."
        )
    if unknown := sorted(body.keys() - _PLAN_FIELDS):
        raise BadSetting(f"{name} has the unknown field {unknown[0]!r}. Correct it, or make the plan again.")
    return CleanupPlan(
        tuple(_parse_removal(item, place) for item, place in _iterate_items(body, "removals", name)),
        tuple(_parse_decision(item, place) for item, place in _iterate_items(body, "decisions", name)),
        _get_text(body, "created_at", name),
        _get_text(body, "home", name),
    )


def _iterate_items(body: dict[str, Any], field: str, name: str) -> Iterator[tuple[Any, str]]:
    """Yield the items of a list, each with its place for error messages."""
    items = body.get(field, [])
    if not isinstance(items, list):
        raise BadSetting(f"{name}: {field} is not a list. Correct it, or make the plan again.")
    return ((item, f"{name}, {field}[{number}]") for number, item in enumerate(items))


def _get_text(body: dict[str, Any], field: str, name: str) -> str:
    text = body.get(field, "")
    if not isinstance(text, str) or not is_utf8(text):
        raise BadSetting(f"{name}: {field} is not a text. Correct it, or make the plan again.")
    return text


def _parse_removal(item: object, place: str) -> Removal:
    fields = _check_fields(item, _REMOVAL_FIELDS, place)
    _check_hashes(place, fields["sha256"], fields["keep_sha256"])
    if fields["tier"] not in REMOVABLE_TIERS:
        raise BadSetting(f"{place}: tier can't be {fields['tier']!r}. It must be bytes, pixels or near.")
    for name in ("path", "keep_path"):
        path = fields[name]
        # A path identifies one place: absolute, without `..`, `.` or double separators; and it can be opened.
        is_plain = path.startswith(os.sep) and os.path.normpath(path) == path and not path.startswith("//")
        if not is_plain or "\0" in path or path == os.sep:
            raise BadSetting(f"{place}: {name} can't be {path!r}. It must be an absolute path without `..`.")
    return Removal(**fields)


def _parse_decision(item: object, place: str) -> Decision:
    decision = Decision(**_check_fields(item, _DECISION_FIELDS, place))
    pair = (decision.first_sha256, decision.second_sha256)
    _check_hashes(place, *pair)
    if decision.first_sha256 >= decision.second_sha256:
        raise BadSetting(f"{place}: the smaller of two different hashes must come first. Make the plan again.")
    if decision.keep_sha256 is not None and decision.keep_sha256 not in pair:
        raise BadSetting(f"{place}: keep_sha256 must be one of the two hashes. Make the plan again.")
    return decision


def _check_fields(item: object, expected: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the item if it has exactly these fields with these types. Raises BadSetting."""
    if not isinstance(item, dict):
        raise BadSetting(f"{place} is not an object. Correct it, or make the plan again.")
    if wrong := sorted(map(str, item.keys() ^ expected.keys())):
        problem = "is missing" if wrong[0] in expected else "is an unknown field"
        raise BadSetting(f"{place}: {wrong[0]} {problem}. Correct it, or make the plan again.")
    for name, kind in expected.items():
        if not isinstance(item[name], kind) or (isinstance(item[name], str) and not is_utf8(item[name])):
            raise BadSetting(f"{place}: {name} can't be {item[name]!r}. Correct it, or make the plan again.")
    return item


def _check_hashes(place: str, *hashes: str) -> None:
    for sha256 in hashes:
        if not _SHA256_PATTERN.fullmatch(sha256):
            raise BadSetting(
                f"{place}: {sha256!r} is not a SHA-256 (64 characters 0 to 9 and a to f). Make the plan again."
            )


def plan_of(findings: Findings, groups: Sequence[DuplicateGroup], *, only_decided: bool = False) -> CleanupPlan:
    """Plan the removal of all files that the groups do not keep, with all decisions. No file is touched.

    A kept file is never removed by another line: of copies of copies all lines keep the last one, and the tier is the
    least certain one on the way. Files in archives and uploads are neither removed nor relied on.

    Args:
        only_decided: Of pixel and near groups, remove only files that users decided to be the same as the kept file.
    """
    steps = {
        member.file.path: (member, group)
        for group in groups
        for member in _get_removable_members(findings, group, only_decided=only_decided)
    }
    removals = []
    for path, (member, group) in steps.items():
        tier, kept = group.tier, group.kept_member.file
        while kept.path in steps:  # the kept file is removed by another group: keep what that group keeps
            next_group = steps[kept.path][1]
            tier, kept = max(tier, next_group.tier, key=TIERS.index), next_group.kept_member.file
        removals.append(
            Removal(
                path=path,
                sha256=member.file.sha256,
                keep_path=kept.path,
                keep_sha256=kept.sha256,
                tier=tier,
                group=group.id,
                reason="; ".join(text for text in (member.reason, member.keep_reason) if text),
            )
        )
    return CleanupPlan(
        removals=tuple(removals),
        decisions=tuple(findings.decisions.values()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        home=findings.home,
    )


def count_freed_bytes(plan: CleanupPlan, groups: Iterable[DuplicateGroup]) -> dict[str, int]:
    """Return the size in bytes of the files that the plan removes, by tier."""
    sizes = {member.file.path: member.file.size for group in groups for member in group.members}
    freed: Counter[str] = Counter()
    for removal in plan.removals:
        freed[removal.tier] += sizes[removal.path]
    return freed


def _get_removable_members(findings: Findings, group: DuplicateGroup, *, only_decided: bool) -> list[GroupMember]:
    """Return the members that a plan removes; see plan_of."""
    kept = group.kept_member.file
    if is_protected(kept.path, findings.uploads_folder):
        return []
    members = []
    for member in group.members[1:]:
        decision = find_decision(findings, kept.sha256, member.file.sha256)
        is_decided_same = decision is not None and decision.same
        needs_decision = only_decided and group.tier != "bytes"
        if not is_protected(member.file.path, findings.uploads_folder) and (is_decided_same or not needs_decision):
            members.append(member)
    return members
