"""Calibrate the distance threshold on the collection itself.

Distorted copies of some images are planted and searched like real copies. A planted copy that is near its original and
verified by its pixels is a true match. Another image that is verified too is a false match, unless it is itself a copy
of the original. Decisions of users on earlier pairs count in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from simile.core.errors import TooFewPictures
from simile.core.records import Failure, Float64Array, FloatArray, OnProgress
from simile.dedup.detection.candidates import get_vectors
from simile.dedup.records import CurvePoint, ThresholdCalibration, sort_pair
from simile.images.distortions import DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.tasks import CopySpec, compare_copy, compare_files, make_copies
from simile.models.inference.encoder import TrainedEncoder
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

PLANTED_ORIGINALS = 120  # images of which copies are planted
COPIES_PER_ORIGINAL = 6  # the kinds of distortion take turns
MAX_INTERMEDIATE_IMAGES = 6  # third images that are tried to connect two images
INTERMEDIATE_NEIGHBOURS = 12  # the third images are the nearest neighbours of both
NEGATIVES_PER_COPY = 3  # nearest other images that each copy is compared with
# Quantile of the distances of verified copies. Beyond it, many candidates have to be compared to find few copies.
MAX_POSITIVE_QUANTILE = 0.98
CURVE_POINTS = 60
# Share of the originals that may be left out of the calibration, because the rest of the collection finds more copies
# without them. More than that are what the collection consists of.
MAX_LEFT_OUT_SHARE = 0.1
MIN_RELIABLE_COPIES = 200  # one false match among 200 lowers the precision by half a percent
CURVE_WIDTH, CURVE_HEIGHT = 400, 96  # units of the SVG drawing
_MAX_LINE_POINTS = 200  # more points of a line can't be distinguished


@dataclass(frozen=True)
class CalibrationExample:
    """One planted copy or decided pair."""

    distance: float
    is_match: bool  # the pixels agree
    is_copy: bool  # the truth
    original_id: int | None = None  # the image that was copied; None for a decision


@dataclass(frozen=True)
class PlantedCopyBatch:
    """Planted copies with the ids of their originals and their indexed vectors (n, d')."""

    copies: list[CopySpec]
    original_ids: list[int]
    vectors: FloatArray


class CopyPlanter:
    """Plants copies of some images of a snapshot and searches for them."""

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: TrainedEncoder,
        workers: WorkerPool,
        limits: Limits,
        on_progress: OnProgress,
        feature_folder: str | None = None,
    ) -> None:
        self.snapshot, self.encoder, self.workers, self.limits = snapshot, encoder, workers, limits
        self.feature_folder = feature_folder
        self.on_progress = on_progress

    def measure_copies(self, files: dict[int, str], seed: int) -> list[CalibrationExample]:
        """Plant copies of PLANTED_ORIGINALS random images and return true and false matches.

        Args:
            files: One file of each image, by image id.
        """
        drawn = np.random.default_rng(seed).permutation(sorted(files))[:PLANTED_ORIGINALS].tolist()
        planted = self._plant_copies([(image_id, files[image_id]) for image_id in drawn], seed)
        if not planted.copies:
            return []
        # One more neighbour than needed: the original is usually among them.
        results = self.snapshot.search(planted.vectors, NEGATIVES_PER_COPY + 1)
        negatives = [
            [image_id for image_id in ids.tolist() if image_id != original_id and image_id in files]
            for original_id, (ids, _) in zip(planted.original_ids, results, strict=True)
        ]
        return list(self._compare_copies(planted, [ids[:NEGATIVES_PER_COPY] for ids in negatives], files))

    def _plant_copies(self, originals: Sequence[tuple[int, str]], seed: int) -> PlantedCopyBatch:
        """Make and encode COPIES_PER_ORIGINAL copies of each (image id, file); unreadable files are left out."""
        specs = [
            [CopySpec(path, kind, (seed, image_id)) for kind in _get_distortion_kinds(position)]
            for position, (image_id, path) in enumerate(originals)
        ]
        task = partial(make_copies, limits=self.limits, preprocessing=self.encoder.preprocessing)
        copies, original_ids, arrays = [], [], []
        for position, (own_specs, array) in enumerate(zip(specs, self.workers.map(task, specs), strict=False)):
            self.on_progress("planting copies", position + 1, len(specs))
            if not isinstance(array, Failure | WorkerLost):
                copies += own_specs
                original_ids += [originals[position][0]] * len(own_specs)
                arrays.append(array)
        if not arrays:
            return PlantedCopyBatch([], [], np.empty((0, 0), np.float32))
        mu = self.encoder.encode(np.concatenate(arrays)).mu
        record = self.snapshot.encoder
        return PlantedCopyBatch(copies, original_ids, make_index_vectors(mu, record.index_dims, record.metric))

    def _compare_copies(
        self, planted: PlantedCopyBatch, negatives: list[list[int]], files: dict[int, str]
    ) -> Iterator[CalibrationExample]:
        """Compare each planted copy with its original and with its negatives (image ids)."""
        tasks = [
            (copy, [files[image_id] for image_id in negative_ids])
            for copy, negative_ids in zip(planted.copies, negatives, strict=True)
        ]
        results = self.workers.map(partial(compare_copy, limits=self.limits, feature_folder=self.feature_folder), tasks)
        suspects: list[tuple[int, int, float]] = []
        for position, alignments in enumerate(results):
            self.on_progress("comparing copies", position + 1, len(tasks))
            if isinstance(alignments, Failure | WorkerLost) or alignments[0] is None:
                continue
            original_id, negative_ids = planted.original_ids[position], negatives[position]
            distances = self._compute_distances(planted.vectors[position], [original_id, *negative_ids])
            yield CalibrationExample(distances[0], alignments[0].is_copy, is_copy=True, original_id=original_id)
            suspects += [
                (original_id, negative_id, distance)
                for negative_id, distance, alignment in zip(negative_ids, distances[1:], alignments[1:], strict=True)
                if alignment is not None and alignment.is_copy
            ]
        yield from self._find_false_matches(suspects, files)

    def _find_false_matches(
        self, suspects: list[tuple[int, int, float]], files: dict[int, str]
    ) -> Iterator[CalibrationExample]:
        """Yield the suspects that are not real copies of the original.

        Two crops of one image may have nothing in common. A third image that matches both proves that they are copies.

        Args:
            suspects: (original id, id of the matching image, distance from the planted copy to the matching image).
        """
        # Suspects that match the original itself are copies.
        pairs = sorted({sort_pair(original_id, other_id) for original_id, other_id, _ in suspects})
        matching = self._find_matching_pairs(pairs, files)
        is_match = {pair: pair in matching for pair in pairs}
        open_pairs = [pair for pair in pairs if not is_match[pair]]
        # The others are copies if a third image matches both. One third image is tried per round.
        neighbours = self._find_neighbours({image_id for pair in open_pairs for image_id in pair}, files)
        for step in range(MAX_INTERMEDIATE_IMAGES):
            sides = {pair: _get_intermediate_pairs(pair, neighbours, step) for pair in open_pairs}
            new_pairs = sorted({side for pair_sides in sides.values() for side in pair_sides} - is_match.keys())
            matching = self._find_matching_pairs(new_pairs, files)
            is_match |= {pair: pair in matching for pair in new_pairs}
            open_pairs = [
                pair for pair in open_pairs if not (sides[pair] and all(is_match[side] for side in sides[pair]))
            ]
        false_pairs = set(open_pairs)
        for original_id, other_id, distance in suspects:
            if sort_pair(original_id, other_id) in false_pairs:
                yield CalibrationExample(distance, is_match=True, is_copy=False, original_id=original_id)

    def _find_matching_pairs(self, pairs: Sequence[tuple[int, int]], files: dict[int, str]) -> set[tuple[int, int]]:
        """Return the pairs whose pixels agree."""
        tasks = [(files[first], files[second]) for first, second in pairs]
        matching = set()
        task = partial(compare_files, limits=self.limits, feature_folder=self.feature_folder)
        for position, alignment in enumerate(self.workers.map(task, tasks)):
            if not isinstance(alignment, Failure | WorkerLost) and alignment.is_copy:
                matching.add(pairs[position])
            self.on_progress("looking for real copies", position + 1, len(tasks))
        return matching

    def _find_neighbours(self, image_ids: set[int], files: dict[int, str]) -> dict[int, list[int]]:
        """Return the INTERMEDIATE_NEIGHBOURS nearest images of each image, the nearest first."""
        ids = np.array(sorted(image_ids), np.int64)
        if not len(ids):
            return {}
        results = self.snapshot.search(get_vectors(self.snapshot, ids), INTERMEDIATE_NEIGHBOURS + 1)
        return {
            image_id: [other for other in neighbours.tolist() if other != image_id and other in files]
            for image_id, (neighbours, _) in zip(ids.tolist(), results, strict=True)
        }

    def _compute_distances(self, vector: FloatArray, ids: list[int]) -> list[float]:
        """Return the Euclidean distances from a vector (d',) to indexed images."""
        vectors = get_vectors(self.snapshot, np.array(ids, np.int64)).astype(np.float64)
        distances: list[float] = np.linalg.norm(vectors - vector, axis=1).tolist()
        return distances


