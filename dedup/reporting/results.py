"""Collect the results of deduplication from the findings: groups, leaks, label conflicts, classes, counts, the plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.cleanup.plan import count_freed_bytes, plan_of
from simile.dedup.grouping.findings import Findings, count_similar_pairs, load_findings
from simile.dedup.grouping.groups import CopyMatches, add_linked_names, build_groups, match_copies
from simile.dedup.grouping.keep_rules import check_keep_folders
from simile.dedup.grouping.scope import Scope
from simile.dedup.records import TIERS, CleanupPlan, DuplicateGroup, Tier
from simile.dedup.reporting.dataset_checks import (
    ClassCount,
    DatasetSplits,
    LabelConflict,
    SplitLeak,
    check_labels,
    count_classes,
    count_splits,
    find_label_conflicts,
    find_leaks,
    make_label_reader,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.filter_check import resolve_filter


@dataclass(frozen=True, kw_only=True)
class DedupResultOptions:
    """Which results to collect."""

    rules: Sequence[str] | None = None  # the keep rules; None: those of the run
    tiers: Sequence[Tier] = TIERS
    threshold: float | None = None  # of near pairs; None: the run's threshold, which is also the maximum
    filter: Filter | None = None
    scope: Scope | None = None  # only copies across folders or within one; None: all
    split_names: Sequence[str] | None = None  # splits between which leaks are searched; None: none
    removes_series: bool = False  # whether the plan keeps only the best shot of each series
    label_source: str | None = None  # `folders` or a manifest column; None: labels are not checked


@dataclass(frozen=True, kw_only=True)
class DedupResults:
    """The results. `leaks`, `conflicts` and `class_counts` are None if they were not requested."""

    findings: Findings
    copies: CopyMatches
    groups: Sequence[DuplicateGroup]  # of copies
    series: Sequence[DuplicateGroup]
    tiers: Sequence[Tier]
    threshold: float | None  # of near pairs; the groups were made with it
    filter: Filter | None
    scope: Scope | None
    leaks: Sequence[SplitLeak] | None
    conflicts: Sequence[LabelConflict] | None
    class_counts: dict[str, ClassCount] | None


@dataclass(frozen=True, kw_only=True)
class DedupTierCount:
    """The counts of one tier."""

    groups: int = 0
    files: int = 0
    removable: int = 0  # files that the plan removes
    bytes: int = 0  # size of these files
    pairs: int = 0  # similar pairs; 0 for the other tiers


def check_names(catalogue: Catalogue, options: DedupResultOptions) -> DedupResultOptions:
    """Raise BadSetting for a filter, folder to keep, split or label column that no file fits: it is probably misspelt.

    Returns the options with a filter that knows all names of its folder.
    """
    options = replace(options, filter=resolve_filter(catalogue, options.filter))
    if "labelled" in (options.rules or ()) and not catalogue.metadata.get_names():
        raise BadSetting("keep can't be 'labelled': no indexed file has labels. Index a manifest with a label column.")
    if options.rules:
        check_keep_folders(
            options.rules, (path for block in catalogue.files.iterate_under(os.sep) for path, *_ in block)
        )
    splits = None if options.split_names is None else DatasetSplits(options.split_names)
    if splits is not None:
        count_splits(catalogue, splits, options.filter)
    if options.label_source is not None:
        check_labels(catalogue, options.label_source, splits, options.filter)
    return options


def collect_results(catalogue: Catalogue, options: DedupResultOptions) -> tuple[DedupResults, CleanupPlan]:
    """Collect the results and the plan of all groups. No file is touched. Raises BadSetting."""
    options = check_names(catalogue, options)
    splits = None if options.split_names is None else DatasetSplits(options.split_names)
    findings = load_findings(catalogue, options.filter)
    copies = match_copies(findings, options.rules, options.threshold, scope=options.scope)
    groups = build_groups(copies, [tier for tier in options.tiers if tier != "series"])
    series = build_groups(copies, ["series"]) if "series" in options.tiers else []
    plan = plan_of(findings, [*groups, *series] if options.removes_series else groups)
    leaks = conflicts = class_counts = None
    if splits is not None:
        leaks = [leak for leak in find_leaks(findings, copies, splits) if leak.pair.tier in options.tiers]
    if options.label_source is not None:
        labelled_groups = add_linked_names(findings, copies, groups) if "bytes" in options.tiers else groups
        conflicts = find_label_conflicts(labelled_groups, make_label_reader(options.label_source, splits))
        class_counts = count_classes(catalogue, options.label_source, plan, splits, options.filter)
    results = DedupResults(
        findings=findings,
        copies=copies,
        groups=groups,
        series=series,
        tiers=options.tiers,
        threshold=findings.get_effective_threshold(options.threshold),
        filter=options.filter,
        scope=options.scope,
        leaks=leaks,
        conflicts=conflicts,
        class_counts=class_counts,
    )
    return results, plan


def count_tiers(catalogue: Catalogue, results: DedupResults, plan: CleanupPlan) -> dict[str, DedupTierCount]:
    """Count each requested tier. A removable file is counted in the least certain tier that its removal relies on."""
    all_groups = [*results.groups, *results.series]
    freed_bytes = count_freed_bytes(plan, all_groups)
    counts: dict[str, DedupTierCount] = {}
    for tier in results.tiers:
        groups = [group for group in all_groups if group.tier == tier]
        counts[tier] = DedupTierCount(
            groups=len(groups),
            files=sum(len(group.members) for group in groups),
            removable=sum(removal.tier == tier for removal in plan.removals),
            bytes=freed_bytes.get(tier, 0),
            pairs=count_similar_pairs(catalogue, results.findings, results.threshold, results.filter)
            if tier == "similar"
            else 0,
        )
    return counts


def parse_tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    """Parse tiers, each text one tier or several separated by commas; all tiers without texts. Raises BadSetting."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TIERS:
            raise BadSetting(f"tier can't be {name!r}. Use {', '.join(TIERS)}.")
    return tuple(tier for tier in TIERS if tier in names) or TIERS
