"""Direct matches between images, and stars of them: one kept image and other images that all match it directly."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from simile.dedup.records import ImagePair


@dataclass(frozen=True)
class MatchStar:
    """Image ids: each of `other_ids` (at least one) matches `kept_id`."""

    kept_id: int
    other_ids: tuple[int, ...]


class MatchGraph:
    """Images and their direct matches of one tier, with the users' decisions on them."""

    def __init__(self, decisions: Iterable[tuple[int, int, bool, int | None]], replaced_by: Mapping[int, int]) -> None:
        """Create a graph without matches.

        Args:
            decisions: (image id, image id, same, image id to keep). If two decisions on one pair disagree, the images
                count as different.
            replaced_by: Images whose pairs count for another image, by id.
        """
        self.neighbours: dict[int, dict[int, ImagePair]] = defaultdict(dict)
        self._verdicts: dict[tuple[int, int], bool] = {}
        self._preferred_ids: dict[int, list[int]] = defaultdict(list)  # image -> images that users keep instead of it
        self._different_ids: dict[int, set[int]] = defaultdict(set)
        for first_id, second_id, same, keep_id in decisions:
            first, second = replaced_by.get(first_id, first_id), replaced_by.get(second_id, second_id)
            verdict = same and self._verdicts.get((first, second), True)
            self._verdicts[first, second] = self._verdicts[second, first] = verdict
            if not same:
                self.separate(first, second)
            elif keep_id is not None and first != second:
                loser, winner = (first, second) if keep_id == second_id else (second, first)
                self._preferred_ids[loser].append(winner)

    def add_pair(self, pair: ImagePair, first: int, second: int) -> None:
        """Add a match of two images; of several matches of the same two images the nearest one counts."""
        known = self.neighbours[first].get(second)
        if known is None or pair.distance < known.distance:
            self.neighbours[first][second] = self.neighbours[second][first] = pair

    def separate(self, first: int, second: int) -> None:
        """Let the two images never be in one group."""
        self._different_ids[first].add(second)
        self._different_ids[second].add(first)

    def is_decided_same(self, first: int, second: int) -> bool:
        """Return whether users decided that the two images are the same."""
        return self._verdicts.get((first, second), False)

    def is_decided_different(self, first: int, second: int) -> bool:
        """Return whether users decided that the two images are different."""
        return not self._verdicts.get((first, second), True)

    def is_preferred(self, kept_id: int, other_id: int) -> bool:
        """Return whether users chose to keep `kept_id` instead of `other_id`."""
        return kept_id in self._preferred_ids.get(other_id, ())

    def find_preferred(self, kept_id: int, is_allowed: Callable[[int, int], bool]) -> int:
        """Follow the users' preferences from `kept_id` as far as `is_allowed(preferred, current)` permits.

        Returns:
            The last image; `kept_id` itself if the preferences form a cycle.
        """
        seen, current = {kept_id}, kept_id
        while True:
            allowed = (other for other in self._preferred_ids.get(current, ()) if is_allowed(other, current))
            preferred = next(allowed, None)
            if preferred is None:
                return current
            if preferred in seen:
                return kept_id
            seen.add(preferred)
            current = preferred

    def filter_compatible(self, kept_id: int, other_ids: Iterable[int]) -> list[int]:
        """Remove, in order, images that are separated from `kept_id` or an image before."""
        chosen = [kept_id]
        for other in other_ids:
            if self._different_ids.get(other, set()).isdisjoint(chosen):
                chosen.append(other)
        return chosen[1:]

    def iterate_pairs(self) -> Iterator[tuple[int, int, ImagePair]]:
        """Yield each match once, the nearest first: two image ids, and the pair that was found."""
        matches = [
            (first, second, pair)
            for first, direct in self.neighbours.items()
            for second, pair in direct.items()
            if first < second
        ]
        yield from sorted(matches, key=lambda match: (match[2].distance, match[:2]))

    def count_matches(self, star: MatchStar) -> int:
        """Return how many pairs of the star's images match directly."""
        members = {star.kept_id, *star.other_ids}
        return sum(len(members & self.neighbours[member].keys()) for member in members) // 2

    def matches_all(self, image_id: int, other_ids: Iterable[int]) -> bool:
        """Return whether the image matches each of the others, ignoring itself."""
        direct = self.neighbours[image_id]
        return all(other in direct for other in other_ids if other != image_id)