def find_look_alikes(snapshot: Snapshot, originals: Sequence[int], threshold: float) -> tuple[int, ...]:
    """Return the originals that were left out, with the images around them within the threshold."""
    ids = np.intersect1d(np.array(originals, np.int64), snapshot.get_live_ids())
    if not len(ids):
        return ()
    around = snapshot.range(get_vectors(snapshot, ids), threshold)
    return tuple(np.unique(np.concatenate([ids, *(found for found, _ in around)])).tolist())


def calibrate_threshold(
    examples: Iterable[CalibrationExample], precision: float, decision_examples: Sequence[CalibrationExample] = ()
) -> ThresholdCalibration:
    """Find the largest distance at which the examples still reach the precision.

    It is at most the MAX_POSITIVE_QUANTILE quantile of the true matches. Few originals with false matches are left out,
    if more copies of the others are then found than there are copies of them. Raises TooFewPictures if there is no
    copy.
    """
    examples = list(examples)
    calibration = _calibrate(examples, precision, decision_examples)
    original_ids = {example.original_id for example in examples}
    left_out = {example.original_id for example in examples if example.is_match and not example.is_copy}
    if left_out and len(left_out) <= MAX_LEFT_OUT_SHARE * len(original_ids):
        others = [example for example in examples if example.original_id not in left_out]
        without = _calibrate(others, precision, decision_examples)
        if _count_found(without) > _count_found(calibration):
            calibration = replace(without, left_out=tuple(sorted(filter(None, left_out))))
            log.warning(
                "%d of %d sampled images match images that are no copies of them: the threshold was calibrated without "
                "them, and they and the images like them are not compared; raise --precision or decide on pairs",
                len(left_out),
                len(original_ids),
            )
    if calibration.copies < MIN_RELIABLE_COPIES:
        log.warning("the threshold was calibrated on only %d copies; review the results", calibration.copies)
    if not any(point.precision >= precision for point in calibration.curve):
        log.warning("no distance reaches a precision of %g; only images at distance 0 count as copies", precision)
    return calibration


