"""Which pictures match directly, and the stars that they fall into: one that is kept, and others that all match it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from simile.dedup.records import ImagePair


@dataclass(frozen=True)
class MatchStar:
    """Pictures by id: each of `others`, one at least, matches `kept`."""

    kept_id: int
    other_ids: tuple[int, ...]


class MatchGraph:
    """Pictures and their direct matches of one tier, with what people decided of them."""

    def __init__(self, decisions: Iterable[tuple[int, int, bool, int | None]], replaced_by: Mapping[int, int]) -> None:
        """decisions: (id, id, same, the one to keep); where two speak of one pair, `different` is believed.

        stood_for: pictures whose pairs count for another one.
        """
        self.neighbours: dict[int, dict[int, ImagePair]] = defaultdict(dict)
        self._verdicts: dict[tuple[int, int], bool] = {}
        self._preferred_ids: dict[int, list[int]] = defaultdict(
            list
        )  # a picture -> those that people keep instead of it
        self._different_ids: dict[int, set[int]] = defaultdict(set)
        for one, two, same, keep in decisions:
            first, second = replaced_by.get(one, one), replaced_by.get(two, two)
            self._add_decision(first, second, same=same)
            if same and keep is not None and first != second:
                loser, winner = (first, second) if keep == two else (second, first)
                self._preferred_ids[loser].append(winner)

    def _add_decision(self, first: int, second: int, *, same: bool) -> None:
        self._verdicts[first, second] = self._verdicts[second, first] = same and self._verdicts.get(
            (first, second), True
        )
        if not same:
            self._different_ids[first].add(second)
            self._different_ids[second].add(first)

    def add_pair(self, pair: ImagePair, first: int, second: int) -> None:
        """A match of two pictures; of several between the same two the nearest counts."""
        known = self.neighbours[first].get(second)
        if known is None or pair.distance < known.distance:
            self.neighbours[first][second] = self.neighbours[second][first] = pair

    def is_decided_same(self, first: int, second: int) -> bool:
        """Whether people called them the same."""
        return self._verdicts.get((first, second), False)

    def is_decided_different(self, first: int, second: int) -> bool:
        """Whether people called them different."""
        return not self._verdicts.get((first, second), True)

    def is_preferred(self, kept_id: int, other_id: int) -> bool:
        """Whether people said to keep the one rather than the other."""
        return kept_id in self._preferred_ids.get(other_id, ())

    def find_preferred(self, kept_id: int, is_allowed: Callable[[int, int], bool]) -> int:
        """The one that people keep instead, and so on, as long as it `can` stand in for the one before.

        If they go round in a circle, `kept`.
        """
        seen, now = {kept_id}, kept_id
        while (
            better := next((other for other in self._preferred_ids.get(now, ()) if is_allowed(other, now)), None)
        ) is not None:
            if better in seen:
                return kept_id
            seen.add(better)
            now = better
        return now

    def filter_compatible(self, kept_id: int, other_ids: Iterable[int]) -> list[int]:
        """Those of the others, in their order, that people did not call different from `kept` or one before."""
        chosen = [kept_id]
        for other in other_ids:
            if self._different_ids.get(other, set()).isdisjoint(chosen):
                chosen.append(other)
        return chosen[1:]

    def iterate_pairs(self) -> Iterator[tuple[int, int, ImagePair]]:
        """Every match once, the nearest first: two pictures, and the pair that it rests on."""
        found = [
            (one, two, pair) for one, direct in self.neighbours.items() for two, pair in direct.items() if one < two
        ]
        yield from sorted(found, key=lambda match: (match[2].distance, match[:2]))

    def count_matches(self, star: MatchStar) -> int:
        """How many pairs of its pictures match directly."""
        members = {star.kept_id, *star.other_ids}
        return sum(len(members & self.neighbours[member].keys()) for member in members) // 2

    def matches_all(self, image_id: int, other_ids: Iterable[int]) -> bool:
        """Whether the picture matches every one of the others, itself left out."""
        direct = self.neighbours[image_id]
        return all(other in direct for other in other_ids if other != image_id)


def find_connected_components(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """What the pairs join, each sorted: for matches that hold through a third, such as equal pixels."""
    parent: dict[int, int] = {}

    def root(picture: int) -> int:
        while (above := parent.setdefault(picture, picture)) != picture:
            parent[picture] = picture = parent[above]
        return picture

    for one, two in pairs:
        first, second = root(one), root(two)
        parent[max(first, second)] = min(first, second)
    found: dict[int, list[int]] = defaultdict(list)
    for picture in sorted(parent):
        found[root(picture)].append(picture)
    return list(found.values())


def make_component_stars(matches: MatchGraph, keep_order: Mapping[int, int]) -> list[MatchStar]:
    """Stars of matches that hold through a third: everything joined matches everything, unless people say otherwise.

    order: the place of each picture by the rules on what to keep; the lowest is kept.
    """
    found = []
    for members in find_connected_components((one, two) for one, two, _ in matches.iterate_pairs()):
        left = sorted(members, key=keep_order.__getitem__)
        while len(left) > 1:
            kept = matches.find_preferred(left[0], lambda other, _, left=left: other in left)  # type: ignore[misc]
            others = matches.filter_compatible(kept, (other for other in left if other != kept))
            found += [MatchStar(kept, tuple(others))] if others else []
            taken = {kept, *others}
            left = [other for other in left if other not in taken]
    return found


def make_greedy_stars(matches: MatchGraph, keep_order: Mapping[int, int]) -> list[MatchStar]:
    """Stars without a common picture: again and again the one with the most matches left, and all of these.

    order: as above; the lowest is kept that matches all the others too. Time and memory are linear in the number of
    matches, but for a logarithm.
    """
    left = {picture: len(direct) for picture, direct in matches.neighbours.items()}
    heap = [(-count, keep_order[picture], picture) for picture, count in left.items()]
    heapq.heapify(heap)
    found = []
    while heap:
        count, _, centre = heapq.heappop(heap)
        if not count or left.get(centre) != -count:  # taken, or one of its matches was: it stands further back again
            continue
        star = _make_star(centre, matches, keep_order, left)
        found.append(star)
        for picture in _remove_star(star, matches, left):
            heapq.heappush(heap, (-left[picture], keep_order[picture], picture))
    return found


def _make_star(
    centre_id: int, matches: MatchGraph, keep_order: Mapping[int, int], match_counts: Mapping[int, int]
) -> MatchStar:
    """The star of the centre and its matches; or of one that people prefer, and the matches of that."""
    members = [centre_id, *_get_remaining_neighbours(centre_id, matches, match_counts)]
    best = _choose_kept(members, matches, keep_order)
    kept = matches.find_preferred(best, lambda other, now: other in match_counts and other in matches.neighbours[now])
    if not matches.matches_all(kept, members):
        members = [kept, *_get_remaining_neighbours(kept, matches, match_counts)]
    return MatchStar(kept, tuple(member for member in members if member != kept))


def _get_remaining_neighbours(centre_id: int, matches: MatchGraph, match_counts: Mapping[int, int]) -> list[int]:
    """The matches of a picture that are left, the nearest first, without those that can't go with one before."""
    direct = matches.neighbours[centre_id]
    there = sorted(
        (other for other in direct if other in match_counts), key=lambda other: (direct[other].distance, other)
    )
    return matches.filter_compatible(centre_id, there)


def _choose_kept(members: list[int], matches: MatchGraph, keep_order: Mapping[int, int]) -> int:
    """The first by the rules of those that match all the others; the centre always does."""
    ordered = sorted(members, key=keep_order.__getitem__)
    whole = (member for member in ordered if len(matches.neighbours[member]) >= len(members) - 1)
    return next(member for member in whole if matches.matches_all(member, members))


def _remove_star(star: MatchStar, matches: MatchGraph, match_counts: dict[int, int]) -> set[int]:
    """Takes the star's pictures out; gives those of the others that lost matches by it."""
    members = (star.kept_id, *star.other_ids)
    for member in members:
        del match_counts[member]
    touched = set()
    for member in members:
        for other in matches.neighbours[member].keys() & match_counts.keys():
            match_counts[other] -= 1
            touched.add(other)
    return touched
