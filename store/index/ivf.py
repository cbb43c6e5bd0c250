"""Inverted lists: only the vectors near a query are looked at, a byte a number, and the best of them exactly.

FAISS's lists hold places in the vector file instead of ids: what is left out is then a bitmap of one bit a row.
"""

from __future__ import annotations

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
    SortedVectors,
    compute_exact_neighbours,
    scan_nearest,
    subtract_ids,
    validate_vectors,
)
from simile.store.index.vector_file import VectorFile

VECTORS_SUFFIX = ".vectors"  # suffix of the file of vectors beside the lists
TUNED_NEIGHBOURS = 10  # neighbours that `nprobe` is measured for
SPARE_CANDIDATES = 32  # candidates beside the 2k that are compared exactly: what a byte a number confuses is among them
MAX_SCAN_ROWS = 50_000  # so few rows are all looked at: 10 ms of 128 numbers each
MIN_FILTERED_LIST_SHARE = 1 / 32  # of the lists, at least, are searched under a filter: 2 ms among a million rows
SELECTION_CACHE_SIZE = 4
FLOAT32_MARGIN = 1.0001  # distances in float32 are off by less than this


@dataclass(frozen=True)
class IvfTuning:
    """What a search needs, as measured when the index was made.

    `nprobe` lists, nearest first, for 10 neighbours; for more, as many times more as k/10 to the `power`.
    `error`: the farthest that a vector lies from its bytes; `reach`: the farthest that one lies from its list's centre;
    `usual`: what all but one in 200 lie within.
    """

    nprobe: int
    power: float
    error: float
    reach: float
    usual: float


@dataclass(frozen=True)
class _RowSelection:
    """Which rows may be found: all but `hidden`, or only `shown` where it is not None; `total` of them."""

    excluded_ids: ArrayLike
    allowed_ids: ArrayLike | None
    excluded_rows: Ids
    allowed_rows: Ids | None
    count: int
    is_narrow: bool
    selector: Any


