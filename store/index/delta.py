"""Vectors in memory that numpy compares with each query: for what is newer than the segment, which is not much."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from simile.core.errors import IndexDamaged
from simile.core.records import FloatArray
from simile.store.index.flat import (
    MOST,
    NO_IDS,
    SPARE,
    Ids,
    Neighbours,
    SortedRows,
    among,
    ascending,
    checked,
    exactly,
    scan,
    without,
)

HUGE = MOST / 8  # squared lengths
LEADING = 16  # numbers of each vector, those that differ most: their share of a distance is never above it
WORTH_LEADING = 2048  # rows; fewer are compared whole as fast


class NewerRows(SortedRows):
    """Exact, and never changes: more rows make another one. See VectorIndex for the verbs.

    FAISS would take as long to be asked as it takes to answer here. |a|²-2ab+|b|² says which rows are near, differences
    in float64 say how near.
    """

    def __init__(self, ids: Ids, vectors: FloatArray) -> None:
        """ids: (n,). vectors: (n, d). Raises NotFinite, IndexDamaged (an id twice)."""
        order = np.argsort(ids)
        super().__init__(ids[order], checked(vectors, vectors.shape[1])[order])
        if (self._ids[1:] == self._ids[:-1]).any():
            raise IndexDamaged("An image would stand in the index twice. Run `simile rebuild`.")
        squares = np.einsum("nd,nd->n", self._vectors, self._vectors, dtype=np.float64)
        self._longest = float(squares.max(initial=0))  # squared
        self._squares = squares.clip(max=MOST).astype(np.float32)
        spread = self._vectors.var(axis=0) if self._longest <= HUGE and len(ids) else np.zeros(self.dimensions)
        self._leading = np.sort(np.argsort(-spread)[:LEADING])
        self._led = np.ascontiguousarray(self._vectors[:, self._leading])
        self._led_squares = np.einsum("nd,nd->n", self._led, self._led)

    @classmethod
    def of(cls, dimensions: int, chunks: Iterable[tuple[Ids, FloatArray]] = ()) -> NewerRows:
        """Of (ids (m,), vectors (m, dimensions)) in chunks."""
        parts = [(NO_IDS, np.empty((0, dimensions), np.float32)), *chunks]
        return cls(np.concatenate([ids for ids, _ in parts]), np.concatenate([vectors for _, vectors in parts]))

    def search(
        self, queries: FloatArray, k: int, exclude: ArrayLike = NO_IDS, only: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, hidden = checked(queries, self.dimensions), self.present(exclude)
        if only is not None or k + SPARE + len(hidden) >= len(self):
            shown = without(self._ids if only is None else self.present(only), hidden)
            return [scan(query, shown, self.vectors, k) for query in queries]
        return [self._nearest(query, k, hidden) for query in queries]

    def range(
        self, queries: FloatArray, radius: float, exclude: ArrayLike = NO_IDS, only: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries = checked(queries, self.dimensions)
        return [self._within(query, radius, exclude, only) for query in queries]

    def _within(self, query: FloatArray, radius: float, exclude: ArrayLike, only: ArrayLike | None) -> Neighbours:
        rows = self._not_far(query, radius)
        if not len(rows):
            return NO_IDS, np.empty(0)
        ids, distances = scan(query, self._ids[rows], self.vectors, None, radius)
        shown = ~among(ids, ascending(exclude))
        if only is not None:
            shown &= among(ids, ascending(only))
        return ids[shown], distances[shown]

    def _not_far(self, query: FloatArray, radius: float) -> Ids:
        """Rows (m,) among which all those within the radius are: most that are far are so by a few numbers alone."""
        length = float(np.einsum("d,d->", query, query, dtype=np.float64))
        limit = radius * radius + self._lost(length)
        if len(self) < WORTH_LEADING or not limit < HUGE:
            squares, lost = self._estimated(query)
            return np.flatnonzero(squares <= min(radius * radius + lost, MOST))
        led = query[self._leading]
        rows = np.flatnonzero(self._led_squares + self._led @ (-2 * led) <= limit - float(led @ led))
        if len(rows) > SPARE:
            rows = rows[self._squares[rows] - 2 * (self._vectors[rows] @ query) <= limit - length]
        return rows

    def _nearest(self, query: FloatArray, k: int, hidden: Ids) -> Neighbours:
        squares, lost = self._estimated(query)
        if len(hidden):
            squares[np.searchsorted(self._ids, hidden)] = np.inf
        rows = np.argpartition(squares, k + SPARE)[: k + SPARE + 1]
        ids, distances = exactly(query, self._ids[rows], self._vectors[rows])
        if squares[rows[-1]] <= distances[k - 1] ** 2 + lost:  # rounding may have hidden one: look at all of them
            return scan(query, without(self._ids, hidden), self.vectors, k)
        return ids[:k], distances[:k]

    def _estimated(self, query: FloatArray) -> tuple[FloatArray, float]:
        """The squared distances (n,) to all rows, and how far off they can be."""
        length = float(np.einsum("d,d->", query, query, dtype=np.float64))
        if length + self._longest > HUGE:  # float32 could not hold the squares: nothing is known
            return np.zeros(len(self), np.float32), np.inf
        squares: FloatArray = self._vectors @ query
        squares *= -2
        squares += self._squares
        squares += length
        return squares, self._lost(length)

    def _lost(self, length: float) -> float:
        """How far off a squared distance to a query of this squared length can be: see vectors._rounding."""
        return 4 * (self.dimensions + 4) * 2.0**-24 * (length + self._longest)