def find_component_roots(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return for each image id the smallest id in its connected component.

    For matches that are transitive, such as equal pixels.
    """
    parents: dict[int, int] = {}

    def find_root(image_id: int) -> int:
        while (parent := parents.setdefault(image_id, image_id)) != image_id:
            parents[image_id] = image_id = parents[parent]
        return image_id

    for ends in pairs:
        first, second = map(find_root, ends)
        parents[max(first, second)] = min(first, second)
    return {image_id: find_root(image_id) for image_id in sorted(parents)}


def make_component_stars(
    matches: MatchGraph, keep_order: Mapping[int, int], can_match: Callable[[int, int], bool]
) -> list[MatchStar]:
    """Make stars of transitive matches: all images of a component match, except where users decided otherwise.

    Args:
        keep_order: The rank of each image by the keep rules; the lowest rank is kept.
        can_match: Whether the kept image may have the other one in its star.
    """
    components: dict[int, list[int]] = defaultdict(list)
    for image_id, root in find_component_roots(match[:2] for match in matches.iterate_pairs()).items():
        components[root].append(image_id)
    stars = []
    for members in components.values():
        remaining = sorted(members, key=keep_order.__getitem__)
        while len(remaining) > 1:
            allowed = frozenset(remaining)
            kept = matches.find_preferred(remaining[0], lambda other, _, allowed=allowed: other in allowed)  # type: ignore[misc]
            candidates = [other for other in remaining if other != kept and can_match(kept, other)]
            others = matches.filter_compatible(kept, candidates)
            if others:
                stars.append(MatchStar(kept, tuple(others)))
            taken = {kept, *others}
            remaining = [other for other in remaining if other not in taken]
    return stars


def make_greedy_stars(matches: MatchGraph, keep_order: Mapping[int, int]) -> list[MatchStar]:
    """Make disjoint stars: repeatedly take the image with the most remaining matches, and all of these.

    Time is O(m log m) and memory O(m) in the number of matches.

    Args:
        keep_order: The rank of each image by the keep rules; of the images that match all others the lowest is kept.
    """
    match_counts = {image_id: len(direct) for image_id, direct in matches.neighbours.items()}
    heap = [(-count, keep_order[image_id], image_id) for image_id, count in match_counts.items()]
    heapq.heapify(heap)
    stars = []
    while heap:
        count, _, centre = heapq.heappop(heap)
        # An outdated entry: the image was taken, or lost a match and has a newer entry.
        if not count or match_counts.get(centre) != -count:
            continue
        star = _make_star(centre, matches, keep_order, match_counts)
        stars.append(star)
        for image_id in _remove_star(star, matches, match_counts):
            heapq.heappush(heap, (-match_counts[image_id], keep_order[image_id], image_id))
    return stars


def _make_star(
    centre_id: int, matches: MatchGraph, keep_order: Mapping[int, int], match_counts: Mapping[int, int]
) -> MatchStar:
    """Make the star of the centre and its remaining matches, or of an image that users prefer and its matches."""
    members = [centre_id, *_get_remaining_neighbours(centre_id, matches, match_counts)]
    best = _choose_kept(members, matches, keep_order)
    kept = matches.find_preferred(
        best, lambda other, current: other in match_counts and other in matches.neighbours[current]
    )
    if not matches.matches_all(kept, members):
        members = [kept, *_get_remaining_neighbours(kept, matches, match_counts)]
    return MatchStar(kept, tuple(member for member in members if member != kept))


def _get_remaining_neighbours(centre_id: int, matches: MatchGraph, match_counts: Mapping[int, int]) -> list[int]:
    """Return the remaining matches of an image, the nearest first, without incompatible ones."""
    direct = matches.neighbours[centre_id]
    remaining = (other for other in direct if other in match_counts)
    return matches.filter_compatible(centre_id, sorted(remaining, key=lambda other: (direct[other].distance, other)))


def _choose_kept(members: list[int], matches: MatchGraph, keep_order: Mapping[int, int]) -> int:
    """Return the member with the lowest rank among those that match all others; the centre always does."""
    ordered = sorted(members, key=keep_order.__getitem__)
    candidates = (member for member in ordered if len(matches.neighbours[member]) >= len(members) - 1)
    return next(member for member in candidates if matches.matches_all(member, members))


def _remove_star(star: MatchStar, matches: MatchGraph, match_counts: dict[int, int]) -> set[int]:
    """Remove the star's images from the counts; return the other images that lost matches."""
    members = (star.kept_id, *star.other_ids)
    for member in members:
        del match_counts[member]
    changed = set()
    for member in members:
        for other in matches.neighbours[member].keys() & match_counts.keys():
            match_counts[other] -= 1
            changed.add(other)
    return changed
