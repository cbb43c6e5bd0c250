"""Cache the results of `simile dedup`: always current for the API, stable for a person who reviews them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from simile.core.errors import NoSuchImage
from simile.dedup.grouping import findings as findings_module
from simile.dedup.grouping.findings import Findings, count_similar_pairs, find_similar_pairs
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.scope import Scope
from simile.dedup.records import Decision, DuplicateGroup, Tier, sort_pair
from simile.dedup.review import DuplicateReview, iterate_different_cases, make_similar_case
from simile.search.searcher import Searcher
from simile.service.schemas.duplicates import DecisionRequest

COPY_TIERS: tuple[Tier, ...] = ("pixels", "near", "bytes")  # bytes last: they need no decision
MAX_SIMILAR_PAIRS = 1000  # that a review contains
_MAX_CACHED_REVIEWS = 6  # each value of the threshold slider makes a new one

T = TypeVar("T")
Key = TypeVar("Key")


@dataclass(frozen=True)
class TierSelection:
    """Tiers in display order, up to a threshold (None: the threshold of the run), in a scope (None: all folders)."""

    tiers: tuple[Tier, ...]
    threshold: float | None
    scope: Scope | None = None


@dataclass(frozen=True)
class CachedReview:
    """A review, with the change numbers of the catalogue at its creation and at its latest decisions."""

    created_change: int
    decisions_change: int
    review: DuplicateReview


class ReviewCache:
    """Findings, groups and reviews of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._findings: tuple[int, Findings] | None = None
        self._groups: OrderedDict[Hashable, list[DuplicateGroup]] = OrderedDict()
        self._reviews: OrderedDict[TierSelection, CachedReview] = OrderedDict()
        # By threshold: change number, run id, and the counts at that time.
        self._counts: OrderedDict[float | None, tuple[int, int | None, dict[Tier, int]]] = OrderedDict()

    def get_findings(self, searcher: Searcher) -> Findings:
        """Return the current findings; reads them again only after a commit."""
        with self._lock:
            changes = searcher.catalogue.count_changes()
            if self._findings is None or self._findings[0] != changes:
                self._findings = changes, findings_module.load_findings(searcher.catalogue)
            return self._findings[1]

    def get_groups(self, searcher: Searcher, selection: TierSelection) -> tuple[Findings, list[DuplicateGroup]]:
        """Return the current findings and their groups, ordered by tier as in `selection`."""
        with self._lock:
            findings = self.get_findings(searcher)
            key = self._findings and self._findings[0], selection
            groups = self._groups.get(key)
            if groups is None:
                groups = _make_sorted_groups(findings, selection)
            _put_newest(self._groups, key, groups)
            return findings, groups

    def get_counts(self, searcher: Searcher, threshold: float | None, *, refresh: bool) -> dict[Tier, int]:
        """Count the groups of each tier and the similar pairs; `refresh` as in `get_review`."""
        with self._lock:
            changes, run = searcher.catalogue.count_changes(), _get_last_run_id(searcher)
            cached = self._counts.pop(threshold, None)
            if cached is None or cached[1] != run or (refresh and cached[0] != changes):
                cached = changes, run, self._count_groups(searcher, threshold)
            _put_newest(self._counts, threshold, cached)
            return cached[2]

    def get_review(self, searcher: Searcher, selection: TierSelection, *, refresh: bool) -> DuplicateReview:
        """Return the list that a person reviews, with the latest decisions applied.

        `refresh`: make the list again after any commit; else only after another run.
        """
        with self._lock:
            changes, run = searcher.catalogue.count_changes(), _get_last_run_id(searcher)
            cached = self._reviews.pop(selection, None)
            if cached is None or cached.review.findings.run_id != run or (refresh and cached.created_change != changes):
                cached = CachedReview(changes, changes, self._make_review(searcher, selection))
            elif cached.decisions_change != changes:
                review = cached.review.with_decisions(findings_module.load_decisions(searcher.catalogue))
                cached = CachedReview(cached.created_change, changes, review)
            _put_newest(self._reviews, selection, cached)
            return cached.review

    def _count_groups(self, searcher: Searcher, threshold: float | None) -> dict[Tier, int]:
        findings, groups = self.get_groups(searcher, TierSelection((*COPY_TIERS, "series"), threshold))
        counts: dict[Tier, int] = {
            tier: sum(group.tier == tier for group in groups) for tier in (*COPY_TIERS, "series")
        }
        return counts | {"similar": count_similar_pairs(searcher.catalogue, findings, threshold)}

    def _make_review(self, searcher: Searcher, selection: TierSelection) -> DuplicateReview:
        if "similar" in selection.tiers:
            findings = self.get_findings(searcher)
            pairs = find_similar_pairs(searcher.catalogue, findings, threshold=selection.threshold)
            cases = [make_similar_case(pair) for pair in islice(pairs, MAX_SIMILAR_PAIRS)]
        else:
            findings, groups = self.get_groups(searcher, selection)
            cases = [*groups, *iterate_different_cases(findings, selection.tiers)]
        return DuplicateReview(findings, cases, selection.threshold)


def store_decisions(searcher: Searcher, decisions: Sequence[DecisionRequest]) -> tuple[int, int]:
    """Store decisions, and delete those with `same` None; the last decision about a pair wins.

    Returns the number of stored and of deleted decisions. Raises NoSuchImage for an unknown image; nothing is stored.
    """
    image_ids = sorted({image_id for decision in decisions for image_id in (decision.first, decision.second)})
    records = searcher.catalogue.images.get_many(image_ids)
    for image_id in image_ids:
        if image_id not in records:
            raise NoSuchImage(image_id)
    hashes = {image_id: record.sha256 for image_id, record in records.items()}
    latest = {sort_pair(hashes[decision.first], hashes[decision.second]): decision for decision in decisions}
    stored = [
        Decision(first, second, decision.same, None if decision.keep is None else hashes[decision.keep])
        for (first, second), decision in latest.items()
        if decision.same is not None
    ]
    removed = [pair for pair, decision in latest.items() if decision.same is None]
    if stored:
        searcher.catalogue.duplicates.save_decisions(stored)
    if removed:
        searcher.catalogue.duplicates.delete_decisions(removed)
    return len(stored), len(removed)


def _make_sorted_groups(findings: Findings, selection: TierSelection) -> list[DuplicateGroup]:
    groups = make_groups(findings, tiers=selection.tiers, threshold=selection.threshold, scope=selection.scope)
    return sorted(groups, key=lambda group: selection.tiers.index(group.tier))  # stable: the order within a tier stays


def _get_last_run_id(searcher: Searcher) -> int | None:
    run = searcher.catalogue.runs.find_last_finished(findings_module.DEDUP_RUN_KIND)
    return None if run is None else run.id


def _put_newest(cache: OrderedDict[Key, T], key: Key, value: T) -> None:
    """Store a value as the newest and drop the oldest ones."""
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > _MAX_CACHED_REVIEWS:
        cache.popitem(last=False)


def make_tier_selection(
    tiers: Sequence[Tier],
    threshold: float | None,
    default_tiers: tuple[Tier, ...] = COPY_TIERS,
    scope: Scope | None = None,
) -> TierSelection:
    """Return the selection of `tiers`, each once and in the default order; all default tiers without any."""
    selected = (
        [tier for tier in (*default_tiers, "series", "similar") if tier in tiers] if tiers else list(default_tiers)
    )
    return TierSelection(tuple(dict.fromkeys(selected)), threshold, scope)
