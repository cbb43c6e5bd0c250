"""Verify candidate pairs by their pixels, in worker processes, with few comparisons.

The nearest pairs are compared first, and copies are joined to components. Most other candidates follow from that:

- Two components are compared only a few times. If their nearest images are no copies, the others are not either.
- Within a component, each image is compared with the most central one (the hub; usually the original). Two images that
  are certainly copies of the hub and show a common part are copies of each other.

The results of each batch are stored. An interrupted run, or a later one, makes the same choices again, and uses the
results that exist.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter

import numpy as np

from simile.core.records import Failure
from simile.dedup.detection.candidates import PairArray, StageProgress, iterate_in_locality_order
from simile.dedup.detection.known_results import Comparison, KnownResults, PairIds
from simile.dedup.records import ImagePair, sort_pair
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.homography import compute_unit_overlap
from simile.images.matching.similarity import MIN_OVERLAP_SHARE
from simile.images.matching.tasks import compare_files

VERIFICATION_BATCH_SIZE = 1024  # comparisons; at most one batch is lost when the process is killed
WINDOW_SIZE = 16_384  # pairs from which the nearest are chosen
# Comparisons without a copy, after which only the hubs of two components are compared, within and beyond a share of the
# largest distance. With 4 and 2, a quarter of all comparisons finds 99 % of the copies.
MAX_REJECTIONS, NEAR_SHARE = (4, 2), 0.75
MAX_PENDING = 4  # comparisons of one component in a batch: their results make others needless
MIN_CERTAIN_SCORE = 0.97  # of two comparisons from which a third follows
SIMILAR_PAIRS_PER_IMAGE = 3  # pairs of an image that are reported although they are not copies
INFERRED_REASON = "both are copies of the same image"

CandidatePair = tuple[int, int, float]  # first, second, distance


def verify_candidates(
    pairs: PairArray,
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    results: KnownResults,
    on_progress: StageProgress,
    on_failure: Callable[[Failure], None] = lambda _: None,
    feature_folder: str | None = None,
) -> list[ImagePair]:
    """Return the pairs that are near copies, and some of the compared others as similar. Raises HomeNotWritable.

    Args:
        pairs: The candidates, (n,) of PAIR_DTYPE.
        paths: One file of each image, by image id.
        results: Gets the results; pairs that it has already are not compared again.
        on_progress: Called after each batch with the number of decided candidates.
        on_failure: Gets each file that can no longer be read.
        feature_folder: As in `compare_files`.
    """
    task = partial(compare_files, limits=limits, feature_folder=feature_folder)
    failed = set[PairIds]()

    def compare(batch: Sequence[CandidatePair]) -> list[Comparison | None]:
        """Return the result of each pair; None for a pair with a file that cannot be read any more."""
        ids = [(first, second) for first, second, _ in batch]
        todo = [pair for pair in ids if pair not in results.comparisons and pair not in failed]
        new = dict[PairIds, Comparison]()
        alignments = workers.map(task, [(paths[first], paths[second]) for first, second in todo])
        for pair, alignment in zip(todo, alignments, strict=True):
            if isinstance(alignment, Failure):
                on_failure(alignment)
            if isinstance(alignment, Failure | WorkerLost):
                failed.add(pair)
            else:
                new[pair] = Comparison.from_alignment(alignment)
        results.add({}, new)
        return [results.comparisons.get(pair) for pair in ids]

    return _PairVerifier(pairs, compare, on_progress).run()


class _PairVerifier:
    """One verification of all candidates."""

    def __init__(
        self,
        pairs: PairArray,
        compare: Callable[[Sequence[CandidatePair]], list[Comparison | None]],
        on_progress: StageProgress,
    ) -> None:
        self._pairs, self._compare_batch, self._on_progress = pairs, compare, on_progress
        self._centrality = _compute_centrality(pairs)
        self._near_distance = NEAR_SHARE * float(pairs["distance"].max(initial=0))
        self._components = _Components(self._centrality)
        self._compared: dict[CandidatePair, Comparison] = {}
        self._skipped: list[CandidatePair] = []  # not compared: of one component, or of components that differ
        self._copies: dict[int, dict[int, Comparison]] = defaultdict(dict)  # by both images

    def run(self) -> list[ImagePair]:
        """Decide all candidates."""
        inferred = self._compare_with_hubs(self._join_copies())
        self._on_progress(len(self._pairs), len(self._pairs))
        return sorted([*inferred, *self._list_compared()])

    def _join_copies(self) -> list[list[CandidatePair]]:
        """Compare the nearest pairs first, and join the copies.

        Returns:
            For each component, the pairs that were not compared.
        """
        candidates, window = iterate_in_locality_order(self._pairs), list[CandidatePair]()
        read_count = 0
        while True:
            if added := list(islice(candidates, WINDOW_SIZE - len(window))):
                read_count += len(added)
                window = sorted([*window, *added], key=itemgetter(2, 0, 1))
            if not window:
                break
            batch, window = self._choose_batch(window)
            self._compare(batch)
            self._on_progress(read_count - len(window), len(self._pairs))
        self._compare_hubs()
        by_component: dict[int, list[CandidatePair]] = defaultdict(list)
        for pair in self._skipped:
            first, second = map(self._components.find, pair[:2])
            if first == second and pair[1] not in self._copies[pair[0]]:
                by_component[first].append(pair)
        return list(by_component.values())

    def _choose_batch(self, window: Sequence[CandidatePair]) -> tuple[list[CandidatePair], list[CandidatePair]]:
        """Return the pairs to compare now, and those that wait for their results. Other pairs are skipped.

        Args:
            window: Pairs, the nearest first.
        """
        batch, waiting = list[CandidatePair](), list[CandidatePair]()
        pending, chosen = Counter[int](), set[tuple[int, int]]()
        components = self._components
        for pair in window:
            ends = sort_pair(components.find(pair[0]), components.find(pair[1]))
            if ends[0] == ends[1]:
                is_skipped = components.get_hub(ends[0]) not in pair[:2]
            else:
                is_skipped = components.count_rejections(*ends) >= MAX_REJECTIONS[pair[2] > self._near_distance]
            if is_skipped:
                self._skipped.append(pair)
            elif (
                len(batch) >= VERIFICATION_BATCH_SIZE
                or ends in chosen
                or max(map(pending.__getitem__, ends)) >= MAX_PENDING
            ):
                waiting.append(pair)
            else:
                batch.append(pair)
                if ends[0] != ends[1]:
                    chosen.add(ends)
                    pending.update(ends)
        # Few components are left: fill the batch, although some comparisons may turn out to be needless.
        missing = max(0, len(window) * VERIFICATION_BATCH_SIZE // (2 * WINDOW_SIZE) - len(batch))
        return batch + waiting[:missing], waiting[missing:]

    def _compare_hubs(self) -> None:
        """Compare the hubs of components that were found to differ, until nothing is joined any more."""
        tried = set[CandidatePair]()
        while todo := [pair for pair in self._skipped if pair not in tried and self._components.are_hubs(pair)]:
            tried.update(todo)
            self._compare(todo)

    def _compare(self, pairs: Iterable[CandidatePair]) -> None:
        """Compare pairs, and join the components of copies."""
        remaining = iter(pairs)
        while batch := list(islice(remaining, VERIFICATION_BATCH_SIZE)):
            for pair, result in zip(batch, self._compare_batch(batch), strict=True):
                is_copy = result is not None and result.is_copy
                self._components.update(pair, is_copy=is_copy)
                if result is not None:
                    self._compared[pair] = result
                    if is_copy:
                        self._copies[pair[0]][pair[1]] = self._copies[pair[1]][pair[0]] = result

    def _compare_with_hubs(self, components: list[list[CandidatePair]]) -> list[ImagePair]:
        """Compare the images of each component with its hub, and return the copies that follow from that.

        The images that are no copies of the hub form components of their own, and so on.

        Args:
            components: For each component, the pairs that were not compared.
        """
        inferred, uncertain = list[ImagePair](), list[CandidatePair]()
        while components:
            hubs = [max({end for pair in pairs for end in pair[:2]}, key=self._get_rank) for pairs in components]
            with_hubs = zip(components, hubs, strict=True)
            self._compare(pair for pairs, hub in with_hubs for pair in pairs if hub in pair[:2])
            remaining = list[list[CandidatePair]]()
            for pairs, hub in zip(components, hubs, strict=True):
                star = self._copies[hub]
                for pair in pairs:
                    known = [star[end] for end in pair[:2] if end in star]
                    if not known or hub in pair[:2]:
                        continue
                    if len(known) == 1 or min(result.score for result in known) < MIN_CERTAIN_SCORE:
                        uncertain.append(pair)
                    elif _compute_overlap(pair, hub, star) >= MIN_OVERLAP_SHARE:
                        similarity = min(result.similarity for result in known)
                        inferred.append(ImagePair(*pair[:2], "near", pair[2], similarity, INFERRED_REASON))
                remaining.append([pair for pair in pairs if not {hub, *star} & {*pair[:2]}])
            components = [pairs for pairs in remaining if pairs]
        self._compare(uncertain)
        return inferred

    def _get_rank(self, image_id: int) -> tuple[float, int]:
        return self._centrality[image_id], -image_id

    def _list_compared(self) -> list[ImagePair]:
        """Return the compared pairs that are copies, and some others as similar, the nearest first."""
        listed, similar_counts = list[ImagePair](), Counter[int]()
        for (first, second, distance), result in sorted(self._compared.items(), key=lambda item: (item[0][2], item[0])):
            pair = ImagePair(first, second, "near", distance, result.similarity, result.reason)
            if result.is_copy:
                listed.append(pair)
            elif min(similar_counts[first], similar_counts[second]) < SIMILAR_PAIRS_PER_IMAGE:
                similar_counts.update((first, second))
                listed.append(pair._replace(tier="similar", reason=f"not a copy: {result.reason}"))
        return listed


class _Components:
    """Images joined by copies. Each component has a hub, and counts how often it was found to differ from others."""

    def __init__(self, centrality: dict[int, float]) -> None:
        self._centrality = centrality
        self._parents = {image_id: image_id for image_id in centrality}
        self._hubs = dict(self._parents)
        self._rejections: dict[int, Counter[int]] = defaultdict(Counter)

    def find(self, image_id: int) -> int:
        """Return the image that identifies the component of an image."""
        parents = self._parents
        while (parent := parents[image_id]) != image_id:
            parents[image_id] = image_id = parents[parent]
        return image_id

    def get_hub(self, root: int) -> int:
        """Return the most central image of a component."""
        return self._hubs[root]

    def are_hubs(self, pair: CandidatePair) -> bool:
        """Return whether two images are the hubs of different components."""
        roots = {self.find(end) for end in pair[:2]}
        return len(roots) == 2 and {self._hubs[root] for root in roots} == {*pair[:2]}

    def count_rejections(self, first: int, second: int) -> int:
        """Return how many comparisons of two components found no copy."""
        return self._rejections[first][second] if first in self._rejections else 0

    def update(self, pair: CandidatePair, *, is_copy: bool) -> None:
        """Join the components of a pair that was compared, or count that they differ."""
        first, second = self.find(pair[0]), self.find(pair[1])
        if first == second:
            return
        if not is_copy:
            self._rejections[first][second] += 1
            self._rejections[second][first] += 1
            return
        if len(self._rejections[first]) < len(self._rejections[second]):  # move the smaller counter
            first, second = second, first
        self._parents[second] = first
        self._hubs[first] = max(self._hubs[first], self._hubs.pop(second), key=self._centrality.__getitem__)
        for other, count in self._rejections.pop(second).items():
            del self._rejections[other][second]
            if other != first:
                self._rejections[first][other] += count
                self._rejections[other][first] += count


def _compute_centrality(pairs: PairArray) -> dict[int, float]:
    """Return how near each image is to its candidates: the sum of 1 - distance / largest distance, by image id."""
    ids, positions = np.unique(np.concatenate([pairs["first"], pairs["second"]]), return_inverse=True)
    nearness = 1 - pairs["distance"] / max(float(pairs["distance"].max(initial=0)), 1e-9)
    sums = np.bincount(positions, np.concatenate([nearness, nearness]), len(ids))
    return dict(zip(ids.tolist(), sums.tolist(), strict=True))


def _compute_overlap(pair: CandidatePair, hub: int, star: dict[int, Comparison]) -> float:
    """Return how much two copies of a hub have in common, as a share of the smaller one."""
    # The results' matrices are from the larger id to the smaller one.
    matrices = [np.array(star[end].matrix, np.float64) for end in pair[:2]]
    first, second = (
        matrix if hub < end else np.linalg.inv(matrix) for end, matrix in zip(pair[:2], matrices, strict=True)
    )
    return compute_unit_overlap(np.asarray(np.linalg.inv(first) @ second, np.float64))
