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
from simile.dedup.detection.candidates import vectors_of
from simile.dedup.records import Calibration, CurvePoint
from simile.images.distortions import KINDS
from simile.images.formats import Limits
from simile.images.loading.fork_server import Lost
from simile.images.loading.worker_pool import Workers
from simile.images.matching.tasks import Copy, compare_files, compare_planted, planted
from simile.models.inference.encoder import TrainedEncoder
from simile.store.index.metric import to_indexed
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

SAMPLE = 120  # pictures that copies are planted of
EACH = 6  # kinds of copies of each, in turns
THIRDS = 6  # pictures that are tried in turns
BESIDE = 12  # nearest pictures, among which what two copies have in common is looked for
OTHERS = 3  # nearest other pictures that each copy is held against
FURTHEST = 0.98  # of the confirmed copies: further out, many look-alikes must be looked at for few copies
POINTS = 60  # of the curve
ENOUGH = 200  # copies, for a threshold that means something

Doubles = NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Seen:
    """One planted copy or decided pair: how far apart, whether its pixels agree, and whether it is right."""

    distance: float
    confirmed: bool
    right: bool


@dataclass(frozen=True)
class Sampled:
    """Copies with their originals' ids, and their vectors (n, d') as they are compared."""

    copies: list[Copy]
    originals: list[int]
    vectors: NDArray[np.float32]


class Planting:
    """Plants copies of some pictures of a snapshot, and looks for them."""

    def __init__(
        self, snapshot: Snapshot, encoder: TrainedEncoder, workers: Workers, limits: Limits, on_progress: OnProgress
    ) -> None:
        self.snapshot, self.encoder, self.workers, self.limits = snapshot, encoder, workers, limits
        self.on_progress = on_progress

    def seen(self, files: dict[int, str], seed: int) -> list[Seen]:
        """What becomes of copies of SAMPLE of these pictures (id to a file of each)."""
        drawn = np.random.default_rng(seed).permutation(sorted(files))[:SAMPLE].tolist()
        sampled = self._sampled([(image, files[image]) for image in drawn], seed)
        if not sampled.copies:
            return []
        near = self.snapshot.search(sampled.vectors, OTHERS + 1)
        others = [
            [image for image in ids.tolist() if image != own and image in files][:OTHERS]
            for own, (ids, _) in zip(sampled.originals, near, strict=True)
        ]
        return list(self._compared(sampled, others, files))

    def _sampled(self, originals: Sequence[tuple[int, str]], seed: int) -> Sampled:
        asked = [[Copy(path, kind, (seed, image)) for kind in _kinds(at)] for at, (image, path) in enumerate(originals)]
        task = partial(planted, limits=self.limits, preprocessing=self.encoder.preprocessing)
        copies, ids, arrays = [], [], []
        for done, (own, made) in enumerate(zip(asked, self.workers.map(task, asked), strict=False)):
            self.on_progress("planting copies", done + 1, len(asked))
            if isinstance(made, Failure | Lost):
                continue
            copies += own
            ids += [originals[done][0]] * len(own)
            arrays.append(made)
        if not arrays:
            return Sampled([], [], np.empty((0, 0), np.float32))
        mu = self.encoder.encode(np.concatenate(arrays)).mu
        record = self.snapshot.encoder
        return Sampled(copies, ids, to_indexed(mu, record.index_dims, record.metric))

    def _compared(self, sampled: Sampled, others: list[list[int]], files: dict[int, str]) -> Iterator[Seen]:
        asked = [
            (copy, [files[other] for other in beside]) for copy, beside in zip(sampled.copies, others, strict=True)
        ]
        results = self.workers.map(partial(compare_planted, limits=self.limits), asked)
        suspects: list[tuple[int, int, float]] = []
        for at, found in enumerate(results):
            self.on_progress("comparing copies", at + 1, len(asked))
            if isinstance(found, Failure | Lost) or found[0] is None:
                continue
            own, beside = sampled.originals[at], others[at]
            distances = self._distances(sampled.vectors[at], [own, *beside])
            yield Seen(distances[0], found[0].same, right=True)
            same = [one is not None and one.same for one in found[1:]]
            suspects += [(own, two, far) for two, far, is_ in zip(beside, distances[1:], same, strict=True) if is_]
        yield from self._real_copies_left_out(suspects, files)

    def _real_copies_left_out(self, suspects: list[tuple[int, int, float]], files: dict[int, str]) -> Iterator[Seen]:
        """Others that agree with a planted copy are wrong, unless they are copies of its original too.

        Two crops of one picture may share nothing: a third picture that both agree with shows what they are.
        """
        pairs = sorted({_ordered(own, other) for own, other, _ in suspects})
        agreeing = self._agreeing(pairs, files)
        known = {pair: pair in agreeing for pair in pairs}
        unsure = [pair for pair in pairs if not known[pair]]
        beside = self._beside({image for pair in unsure for image in pair}, files)
        for step in range(THIRDS):
            ways = {pair: _way(pair, beside, step) for pair in unsure}
            asked = sorted({side for sides in ways.values() for side in sides} - known.keys())
            agreeing = self._agreeing(asked, files)
            known |= {pair: pair in agreeing for pair in asked}
            unsure = [pair for pair in unsure if not (ways[pair] and all(known[side] for side in ways[pair]))]
        wrong = set(unsure)
        for own, other, distance in suspects:
            if _ordered(own, other) in wrong:
                yield Seen(distance, confirmed=True, right=False)

    def _agreeing(self, pairs: Sequence[tuple[int, int]], files: dict[int, str]) -> set[tuple[int, int]]:
        """Those of the pairs whose pixels agree."""
        asked = [(files[own], files[other]) for own, other in pairs]
        agreeing = set()
        for at, found in enumerate(self.workers.map(partial(compare_files, limits=self.limits), asked)):
            if not isinstance(found, Failure | Lost) and found.same:
                agreeing.add(pairs[at])
            self.on_progress("looking for real copies", at + 1, len(asked))
        return agreeing

    def _beside(self, images: set[int], files: dict[int, str]) -> dict[int, list[int]]:
        """The BESIDE nearest of each picture, the nearest first."""
        ids = np.array(sorted(images), np.int64)
        if not len(ids):
            return {}
        near = self.snapshot.search(vectors_of(self.snapshot, ids), BESIDE + 1)
        return {
            image: [other for other in found.tolist() if other != image and other in files]
            for image, (found, _) in zip(ids.tolist(), near, strict=True)
        }

    def _distances(self, vector: NDArray[np.float32], ids: list[int]) -> list[float]:
        vectors = vectors_of(self.snapshot, np.array(ids, np.int64)).astype(np.float64)
        distances: list[float] = np.linalg.norm(vectors - vector, axis=1).tolist()
        return distances


