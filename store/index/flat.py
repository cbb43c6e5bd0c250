"""Vectors by id, and the nearest of them: one small interface, and the only wrapper around FAISS.

FAISS takes duplicate ids and NaN in silence, answers -1 when asked for more than it has, and raises empty
AssertionErrors. Nothing of that leaves this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simile.core.errors import EncoderMismatch, IndexDamaged, NotFinite
from simile.core.records import FloatArray

Ids = NDArray[np.int64]
Distances = NDArray[np.float64]
Neighbours = tuple[Ids, Distances]

# From this many queries x dimensions on, FAISS expands |a-b|² into |a|²-2ab+|b|² for BLAS. Its own limit is 128,000:
# with this one a batch of 100 over 1M x 128 takes 256 ms instead of 2,445. FlatIndex makes up for the lost digits.
faiss.cvar.distance_compute_blas_threshold = 20 * 128
# Above 100 neighbours FAISS changes to a collector that keeps any of the vectors that tie for the last place.
faiss.cvar.distance_compute_min_k_reservoir = 1 << 30

MAX_FETCHED_EXCLUSIONS = 100  # so many excluded ids are fetched and left out: a selector keeps FAISS from using BLAS
SPARE_NEIGHBOURS = 16  # more neighbours than asked for, to see that rounding has hidden none
MAX_FLOAT32 = 3e38  # float32 ends there
SCAN_CHUNK_ROWS = 16384  # vectors compared together where each is looked at: 8 MB of 128 numbers

NO_IDS: Ids = np.empty(0, np.int64)


def _search_faiss(index: Any, queries: FloatArray, count: int) -> tuple[FloatArray, Ids]:
    """FAISS's answer. One query is compared by one thread anyway; waking others to number the hits took 10 ms where
    other work held the cores, and 0.1 ms without (benchmarks/latent/steps.py).
    """
    if len(queries) > 1:
        return index.search(queries, count)  # type: ignore[no-any-return]
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # it holds for the calling thread alone
    try:
        return index.search(queries, count)  # type: ignore[no-any-return]
    finally:
        faiss.omp_set_num_threads(threads)


class VectorIndex(Protocol):
    """What an engine must do to stand behind a search. Distances are Euclidean, vectors of one length `dimensions`.

    Any number of threads may ask at once.
    """

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """For each query (n, d) its k nearest: ids and distances, ascending, ties by id; fewer if there are fewer.

        `exclude` are left out; of `only`, where it is given, nothing but its ids can be found, and all of them can.
        """

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """For each query (n, d) all vectors at a distance of at most `radius`, ordered as in `search`."""

    def find_present(self, ids: ArrayLike) -> Ids:
        """Those of the ids that are in the index, ascending, each once."""

    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        """(n, d) float32: the vectors of these ids, all of which must be in the index."""

    @property
    def ids(self) -> Ids:
        """All ids, ascending."""

    @property
    def dimensions(self) -> int:
        """Length of each vector."""

    def __len__(self) -> int: ...


class MutableVectorIndex(VectorIndex, Protocol):
    """An index that takes vectors in and lets them go, as the newest rows need. Nobody may search it meanwhile."""

    def add(self, ids: ArrayLike, vectors: FloatArray) -> None:
        """Adds vectors (n, d) under ids (n,). Raises EncoderMismatch, NotFinite, IndexDamaged (an id twice)."""

    def remove(self, ids: ArrayLike) -> int:
        """Removes these ids; those that aren't there don't matter. Gives how many were."""


class FlatIndex:
    """Compares each query with every vector: exact, nothing to train. See GrowingIndex for the verbs."""

    def __init__(self, dimensions: int) -> None:
        self._faiss_index: Any = faiss.IndexIDMap2(faiss.IndexFlatL2(dimensions))
        self._ids = NO_IDS  # sorted

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def dimensions(self) -> int:
        return int(self._faiss_index.d)

    @property
    def ids(self) -> Ids:
        return self._ids

    def add(self, ids: ArrayLike, vectors: FloatArray) -> None:
        wanted, vectors = np.asarray(ids, np.int64), validate_vectors(vectors, self.dimensions)
        if len(wanted) != len(vectors):
            raise IndexDamaged(f"{len(wanted)} ids came with {len(vectors)} vectors. Run `simile rebuild`.")
        merged = np.concatenate([self._ids, np.sort(wanted)])
        if len(self._ids) and len(wanted) and merged[len(self._ids)] < self._ids[-1]:
            merged.sort()
        twice = merged[1:][merged[1:] == merged[:-1]]
        if len(twice):
            raise IndexDamaged(f"Image {twice[0]} would stand in the index twice. Run `simile rebuild`.")
        if (wanted[1:] < wanted[:-1]).any():
            order = np.argsort(wanted)  # of equal distances FAISS keeps the first ones
            wanted, vectors = wanted[order], vectors[order]
        self._faiss_index.add_with_ids(vectors, wanted)
        self._ids = merged

    def remove(self, ids: ArrayLike) -> int:
        gone = self.find_present(ids)
        self._faiss_index.remove_ids(gone)
        self._ids = np.setdiff1d(self._ids, gone, assume_unique=True)
        return len(gone)

    def find_present(self, ids: ArrayLike) -> Ids:
        wanted = sort_unique(ids)
        return wanted[is_member(wanted, self._ids)]

    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        wanted = np.asarray(ids, np.int64)
        if not len(wanted):
            return np.empty((0, self.dimensions), np.float32)
        found: FloatArray = self._faiss_index.reconstruct_batch(wanted)
        return found

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, hidden = validate_vectors(queries, self.dimensions), self.find_present(excluded_ids)
        if allowed_ids is not None:
            shown = subtract_ids(self.find_present(allowed_ids), hidden)
            return [scan_nearest(query, shown, self.get_vectors, k) for query in queries]
        k = min(k, len(self) - len(hidden))
        if k <= 0:
            return [(NO_IDS, np.empty(0))] * len(queries)
        if len(hidden) > MAX_FETCHED_EXCLUSIONS:
            return self._search_with_selector(queries, k, hidden)
        fetched = min(k + len(hidden) + SPARE_NEIGHBOURS, len(self))
        squares, ids = _search_faiss(self._faiss_index, queries, fetched)
        if ids.min(initial=0) < 0:  # squares beyond float32
            return [scan_nearest(query, subtract_ids(self._ids, hidden), self.get_vectors, k) for query in queries]
        shown_rows = (row[~np.isin(row, hidden)] if len(hidden) else row for row in ids)
        found = [self._compute_exact_neighbours(query, row) for query, row in zip(queries, shown_rows, strict=True)]
        if fetched < len(self):
            reached = [distances[k - 1] for _, distances in found]
            unsure = np.flatnonzero(
                squares[:, -1] <= np.square(reached) + _compute_rounding_error(queries, np.array(reached))
            )
            slow = self._search_with_selector(queries[unsure], k, hidden) if len(unsure) else []
            for at, better in zip(unsure, slow, strict=True):
                found[at] = better
        return [(nearest[:k], distances[:k]) for nearest, distances in found]

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        queries, hidden = validate_vectors(queries, self.dimensions), self.find_present(excluded_ids)
        if not len(queries):
            return []
        if allowed_ids is not None:
            shown = subtract_ids(self.find_present(allowed_ids), hidden)
            return [scan_nearest(query, shown, self.get_vectors, None, radius) for query in queries]
        # FAISS leaves out what is exactly at the limit, and its squares are rounded: ask for more, and look.
        square = float(radius) ** 2 + float(_compute_rounding_error(queries, np.array(radius)).max()) + 1e-30
        limits, _, ids = self._faiss_index.range_search(queries, min(square, MAX_FLOAT32))
        shown_rows = (row[~np.isin(row, hidden)] for row in np.split(ids, limits[1:-1].astype(np.int64)))
        return [
            self._compute_exact_neighbours(query, row, radius) for query, row in zip(queries, shown_rows, strict=True)
        ]

    def _search_with_selector(self, queries: FloatArray, k: int, excluded: Ids) -> list[Neighbours]:
        """As search, but always by difference: with a selector FAISS does not use BLAS."""
        hiding = faiss.IDSelectorBatch(excluded)
        others = faiss.IDSelectorNot(hiding)
        parameters = faiss.SearchParameters(sel=others)  # type: ignore[call-arg]  # its stubs lag
        fetched = min(k + SPARE_NEIGHBOURS, len(self) - len(excluded))
        _, ids = self._faiss_index.search(queries, fetched, params=parameters)
        if ids.min(initial=0) < 0:  # as in search
            return [scan_nearest(query, subtract_ids(self._ids, excluded), self.get_vectors, k) for query in queries]
        found = [self._compute_exact_neighbours(query, row) for query, row in zip(queries, ids, strict=True)]
        return [(nearest[:k], distances[:k]) for nearest, distances in found]

    def save(self, path: Path) -> None:
        # Through Python's file: FAISS's own writer does not tell when the last bytes find no space.
        with path.open("wb") as file:
            faiss.write_index(self._faiss_index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Maps the file into memory: the workers of a service share one copy."""
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(f"{path} can't be read as an index. Run `simile rebuild`.") from error
        if not isinstance(index, faiss.IndexIDMap2) or not isinstance(
            faiss.downcast_index(index.index), faiss.IndexFlat
        ):
            raise IndexDamaged(f"{path} is an index of another kind. Run `simile rebuild`.")
        loaded = cls(index.d)
        loaded._faiss_index = index
        loaded._ids = np.sort(faiss.vector_to_array(index.id_map))
        return loaded

    def _compute_exact_neighbours(self, query: FloatArray, ids: Ids, radius: float = np.inf) -> Neighbours:
        return compute_exact_neighbours(query, ids, self.get_vectors(ids), radius)


