"""Copy retrieval: altered copies of some pictures, each searched among all of them.

recall@1: share of copies whose nearest picture is their original. μAP: average precision over the candidates of all
copies together, sorted by distance, as in the Image Similarity Challenge (arXiv 2106.09672): it asks for one threshold
that fits all. Recall at precision 0.99: share of copies found before more than one answer in a hundred is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simile.core.records import Failure
from simile.evaluation import bootstrap
from simile.evaluation.dataset import ArraysByPreprocessing, ImageReader, OnProgress
from simile.evaluation.neighbours import Float64Array, NearestRows, RowIndices
from simile.images.decoding import DecodedImage
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.formats import Pixels

log = logging.getLogger(__name__)

COPY_CANDIDATES = 1  # answers that each copy gives: look-alikes behind a right answer are no mistakes
TARGET_PRECISION = 0.99
MAX_ORIGINAL_SIDE = 1024  # pixels; larger originals are reduced by whole factors before they are altered
MIN_DECODED_SIDE = 512  # JPEGs are decoded at the smallest scale whose sides are both twice this


@dataclass(frozen=True)
class PlantedCopies:
    """Copies in rows: their pixels, the row of the original (c,), and the kind of each."""

    arrays: ArraysByPreprocessing
    originals: RowIndices
    kinds: list[str]


@dataclass(frozen=True)
class CopyScores:
    """The three figures under each draw of originals, with the figures themselves; `by_kind`: recall@1."""

    recall: float
    micro_ap: float
    recall_at_precision: float
    by_kind: dict[str, float]
    bootstrap_values: dict[str, Float64Array]


def plant_copies(
    paths: Sequence[str],
    rows: RowIndices,
    reader: ImageReader,
    seed: int,
    on_progress: OnProgress,
    kinds: Sequence[str] = DISTORTION_KINDS,
) -> PlantedCopies:
    """One copy of each kind of the pictures `rows` of `paths`; the same seed gives the same copies.

    A picture that can't be decoded has no copies: the log says why.
    """
    arrays = reader.allocate(len(rows) * len(kinds))
    wanted = {paths[row]: int(row) for row in rows}
    task = partial(_make_copies, rows=wanted, kinds=kinds, reader=reader.without_workers, seed=seed)
    originals: list[int] = []
    for done, (path, copies) in enumerate(zip(wanted, reader.each(task, list(wanted)), strict=True), 1):
        on_progress("planting copies", done, len(wanted))
        if isinstance(copies, Failure):
            log.warning("no copies of %s are planted: %s", path, copies.reason)
            continue
        for number, prepared in enumerate(copies):
            for spec, array in zip(reader.preprocessings, prepared, strict=True):
                arrays[spec][len(originals) * len(kinds) + number] = array
        originals.append(wanted[path])
    count = len(originals) * len(kinds)
    planted = np.repeat(np.array(originals, np.int64), len(kinds))
    return PlantedCopies({spec: array[:count] for spec, array in arrays.items()}, planted, list(kinds) * len(originals))


def _make_copies(
    data: bytes, path: str, rows: dict[str, int], kinds: Sequence[str], reader: ImageReader, seed: int
) -> list[list[Pixels]]:
    pictures = reader.decode(data, path, MIN_DECODED_SIDE)
    reduced = {
        background: replace(picture, pixels=_downscale(picture.pixels)) for background, picture in pictures.items()
    }
    return [
        reader.preprocess(
            {name: _distort(picture, kind, [seed, rows[path], number]) for name, picture in reduced.items()}
        )
        for number, kind in enumerate(kinds)
    ]


def _distort(image: DecodedImage, kind: str, seed: list[int]) -> DecodedImage:
    pixels = distort(image.pixels, kind, np.random.default_rng(seed))
    return replace(image, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def _downscale(pixels: Pixels) -> Pixels:
    """(H, W, 3) averaged over squares of whole pixels until the longer side is at most LARGEST_SIDE."""
    factor = -(-max(pixels.shape[:2]) // MAX_ORIGINAL_SIDE)
    if factor == 1:
        return pixels
    height, width = (max(1, side // factor) for side in pixels.shape[:2])
    down, across = (min(factor, side) for side in pixels.shape[:2])  # a picture one pixel wide stays so
    blocks = pixels[: height * down, : width * across].reshape(height, down, width, across, 3)
    reduced: Pixels = np.rint(blocks.mean((1, 3))).astype(np.uint8)
    return reduced


def score_copies(neighbours: NearestRows, planted: PlantedCopies, identity: NDArray[np.int64], seed: int) -> CopyScores:
    """Scores of the nearest CANDIDATES of each copy; rows with equal `identity` (m,) are the same picture."""
    right = identity[neighbours.rows] == identity[planted.originals][:, None]  # (c, k)
    repeated = right & (np.cumsum(right, axis=1) > 1)  # exact duplicates of an answer that was right: no answers
    kinds, originals = np.array(planted.kinds), np.unique(planted.originals, return_inverse=True)[1]
    weights = bootstrap.make_bootstrap_weights(int(originals.max()) + 1, seed)[
        :, originals
    ]  # (b, c): all copies of an original together
    once = np.ones((1, len(right)))
    first = right[:, 0].astype(np.float64)
    pooled = _pool_candidates(neighbours.distances, right, ~repeated)
    (micro_ap,), (at_precision,) = _score_pooled(pooled, once)
    drawn_ap, drawn_at = _score_pooled(pooled, weights)
    return CopyScores(
        recall=float(first.mean()),
        micro_ap=float(micro_ap),
        recall_at_precision=float(at_precision),
        by_kind={kind: float(first[kinds == kind].mean()) for kind in dict.fromkeys(planted.kinds)},
        bootstrap_values={
            "copy_recall": bootstrap.compute_bootstrap_means(first, weights),
            "micro_ap": drawn_ap,
            "recall_at_precision": drawn_at,
        },
    )


@dataclass(frozen=True)
class _PooledCandidates:
    """Candidates of all copies, nearest first: which copy each belongs to, whether it is right, where ties end."""

    copies: RowIndices
    is_correct: NDArray[np.bool_]
    tie_ends: RowIndices


def _pool_candidates(
    distances: Float64Array, is_correct: NDArray[np.bool_], is_counted: NDArray[np.bool_]
) -> _PooledCandidates:
    """Pools the candidates (c, k) that are `counted`."""
    copies, _ = np.nonzero(is_counted)
    order = np.argsort(distances[is_counted], kind="stable")
    sorted_ = distances[is_counted][order]
    ends = np.flatnonzero(np.append(np.diff(sorted_) > 0, True))  # a threshold takes equal distances all or none
    return _PooledCandidates(copies[order], is_correct[is_counted][order], ends)


def _score_pooled(pooled: _PooledCandidates, weights: Float64Array) -> tuple[Float64Array, Float64Array]:
    """μAP and recall at PRECISION, (b,) each, with copies weighted (b, c)."""
    micro_ap, at_precision = np.empty(len(weights)), np.empty(len(weights))
    for number, of_copy in enumerate(weights):
        of_candidate = of_copy[pooled.copies]  # (c·k,)
        answers = np.cumsum(of_candidate)[pooled.tie_ends]
        hits = np.cumsum(of_candidate * pooled.is_correct)[pooled.tie_ends]
        recall, precision = hits / of_copy.sum(), hits / np.maximum(answers, 1)
        micro_ap[number] = (np.diff(recall, prepend=0) * precision).sum()
        at_precision[number] = np.where(precision >= TARGET_PRECISION, recall, 0).max()
    return micro_ap, at_precision
