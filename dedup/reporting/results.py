"""From what is known of copies to everything that was asked: groups, leaks, conflicts, classes, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.cleanup.plan import count_freed_bytes, plan_of
from simile.dedup.grouping.findings import count_similar_pairs, load_findings
from simile.dedup.grouping.groups import add_linked_names, build_groups, match_copies
from simile.dedup.records import TIERS, CleanupPlan, Tier
from simile.dedup.reporting.dataset_checks import (
    DatasetSplits,
    check_labels,
    count_classes,
    count_splits,
    find_label_conflicts,
    find_leaks,
    make_label_reader,
)
from simile.dedup.reporting.exports import DedupResults
from simile.store.catalogue.catalogue import Catalogue


@dataclass(frozen=True)
class DedupResultOptions:
    """What to make of the findings. threshold: of near pairs, the run's if None or if that is lower. between: names of
    splits; labels: `folders` or a manifest's column. None: nobody asked.
    """

    rules: Sequence[str] | None = None
    tiers: Sequence[Tier] = TIERS
    threshold: float | None = None
    filter: Filter | None = None
    split_names: Sequence[str] | None = None
    label_source: str | None = None


@dataclass(frozen=True)
class DedupTierCount:
    """groups, files: of a tier. removable, bytes: files that could go, and what they take up. pairs: similar ones."""

    groups: int = 0
    files: int = 0
    removable: int = 0
    bytes: int = 0
    pairs: int = 0


def check_dataset_names(catalogue: Catalogue, options: DedupResultOptions) -> None:
    """Raises BadSetting for a split or a column that no file has: not a dataset without leaks, but a wrong name."""
    splits = None if options.split_names is None else DatasetSplits(options.split_names)
    if splits is not None:
        count_splits(catalogue, splits, options.filter)
    if options.label_source is not None:
        check_labels(catalogue, options.label_source, splits, options.filter)


def collect_results(catalogue: Catalogue, options: DedupResultOptions) -> tuple[DedupResults, CleanupPlan]:
    """The results, and the plan of all the groups. Nothing is touched. Raises BadSetting."""
    check_dataset_names(catalogue, options)
    splits = None if options.split_names is None else DatasetSplits(options.split_names)
    findings = load_findings(catalogue, options.filter)
    copies = match_copies(findings, options.rules, options.threshold)
    groups = build_groups(findings, copies, options.tiers)
    plan = plan_of(findings, groups)
    leaks = None
    if splits is not None:
        leaks = [leak for leak in find_leaks(findings, copies, splits) if leak.tier in options.tiers]
    conflicts = None
    if options.label_source is not None:
        named = add_linked_names(findings, copies, groups) if "bytes" in options.tiers else groups
        conflicts = find_label_conflicts(named, make_label_reader(options.label_source, splits))
    results = DedupResults(
        findings=findings,
        copies=copies,
        groups=groups,
        tiers=options.tiers,
        threshold=findings.get_effective_threshold(options.threshold),
        filter=options.filter,
        leaks=leaks,
        conflicts=conflicts,
        class_counts=count_classes(catalogue, options.label_source, plan, splits, options.filter)
        if options.label_source is not None
        else None,
    )
    return results, plan


def count_tiers(catalogue: Catalogue, results: DedupResults, plan: CleanupPlan) -> dict[str, DedupTierCount]:
    """What each tier that was asked for comes to. A file that could go is counted in the weakest tier it needs."""
    sizes = count_freed_bytes(plan, results.groups)
    counts = {}
    similar = "similar" in results.tiers
    pairs = count_similar_pairs(catalogue, results.findings, results.threshold, results.filter) if similar else 0
    for tier in results.tiers:
        of_tier = [group for group in results.groups if group.tier == tier]
        counts[tier] = DedupTierCount(
            groups=len(of_tier),
            files=sum(len(group.members) for group in of_tier),
            removable=sum(removal.tier == tier for removal in plan.removals),
            bytes=sizes.get(tier, 0),
            pairs=pairs if tier == "similar" else 0,
        )
    return counts


def parse_tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    """The tiers that are named, one by one or several behind commas; all where none is. Raises BadSetting."""
    named = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    for name in named:
        if name not in TIERS:
            raise BadSetting(f"tier can't be {name!r}. Use {', '.join(TIERS)}.")
    return tuple(tier for tier in TIERS if tier in named) or TIERS