class IvfIndex(SortedVectors):
    """See VectorIndex for the verbs. Approximate in `search`, exact in all else.

    Arrays of ids that come again are known by being the same object: they must not have changed.
    """

    def __init__(self, faiss_index: Any, file: VectorFile, tuning: IvfTuning) -> None:
        super().__init__(file.ids, file.vectors)
        self._faiss_index = faiss_index
        self.tuning, self.max_scan_rows = tuning, MAX_SCAN_ROWS
        self._centroids = faiss_index.quantizer.reconstruct_n(0, faiss_index.nlist)
        self._recent_selections: tuple[_RowSelection, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Opens the lists at `path` and the vectors beside them. Raises IndexDamaged, OSError."""
        file = VectorFile.open(path.with_suffix(VECTORS_SUFFIX))
        try:
            lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(f"{path} can't be read as an index. Run `simile rebuild`.") from error
        if not isinstance(lists, faiss.IndexIVFScalarQuantizer):
            raise IndexDamaged(f"{path} is an index of another kind. Run `simile rebuild`.")
        if (lists.ntotal, lists.d) != file.vectors.shape:
            raise IndexDamaged(f"{path} does not belong to the vectors beside it. Run `simile rebuild`.")
        try:
            return cls(lists, file, IvfTuning(**file.header["effort"]))
        except (KeyError, TypeError) as error:
            raise IndexDamaged(f"{path} was made by another simile. Run `simile rebuild`.") from error

    @property
    def list_count(self) -> int:
        """How many lists there are."""
        return int(self._faiss_index.nlist)

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, choice = validate_vectors(queries, self.dimensions), self._get_selection(excluded_ids, allowed_ids)
        k = min(k, choice.count)
        if k <= 0:
            return [(NO_IDS, np.empty(0))] * len(queries)
        lists = self._choose_nprobe(k, choice)
        if lists >= self.list_count or choice.is_narrow:
            return [self._scan_rows(query, k, choice) for query in queries]
        if choice.allowed_rows is not None:
            return [self._search_filtered(query, k, lists, choice) for query in queries]
        found = self._probe_lists(queries, min(2 * k + SPARE_CANDIDATES, choice.count), lists, choice.selector)
        answers = [
            compute_exact_neighbours(query, rows, self._vectors[rows])
            for query, rows in zip(queries, found, strict=True)
        ]
        return [
            self._rows_to_ids((rows[:k], distances[:k])) if len(rows) >= k else self._scan_rows(query, k, choice)
            for query, (rows, distances) in zip(queries, answers, strict=True)
        ]

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, choice = validate_vectors(queries, self.dimensions), self._get_selection(excluded_ids, allowed_ids)
        if choice.allowed_rows is not None and choice.is_narrow:
            shown = choice.allowed_rows
            return [
                self._rows_to_ids(scan_nearest(query, shown, self._get_row_vectors, None, radius)) for query in queries
            ]
        return [self._search_radius(query, radius, choice.selector) for query in queries]

    def _search_radius(self, query: FloatArray, radius: float, selector: Any) -> Neighbours:
        """Nothing is missed: no vector lies farther than `reach` from its centre, or `error` from its bytes."""
        near = self._count_lists_within(query, radius + self.tuning.reach)
        if not near:
            return NO_IDS, np.empty(0)
        parameters = faiss.SearchParametersIVF(nprobe=near, sel=selector)  # type: ignore[call-arg]  # its stubs lag
        square = min(((radius + self.tuning.error) * FLOAT32_MARGIN + 1e-6) ** 2, MAX_FLOAT32)
        _, _, rows = self._faiss_index.range_search(query[None], square, params=parameters)
        return self._rows_to_ids(scan_nearest(query, np.sort(rows), self._get_row_vectors, None, radius))

    def _search_filtered(self, query: FloatArray, k: int, nprobe: int, selection: _RowSelection) -> Neighbours:
        """The k nearest of what a filter lets through, which may lie anywhere: far from the query, or in one place.

        What was found first says how far off the last of them lies at most. Then every list is searched that may hold
        a nearer one: only the few vectors that lie farther than `usual` from their centre can be missed.
        """
        count = min(2 * k + SPARE_CANDIDATES, selection.count)
        rows = self._probe_lists(query[None], count, nprobe, selection.selector)[0]
        rows, distances = compute_exact_neighbours(query, rows, self._vectors[rows])
        near = self.list_count
        if len(rows) >= k:
            near = self._count_lists_within(query, distances[k - 1] + self.tuning.usual)
        if near > nprobe:
            rows = self._probe_lists(query[None], count, near, selection.selector)[0]
            rows, distances = compute_exact_neighbours(query, rows, self._vectors[rows])
        if len(rows) < k:  # squares beyond float32
            return self._scan_rows(query, k, selection)
        return self._rows_to_ids((rows[:k], distances[:k]))

    def _count_lists_within(self, query: FloatArray, radius: float) -> int:
        """How many lists have their centre within the radius."""
        difference = self._centroids - query
        squares = np.einsum("nd,nd->n", difference, difference)
        return int((squares <= min((radius * FLOAT32_MARGIN + 1e-6) ** 2, MAX_FLOAT32)).sum())

    def _probe_lists(self, queries: FloatArray, count: int, nprobe: int, selector: Any) -> list[Ids]:
        """For each query the `count` rows that its bytes say are nearest; fewer where the lists hold fewer."""
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)  # type: ignore[call-arg]  # its stubs lag
        _, rows = self._faiss_index.search(queries, count, params=parameters)
        return [row[row >= 0] for row in rows]

    def _scan_rows(self, query: FloatArray, k: int, selection: _RowSelection) -> Neighbours:
        """The answer by looking at every row that may be in it."""
        rows = (
            subtract_ids(np.arange(len(self)), selection.excluded_rows)
            if selection.allowed_rows is None
            else selection.allowed_rows
        )
        return self._rows_to_ids(scan_nearest(query, rows, self._get_row_vectors, k))

    def _choose_nprobe(self, k: int, selection: _RowSelection) -> int:
        """How many lists to search for k rows: the fewer may be found, the farther off lie the nearest of them.

        What a filter lets through may lie all in one place, far from the query: so not few lists, whatever its share.
        """
        more = float(max(1.0, k / (TUNED_NEIGHBOURS + 1)) ** self.tuning.power)  # + 1: the query itself may be indexed
        needed = ceil(self.tuning.nprobe * more * len(self) / selection.count)
        return (
            needed if selection.allowed_rows is None else max(needed, ceil(self.list_count * MIN_FILTERED_LIST_SHARE))
        )

    def _get_selection(self, excluded_ids: ArrayLike, allowed_ids: ArrayLike | None) -> _RowSelection:
        """Which rows may be found. What was asked lately is not looked up again: masks and filters come often."""
        for known in self._recent_selections:
            if known.excluded_ids is excluded_ids and known.allowed_ids is allowed_ids:
                return known
        hidden = self._find_rows(excluded_ids)
        shown = None if allowed_ids is None else subtract_ids(self._find_rows(allowed_ids), hidden)
        total = len(self) - len(hidden) if shown is None else len(shown)
        is_narrow = shown is not None and total <= self.max_scan_rows
        selector = None if is_narrow else self._make_selector(hidden, shown)
        made = _RowSelection(excluded_ids, allowed_ids, hidden, shown, total, is_narrow, selector)
        self._recent_selections = (made, *self._recent_selections[: SELECTION_CACHE_SIZE - 1])
        return made

    def _make_selector(self, excluded_rows: Ids, allowed_rows: Ids | None) -> Any:
        """What FAISS asks whether a row may be found; None for every row."""
        if allowed_rows is None and not len(excluded_rows):
            return None
        marked = np.full(len(self), allowed_rows is None)
        marked[excluded_rows] = False
        if allowed_rows is not None:
            marked[allowed_rows] = True
        bits = np.packbits(marked, bitorder="little")
        return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]  # its stubs lag

    def _get_row_vectors(self, rows: Ids) -> FloatArray:
        found: FloatArray = self._vectors[rows]
        return found

    def _rows_to_ids(self, neighbours: Neighbours) -> Neighbours:
        """Rows become ids; both ascend together, so ties stay in order."""
        return self._ids[neighbours[0]], neighbours[1]
