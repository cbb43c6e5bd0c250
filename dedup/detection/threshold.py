"""The threshold, learned on the collection itself: copies are planted, and looked for as real ones are.

A copy that is found at a distance and confirmed by its pixels is right; another picture that is confirmed as well is
wrong, unless it is itself a copy of the original. What people said of earlier pairs counts in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import TooFewPictures
from simile.core.records import Failure
from simile.dedup.detection.candidates import get_vectors
from simile.dedup.records import CurvePoint, ThresholdCalibration
from simile.images.distortions import DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.tasks import CopySpec, compare_copy, compare_files, make_copies
from simile.models.inference.encoder import TrainedEncoder
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

PLANTED_ORIGINALS = 120  # pictures that copies are planted of
COPIES_PER_ORIGINAL = 6  # kinds of copies of each, in turns
MAX_INTERMEDIATE_IMAGES = 6  # pictures that are tried in turns
INTERMEDIATE_NEIGHBOURS = 12  # nearest pictures, among which what two copies have in common is looked for
NEGATIVES_PER_COPY = 3  # nearest other pictures that each copy is held against
MAX_POSITIVE_QUANTILE = 0.98  # of the confirmed copies: further out, many look-alikes must be looked at for few copies
CURVE_POINTS = 60  # of the curve
MIN_RELIABLE_COPIES = 200  # copies, for a threshold that means something

Float64Array = NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CalibrationExample:
    """One planted copy or decided pair: how far apart, whether its pixels agree, and whether it is right."""

    distance: float
    is_match: bool
    is_copy: bool


@dataclass(frozen=True)
class PlantedCopyBatch:
    """Copies with their originals' ids, and their vectors (n, d') as they are compared."""

    copies: list[CopySpec]
    original_ids: list[int]
    vectors: NDArray[np.float32]


class CopyPlanter:
    """Plants copies of some pictures of a snapshot, and looks for them."""

    def __init__(
        self, snapshot: Snapshot, encoder: TrainedEncoder, workers: WorkerPool, limits: Limits, on_progress: OnProgress
    ) -> None:
        self.snapshot, self.encoder, self.workers, self.limits = snapshot, encoder, workers, limits
        self.on_progress = on_progress

    def measure_copies(self, files: dict[int, str], seed: int) -> list[CalibrationExample]:
        """What becomes of copies of SAMPLE of these pictures (id to a file of each)."""
        drawn = np.random.default_rng(seed).permutation(sorted(files))[:PLANTED_ORIGINALS].tolist()
        sampled = self._plant_copies([(image, files[image]) for image in drawn], seed)
        if not sampled.copies:
            return []
        near = self.snapshot.search(sampled.vectors, NEGATIVES_PER_COPY + 1)
        others = [
            [image for image in ids.tolist() if image != own and image in files][:NEGATIVES_PER_COPY]
            for own, (ids, _) in zip(sampled.original_ids, near, strict=True)
        ]
        return list(self._compare_copies(sampled, others, files))

    def _plant_copies(self, originals: Sequence[tuple[int, str]], seed: int) -> PlantedCopyBatch:
        asked = [
            [CopySpec(path, kind, (seed, image)) for kind in _get_distortion_kinds(at)]
            for at, (image, path) in enumerate(originals)
        ]
        task = partial(make_copies, limits=self.limits, preprocessing=self.encoder.preprocessing)
        copies, ids, arrays = [], [], []
        for done, (own, made) in enumerate(zip(asked, self.workers.map(task, asked), strict=False)):
            self.on_progress("planting copies", done + 1, len(asked))
            if isinstance(made, Failure | WorkerLost):
                continue
            copies += own
            ids += [originals[done][0]] * len(own)
            arrays.append(made)
        if not arrays:
            return PlantedCopyBatch([], [], np.empty((0, 0), np.float32))
        mu = self.encoder.encode(np.concatenate(arrays)).mu
        record = self.snapshot.encoder
        return PlantedCopyBatch(copies, ids, make_index_vectors(mu, record.index_dims, record.metric))

    def _compare_copies(
        self, planted_copies: PlantedCopyBatch, negatives: list[list[int]], files: dict[int, str]
    ) -> Iterator[CalibrationExample]:
        asked = [
            (copy, [files[other] for other in beside])
            for copy, beside in zip(planted_copies.copies, negatives, strict=True)
        ]
        results = self.workers.map(partial(compare_copy, limits=self.limits), asked)
        suspects: list[tuple[int, int, float]] = []
        for at, found in enumerate(results):
            self.on_progress("comparing copies", at + 1, len(asked))
            if isinstance(found, Failure | WorkerLost) or found[0] is None:
                continue
            own, beside = planted_copies.original_ids[at], negatives[at]
            distances = self._compute_distances(planted_copies.vectors[at], [own, *beside])
            yield CalibrationExample(distances[0], found[0].is_copy, is_copy=True)
            same = [one is not None and one.is_copy for one in found[1:]]
            suspects += [(own, two, far) for two, far, is_ in zip(beside, distances[1:], same, strict=True) if is_]
        yield from self._find_false_matches(suspects, files)

    def _find_false_matches(
        self, suspects: list[tuple[int, int, float]], files: dict[int, str]
    ) -> Iterator[CalibrationExample]:
        """Others that agree with a planted copy are wrong, unless they are copies of its original too.

        Two crops of one picture may share nothing: a third picture that both agree with shows what they are.
        """
        pairs = sorted({_sort_id_pair(own, other) for own, other, _ in suspects})
        agreeing = self._find_matching_pairs(pairs, files)
        known = {pair: pair in agreeing for pair in pairs}
        unsure = [pair for pair in pairs if not known[pair]]
        beside = self._find_neighbours({image for pair in unsure for image in pair}, files)
        for step in range(MAX_INTERMEDIATE_IMAGES):
            ways = {pair: _get_intermediate_pairs(pair, beside, step) for pair in unsure}
            asked = sorted({side for sides in ways.values() for side in sides} - known.keys())
            agreeing = self._find_matching_pairs(asked, files)
            known |= {pair: pair in agreeing for pair in asked}
            unsure = [pair for pair in unsure if not (ways[pair] and all(known[side] for side in ways[pair]))]
        wrong = set(unsure)
        for own, other, distance in suspects:
            if _sort_id_pair(own, other) in wrong:
                yield CalibrationExample(distance, is_match=True, is_copy=False)

    def _find_matching_pairs(self, pairs: Sequence[tuple[int, int]], files: dict[int, str]) -> set[tuple[int, int]]:
        """Those of the pairs whose pixels agree."""
        asked = [(files[own], files[other]) for own, other in pairs]
        agreeing = set()
        for at, found in enumerate(self.workers.map(partial(compare_files, limits=self.limits), asked)):
            if not isinstance(found, Failure | WorkerLost) and found.is_copy:
                agreeing.add(pairs[at])
            self.on_progress("looking for real copies", at + 1, len(asked))
        return agreeing

    def _find_neighbours(self, images: set[int], files: dict[int, str]) -> dict[int, list[int]]:
        """The BESIDE nearest of each picture, the nearest first."""
        ids = np.array(sorted(images), np.int64)
        if not len(ids):
            return {}
        near = self.snapshot.search(get_vectors(self.snapshot, ids), INTERMEDIATE_NEIGHBOURS + 1)
        return {
            image: [other for other in found.tolist() if other != image and other in files]
            for image, (found, _) in zip(ids.tolist(), near, strict=True)
        }

    def _compute_distances(self, vector: NDArray[np.float32], ids: list[int]) -> list[float]:
        vectors = get_vectors(self.snapshot, np.array(ids, np.int64)).astype(np.float64)
        distances: list[float] = np.linalg.norm(vectors - vector, axis=1).tolist()
        return distances


def calibrate_threshold(
    examples: Iterable[CalibrationExample], precision: float, decision_examples: Sequence[CalibrationExample] = ()
) -> ThresholdCalibration:
    """The largest distance at which planted copies and decided pairs still reach this precision.

    It is no larger than what takes in FURTHEST of the confirmed copies. Raises TooFewPictures.
    """
    everything = [*examples, *decision_examples]
    right = np.array([one.distance for one in everything if one.is_copy and one.is_match])
    wrong = np.array([one.distance for one in everything if not one.is_copy and one.is_match])
    copies = sum(one.is_copy for one in everything)
    if not copies:
        raise TooFewPictures("No picture could be read to plant copies of. Give a distance with --threshold.")
    if copies < MIN_RELIABLE_COPIES:
        log.warning("the threshold was learned from %d copies only: look at what is found", copies)
    curve = _compute_curve(right, wrong, copies)
    fitting = [point for point in curve if point.precision >= precision]
    chosen = fitting[-1] if fitting else CurvePoint(0.0, 1.0, 0.0)
    if not fitting:
        log.warning("no distance reaches a precision of %g: only what is certain is called a copy", precision)
    return ThresholdCalibration(
        threshold=chosen.distance,
        precision=precision,
        reached_precision=chosen.precision,
        reached_recall=chosen.recall,
        copies=copies,
        decisions=len(decision_examples),
        curve=tuple(curve),
    )


def _compute_curve(positives: Float64Array, negatives: Float64Array, copies: int) -> list[CurvePoint]:
    """Precision and recall at distances up to that of FURTHEST of the confirmed copies."""
    if not len(positives):
        return []
    shares = np.linspace(0.02, 1.0, CURVE_POINTS) * MAX_POSITIVE_QUANTILE
    points = []
    for distance in np.unique(np.quantile(positives, shares)):
        found, mistaken = int((positives <= distance).sum()), int((negatives <= distance).sum())
        points.append(CurvePoint(float(distance), found / max(1, found + mistaken), found / copies))
    return points


def _get_intermediate_pairs(pair: tuple[int, int], neighbours: dict[int, list[int]], step: int) -> set[tuple[int, int]]:
    """The two sides that lead over the step-th third picture: those near both ends first. None after the last."""
    first, second = (neighbours[end] for end in pair)
    shared = [third for third in first if third in second]
    thirds = [third for third in dict.fromkeys(shared + first + second) if third not in pair]
    return {_sort_id_pair(end, thirds[step]) for end in pair} if step < len(thirds) else set()


def _sort_id_pair(first: int, second: int) -> tuple[int, int]:
    return min(first, second), max(first, second)


def _get_distortion_kinds(position: int) -> list[str]:
    """EACH kinds for the at-th picture, all of them in turns."""
    return [
        DISTORTION_KINDS[(position * COPIES_PER_ORIGINAL + step) % len(DISTORTION_KINDS)]
        for step in range(COPIES_PER_ORIGINAL)
    ]


CURVE_WIDTH, CURVE_HEIGHT = 400, 96  # of the drawing's own units
_SLIDER_STEPS = 200  # places of the slider
_MAX_LINE_POINTS = 200  # of a line: more can't be told apart


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """precision, recall: points of an SVG polyline. at: where the threshold stands. largest, step: of the slider."""

    precision: str
    recall: str
    threshold_x: float
    max_distance: float
    slider_step: float
    threshold_point: CurvePoint | None


def make_curve(calibration: ThresholdCalibration, threshold: float) -> PrecisionRecallCurve | None:
    """None where nothing was measured."""
    points = sorted(calibration.curve, key=lambda point: point.distance)
    if len(points) < 2 or points[-1].distance <= 0:
        return None
    largest = max(points[-1].distance, threshold)
    shown = points[:: max(1, len(points) // _MAX_LINE_POINTS)]

    def line(value: Callable[[CurvePoint], float]) -> str:
        return " ".join(f"{CURVE_WIDTH * p.distance / largest:.1f},{CURVE_HEIGHT * (1 - value(p)):.1f}" for p in shown)

    reached = [point for point in points if point.distance <= threshold]
    return PrecisionRecallCurve(
        precision=line(lambda point: point.precision),
        recall=line(lambda point: point.recall),
        threshold_x=round(CURVE_WIDTH * threshold / largest, 1),
        max_distance=largest,
        slider_step=largest / _SLIDER_STEPS,
        threshold_point=reached[-1] if reached else None,
    )