def validate_vectors(vectors: FloatArray, dimensions: int) -> FloatArray:
    """Vectors (n, dimensions) as FAISS takes them. Raises EncoderMismatch, NotFinite."""
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise EncoderMismatch(
            f"A vector of {vectors.shape[-1]} numbers can't be compared with vectors of {dimensions}. "
            "Use the encoder that the collection was indexed with."
        )
    if not np.isfinite(vectors).all():
        raise NotFinite("A vector holds NaN or infinity. Run `simile verify` to see whether it is a stored one.")
    return np.ascontiguousarray(vectors, np.float32)


def sort_unique(ids: ArrayLike) -> Ids:
    """The ids as (n,) int64, ascending, each once."""
    wanted = np.asarray(ids, np.int64)
    already = (wanted[1:] > wanted[:-1]).all()
    unique: Ids = wanted if already else np.unique(wanted)
    return unique


def subtract_ids(ids: Ids, excluded: Ids) -> Ids:
    """Those of the ids that are not hidden; both ascending, each once."""
    left: Ids = np.setdiff1d(ids, excluded, assume_unique=True) if len(excluded) else ids
    return left


def is_member(ids: Ids, members: Ids) -> NDArray[np.bool_]:
    """Whether each of the ids (n,) is one of `known` (m,), ascending: by halving, so m may be large."""
    if not len(members):
        return np.zeros(len(ids), bool)
    found: NDArray[np.bool_] = members[np.searchsorted(members, ids).clip(max=len(members) - 1)] == ids
    return found


