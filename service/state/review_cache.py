"""What `simile dedup` found, kept between requests: for programs always fresh, for readers of the page at rest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from simile.dedup.grouping.findings import (
    DEDUP_RUN_KIND,
    Findings,
    count_similar_pairs,
    find_similar_pairs,
    load_findings,
)
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import Decision, DuplicateGroup, Tier
from simile.dedup.review import DuplicateReview, iterate_different_cases, make_cases, make_similar_case
from simile.search.searcher import Searcher

COPY_TIERS: tuple[Tier, ...] = ("pixels", "near", "bytes")  # bytes last: there is nothing to decide
MAX_SIMILAR_PAIRS = 1000  # similar pairs that a page walks through
_MAX_CACHED_REVIEWS = 6  # groupings and reviews in memory: a threshold that is moved makes a new one each time

T = TypeVar("T")
Key = TypeVar("Key")


@dataclass(frozen=True)
class TierSelection:
    """What is to be seen: tiers in the order they are shown, up to a threshold (None: that of the run)."""

    tiers: tuple[Tier, ...]
    threshold: float | None


@dataclass(frozen=True)
class CachedReview:
    """A review, the change that it was made at, and the change up to which it knows decisions."""

    created_change: int
    decisions_change: int
    review: DuplicateReview


class ReviewCache:
    """Findings and groups of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._findings: tuple[int, Findings] | None = None
        self._groups: OrderedDict[Hashable, list[DuplicateGroup]] = OrderedDict()
        self._reviews: OrderedDict[TierSelection, CachedReview] = OrderedDict()
        # By threshold: the change and the run that they were counted at, and the counts.
        self._counts: OrderedDict[float | None, tuple[int, int | None, dict[Tier, int]]] = OrderedDict()

    def get_findings(self, searcher: Searcher) -> Findings:
        """As of now; read anew only when something was committed."""
        with self._lock:
            changes = searcher.catalogue.count_changes()
            if self._findings is None or self._findings[0] != changes:
                self._findings = changes, load_findings(searcher.catalogue)
            return self._findings[1]

    def get_groups(self, searcher: Searcher, selection: TierSelection) -> tuple[Findings, list[DuplicateGroup]]:
        """As of now, in the order of the tiers that were asked for."""
        with self._lock:
            findings = self.get_findings(searcher)
            key = self._findings and self._findings[0], selection
            groups = self._groups.get(key)
            if groups is None:
                groups = _make_sorted_groups(findings, selection)
            _put_newest(self._groups, key, groups)
            return findings, groups

    def get_counts(self, searcher: Searcher, threshold: float | None, *, refresh: bool) -> dict[Tier, int]:
        """How many groups of each tier there are, and similar pairs; as calm as `review`."""
        with self._lock:
            changes, run = searcher.catalogue.count_changes(), _get_last_run_id(searcher)
            kept = self._counts.pop(threshold, None)
            if kept is None or kept[1] != run or (refresh and kept[0] != changes):
                kept = changes, run, self._count_groups(searcher, threshold)
            _put_newest(self._counts, threshold, kept)
            return kept[2]

    def get_review(self, searcher: Searcher, selection: TierSelection, *, refresh: bool) -> DuplicateReview:
        """The list that a reader walks through, with the decisions made since laid over it.

        afresh: of now, if anything was committed since; else as it was, unless there was another run.
        """
        with self._lock:
            changes, run = searcher.catalogue.count_changes(), _get_last_run_id(searcher)
            kept = self._reviews.pop(selection, None)
            if kept is None or kept.review.findings.run_id != run or (refresh and kept.created_change != changes):
                kept = CachedReview(changes, changes, self._make_review(searcher, selection))
            elif kept.decisions_change != changes:
                kept = CachedReview(kept.created_change, changes, kept.review.with_decisions(_load_decisions(searcher)))
            _put_newest(self._reviews, selection, kept)
            return kept.review

    def _count_groups(self, searcher: Searcher, threshold: float | None) -> dict[Tier, int]:
        findings, groups = self.get_groups(searcher, TierSelection(COPY_TIERS, threshold))
        counts: dict[Tier, int] = {tier: sum(group.tier == tier for group in groups) for tier in COPY_TIERS}
        return counts | {"similar": count_similar_pairs(searcher.catalogue, findings, threshold)}

    def _make_review(self, searcher: Searcher, selection: TierSelection) -> DuplicateReview:
        if "similar" in selection.tiers:
            findings = self.get_findings(searcher)
            found = find_similar_pairs(searcher.catalogue, findings, threshold=selection.threshold)
            cases = [make_similar_case(one) for one in islice(found, MAX_SIMILAR_PAIRS)]
        else:
            findings, groups = self.get_groups(searcher, selection)
            cases = [*make_cases(groups), *iterate_different_cases(findings, selection.tiers)]
        return DuplicateReview(findings, cases, selection.threshold)


def _make_sorted_groups(findings: Findings, selection: TierSelection) -> list[DuplicateGroup]:
    groups = make_groups(findings, tiers=selection.tiers, threshold=selection.threshold)
    return sorted(groups, key=lambda group: selection.tiers.index(group.tier))  # stable: within a tier as they came


def _load_decisions(searcher: Searcher) -> dict[tuple[str, str], Decision]:
    return {
        (said.first_sha256, said.second_sha256): Decision(
            said.first_sha256, said.second_sha256, said.same, said.keep_sha256
        )
        for said in searcher.catalogue.duplicates.get_decisions()
    }


def _get_last_run_id(searcher: Searcher) -> int | None:
    run = searcher.catalogue.runs.find_last_finished(DEDUP_RUN_KIND)
    return None if run is None else run.id


def _put_newest(cache: OrderedDict[Key, T], key: Key, value: T) -> None:
    """Puts it in as the newest, and forgets the oldest ones."""
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > _MAX_CACHED_REVIEWS:
        cache.popitem(last=False)


def make_tier_selection(
    tiers: Sequence[Tier], threshold: float | None, default_tiers: tuple[Tier, ...] = COPY_TIERS
) -> TierSelection:
    """Each tier once, in the order that is usual."""
    wanted = [tier for tier in (*default_tiers, "similar") if tier in tiers] if tiers else list(default_tiers)
    return TierSelection(tuple(dict.fromkeys(wanted)), threshold)
