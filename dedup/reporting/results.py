"""From what is known of copies to everything that was asked: groups, leaks, conflicts, classes, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.cleanup.plan import freed, plan_of
from simile.dedup.grouping.findings import count_similar, load_findings
from simile.dedup.grouping.groups import groups_of, sort_copies, with_every_name
from simile.dedup.records import TIERS, Plan, Tier
from simile.dedup.reporting.dataset_checks import (
    Splits,
    check_labels,
    count_classes,
    count_splits,
    find_conflicts,
    find_leaks,
    label_reader,
)
from simile.dedup.reporting.exports import Results
from simile.store.catalogue.catalogue import Catalogue


@dataclass(frozen=True)
class Wanted:
    """What to make of the findings. threshold: of near pairs, the run's if None or if that is lower. between: names of
    splits; labels: `folders` or a manifest's column. None: nobody asked.
    """

    rules: Sequence[str] | None = None
    tiers: Sequence[Tier] = TIERS
    threshold: float | None = None
    only: Filter | None = None
    between: Sequence[str] | None = None
    labels: str | None = None


@dataclass(frozen=True)
class TierCount:
    """groups, files: of a tier. removable, bytes: files that could go, and what they take up. pairs: similar ones."""

    groups: int = 0
    files: int = 0
    removable: int = 0
    bytes: int = 0
    pairs: int = 0


def check_names(catalogue: Catalogue, wanted: Wanted) -> None:
    """Raises BadSetting for a split or a column that no file has: not a dataset without leaks, but a wrong name."""
    splits = None if wanted.between is None else Splits(wanted.between)
    if splits is not None:
        count_splits(catalogue, splits, wanted.only)
    if wanted.labels is not None:
        check_labels(catalogue, wanted.labels, splits, wanted.only)


def collect(catalogue: Catalogue, wanted: Wanted) -> tuple[Results, Plan]:
    """The results, and the plan of all the groups. Nothing is touched. Raises BadSetting."""
    check_names(catalogue, wanted)
    splits = None if wanted.between is None else Splits(wanted.between)
    findings = load_findings(catalogue, wanted.only)
    copies = sort_copies(findings, wanted.rules, wanted.threshold)
    groups = groups_of(findings, copies, wanted.tiers)
    plan = plan_of(findings, groups)
    leaks = None
    if splits is not None:
        leaks = [leak for leak in find_leaks(findings, copies, splits) if leak.tier in wanted.tiers]
    conflicts = None
    if wanted.labels is not None:
        named = with_every_name(findings, copies, groups) if "bytes" in wanted.tiers else groups
        conflicts = find_conflicts(named, label_reader(wanted.labels, splits))
    results = Results(
        findings=findings,
        copies=copies,
        groups=groups,
        tiers=wanted.tiers,
        threshold=findings.reach(wanted.threshold),
        only=wanted.only,
        leaks=leaks,
        conflicts=conflicts,
        classes=count_classes(catalogue, wanted.labels, plan, splits, wanted.only)
        if wanted.labels is not None
        else None,
    )
    return results, plan


def count_tiers(catalogue: Catalogue, results: Results, plan: Plan) -> dict[str, TierCount]:
    """What each tier that was asked for comes to. A file that could go is counted in the weakest tier it needs."""
    sizes = freed(plan, results.groups)
    counts = {}
    similar = "similar" in results.tiers
    pairs = count_similar(catalogue, results.findings, results.threshold, results.only) if similar else 0
    for tier in results.tiers:
        of_tier = [group for group in results.groups if group.tier == tier]
        counts[tier] = TierCount(
            groups=len(of_tier),
            files=sum(len(group.members) for group in of_tier),
            removable=sum(removal.tier == tier for removal in plan.removals),
            bytes=sizes.get(tier, 0),
            pairs=pairs if tier == "similar" else 0,
        )
    return counts


def read_tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    """The tiers that are named, one by one or several behind commas; all where none is. Raises BadSetting."""
    named = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    for name in named:
        if name not in TIERS:
            raise BadSetting(f"tier can't be {name!r}. Use {', '.join(TIERS)}.")
    return tuple(tier for tier in TIERS if tier in named) or TIERS