def calibrate(seen: Iterable[Seen], precision: float, decided: Sequence[Seen] = ()) -> Calibration:
    """The largest distance at which planted copies and decided pairs still reach this precision.

    It is no larger than what takes in FURTHEST of the confirmed copies. Raises TooFewPictures.
    """
    everything = [*seen, *decided]
    right = np.array([one.distance for one in everything if one.right and one.confirmed])
    wrong = np.array([one.distance for one in everything if not one.right and one.confirmed])
    copies = sum(one.right for one in everything)
    if not copies:
        raise TooFewPictures("No picture could be read to plant copies of. Give a distance with --threshold.")
    if copies < ENOUGH:
        log.warning("the threshold was learned from %d copies only: look at what is found", copies)
    curve = _curve(right, wrong, copies)
    fitting = [point for point in curve if point.precision >= precision]
    chosen = fitting[-1] if fitting else CurvePoint(0.0, 1.0, 0.0)
    if not fitting:
        log.warning("no distance reaches a precision of %g: only what is certain is called a copy", precision)
    return Calibration(
        threshold=chosen.distance,
        precision=precision,
        reached_precision=chosen.precision,
        reached_recall=chosen.recall,
        copies=copies,
        decisions=len(decided),
        curve=tuple(curve),
    )


def _curve(right: Doubles, wrong: Doubles, copies: int) -> list[CurvePoint]:
    """Precision and recall at distances up to that of FURTHEST of the confirmed copies."""
    if not len(right):
        return []
    shares = np.linspace(0.02, 1.0, POINTS) * FURTHEST
    points = []
    for distance in np.unique(np.quantile(right, shares)):
        found, mistaken = int((right <= distance).sum()), int((wrong <= distance).sum())
        points.append(CurvePoint(float(distance), found / max(1, found + mistaken), found / copies))
    return points


def _way(pair: tuple[int, int], beside: dict[int, list[int]], step: int) -> set[tuple[int, int]]:
    """The two sides that lead over the step-th third picture: those near both ends first. None after the last."""
    first, second = (beside[end] for end in pair)
    shared = [third for third in first if third in second]
    thirds = [third for third in dict.fromkeys(shared + first + second) if third not in pair]
    return {_ordered(end, thirds[step]) for end in pair} if step < len(thirds) else set()


def _ordered(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _kinds(at: int) -> list[str]:
    """EACH kinds for the at-th picture, all of them in turns."""
    return [KINDS[(at * EACH + step) % len(KINDS)] for step in range(EACH)]


WIDTH, HEIGHT = 400, 96  # of the drawing's own units
_STEPS = 200  # places of the slider
_POINTS = 200  # of a line: more can't be told apart


@dataclass(frozen=True)
class Curve:
    """precision, recall: points of an SVG polyline. at: where the threshold stands. largest, step: of the slider."""

    precision: str
    recall: str
    at: float
    largest: float
    step: float
    here: CurvePoint | None


def curve_of(calibration: Calibration, threshold: float) -> Curve | None:
    """None where nothing was measured."""
    points = sorted(calibration.curve, key=lambda point: point.distance)
    if len(points) < 2 or points[-1].distance <= 0:
        return None
    largest = max(points[-1].distance, threshold)
    shown = points[:: max(1, len(points) // _POINTS)]

    def line(value: Callable[[CurvePoint], float]) -> str:
        return " ".join(f"{WIDTH * p.distance / largest:.1f},{HEIGHT * (1 - value(p)):.1f}" for p in shown)

    reached = [point for point in points if point.distance <= threshold]
    return Curve(
        precision=line(lambda point: point.precision),
        recall=line(lambda point: point.recall),
        at=round(WIDTH * threshold / largest, 1),
        largest=largest,
        step=largest / _STEPS,
        here=reached[-1] if reached else None,
    )