def _count_found(calibration: ThresholdCalibration) -> float:
    return (calibration.reached_recall or 0.0) * calibration.copies


def _calibrate(
    examples: Sequence[CalibrationExample], precision: float, decision_examples: Sequence[CalibrationExample]
) -> ThresholdCalibration:
    all_examples = [*examples, *decision_examples]
    positives = np.array([example.distance for example in all_examples if example.is_copy and example.is_match])
    negatives = np.array([example.distance for example in all_examples if not example.is_copy and example.is_match])
    copies = sum(example.is_copy for example in all_examples)
    if not copies:
        raise TooFewPictures("No image could be read to plant copies of it. Set a distance with --threshold.")
    curve = _compute_curve(positives, negatives, copies)
    precise = [point for point in curve if point.precision >= precision]
    chosen = precise[-1] if precise else CurvePoint(0.0, 1.0, 0.0)
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
    """Return precision and recall by distance.

    Args:
        positives: Distances of true matches, (n,).
        negatives: Distances of false matches, (m,).
        copies: The number of copies, verified or not.
    """
    if not len(positives):
        return []
    quantiles = np.linspace(0.02, 1.0, CURVE_POINTS) * MAX_POSITIVE_QUANTILE
    points = []
    for distance in np.unique(np.quantile(positives, quantiles)):
        true_count, false_count = int((positives <= distance).sum()), int((negatives <= distance).sum())
        points.append(CurvePoint(float(distance), true_count / max(1, true_count + false_count), true_count / copies))
    return points


def _get_intermediate_pairs(pair: tuple[int, int], neighbours: dict[int, list[int]], step: int) -> set[tuple[int, int]]:
    """Return the pairs (first, third) and (second, third) of the step-th third image; empty after the last one.

    Images that are neighbours of both ends come first.
    """
    first, second = (neighbours[end] for end in pair)
    shared = [image_id for image_id in first if image_id in second]
    thirds = [image_id for image_id in dict.fromkeys(shared + first + second) if image_id not in pair]
    return {sort_pair(end, thirds[step]) for end in pair} if step < len(thirds) else set()


def _get_distortion_kinds(position: int) -> list[str]:
    """Return COPIES_PER_ORIGINAL kinds of distortion; successive originals get successive kinds."""
    start = position * COPIES_PER_ORIGINAL
    return [DISTORTION_KINDS[(start + step) % len(DISTORTION_KINDS)] for step in range(COPIES_PER_ORIGINAL)]


@dataclass(frozen=True, kw_only=True)
class PrecisionRecallCurve:
    """The calibration curve as an SVG drawing.

    Attributes:
        threshold_point: The curve's last point up to the threshold; None if the threshold is below all points.
    """

    precision: str  # points of the precision's polyline
    recall: str  # points of the recall's polyline
    threshold_x: float  # where the threshold is drawn
    max_distance: float  # the largest value of the threshold slider
    threshold_point: CurvePoint | None


def make_curve(calibration: ThresholdCalibration, threshold: float) -> PrecisionRecallCurve | None:
    """Draw the calibration curve; None if nothing was measured."""
    points = sorted(calibration.curve, key=lambda point: point.distance)
    if len(points) < 2 or points[-1].distance <= 0:
        return None
    max_distance = max(points[-1].distance, threshold)
    drawn = points[:: max(1, len(points) // _MAX_LINE_POINTS)]

    def make_line(get_value: Callable[[CurvePoint], float]) -> str:
        return " ".join(
            f"{CURVE_WIDTH * point.distance / max_distance:.1f},{CURVE_HEIGHT * (1 - get_value(point)):.1f}"
            for point in drawn
        )

    below = [point for point in points if point.distance <= threshold]
    return PrecisionRecallCurve(
        precision=make_line(lambda point: point.precision),
        recall=make_line(lambda point: point.recall),
        threshold_x=round(CURVE_WIDTH * threshold / max_distance, 1),
        max_distance=max_distance,
        threshold_point=below[-1] if below else None,
    )
