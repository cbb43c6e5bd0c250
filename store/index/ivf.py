"""Approximate index with inverted lists: compares the nearest lists at one byte a number, then the best rows exactly.

FAISS's lists hold row numbers of the vector file instead of ids, so that a filter is a bitmap with one bit a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import ArrayLike

from simile.core.errors import IndexDamaged
from simile.core.records import FloatArray
from simile.store.index.flat import (
    MAX_FLOAT32,
    NO_IDS,
    Ids,
    Neighbours,
    VectorIndex,
    compute_exact_neighbours,
    is_member,
    read_faiss_index,
    scan_nearest,
    sort_unique,
    subtract_ids,
    validate_vectors,
)
from simile.store.index.vector_file import VectorFile

VECTORS_SUFFIX = ".vectors"  # suffix of the vector file next to the lists
TUNED_NEIGHBOURS = 10  # number of neighbours for which `nprobe` is measured
SPARE_CANDIDATES = 32  # compared exactly in addition to 2k candidates: the bytes order near rows wrongly
MAX_SCAN_ROWS = 50_000  # up to this many allowed rows are all compared: 10 ms at 128 dimensions
MIN_FILTERED_LIST_SHARE = 1 / 32  # least share of the lists that a filtered search probes: 2 ms among a million rows
SELECTION_CACHE_SIZE = 4
FLOAT32_MARGIN = 1.0001  # relative error of float32 distances is below 0.0001


@dataclass(frozen=True, kw_only=True)
class IvfTuning:
    """Search parameters, measured when the index is built."""

    nprobe: int  # number of lists, nearest first, to search for 10 neighbours
    power: float  # for k neighbours, `nprobe` is multiplied by (k / 10) to this power
    error: float  # largest distance of a vector from its quantised bytes
    reach: float  # largest distance of a vector from its list's centroid
    usual: float  # the same, for all but one vector in 200


@dataclass(frozen=True, kw_only=True)
class _RowSelection:
    """The rows that a search may find."""

    excluded_ids: ArrayLike  # the arguments that the selection was made of: together they are the cache's key
    allowed_ids: ArrayLike | None
    excluded_rows: Ids
    allowed_rows: Ids | None  # None if all rows but the excluded ones are allowed
    count: int  # number of rows that may be found
    is_narrow: bool  # whether the allowed rows are few enough to compare them all
    selector: Any  # FAISS's selector of these rows; None for all rows, or if the selection is narrow


class IvfIndex(VectorIndex):
    """An index that never changes: approximate in `search`, exact in everything else.

    Selections of rows are cached by the identity of the id arrays, so callers must not change these arrays.
    """

    def __init__(self, faiss_index: Any, file: VectorFile, tuning: IvfTuning) -> None:
        """Search the rows of a file in an IndexIVFScalarQuantizer of all of them."""
        super().__init__(file.vectors.shape[1], file.ids)
        self._vectors, self._faiss_index, self.list_count = file.vectors, faiss_index, int(faiss_index.nlist)
        self.tuning, self.max_scan_rows = tuning, MAX_SCAN_ROWS
        self._centroids = faiss_index.quantizer.reconstruct_n(0, faiss_index.nlist)
        self._recent_selections: tuple[_RowSelection, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open the lists at `path` and the vectors next to them. Raises IndexDamaged, OSError."""
        file = VectorFile.open(path.with_suffix(VECTORS_SUFFIX))
        faiss_index = read_faiss_index(path, faiss.IndexIVFScalarQuantizer)
        if (faiss_index.ntotal, faiss_index.d) != file.vectors.shape:
            raise IndexDamaged(f"{path} does not belong to the vectors beside it. Run `simile rebuild`.")
        try:
            return cls(faiss_index, file, IvfTuning(**file.header["effort"]))
        except (KeyError, TypeError) as error:
            raise IndexDamaged(f"{path} was made by another version of simile. Run `simile rebuild`.") from error

    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        """Return the vectors (n, d) of these ids. The index must hold all of them."""
        return self._get_row_vectors(np.searchsorted(self.ids, np.asarray(ids, np.int64)))

    def make_empty_lists(self) -> Any:
        """Return empty lists with the same centroids and the same ranges of the quantiser."""
        centroids: Any = faiss.IndexFlatL2(self.dimensions)
        centroids.add(self._centroids)
        lists = faiss.IndexIVFScalarQuantizer(
            centroids, self.dimensions, self.list_count, faiss.ScalarQuantizer.QT_8bit
        )
        lists.own_fields = True  # the lists keep the centroids alive, and Python no longer does
        centroids.this.disown()
        faiss.copy_array_to_vector(faiss.vector_to_array(self._faiss_index.sq.trained), lists.sq.trained)
        lists.is_trained = True
        return lists

    def make_list_finder(self) -> Callable[[Ids, FloatArray], Ids]:
        """Return a function that gives the list number of each row by id and vector, -1 for rows that are not here."""
        numbers = np.empty(len(self), np.int32)
        lists = self._faiss_index.invlists
        for number in range(self.list_count):
            if size := lists.list_size(number):
                numbers[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number

        def find(ids: Ids, vectors: FloatArray) -> Ids:
            found = np.full(len(ids), -1)
            rows = np.searchsorted(self.ids, ids).clip(max=len(self) - 1)
            present = np.flatnonzero(self.ids[rows] == ids)
            equal = present[(self._vectors[rows[present]] == vectors[present]).all(axis=1)]
            found[equal] = numbers[rows[equal]]
            return found

        return find

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find the k nearest neighbours of each query, approximately; see VectorIndex."""
        queries, selection = validate_vectors(queries, self.dimensions), self._get_selection(excluded_ids, allowed_ids)
        k = min(k, selection.count)
        if k <= 0:
            return [(NO_IDS, np.empty(0))] * len(queries)
        nprobe = self._choose_nprobe(k, selection)
        if nprobe >= self.list_count or selection.is_narrow:
            return [self._scan_rows(query, k, selection) for query in queries]
        if selection.allowed_rows is not None:
            return [self._search_filtered(query, k, nprobe, selection) for query in queries]
        results = self._probe_lists(queries, k, nprobe, selection)
        return [
            self._rows_to_ids((rows[:k], distances[:k])) if len(rows) >= k else self._scan_rows(query, k, selection)
            for query, (rows, distances) in zip(queries, results, strict=True)
        ]

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find all vectors at a distance of at most `radius` of each query; see VectorIndex."""
        queries, selection = validate_vectors(queries, self.dimensions), self._get_selection(excluded_ids, allowed_ids)
        return [self._search_radius(query, radius, selection) for query in queries]

    def _search_radius(self, query: FloatArray, radius: float, selection: _RowSelection) -> Neighbours:
        """Find all rows within the radius.

        None is missed: no vector is farther than `reach` from its centroid, or farther than `error` from its bytes.
        """
        if selection.allowed_rows is not None and selection.is_narrow:
            candidates = selection.allowed_rows
        else:
            nprobe = self._count_lists_within(query, radius + self.tuning.reach)
            if not nprobe:
                return NO_IDS, np.empty(0)
            square = min(((radius + self.tuning.error) * FLOAT32_MARGIN + 1e-6) ** 2, MAX_FLOAT32)
            parameters = _make_search_parameters(nprobe, selection)
            _, _, rows = self._faiss_index.range_search(query[None], square, params=parameters)
            candidates = np.sort(rows)
        return self._rows_to_ids(scan_nearest(query, candidates, self._get_row_vectors, None, radius))

    def _search_filtered(self, query: FloatArray, k: int, nprobe: int, selection: _RowSelection) -> Neighbours:
        """Find the k nearest of the rows that a filter allows, which may all be far from the query.

        The first search bounds the distance of the k-th neighbour. Then every list that may hold a nearer row is
        searched: only the few vectors farther than `usual` from their centroid can be missed.
        """
        (rows, distances), needed = self._probe_lists(query[None], k, nprobe, selection)[0], self.list_count
        if len(rows) >= k:
            needed = self._count_lists_within(query, distances[k - 1] + self.tuning.usual)
        if needed > nprobe:
            rows, distances = self._probe_lists(query[None], k, needed, selection)[0]
        if len(rows) < k:  # squared distances exceed float32
            return self._scan_rows(query, k, selection)
        return self._rows_to_ids((rows[:k], distances[:k]))

    def _count_lists_within(self, query: FloatArray, radius: float) -> int:
        """Return how many centroids are within the radius."""
        difference = self._centroids - query
        squares = np.einsum("nd,nd->n", difference, difference)
        return int((squares <= min((radius * FLOAT32_MARGIN + 1e-6) ** 2, MAX_FLOAT32)).sum())

    def _probe_lists(self, queries: FloatArray, k: int, nprobe: int, selection: _RowSelection) -> list[Neighbours]:
        """Find candidates for k neighbours in `nprobe` lists; return their rows and exact distances, nearest first.

        There may be fewer than k, if the lists hold fewer.
        """
        count = min(2 * k + SPARE_CANDIDATES, selection.count)
        _, found = self._faiss_index.search(queries, count, params=_make_search_parameters(nprobe, selection))
        candidates = [rows[rows >= 0] for rows in found]
        return [
            compute_exact_neighbours(query, rows, self._vectors[rows])
            for query, rows in zip(queries, candidates, strict=True)
        ]

    def _scan_rows(self, query: FloatArray, k: int, selection: _RowSelection) -> Neighbours:
        """Find the k nearest neighbours by comparing every allowed row."""
        rows = selection.allowed_rows
        if rows is None:
            rows = subtract_ids(np.arange(len(self)), selection.excluded_rows)
        return self._rows_to_ids(scan_nearest(query, rows, self._get_row_vectors, k))

    def _choose_nprobe(self, k: int, selection: _RowSelection) -> int:
        """Return how many lists to search for k rows: more if fewer rows are allowed, as their neighbours are farther.

        The rows that a filter allows may all be in one region far from the query, so a filtered search has a minimum.
        """
        # + 1, because the query itself may be indexed.
        factor = float(max(1.0, k / (TUNED_NEIGHBOURS + 1)) ** self.tuning.power)
        nprobe = ceil(self.tuning.nprobe * factor * len(self) / selection.count)
        if selection.allowed_rows is None:
            return nprobe
        return max(nprobe, ceil(self.list_count * MIN_FILTERED_LIST_SHARE))

    def _get_selection(self, excluded_ids: ArrayLike, allowed_ids: ArrayLike | None) -> _RowSelection:
        """Return the rows that may be found. Recent selections are cached: searches repeat masks and filters."""
        for known in self._recent_selections:
            if known.excluded_ids is excluded_ids and known.allowed_ids is allowed_ids:
                return known
        excluded_rows = self._find_rows(excluded_ids)
        allowed_rows = None if allowed_ids is None else subtract_ids(self._find_rows(allowed_ids), excluded_rows)
        count = len(self) - len(excluded_rows) if allowed_rows is None else len(allowed_rows)
        is_narrow = allowed_rows is not None and count <= self.max_scan_rows
        selection = _RowSelection(
            excluded_ids=excluded_ids,
            allowed_ids=allowed_ids,
            excluded_rows=excluded_rows,
            allowed_rows=allowed_rows,
            count=count,
            is_narrow=is_narrow,
            selector=None if is_narrow else self._make_selector(excluded_rows, allowed_rows),
        )
        self._recent_selections = (selection, *self._recent_selections[: SELECTION_CACHE_SIZE - 1])
        return selection

    def _make_selector(self, excluded_rows: Ids, allowed_rows: Ids | None) -> Any:
        """Return a FAISS selector of the rows that may be found; None for every row."""
        if allowed_rows is None and not len(excluded_rows):
            return None
        is_selected = np.full(len(self), allowed_rows is None)
        is_selected[excluded_rows] = False
        if allowed_rows is not None:
            is_selected[allowed_rows] = True
        bits = np.packbits(is_selected, bitorder="little")
        return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]  # FAISS's stubs lag

    def _find_rows(self, ids: ArrayLike) -> Ids:
        """Return the rows of the ids that the index holds, ascending."""
        unique = sort_unique(ids)
        if len(unique) > len(self):  # a filter may allow half a million ids
            return np.flatnonzero(is_member(self.ids, unique))
        if not len(unique):
            return NO_IDS
        rows = np.searchsorted(self.ids, unique).clip(max=len(self) - 1)
        present: Ids = rows[self.ids[rows] == unique]
        return present

    def _get_row_vectors(self, rows: Ids) -> FloatArray:
        vectors: FloatArray = self._vectors[rows]
        return vectors

    def _rows_to_ids(self, neighbours: Neighbours) -> Neighbours:
        """Replace rows by ids. Both ascend together, so ties stay in order."""
        return self.ids[neighbours[0]], neighbours[1]


def _make_search_parameters(nprobe: int, selection: _RowSelection) -> Any:
    return faiss.SearchParametersIVF(nprobe=nprobe, sel=selection.selector)  # type: ignore[call-arg]  # stubs lag