def compute_exact_neighbours(query: FloatArray, ids: Ids, vectors: FloatArray, radius: float = np.inf) -> Neighbours:
    """The distances of a query (d,) to `vectors` (n, d) by difference, in float64: one is at exactly 0 from itself."""
    difference = vectors.astype(np.float64) - query
    distances = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    if radius != np.inf:
        ids, distances = ids[distances <= radius], distances[distances <= radius]
    return sort_by_distance(ids, distances)


def scan_nearest(
    query: FloatArray, ids: Ids, get_vectors: Callable[[Ids], FloatArray], k: int | None, radius: float = np.inf
) -> Neighbours:
    """The k nearest of a query (d,), or all (None), among these ids alone: each is looked at, some at a time."""
    found: list[Neighbours] = [(NO_IDS, np.empty(0))]
    for start in range(0, len(ids), SCAN_CHUNK_ROWS):
        part = ids[start : start + SCAN_CHUNK_ROWS]
        rows = get_vectors(part)  # (CHUNK, d)
        if k is not None and radius == np.inf and k + SPARE_NEIGHBOURS < len(part):
            # One query is below the threshold of BLAS: by difference, in float32.
            nearest = np.sort(faiss.knn(query[None], rows, k + SPARE_NEIGHBOURS)[1][0])
            if nearest[0] >= 0:  # else squares were beyond float32
                part, rows = part[nearest], rows[nearest]
        found.append(compute_exact_neighbours(query, part, rows, radius))
        if k is not None:  # else all are kept: sorting them once is enough
            found = [merge_neighbours(found, k)]
    return merge_neighbours(found, k)


