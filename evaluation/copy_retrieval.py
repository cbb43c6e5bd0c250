"""Copy retrieval: search distorted copies of some images among all images.

recall@1: share of copies whose nearest image is their original. μAP: average precision over the candidates of all
copies together, sorted by distance, as in the Image Similarity Challenge (arXiv 2106.09672); it needs one threshold for
all copies. Recall at precision 0.99: share of copies that are found while at most 1 % of the candidates are wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simile.core.records import Failure, Float64Array, OnProgress
from simile.evaluation import bootstrap
from simile.evaluation.dataset import ArraysByPreprocessing, ImageReader
from simile.evaluation.neighbours import NearestRows, RowIndices
from simile.images.decoding import DecodedImage
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.formats import Pixels
from simile.images.transforms import downscale

log = logging.getLogger(__name__)

COPY_CANDIDATES = 1  # candidates per copy: similar images after a correct candidate are not mistakes
TARGET_PRECISION = 0.99
MAX_ORIGINAL_SIDE = 1024  # pixels; larger originals are downscaled before the distortion
MIN_DECODED_SIDE = 512  # JPEGs are decoded at the smallest scale whose sides are both twice this


@dataclass(frozen=True)
class PlantedCopies:
    """Distorted copies: their pixels, the rows of their originals (c,), and the kinds of distortion."""

    arrays: ArraysByPreprocessing
    originals: RowIndices
    kinds: list[str]


@dataclass(frozen=True, kw_only=True)
class CopyScores:
    """The three metrics, recall@1 by kind of distortion, and the metrics for each bootstrap draw of the originals."""

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
    """Make one copy of each kind of the images in `rows` of `paths`; the same seed gives the same copies.

    An image that cannot be decoded has no copies; the reason is logged.
    """
    arrays = reader.allocate(len(rows) * len(kinds))
    row_by_path = {paths[row]: int(row) for row in rows}
    task = partial(_make_copies, rows=row_by_path, kinds=kinds, reader=reader.without_workers, seed=seed)
    originals: list[int] = []
    for done, (path, copies) in enumerate(zip(row_by_path, reader.each(task, list(row_by_path)), strict=True), 1):
        on_progress("making copies", done, len(row_by_path))
        if isinstance(copies, Failure):
            log.warning("made no copies of %s: %s", path, copies.reason)
            continue
        for number, prepared in enumerate(copies):
            for spec, array in zip(reader.preprocessings, prepared, strict=True):
                arrays[spec][len(originals) * len(kinds) + number] = array
        originals.append(row_by_path[path])
    count = len(originals) * len(kinds)
    rows_of_originals = np.repeat(np.array(originals, np.int64), len(kinds))
    filled = {spec: array[:count] for spec, array in arrays.items()}
    return PlantedCopies(filled, rows_of_originals, list(kinds) * len(originals))


def _make_copies(
    data: bytes, path: str, rows: dict[str, int], kinds: Sequence[str], reader: ImageReader, seed: int
) -> list[list[Pixels]]:
    images = {}
    for background, image in reader.decode(data, path, MIN_DECODED_SIDE).items():
        factor = -(-max(image.pixels.shape[:2]) // MAX_ORIGINAL_SIDE)  # rounded up
        images[background] = replace(image, pixels=downscale(image.pixels, factor))
    return [
        reader.preprocess({name: _distort(image, kind, [seed, rows[path], number]) for name, image in images.items()})
        for number, kind in enumerate(kinds)
    ]


def _distort(image: DecodedImage, kind: str, seed: list[int]) -> DecodedImage:
    pixels = distort(image.pixels, kind, np.random.default_rng(seed))
    return replace(image, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def score_copies(neighbours: NearestRows, planted: PlantedCopies, identity: NDArray[np.int64], seed: int) -> CopyScores:
    """Score the nearest candidates of each copy; rows with equal `identity` (m,) are the same image."""
    is_correct = identity[neighbours.rows] == identity[planted.originals][:, None]  # (c, k)
    is_repeated = is_correct & (np.cumsum(is_correct, axis=1) > 1)  # duplicates of a correct candidate do not count
    kinds, originals = np.array(planted.kinds), np.unique(planted.originals, return_inverse=True)[1]
    # (b, c): all copies of an original have the same weight in a draw.
    weights = bootstrap.make_bootstrap_weights(int(originals.max()) + 1, seed)[:, originals]
    first = is_correct[:, 0].astype(np.float64)
    # The first row of weights gives the scores of all copies, the others those of the draws.
    all_weights = np.concatenate([np.ones((1, len(is_correct))), weights])
    micro_ap, at_precision = _score_pooled(neighbours.distances, is_correct, ~is_repeated, all_weights)
    return CopyScores(
        recall=float(first.mean()),
        micro_ap=float(micro_ap[0]),
        recall_at_precision=float(at_precision[0]),
        by_kind={kind: float(first[kinds == kind].mean()) for kind in dict.fromkeys(planted.kinds)},
        bootstrap_values={
            "copy_recall": bootstrap.compute_bootstrap_means(first, weights),
            "micro_ap": micro_ap[1:],
            "recall_at_precision": at_precision[1:],
        },
    )


def _score_pooled(
    distances: Float64Array, is_correct: NDArray[np.bool_], is_counted: NDArray[np.bool_], weights: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Pool the counted candidates (c, k) of all copies, nearest first.

    Returns:
        μAP and recall at TARGET_PRECISION, (b,) each, for the weights of the copies (b, c).
    """
    order = np.argsort(distances[is_counted], kind="stable")
    copies, correct = np.nonzero(is_counted)[0][order], is_correct[is_counted][order]
    # A threshold includes all candidates with equal distances, or none of them.
    ends = np.flatnonzero(np.append(np.diff(distances[is_counted][order]) > 0, True))
    micro_ap, at_precision = np.empty(len(weights)), np.empty(len(weights))
    for draw, copy_weights in enumerate(weights):
        candidate_weights = copy_weights[copies]  # (c·k,)
        counts, hits = (np.cumsum(values)[ends] for values in (candidate_weights, candidate_weights * correct))
        recall, precision = hits / copy_weights.sum(), hits / np.maximum(counts, 1)
        micro_ap[draw] = (np.diff(recall, prepend=0) * precision).sum()
        at_precision[draw] = np.where(precision >= TARGET_PRECISION, recall, 0).max()
    return micro_ap, at_precision
