"""What `simile dedup` found, kept between requests: for programs always fresh, for readers of the page at rest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from simile.dedup.grouping.findings import KIND, Findings, count_similar, load_findings, similar_pairs
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import Decision, Group, Tier
from simile.dedup.review import Review, cases_of, parted_cases, similar_case
from simile.search.searcher import Searcher

COPIES: tuple[Tier, ...] = ("pixels", "near", "bytes")  # bytes last: there is nothing to decide
MOST_SIMILAR = 1000  # similar pairs that a page walks through
_KEPT = 6  # groupings and reviews in memory: a threshold that is moved makes a new one each time

T = TypeVar("T")
Key = TypeVar("Key")


@dataclass(frozen=True)
class Chosen:
    """What is to be seen: tiers in the order they are shown, up to a threshold (None: that of the run)."""

    tiers: tuple[Tier, ...]
    threshold: float | None


@dataclass(frozen=True)
class _Kept:
    """A review, the change that it was made at, and the change up to which it knows decisions."""

    made: int
    learned: int
    review: Review


class Reviews:
    """Findings and groups of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._findings: tuple[int, Findings] | None = None
        self._groups: OrderedDict[Hashable, list[Group]] = OrderedDict()
        self._reviews: OrderedDict[Chosen, _Kept] = OrderedDict()
        # By threshold: the change and the run that they were counted at, and the counts.
        self._counts: OrderedDict[float | None, tuple[int, int | None, dict[Tier, int]]] = OrderedDict()

    def findings(self, searcher: Searcher) -> Findings:
        """As of now; read anew only when something was committed."""
        with self._lock:
            changes = searcher.catalogue.changes()
            if self._findings is None or self._findings[0] != changes:
                self._findings = changes, load_findings(searcher.catalogue)
            return self._findings[1]

    def groups(self, searcher: Searcher, chosen: Chosen) -> tuple[Findings, list[Group]]:
        """As of now, in the order of the tiers that were asked for."""
        with self._lock:
            findings = self.findings(searcher)
            key = self._findings and self._findings[0], chosen
            groups = self._groups.get(key)
            if groups is None:
                groups = _grouped(findings, chosen)
            _remember(self._groups, key, groups)
            return findings, groups

    def counts(self, searcher: Searcher, threshold: float | None, *, afresh: bool) -> dict[Tier, int]:
        """How many groups of each tier there are, and similar pairs; as calm as `review`."""
        with self._lock:
            changes, run = searcher.catalogue.changes(), _last_run(searcher)
            kept = self._counts.pop(threshold, None)
            if kept is None or kept[1] != run or (afresh and kept[0] != changes):
                kept = changes, run, self._counted(searcher, threshold)
            _remember(self._counts, threshold, kept)
            return kept[2]

    def review(self, searcher: Searcher, chosen: Chosen, *, afresh: bool) -> Review:
        """The list that a reader walks through, with the decisions made since laid over it.

        afresh: of now, if anything was committed since; else as it was, unless there was another run.
        """
        with self._lock:
            changes, run = searcher.catalogue.changes(), _last_run(searcher)
            kept = self._reviews.pop(chosen, None)
            if kept is None or kept.review.findings.run_id != run or (afresh and kept.made != changes):
                kept = _Kept(changes, changes, self._made(searcher, chosen))
            elif kept.learned != changes:
                kept = _Kept(kept.made, changes, kept.review.with_decisions(_decisions(searcher)))
            _remember(self._reviews, chosen, kept)
            return kept.review

    def _counted(self, searcher: Searcher, threshold: float | None) -> dict[Tier, int]:
        findings, groups = self.groups(searcher, Chosen(COPIES, threshold))
        counts: dict[Tier, int] = {tier: sum(group.tier == tier for group in groups) for tier in COPIES}
        return counts | {"similar": count_similar(searcher.catalogue, findings, threshold)}

    def _made(self, searcher: Searcher, chosen: Chosen) -> Review:
        if "similar" in chosen.tiers:
            findings = self.findings(searcher)
            found = similar_pairs(searcher.catalogue, findings, threshold=chosen.threshold)
            cases = [similar_case(one) for one in islice(found, MOST_SIMILAR)]
        else:
            findings, groups = self.groups(searcher, chosen)
            cases = [*cases_of(groups), *parted_cases(findings, chosen.tiers)]
        return Review(findings, cases, chosen.threshold)


def _grouped(findings: Findings, chosen: Chosen) -> list[Group]:
    groups = make_groups(findings, tiers=chosen.tiers, threshold=chosen.threshold)
    return sorted(groups, key=lambda group: chosen.tiers.index(group.tier))  # stable: within a tier as they came


def _decisions(searcher: Searcher) -> dict[tuple[str, str], Decision]:
    return {
        (said.first_sha256, said.second_sha256): Decision(
            said.first_sha256, said.second_sha256, said.same, said.keep_sha256
        )
        for said in searcher.catalogue.decisions()
    }


def _last_run(searcher: Searcher) -> int | None:
    run = searcher.catalogue.last_run(KIND)
    return None if run is None else run.id


def _remember(kept: OrderedDict[Key, T], key: Key, value: T) -> None:
    """Puts it in as the newest, and forgets the oldest ones."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def chosen_of(tiers: Sequence[Tier], threshold: float | None, otherwise: tuple[Tier, ...] = COPIES) -> Chosen:
    """Each tier once, in the order that is usual."""
    wanted = [tier for tier in (*otherwise, "similar") if tier in tiers] if tiers else list(otherwise)
    return Chosen(tuple(dict.fromkeys(wanted)), threshold)
