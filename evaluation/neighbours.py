"""Exact nearest neighbours in bounded memory, and label metrics.

Squared distances are |a|² + |b|² - 2·ab in float64: exact for integers such as pixels of 0 to 255 (all terms stay
far below 2^53), and accurate to the last digits of float32 for other values. Equal distances are sorted by row, so the
same vectors always give the same neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simile.core.records import Float64Array

VectorArray = NDArray[Any]  # (n, d), any real type
RowIndices = NDArray[np.int64]

DISTANCE_BLOCK_BYTES = 64 << 20  # distances in memory at once
VECTOR_BLOCK_BYTES = 32 << 20  # float64 vectors in memory at once


@dataclass(frozen=True)
class NearestRows:
    """The nearest rows of each query, nearest first: `rows` (n, k) and Euclidean `distances` (n, k)."""

    rows: RowIndices
    distances: Float64Array


def compute_squared_distances(base: VectorArray, queries: VectorArray) -> Iterator[tuple[slice, Float64Array]]:
    """Yield slices of the queries (n, d) with their squared Euclidean distances (q, m) to all of `base` (m, d)."""
    norms = _compute_squared_norms(base)
    batch_size = max(1, DISTANCE_BLOCK_BYTES // (8 * max(1, len(base))))
    batch_size = min(batch_size, max(1, VECTOR_BLOCK_BYTES // (8 * max(1, queries.shape[1]))))
    for start in range(0, len(queries), batch_size):
        part = slice(start, start + batch_size)
        wide = queries[part].astype(np.float64)  # (q, d)
        block = np.empty((len(wide), len(base)))  # (q, m)
        for columns in _make_vector_slices(base):
            np.matmul(wide, base[columns].astype(np.float64).T, out=block[:, columns])
        block *= -2
        block += norms
        block += np.square(wide).sum(1)[:, None]
        yield part, np.maximum(block, 0, out=block)  # rounding may give negative values


def find_nearest(base: VectorArray, queries: VectorArray, k: int) -> NearestRows:
    """Find the k rows of `base` (m, d) nearest to each query (n, d); all m if there are fewer."""
    k = min(k, len(base))
    rows, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for part, block in compute_squared_distances(base, queries):
        rows[part], distances[part] = _select_smallest(block, k)
    return NearestRows(rows, np.sqrt(distances))


def _select_smallest(block: Float64Array, k: int) -> tuple[RowIndices, Float64Array]:
    """Return columns and values (q, k) of the k smallest values in each row of (q, m), by value, then by column."""
    limit = np.partition(block, k - 1, axis=1)[:, k - 1 : k]  # the k-th smallest value; several columns may have it
    row, column = np.nonzero(block <= limit)
    value = block[row, column]
    order = np.lexsort((column, value, row))
    first = np.searchsorted(row, np.arange(len(block)))  # `row` is sorted, by nonzero
    chosen = order[first[:, None] + np.arange(k)]
    return column[chosen], value[chosen]


def compute_majority_vote(labels: RowIndices, distances: Float64Array | None = None) -> RowIndices:
    """Return the most frequent class (n,) among the k neighbours; the smallest class number of equals.

    Both rules are those of scikit-learn.

    Args:
        labels: (n, k) class numbers of the neighbours.
        distances: (n, k); weights of 1/distance. If a distance is zero, only neighbours at zero count.
    """
    weights = np.ones(labels.shape) if distances is None else _compute_inverse_weights(distances)
    classes = int(labels.max(initial=0)) + 1
    votes = np.zeros((len(labels), classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    winners: RowIndices = votes.argmax(1)
    return winners


def _compute_inverse_weights(distances: Float64Array) -> Float64Array:
    is_zero = distances == 0
    weights = 1 / np.where(is_zero, 1, distances)
    inverse: Float64Array = np.where(is_zero.any(1, keepdims=True), is_zero, weights)
    return inverse


def compute_average_precision(relevant: NDArray[np.bool_]) -> Float64Array:
    """Compute the average precision (n,) of rankings (n, m); NaN if nothing is relevant."""
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / ranks
    count = relevant.sum(1)
    none = np.full(len(relevant), np.nan)
    found: Float64Array = np.divide((precision * relevant).sum(1), count, out=none, where=count > 0)
    return found


@dataclass(frozen=True)
class LabelScores:
    """Label metrics of each query, (n,) each."""

    vote: Float64Array  # 1 if the majority vote is right, else 0
    precision: Float64Array  # share of the nearest ten with the same label
    average_precision: Float64Array  # of the ranking of all base images


def compute_label_scores(
    base: VectorArray,
    base_labels: RowIndices,
    queries: VectorArray,
    query_labels: RowIndices,
    vote_neighbours: int = 5,
    precision_neighbours: int = 10,
) -> LabelScores:
    """Score queries (n, d) with classes (n,) against base vectors (m, d) with classes (m,), in one pass."""
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
    size = max(1, VECTOR_BLOCK_BYTES // (8 * max(1, vectors.shape[1])))
    return (slice(start, start + size) for start in range(0, len(vectors), size))
