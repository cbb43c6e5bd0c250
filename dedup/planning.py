"""From groups to a plan: which files may go, and which copy of each stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dedup.findings import Findings, find_decision
from dedup.keep import is_fixed
from dedup.records import TIERS, Group, Member, Plan, Removal


@dataclass(frozen=True)
class _Step:
    """A file that its group does not keep."""

    member: Member
    group: Group


def plan_of(findings: Findings, groups: Sequence[Group], *, only_decided: bool = False) -> Plan:
    """What could go of the groups, and all decisions. Nothing is touched by it.

    What a line keeps is never removed by another line: of copies of copies, all keep the last one, and the tier is the
    weakest on the way. Files in archives and uploads are neither removed nor relied on. only_decided: of pixels and
    near copies only those that people called the same.
    """
    steps = {step.member.file.path: step for step in _steps(findings, groups, only_decided=only_decided)}
    return Plan(
        removals=tuple(_removal(path, steps) for path in steps),
        decisions=tuple(findings.decisions.values()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        home=findings.home,
    )


def freed(plan: Plan, groups: Iterable[Group]) -> dict[str, int]:
    """Bytes that the plan's removals take up, by tier."""
    sizes = {member.file.path: member.file.size for group in groups for member in group.members}
    found: dict[str, int] = {}
    for removal in plan.removals:
        found[removal.tier] = found.get(removal.tier, 0) + sizes[removal.path]
    return found


def _steps(findings: Findings, groups: Sequence[Group], *, only_decided: bool) -> Iterable[_Step]:
    for group in groups:
        if is_fixed(group.keep.file.path, findings.uploads):
            continue
        for member in group.members[1:]:
            asked = only_decided and group.tier != "bytes"
            if not is_fixed(member.file.path, findings.uploads) and not (
                asked and not _is_same(findings, group.keep, member)
            ):
                yield _Step(member, group)


def _is_same(findings: Findings, kept: Member, other: Member) -> bool:
    said = find_decision(findings, kept.file.sha256, other.file.sha256)
    return said is not None and said.same


def _removal(path: str, steps: dict[str, _Step]) -> Removal:
    first = step = steps[path]
    tier = step.group.tier
    while (further := steps.get(step.group.keep.file.path)) is not None:
        step = further
        tier = max(tier, step.group.tier, key=TIERS.index)
    kept = step.group.keep.file
    why = "; ".join(text for text in (first.member.reason, first.member.keep_reason) if text)
    return Removal(path, first.member.file.sha256, kept.path, kept.sha256, tier, first.group.id, why)
