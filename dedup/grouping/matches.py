"""Which pictures match directly, and the stars that they fall into: one that is kept, and others that all match it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from simile.dedup.records import Pair


@dataclass(frozen=True)
class Star:
    """Pictures by id: each of `others`, one at least, matches `kept`."""

    kept: int
    others: tuple[int, ...]


class Matches:
    """Pictures and their direct matches of one tier, with what people decided of them."""

    def __init__(self, decisions: Iterable[tuple[int, int, bool, int | None]], stood_for: Mapping[int, int]) -> None:
        """decisions: (id, id, same, the one to keep); where two speak of one pair, `different` is believed.

        stood_for: pictures whose pairs count for another one.
        """
        self.of: dict[int, dict[int, Pair]] = defaultdict(dict)
        self._said: dict[tuple[int, int], bool] = {}
        self._preferred: dict[int, list[int]] = defaultdict(list)  # a picture -> those that people keep instead of it
        self._different: dict[int, set[int]] = defaultdict(set)
        for one, two, same, keep in decisions:
            first, second = stood_for.get(one, one), stood_for.get(two, two)
            self._decide(first, second, same=same)
            if same and keep is not None and first != second:
                loser, winner = (first, second) if keep == two else (second, first)
                self._preferred[loser].append(winner)

    def _decide(self, first: int, second: int, *, same: bool) -> None:
        self._said[first, second] = self._said[second, first] = same and self._said.get((first, second), True)
        if not same:
            self._different[first].add(second)
            self._different[second].add(first)

    def add(self, pair: Pair, first: int, second: int) -> None:
        """A match of two pictures; of several between the same two the nearest counts."""
        known = self.of[first].get(second)
        if known is None or pair.distance < known.distance:
            self.of[first][second] = self.of[second][first] = pair

    def is_same(self, first: int, second: int) -> bool:
        """Whether people called them the same."""
        return self._said.get((first, second), False)

    def is_different(self, first: int, second: int) -> bool:
        """Whether people called them different."""
        return not self._said.get((first, second), True)

    def prefers(self, kept: int, other: int) -> bool:
        """Whether people said to keep the one rather than the other."""
        return kept in self._preferred.get(other, ())

    def preferred(self, kept: int, can: Callable[[int, int], bool]) -> int:
        """The one that people keep instead, and so on, as long as it `can` stand in for the one before.

        If they go round in a circle, `kept`.
        """
        seen, now = {kept}, kept
        while (better := next((other for other in self._preferred.get(now, ()) if can(other, now)), None)) is not None:
            if better in seen:
                return kept
            seen.add(better)
            now = better
        return now

    def compatible(self, kept: int, others: Iterable[int]) -> list[int]:
        """Those of the others, in their order, that people did not call different from `kept` or one before."""
        chosen = [kept]
        for other in others:
            if self._different.get(other, set()).isdisjoint(chosen):
                chosen.append(other)
        return chosen[1:]

    def pairs(self) -> Iterator[tuple[int, int, Pair]]:
        """Every match once, the nearest first: two pictures, and the pair that it rests on."""
        found = [(one, two, pair) for one, direct in self.of.items() for two, pair in direct.items() if one < two]
        yield from sorted(found, key=lambda match: (match[2].distance, match[:2]))

    def among(self, star: Star) -> int:
        """How many pairs of its pictures match directly."""
        members = {star.kept, *star.others}
        return sum(len(members & self.of[member].keys()) for member in members) // 2

    def match_all(self, picture: int, others: Iterable[int]) -> bool:
        """Whether the picture matches every one of the others, itself left out."""
        direct = self.of[picture]
        return all(other in direct for other in others if other != picture)


def classes(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
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


def whole_stars(matches: Matches, order: Mapping[int, int]) -> list[Star]:
    """Stars of matches that hold through a third: everything joined matches everything, unless people say otherwise.

    order: the place of each picture by the rules on what to keep; the lowest is kept.
    """
    found = []
    for members in classes((one, two) for one, two, _ in matches.pairs()):
        left = sorted(members, key=order.__getitem__)
        while len(left) > 1:
            kept = matches.preferred(left[0], lambda other, _, left=left: other in left)  # type: ignore[misc]
            others = matches.compatible(kept, (other for other in left if other != kept))
            found += [Star(kept, tuple(others))] if others else []
            taken = {kept, *others}
            left = [other for other in left if other not in taken]
    return found


def stars(matches: Matches, order: Mapping[int, int]) -> list[Star]:
    """Stars without a common picture: again and again the one with the most matches left, and all of these.

    order: as above; the lowest is kept that matches all the others too. Time and memory are linear in the number of
    matches, but for a logarithm.
    """
    left = {picture: len(direct) for picture, direct in matches.of.items()}
    heap = [(-count, order[picture], picture) for picture, count in left.items()]
    heapq.heapify(heap)
    found = []
    while heap:
        count, _, centre = heapq.heappop(heap)
        if not count or left.get(centre) != -count:  # taken, or one of its matches was: it stands further back again
            continue
        star = _around(centre, matches, order, left)
        found.append(star)
        for picture in _take(star, matches, left):
            heapq.heappush(heap, (-left[picture], order[picture], picture))
    return found


def _around(centre: int, matches: Matches, order: Mapping[int, int], left: Mapping[int, int]) -> Star:
    """The star of the centre and its matches; or of one that people prefer, and the matches of that."""
    members = [centre, *_nearest(centre, matches, left)]
    best = _best(members, matches, order)
    kept = matches.preferred(best, lambda other, now: other in left and other in matches.of[now])
    if not matches.match_all(kept, members):
        members = [kept, *_nearest(kept, matches, left)]
    return Star(kept, tuple(member for member in members if member != kept))


def _nearest(centre: int, matches: Matches, left: Mapping[int, int]) -> list[int]:
    """The matches of a picture that are left, the nearest first, without those that can't go with one before."""
    direct = matches.of[centre]
    there = sorted((other for other in direct if other in left), key=lambda other: (direct[other].distance, other))
    return matches.compatible(centre, there)


def _best(members: list[int], matches: Matches, order: Mapping[int, int]) -> int:
    """The first by the rules of those that match all the others; the centre always does."""
    ordered = sorted(members, key=order.__getitem__)
    whole = (member for member in ordered if len(matches.of[member]) >= len(members) - 1)
    return next(member for member in whole if matches.match_all(member, members))


def _take(star: Star, matches: Matches, left: dict[int, int]) -> set[int]:
    """Takes the star's pictures out; gives those of the others that lost matches by it."""
    members = (star.kept, *star.others)
    for member in members:
        del left[member]
    touched = set()
    for member in members:
        for other in matches.of[member].keys() & left.keys():
            left[other] -= 1
            touched.add(other)
    return touched
