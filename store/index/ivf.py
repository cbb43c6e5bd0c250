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
from simile.store.index.flat import MOST, NO_IDS, Ids, Neighbours, SortedRows, checked, exactly, scan, without
from simile.store.index.vector_file import VectorFile

VECTORS = ".vectors"  # suffix of the file of vectors beside the lists
NEAREST = 10  # neighbours that `nprobe` is measured for
SPARE = 32  # candidates beside the 2k that are compared exactly: what a byte a number confuses is among them
NARROW = 50_000  # so few rows are all looked at: 10 ms of 128 numbers each
FILTERED_SHARE = 1 / 32  # of the lists, at least, are searched under a filter: 2 ms among a million rows
CHOICES_KEPT = 4
SURE = 1.0001  # distances in float32 are off by less than this


@dataclass(frozen=True)
class Effort:
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
class _Choice:
    """Which rows may be found: all but `hidden`, or only `shown` where it is not None; `total` of them."""

    exclude: ArrayLike
    only: ArrayLike | None
    hidden: Ids
    shown: Ids | None
    total: int
    is_narrow: bool
    selector: Any


class InvertedIndex(SortedRows):
    """See VectorIndex for the verbs. Approximate in `search`, exact in all else.

    Arrays of ids that come again are known by being the same object: they must not have changed.
    """

    def __init__(self, lists: Any, file: VectorFile, effort: Effort) -> None:
        super().__init__(file.ids, file.vectors)
        self._lists = lists
        self.effort, self.narrow = effort, NARROW
        self._centres = lists.quantizer.reconstruct_n(0, lists.nlist)
        self._lately: tuple[_Choice, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Opens the lists at `path` and the vectors beside them. Raises IndexDamaged, OSError."""
        file = VectorFile.open(path.with_suffix(VECTORS))
        try:
            lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(f"{path} can't be read as an index. Run `simile rebuild`.") from error
        if not isinstance(lists, faiss.IndexIVFScalarQuantizer):
            raise IndexDamaged(f"{path} is an index of another kind. Run `simile rebuild`.")
        if (lists.ntotal, lists.d) != file.vectors.shape:
            raise IndexDamaged(f"{path} does not belong to the vectors beside it. Run `simile rebuild`.")
        try:
            return cls(lists, file, Effort(**file.notes["effort"]))
        except (KeyError, TypeError) as error:
            raise IndexDamaged(f"{path} was made by another simile. Run `simile rebuild`.") from error

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._lists.nlist)

    def search(
        self, queries: FloatArray, k: int, exclude: ArrayLike = NO_IDS, only: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, choice = checked(queries, self.dimensions), self._chosen(exclude, only)
        k = min(k, choice.total)
        if k <= 0:
            return [(NO_IDS, np.empty(0))] * len(queries)
        lists = self._lists_for(k, choice)
        if lists >= self.lists or choice.is_narrow:
            return [self._scan(query, k, choice) for query in queries]
        if choice.shown is not None:
            return [self._filtered(query, k, lists, choice) for query in queries]
        found = self._probe(queries, min(2 * k + SPARE, choice.total), lists, choice.selector)
        answers = [exactly(query, rows, self._vectors[rows]) for query, rows in zip(queries, found, strict=True)]
        return [
            self._named((rows[:k], distances[:k])) if len(rows) >= k else self._scan(query, k, choice)
            for query, (rows, distances) in zip(queries, answers, strict=True)
        ]

    def range(
        self, queries: FloatArray, radius: float, exclude: ArrayLike = NO_IDS, only: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, choice = checked(queries, self.dimensions), self._chosen(exclude, only)
        if choice.shown is not None and choice.is_narrow:
            shown = choice.shown
            return [self._named(scan(query, shown, self._at, None, radius)) for query in queries]
        return [self._within(query, radius, choice.selector) for query in queries]

    def _within(self, query: FloatArray, radius: float, selector: Any) -> Neighbours:
        """Nothing is missed: no vector lies farther than `reach` from its centre, or `error` from its bytes."""
        near = self._lists_within(query, radius + self.effort.reach)
        if not near:
            return NO_IDS, np.empty(0)
        parameters = faiss.SearchParametersIVF(nprobe=near, sel=selector)  # type: ignore[call-arg]  # its stubs lag
        square = min(((radius + self.effort.error) * SURE + 1e-6) ** 2, MOST)
        _, _, rows = self._lists.range_search(query[None], square, params=parameters)
        return self._named(scan(query, np.sort(rows), self._at, None, radius))

    def _filtered(self, query: FloatArray, k: int, lists: int, choice: _Choice) -> Neighbours:
        """The k nearest of what a filter lets through, which may lie anywhere: far from the query, or in one place.

        What was found first says how far off the last of them lies at most. Then every list is searched that may hold
        a nearer one: only the few vectors that lie farther than `usual` from their centre can be missed.
        """
        count = min(2 * k + SPARE, choice.total)
        rows = self._probe(query[None], count, lists, choice.selector)[0]
        rows, distances = exactly(query, rows, self._vectors[rows])
        near = self.lists
        if len(rows) >= k:
            near = self._lists_within(query, distances[k - 1] + self.effort.usual)
        if near > lists:
            rows = self._probe(query[None], count, near, choice.selector)[0]
            rows, distances = exactly(query, rows, self._vectors[rows])
        if len(rows) < k:  # squares beyond float32
            return self._scan(query, k, choice)
        return self._named((rows[:k], distances[:k]))

    def _lists_within(self, query: FloatArray, radius: float) -> int:
        """How many lists have their centre within the radius."""
        difference = self._centres - query
        squares = np.einsum("nd,nd->n", difference, difference)
        return int((squares <= min((radius * SURE + 1e-6) ** 2, MOST)).sum())

    def _probe(self, queries: FloatArray, count: int, lists: int, selector: Any) -> list[Ids]:
        """For each query the `count` rows that its bytes say are nearest; fewer where the lists hold fewer."""
        parameters = faiss.SearchParametersIVF(nprobe=lists, sel=selector)  # type: ignore[call-arg]  # its stubs lag
        _, rows = self._lists.search(queries, count, params=parameters)
        return [row[row >= 0] for row in rows]

    def _scan(self, query: FloatArray, k: int, choice: _Choice) -> Neighbours:
        """The answer by looking at every row that may be in it."""
        rows = without(np.arange(len(self)), choice.hidden) if choice.shown is None else choice.shown
        return self._named(scan(query, rows, self._at, k))

    def _lists_for(self, k: int, choice: _Choice) -> int:
        """How many lists to search for k rows: the fewer may be found, the farther off lie the nearest of them.

        What a filter lets through may lie all in one place, far from the query: so not few lists, whatever its share.
        """
        more = float(max(1.0, k / (NEAREST + 1)) ** self.effort.power)  # + 1: the query itself may be indexed
        needed = ceil(self.effort.nprobe * more * len(self) / choice.total)
        return needed if choice.shown is None else max(needed, ceil(self.lists * FILTERED_SHARE))

    def _chosen(self, exclude: ArrayLike, only: ArrayLike | None) -> _Choice:
        """Which rows may be found. What was asked lately is not looked up again: masks and filters come often."""
        for known in self._lately:
            if known.exclude is exclude and known.only is only:
                return known
        hidden = self._rows(exclude)
        shown = None if only is None else without(self._rows(only), hidden)
        total = len(self) - len(hidden) if shown is None else len(shown)
        is_narrow = shown is not None and total <= self.narrow
        selector = None if is_narrow else self._selector(hidden, shown)
        made = _Choice(exclude, only, hidden, shown, total, is_narrow, selector)
        self._lately = (made, *self._lately[: CHOICES_KEPT - 1])
        return made

    def _selector(self, hidden: Ids, shown: Ids | None) -> Any:
        """What FAISS asks whether a row may be found; None for every row."""
        if shown is None and not len(hidden):
            return None
        marked = np.full(len(self), shown is None)
        marked[hidden] = False
        if shown is not None:
            marked[shown] = True
        bits = np.packbits(marked, bitorder="little")
        return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]  # its stubs lag

    def _at(self, rows: Ids) -> FloatArray:
        found: FloatArray = self._vectors[rows]
        return found

    def _named(self, answer: Neighbours) -> Neighbours:
        """Rows become ids; both ascend together, so ties stay in order."""
        return self._ids[answer[0]], answer[1]