def _compute_rounding_error(queries: FloatArray, distances: Distances) -> Distances:
    """How far off FAISS's square of a distance up to `reached` (n,) can be, for each query (n, d).

    |a|²-2ab+|b|² in float32 is off by at most 2 (d + 4) 2⁻²⁴ (|a|² + |b|²) (Higham, Accuracy and Stability of Numerical
    Algorithms, 3.1), and nothing within `reached` of a has a length above |a| + reached.
    """
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    most: Distances = 2 * (queries.shape[1] + 4) * 2.0**-24 * (length**2 + (length + distances) ** 2)
    return most


def sort_by_distance(ids: Ids, distances: Distances, k: int | None = None) -> Neighbours:
    """Both ordered by distance, ties by id, and cut to the first k."""
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def merge_neighbours(results: Sequence[Neighbours], k: int | None = None) -> Neighbours:
    """One answer from those of several indexes that share no id."""
    return sort_by_distance(np.concatenate([a[0] for a in results]), np.concatenate([a[1] for a in results]), k)


class SortedVectors:
    """Vectors in rows of ascending ids, which never change: what two kinds of index look up alike. See VectorIndex."""

    def __init__(self, ids: Ids, vectors: FloatArray) -> None:
        """ids: (n,), ascending, each once. vectors: (n, d)."""
        self._ids, self._vectors = ids, vectors

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def dimensions(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def ids(self) -> Ids:
        return self._ids

    def find_present(self, ids: ArrayLike) -> Ids:
        return self._ids[self._find_rows(ids)]

    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        found: FloatArray = self._vectors[np.searchsorted(self._ids, np.asarray(ids, np.int64))]
        return found

    def _find_rows(self, ids: ArrayLike) -> Ids:
        """Where those of the ids stand that are here, ascending."""
        wanted = sort_unique(ids)
        if len(wanted) > len(self):  # a filter may let half a million through
            return np.flatnonzero(is_member(self._ids, wanted))
        if not len(wanted):
            return NO_IDS
        rows = np.searchsorted(self._ids, wanted).clip(max=len(self) - 1)
        found: Ids = rows[self._ids[rows] == wanted]
        return found


def use_single_search_thread() -> None:
    """From now on searches of the calling thread take one core, as long as it lives; other threads keep theirs.

    For work behind the searches. Threads that share a busy machine wait for each other at every step: a batch of 128
    over 100,000 vectors took 1.7 s with two of them, and 34 ms with one.
    """
    faiss.omp_set_num_threads(1)
