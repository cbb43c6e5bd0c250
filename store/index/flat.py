"""Exact nearest neighbour search, the interface of all vector indexes, and helpers that they share.

FAISS silently accepts duplicate ids and NaN, returns -1 when asked for more neighbours than it holds, and raises
AssertionErrors without a message. The classes in this folder hide all of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simile.core.errors import EncoderMismatch, IndexDamaged, NotFinite
from simile.core.records import FloatArray

Ids = NDArray[np.int64]
Distances = NDArray[np.float64]
Neighbours = tuple[Ids, Distances]

# From this many queries x dimensions on, FAISS expands |a-b|² into |a|²-2ab+|b|² for BLAS. Its own limit is 128,000:
# with this one a batch of 100 over 1M x 128 takes 256 ms instead of 2,445. FlatIndex corrects the loss of precision.
faiss.cvar.distance_compute_blas_threshold = 20 * 128
# Above 100 neighbours FAISS uses a collector that keeps any of the vectors that tie for the last place. Never use it.
faiss.cvar.distance_compute_min_k_reservoir = 1 << 30

MAX_FETCHED_EXCLUSIONS = 100  # this many excluded ids are fetched and dropped: a selector keeps FAISS from using BLAS
SPARE_NEIGHBOURS = 16  # fetched in addition, to detect that rounding has hidden a neighbour
MAX_FLOAT32 = 3e38  # about the largest float32
SCAN_CHUNK_ROWS = 16384  # vectors compared together in a full scan: 8 MB at 128 dimensions

NO_IDS: Ids = np.empty(0, np.int64)


class VectorIndex(ABC):
    """A vector index. Distances are Euclidean. Any number of threads may search at once.

    Attributes:
        dimensions: Length of each vector.
        ids: All ids, ascending.
    """

    def __init__(self, dimensions: int, ids: Ids) -> None:
        self.dimensions, self.ids = dimensions, ids

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find the k nearest neighbours of each query.

        Args:
            queries: (n, d).
            k: Number of neighbours; fewer are returned if there are fewer.
            excluded_ids: Ids that are left out.
            allowed_ids: If given, only these ids are found, and all of them can be.

        Returns:
            For each query the ids and distances, ascending by distance, ties by id.
        """

    @abstractmethod
    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find all vectors at a distance of at most `radius` of each query (n, d), ordered as in `search`."""

    @abstractmethod
    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        """Return the vectors (n, d) of these ids. The index must hold all of them."""

    def find_present(self, ids: ArrayLike) -> Ids:
        """Return the ids that the index holds, ascending and unique."""
        unique = sort_unique(ids)
        return unique[is_member(unique, self.ids)]


class FlatIndex(VectorIndex):
    """An exact index that compares each query with every vector."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions, NO_IDS)
        self._faiss_index: Any = faiss.IndexIDMap2(faiss.IndexFlatL2(dimensions))

    @classmethod
    def from_chunks(cls, dimensions: int, chunks: Iterable[tuple[Ids, FloatArray]] = ()) -> Self:
        """Make an index of chunks of (ids (m,), vectors (m, dimensions)). Raises as `add`."""
        index, parts = cls(dimensions), list(chunks)
        if parts:
            index.add(np.concatenate([ids for ids, _ in parts]), np.concatenate([vectors for _, vectors in parts]))
        return index

    def add(self, ids: ArrayLike, vectors: FloatArray) -> None:
        """Add vectors (n, d) with ids (n,). No thread may search meanwhile.

        Raises EncoderMismatch, NotFinite, or IndexDamaged if an id is already in the index.
        """
        new_ids, vectors = np.asarray(ids, np.int64), validate_vectors(vectors, self.dimensions)
        if len(new_ids) != len(vectors):
            raise IndexDamaged(f"{len(new_ids)} ids came with {len(vectors)} vectors. Run `simile rebuild`.")
        merged = np.sort(np.concatenate([self.ids, new_ids]))
        duplicates = merged[1:][merged[1:] == merged[:-1]]
        if len(duplicates):
            raise IndexDamaged(f"Image {duplicates[0]} would be in the index twice. Run `simile rebuild`.")
        if (new_ids[1:] < new_ids[:-1]).any():
            order = np.argsort(new_ids)  # FAISS orders equal distances by row, and ties must be ordered by id
            new_ids, vectors = new_ids[order], vectors[order]
        self._faiss_index.add_with_ids(vectors, new_ids)
        self.ids = merged

    def get_vectors(self, ids: ArrayLike) -> FloatArray:
        """Return the vectors (n, d) of these ids. The index must hold all of them."""
        array = np.asarray(ids, np.int64)
        if not len(array):
            return np.empty((0, self.dimensions), np.float32)
        vectors: FloatArray = self._faiss_index.reconstruct_batch(array)
        return vectors

    def search(
        self, queries: FloatArray, k: int, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find the k nearest neighbours of each query; see VectorIndex."""
        queries, excluded = validate_vectors(queries, self.dimensions), self.find_present(excluded_ids)
        if allowed_ids is not None:
            allowed = subtract_ids(self.find_present(allowed_ids), excluded)
            return [scan_nearest(query, allowed, self.get_vectors, k) for query in queries]
        k = min(k, len(self) - len(excluded))
        if k <= 0:
            return [(NO_IDS, np.empty(0))] * len(queries)
        if len(excluded) > MAX_FETCHED_EXCLUSIONS:
            return self._search_with_selector(queries, k, excluded)
        # FAISS's distances are rounded: fetch more rows, then order them by exact distances.
        fetched = min(k + len(excluded) + SPARE_NEIGHBOURS, len(self))
        with _use_one_thread_for_one_query(queries):
            squares, ids = self._faiss_index.search(queries, fetched)
        if ids.min(initial=0) < 0:  # squared distances exceed float32
            return [scan_nearest(query, subtract_ids(self.ids, excluded), self.get_vectors, k) for query in queries]
        kept_ids = (row[~np.isin(row, excluded)] if len(excluded) else row for row in ids)
        results = [self._compute_exact_neighbours(query, row) for query, row in zip(queries, kept_ids, strict=True)]
        if fetched < len(self):
            # Where the last fetched row may be as near as the k-th, rounding may have hidden a neighbour: search again.
            reached = np.array([distances[k - 1] for _, distances in results])
            unsure = np.flatnonzero(squares[:, -1] <= np.square(reached) + _compute_rounding_error(queries, reached))
            corrected = self._search_with_selector(queries[unsure], k, excluded) if len(unsure) else []
            for position, result in zip(unsure, corrected, strict=True):
                results[position] = result
        return [(ids[:k], distances[:k]) for ids, distances in results]

    def range(
        self, queries: FloatArray, radius: float, excluded_ids: ArrayLike = NO_IDS, allowed_ids: ArrayLike | None = None
    ) -> list[Neighbours]:
        """Find all vectors at a distance of at most `radius` of each query; see VectorIndex."""
        queries, excluded = validate_vectors(queries, self.dimensions), self.find_present(excluded_ids)
        if not len(queries):
            return []
        if allowed_ids is not None:
            allowed = subtract_ids(self.find_present(allowed_ids), excluded)
            return [scan_nearest(query, allowed, self.get_vectors, None, radius) for query in queries]
        # FAISS excludes vectors at exactly the limit, and its squares are rounded: search a little farther.
        square = float(radius) ** 2 + float(_compute_rounding_error(queries, np.array(radius)).max()) + 1e-30
        with _use_one_thread_for_one_query(queries):
            limits, _, ids = self._faiss_index.range_search(queries, min(square, MAX_FLOAT32))
        rows = np.split(ids, limits[1:-1].astype(np.int64))
        kept = (row[~np.isin(row, excluded)] if len(excluded) else row for row in rows)
        return [self._compute_exact_neighbours(query, row, radius) for query, row in zip(queries, kept, strict=True)]

    def _search_with_selector(self, queries: FloatArray, k: int, excluded: Ids) -> list[Neighbours]:
        """Search without BLAS: with a selector FAISS computes differences, which are accurate."""
        excluding = faiss.IDSelectorBatch(excluded)
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorNot(excluding))  # type: ignore[call-arg]  # stubs lag
        fetched = min(k + SPARE_NEIGHBOURS, len(self) - len(excluded))
        _, ids = self._faiss_index.search(queries, fetched, params=parameters)
        if ids.min(initial=0) < 0:  # squared distances exceed float32
            return [scan_nearest(query, subtract_ids(self.ids, excluded), self.get_vectors, k) for query in queries]
        results = [self._compute_exact_neighbours(query, row) for query, row in zip(queries, ids, strict=True)]
        return [(nearest[:k], distances[:k]) for nearest, distances in results]

    def save(self, path: Path) -> None:
        """Write the index to a file."""
        write_faiss_index(self._faiss_index, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map the file into memory, so that all worker processes share one copy. Raises IndexDamaged."""
        faiss_index = read_faiss_index(path, faiss.IndexIDMap2)
        if not isinstance(faiss.downcast_index(faiss_index.index), faiss.IndexFlat):
            raise IndexDamaged(f"{path} is an index of another kind. Run `simile rebuild`.")
        loaded = cls(faiss_index.d)
        loaded._faiss_index = faiss_index
        loaded.ids = np.sort(faiss.vector_to_array(faiss_index.id_map))
        return loaded

    def _compute_exact_neighbours(self, query: FloatArray, ids: Ids, radius: float = np.inf) -> Neighbours:
        return compute_exact_neighbours(query, ids, self.get_vectors(ids), radius)


@contextmanager
def _use_one_thread_for_one_query(queries: FloatArray) -> Iterator[None]:
    """Let FAISS use one thread if there is one query.

    One thread compares a single query anyway. Waking the others to number the results took 10 ms on a busy machine, and
    0.1 ms without (benchmarks/latent/steps.py).
    """
    if len(queries) > 1:
        yield
        return
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # for the calling thread only
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def use_single_search_thread() -> None:
    """Let all searches of the calling thread use one core, as long as it lives. For work in the background.

    Threads that share a busy machine wait for each other at every step: a batch of 128 queries over 100,000 vectors
    took 1.7 s with two threads, and 34 ms with one.
    """
    faiss.omp_set_num_threads(1)


def write_faiss_index(index: Any, path: Path) -> None:
    """Write a FAISS index through Python's file: FAISS's own writer ignores a full disk at the last bytes."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def read_faiss_index(path: Path, kind: type) -> Any:
    """Map a FAISS index into memory. Raises IndexDamaged if it can't be read or is of another kind."""
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise IndexDamaged(f"{path} can't be read as an index. Run `simile rebuild`.") from error
    if not isinstance(index, kind):
        raise IndexDamaged(f"{path} is an index of another kind. Run `simile rebuild`.")
    return index


def validate_vectors(vectors: FloatArray, dimensions: int) -> FloatArray:
    """Return vectors (n, dimensions) in FAISS's format. Raises EncoderMismatch, NotFinite."""
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise EncoderMismatch(
            f"A vector of {vectors.shape[-1]} numbers can't be compared with vectors of {dimensions}. "
            "Use the encoder that the collection was indexed with."
        )
    if not np.isfinite(vectors).all():
        raise NotFinite("A vector holds NaN or infinity. Run `simile verify` to see whether it is a stored one.")
    return np.ascontiguousarray(vectors, np.float32)


def sort_unique(ids: ArrayLike) -> Ids:
    """Return the ids as (n,) int64, ascending and unique."""
    array = np.asarray(ids, np.int64)
    is_sorted = (array[1:] > array[:-1]).all()
    unique: Ids = array if is_sorted else np.unique(array)
    return unique


def subtract_ids(ids: Ids, excluded: Ids) -> Ids:
    """Return the ids that are not excluded. Both arguments must be ascending and unique."""
    left: Ids = np.setdiff1d(ids, excluded, assume_unique=True) if len(excluded) else ids
    return left


def is_member(ids: Ids, members: Ids) -> NDArray[np.bool_]:
    """Return for each of the ids (n,) whether it is in `members` (m,), which must be ascending."""
    if not len(members):
        return np.zeros(len(ids), bool)
    present: NDArray[np.bool_] = members[np.searchsorted(members, ids).clip(max=len(members) - 1)] == ids
    return present


def compute_exact_neighbours(query: FloatArray, ids: Ids, vectors: FloatArray, radius: float = np.inf) -> Neighbours:
    """Compute and sort the exact distances of a query (d,) from vectors (n, d) with ids (n,) within the radius.

    Differences in float64 are used, so that a vector is at exactly 0 from itself.
    """
    difference = vectors.astype(np.float64) - query
    distances = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    if radius != np.inf:
        ids, distances = ids[distances <= radius], distances[distances <= radius]
    return sort_by_distance(ids, distances)


def scan_nearest(
    query: FloatArray, ids: Ids, get_vectors: Callable[[Ids], FloatArray], k: int | None, radius: float = np.inf
) -> Neighbours:
    """Find the k nearest neighbours (None: all) of a query (d,) within the radius among ids (n,).

    Each of them is compared, chunk by chunk; `get_vectors` returns the vectors (m, d) of ids (m,).
    """
    results: list[Neighbours] = [(NO_IDS, np.empty(0))]
    for start in range(0, len(ids), SCAN_CHUNK_ROWS):
        chunk = ids[start : start + SCAN_CHUNK_ROWS]
        vectors = get_vectors(chunk)  # (SCAN_CHUNK_ROWS, d)
        if k is not None and radius == np.inf and k + SPARE_NEIGHBOURS < len(chunk):
            # Select candidates in float32. A single query is below the BLAS threshold, so differences are used.
            nearest = np.sort(faiss.knn(query[None], vectors, k + SPARE_NEIGHBOURS)[1][0])
            if nearest[0] >= 0:  # otherwise squared distances exceed float32
                chunk, vectors = chunk[nearest], vectors[nearest]
        results.append(compute_exact_neighbours(query, chunk, vectors, radius))
        if k is not None:  # otherwise all are kept, and sorting once at the end is enough
            results = [merge_neighbours(results, k)]
    return merge_neighbours(results, k)


def _compute_rounding_error(queries: FloatArray, distances: Distances) -> Distances:
    """Bound the error of FAISS's squared distances, for each query (n, d) up to its distance (n,).

    |a|²-2ab+|b|² in float32 has an error of at most 2 (d + 4) 2⁻²⁴ (|a|² + |b|²) (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1), and a vector b within the distance of a is at most |a| + distance long.
    """
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    bound: Distances = 2 * (queries.shape[1] + 4) * 2.0**-24 * (length**2 + (length + distances) ** 2)
    return bound


def sort_by_distance(ids: Ids, distances: Distances, k: int | None = None) -> Neighbours:
    """Sort both arrays by distance, ties by id, and keep the first k."""
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def merge_neighbours(results: Sequence[Neighbours], k: int | None = None) -> Neighbours:
    """Merge the results of several indexes that share no id, and keep the first k."""
    return sort_by_distance(np.concatenate([a[0] for a in results]), np.concatenate([a[1] for a in results]), k)
