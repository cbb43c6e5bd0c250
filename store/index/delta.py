"""Vectors in memory that numpy compares with each query: for what is newer than the segment, which is not much."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from simile.core.errors import IndexDamaged
from simile.core.records import FloatArray
from simile.store.index.flat import (
    MAX_FLOAT32,
    NO_IDS,
    SPARE_NEIGHBOURS,
    Ids,
    Neighbours,
    SortedVectors,
    compute_exact_neighbours,
    is_member,
    scan_nearest,
    sort_unique,
    subtract_ids,
    validate_vectors,
)

MAX_SQUARED_NORM = MAX_FLOAT32 / 8  # squared lengths
LEADING_DIMENSIONS = 16  # numbers of each vector, those that differ most: their share of a distance is never above it
MIN_PREFILTER_ROWS = 2048  # rows; fewer are compared whole as fast


class DeltaIndex(SortedVectors):
    """Exact, and never changes: more rows make another one. See VectorIndex for the verbs.

    FAISS would take as long to be asked as it takes to answer here. |a|²-2ab+|b|² says which rows are near, differences
    in float64 say how near.
    """

    def __init__(self, ids: Ids, vectors: FloatArray) -> None:
        """ids: (n,). vectors: (n, d). Raises NotFinite, IndexDamaged (an id twice)."""
        order = np.argsort(ids)
        super().__init__(ids[order], validate_vectors(vectors, vectors.shape[1])[order])
        if (self._ids[1:] == self._ids[:-1]).any():
            raise IndexDamaged("An image would stand in the index twice. Run `simile rebuild`.")
        squares = np.einsum("nd,nd->n", self._vectors, self._vectors, dtype=np.float64)
        self._max_squared_norm = float(squares.max(initial=0))  # squared
        self._squared_norms = squares.clip(max=MAX_FLOAT32).astype(np.float32)
        spread = (
            self._vectors.var(axis=0)
            if self._max_squared_norm <= MAX_SQUARED_NORM and len(ids)
            else np.zeros(self.dimensions)
        )
        self._leading_dims = np.sort(np.argsort(-spread)[:LEADING_DIMENSIONS])
        self._leading_vectors = np.ascontiguousarray(self._vectors[:, self._leading_dims])
        self._leading_squared_norms = np.einsum("nd,nd->n", self._leading_vectors, self._leading_vectors)

    @classmethod
    def from_chunks(cls, dimensions: int, chunks: Iterable[tuple[Ids, FloatArray]] = ()) -> DeltaIndex:
        """Of (ids (m,), vectors (m, dimensions)) in chunks."""
        parts = [(NO_IDS, np.empty((0, dimensions), np.float32)), *chunks]
        return cls(np.concatenate([ids for ids, _ in parts]), np.concatenate([vectors for _, vectors in parts]))

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, hidden = validate_vectors(queries, self.dimensions), self.find_present(excluded_ids)
        if allowed_ids is not None or k + SPARE_NEIGHBOURS + len(hidden) >= len(self):
            shown = subtract_ids(self._ids if allowed_ids is None else self.find_present(allowed_ids), hidden)
            return [scan_nearest(query, shown, self.get_vectors, k) for query in queries]
        return [self._search_nearest(query, k, hidden) for query in queries]

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries = validate_vectors(queries, self.dimensions)
        return [self._search_radius(query, radius, excluded_ids, allowed_ids) for query in queries]

    def _search_radius(
        self, query: FloatArray, radius: float, excluded_ids: ArrayLike, allowed_ids: ArrayLike | None
    ) -> Neighbours:
        rows = self._prefilter_rows(query, radius)
        if not len(rows):
            return NO_IDS, np.empty(0)
        ids, distances = scan_nearest(query, self._ids[rows], self.get_vectors, None, radius)
        shown = ~is_member(ids, sort_unique(excluded_ids))
        if allowed_ids is not None:
            shown &= is_member(ids, sort_unique(allowed_ids))
        return ids[shown], distances[shown]

    def _prefilter_rows(self, query: FloatArray, radius: float) -> Ids:
        """Rows (m,) among which all those within the radius are: most that are far are so by a few numbers alone."""
        length = float(np.einsum("d,d->", query, query, dtype=np.float64))
        limit = radius * radius + self._compute_error_bound(length)
        if len(self) < MIN_PREFILTER_ROWS or not limit < MAX_SQUARED_NORM:
            squares, lost = self._estimate_squared_distances(query)
            return np.flatnonzero(squares <= min(radius * radius + lost, MAX_FLOAT32))
        led = query[self._leading_dims]
        rows = np.flatnonzero(
            self._leading_squared_norms + self._leading_vectors @ (-2 * led) <= limit - float(led @ led)
        )
        if len(rows) > SPARE_NEIGHBOURS:
            rows = rows[self._squared_norms[rows] - 2 * (self._vectors[rows] @ query) <= limit - length]
        return rows

    def _search_nearest(self, query: FloatArray, k: int, excluded: Ids) -> Neighbours:
        squares, lost = self._estimate_squared_distances(query)
        if len(excluded):
            squares[np.searchsorted(self._ids, excluded)] = np.inf
        rows = np.argpartition(squares, k + SPARE_NEIGHBOURS)[: k + SPARE_NEIGHBOURS + 1]
        ids, distances = compute_exact_neighbours(query, self._ids[rows], self._vectors[rows])
        if squares[rows[-1]] <= distances[k - 1] ** 2 + lost:  # rounding may have hidden one: look at all of them
            return scan_nearest(query, subtract_ids(self._ids, excluded), self.get_vectors, k)
        return ids[:k], distances[:k]

    def _estimate_squared_distances(self, query: FloatArray) -> tuple[FloatArray, float]:
        """The squared distances (n,) to all rows, and how far off they can be."""
        length = float(np.einsum("d,d->", query, query, dtype=np.float64))
        if length + self._max_squared_norm > MAX_SQUARED_NORM:  # float32 could not hold the squares: nothing is known
            return np.zeros(len(self), np.float32), np.inf
        squares: FloatArray = self._vectors @ query
        squares *= -2
        squares += self._squared_norms
        squares += length
        return squares, self._compute_error_bound(length)

    def _compute_error_bound(self, squared_norm: float) -> float:
        """How far off a squared distance to a query of this squared length can be: see vectors._rounding."""
        return 4 * (self.dimensions + 4) * 2.0**-24 * (squared_norm + self._max_squared_norm)
