"""Exact nearest neighbours in bounded memory, and what labels say of them.

Squared distances are |a|² + |b|² - 2·ab in float64: exact for integers such as pixels of 0 to 255 (all terms stay
far below 2^53), and right to the last digits of float32 for everything else. Among equal distances the lower row
comes first, so the same vectors always give the same neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VectorArray = NDArray[Any]  # (n, d), any real type
RowIndices = NDArray[np.int64]
Float64Array = NDArray[np.float64]

DISTANCE_BLOCK_BYTES = 64 << 20  # of distances at a time
VECTOR_BLOCK_BYTES = 32 << 20  # of vectors as float64 at a time


@dataclass(frozen=True)
class NearestRows:
    """The nearest rows of each query, nearest first: `rows` (n, k), `distances` (n, k) Euclidean."""

    rows: RowIndices
    distances: Float64Array


def compute_squared_distances(base: VectorArray, queries: VectorArray) -> Iterator[tuple[slice, Float64Array]]:
    """Squared Euclidean distances to all of `base` (m, d), for one slice of `queries` (n, d) after another: (q, m)."""
    norms = _compute_squared_norms(base)
    together = max(1, DISTANCE_BLOCK_BYTES // (8 * max(1, len(base))))
    together = min(together, max(1, VECTOR_BLOCK_BYTES // (8 * max(1, queries.shape[1]))))
    for start in range(0, len(queries), together):
        part = slice(start, start + together)
        wide = queries[part].astype(np.float64)  # (q, d)
        block = np.empty((len(wide), len(base)))  # (q, m)
        for columns in _make_vector_slices(base):
            np.matmul(wide, base[columns].astype(np.float64).T, out=block[:, columns])
        block *= -2
        block += norms
        block += np.square(wide).sum(1)[:, None]
        yield part, np.maximum(block, 0, out=block)  # rounding may have gone below zero


def find_nearest(base: VectorArray, queries: VectorArray, k: int) -> NearestRows:
    """The k rows of `base` (m, d) nearest to each of `queries` (n, d); all m where there are fewer."""
    k = min(k, len(base))
    rows, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for part, block in compute_squared_distances(base, queries):
        rows[part], distances[part] = _select_smallest(block, k)
    return NearestRows(rows, np.sqrt(distances))


def _select_smallest(block: Float64Array, k: int) -> tuple[RowIndices, Float64Array]:
    """Columns and values (q, k) of the k smallest of each row of (q, m), by value, then by column."""
    limit = np.partition(block, k - 1, axis=1)[:, k - 1 : k]  # the k-th smallest; several columns may hold it
    row, column = np.nonzero(block <= limit)
    value = block[row, column]
    order = np.lexsort((column, value, row))
    first = np.searchsorted(row, np.arange(len(block)))  # `row` is sorted, by nonzero
    chosen = order[first[:, None] + np.arange(k)]
    return column[chosen], value[chosen]


def compute_majority_vote(labels: RowIndices, distances: Float64Array | None = None) -> RowIndices:
    """The class (n,) that most of the k neighbours have, `labels` (n, k); among equals the smallest number.

    With `distances` (n, k) each neighbour weighs 1/distance; where one lies at zero, only those at zero count.
    Both conventions are scikit-learn's.
    """
    weights = np.ones(labels.shape) if distances is None else _compute_inverse_weights(distances)
    classes = int(labels.max(initial=0)) + 1
    tally = np.zeros((len(labels), classes))
    np.add.at(tally, (np.arange(len(labels))[:, None], labels), weights)
    most: RowIndices = tally.argmax(1)
    return most


def _compute_inverse_weights(distances: Float64Array) -> Float64Array:
    at_zero = distances == 0
    weights = 1 / np.where(at_zero, 1, distances)
    chosen: Float64Array = np.where(at_zero.any(1, keepdims=True), at_zero, weights)
    return chosen


def compute_average_precision(relevant: NDArray[np.bool_]) -> Float64Array:
    """Mean of the precision at each relevant rank, (n,), of rankings (n, m); NaN where nothing is relevant."""
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / ranks
    count = relevant.sum(1)
    none = np.full(len(relevant), np.nan)
    found: Float64Array = np.divide((precision * relevant).sum(1), count, out=none, where=count > 0)
    return found


@dataclass(frozen=True)
class LabelScores:
    """How far neighbours share a query's label; each (n,), one number for each query."""

    vote: Float64Array  # 1 where the vote of the nearest is right
    precision: Float64Array  # share of the nearest ten that have the label
    average_precision: Float64Array  # over the ranking of the whole collection


def compute_label_scores(
    base: VectorArray,
    base_labels: RowIndices,
    queries: VectorArray,
    query_labels: RowIndices,
    vote_neighbours: int = 5,
    precision_neighbours: int = 10,
) -> LabelScores:
    """Scores of `queries` (n, d) against `base` (m, d), with class numbers (n,) and (m,), in one pass over both."""
    scores = LabelScores(*(np.empty(len(queries)) for _ in range(3)))
    for part, block in compute_squared_distances(base, queries):
        order = np.argsort(block, axis=1, kind="stable")  # (q, m): by distance, then by row
        ranked, truth = base_labels[order], query_labels[part]
        relevant = ranked == truth[:, None]
        scores.vote[part] = compute_majority_vote(ranked[:, :vote_neighbours]) == truth
        scores.precision[part] = relevant[:, :precision_neighbours].mean(1)
        scores.average_precision[part] = compute_average_precision(relevant)
    return scores


def _compute_squared_norms(vectors: VectorArray) -> Float64Array:
    norms = np.empty(len(vectors))
    for part in _make_vector_slices(vectors):
        norms[part] = np.square(vectors[part].astype(np.float64)).sum(1)
    return norms


def _make_vector_slices(vectors: VectorArray) -> Iterator[slice]:
    together = max(1, VECTOR_BLOCK_BYTES // (8 * max(1, vectors.shape[1])))
    return (slice(start, start + together) for start in range(0, len(vectors), together))
