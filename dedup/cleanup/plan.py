"""Make, write and read plans. Any program may write a plan, so nothing in it is trusted.

    {"simile_plan": 1, "created_at", "home",
     "removals": [{"path", "sha256", "keep_path", "keep_sha256", "tier", "group", "reason",
                   "companions": [{"path", "sha256"}], "rating", "keywords"}],
     "decisions": [{"first_sha256", "second_sha256", "same", "keep_sha256"}]}

This module checks only the format; apply.py checks every line against the files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NoSuchPath
from simile.dedup.grouping.findings import Findings, find_decision
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.records import TIERS, CleanupPlan, Companion, Decision, DuplicateGroup, GroupMember, Removal
from simile.images.sources.paths import is_utf8
from simile.store.home import translate_write_errors

PLAN_VERSION = 1
MAX_PLAN_BYTES = 1 << 30  # some millions of lines
_PLAN_FIELDS = {"simile_plan", "created_at", "home", "removals", "decisions"}
FieldChecks = Mapping[str, tuple[Callable[[Any], bool], str]]  # by field: a check, and what to do if it fails
_CORRECT = "Correct it, or make the plan again."


def plan_to_json(plan: CleanupPlan) -> dict[str, Any]:
    """Return the plan as the JSON that `read_plan` reads."""
    removals = [asdict(removal) for removal in plan.removals]
    return {
        "simile_plan": PLAN_VERSION,
        "created_at": plan.created_at,
        "home": plan.home,
        "removals": [
            removal | {name: list(removal[name]) for name in ("companions", "keywords")} for removal in removals
        ],
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
    texts = {field: body.get(field, "") for field in ("created_at", "home")}
    for field, text in texts.items():
        if not _is_text(text):
            raise BadSetting(f"{name}: {field} is not a text. {_CORRECT}")
    removals = tuple(
        _make_removal(item, f"{name}, removals[{number}]")
        for number, item in enumerate(_check_items(body, "removals", _REMOVAL_CHECKS, name, _ADDITION_CHECKS))
    )
    decisions = tuple(Decision(**item) for item in _check_items(body, "decisions", _DECISION_CHECKS, name))
    for number, decision in enumerate(decisions):
        pair, place = (decision.first_sha256, decision.second_sha256), f"{name}, decisions[{number}]"
        if pair[0] >= pair[1]:
            raise BadSetting(f"{place}: the smaller of two different hashes must come first. Make the plan again.")
        if decision.keep_sha256 not in (None, *pair):
            raise BadSetting(f"{place}: keep_sha256 must be one of the two hashes. Make the plan again.")
    return CleanupPlan(removals, decisions, **texts)


def _make_removal(item: dict[str, Any], name: str) -> Removal:
    companions = _check_items(item, "companions", _COMPANION_CHECKS, name)
    additions = {"companions": tuple(Companion(**companion) for companion in companions)}
    return Removal(**item | additions | {"keywords": tuple(item.get("keywords", ()))})


def _check_items(
    body: dict[str, Any], field: str, checks: FieldChecks, name: str, optional: FieldChecks = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Return the items of a list if each has the fields of `checks` with valid values, and `optional` ones.

    Raises BadSetting.
    """
    items = body.get(field, [])
    if not isinstance(items, list):
        raise BadSetting(f"{name}: {field} is not a list. {_CORRECT}")
    for number, item in enumerate(items):
        place = f"{name}, {field}[{number}]"
        if not isinstance(item, dict):
            raise BadSetting(f"{place} is not an object. {_CORRECT}")
        if wrong := sorted(map(str, (checks.keys() - item.keys()) | (item.keys() - checks.keys() - optional.keys()))):
            problem = "is missing" if wrong[0] in checks else "is an unknown field"
            raise BadSetting(f"{place}: {wrong[0]} {problem}. {_CORRECT}")
        for key, (is_valid, advice) in {**checks, **optional}.items():
            if key in item and not is_valid(item[key]):
                raise BadSetting(f"{place}: {key} can't be {item[key]!r}. {advice}")
    return items


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_utf8(value)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_plain_path(value: Any) -> bool:
    """Return whether a path identifies one file: absolute, without `..`, `.` or double separators; can be opened."""
    if not _is_text(value) or not value.startswith(os.sep) or value.startswith("//") or "\0" in value:
        return False
    return bool(os.path.normpath(value) == value != os.sep)


_TEXT_CHECK = _is_text, _CORRECT
_PATH_CHECK = _is_plain_path, "It must be an absolute path without `..`."
_SHA256_CHECK = _is_sha256, "It must be a SHA-256 (64 characters 0 to 9 and a to f). Make the plan again."
_REMOVAL_CHECKS = {
    "path": _PATH_CHECK,
    "sha256": _SHA256_CHECK,
    "keep_path": _PATH_CHECK,
    "keep_sha256": _SHA256_CHECK,
    "tier": (TIERS[:-1].__contains__, f"It must be {', '.join(TIERS[:-1])}."),  # similar images all stay
    "group": _TEXT_CHECK,
    "reason": _TEXT_CHECK,
}
# What older plans and other programs leave out: then nothing goes along with the file.
_ADDITION_CHECKS: FieldChecks = {
    "companions": (lambda value: isinstance(value, list), _CORRECT),
    "rating": (lambda value: value is None or (type(value) is int and 1 <= value <= 5), "It must be 1 to 5."),
    "keywords": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "It must be a list of texts."),
}
_COMPANION_CHECKS: FieldChecks = {"path": _PATH_CHECK, "sha256": _SHA256_CHECK}
_DECISION_CHECKS = {
    "first_sha256": _SHA256_CHECK,
    "second_sha256": _SHA256_CHECK,
    "same": (lambda value: isinstance(value, bool), _CORRECT),
    "keep_sha256": (lambda value: value is None or _is_sha256(value), _SHA256_CHECK[1]),
}


def plan_of(findings: Findings, groups: Sequence[DuplicateGroup], *, only_decided: bool = False) -> CleanupPlan:
    """Plan the removal of all files that the groups do not keep, with all decisions. No file is touched.

    A kept file is never removed by another line: of copies of copies all lines keep the last one, and the tier is the
    least certain one on the way. Files in archives and uploads are neither removed nor relied on. A file that is better
    than the kept one in some respect is removed only if users decided so.

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
        needs_decision |= bool(member.undecided)
        if not is_protected(member.file.path, findings.uploads_folder) and (is_decided_same or not needs_decision):
            members.append(member)
    return members
