"""Build the index of a segment from a vector file: choose its kind, train it, and measure its search parameters."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from math import ceil, log, sqrt
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from simile.core.records import FloatArray
from simile.store.index.flat import (
    SCAN_CHUNK_ROWS,
    SPARE_NEIGHBOURS,
    FlatIndex,
    Ids,
    Neighbours,
    compute_exact_neighbours,
    merge_neighbours,
    write_faiss_index,
)
from simile.store.index.ivf import TUNED_NEIGHBOURS, IvfIndex, IvfTuning
from simile.store.index.vector_file import VectorFile, write_header

logger = logging.getLogger(__name__)

MAX_EXACT_VALUES = 16 << 20  # rows x dimensions that two cores compare with a query in 10 ms
MIN_IVF_ROWS = 256  # with fewer rows the lists would be nearly empty
TRAINING_VECTORS_PER_LIST = 40  # FAISS recommends at least 39
KMEANS_ITERATIONS = 10  # more change the recall by less than the sample can show
QUANTIZER_RANGE_MARGIN = 0.25  # share of each dimension's range, added on both sides for vectors outside the sample
TUNING_SAMPLE_SIZE, INDEX_BUILD_SEED = 1000, 0
TYPICAL_REACH_QUANTILE = 0.995  # share of the vectors within IvfTuning.usual
MANY_NEIGHBOURS = 100  # second number of neighbours for which nprobe is measured, to see how it grows
MIN_REUSE_ROWS = 30_000_000  # of the previous segment; below, new lists take at most hours of one core
MAX_REUSE_GROWTH = 4  # times the rows that the lists were trained for: then they are twice as long as new ones would be
MAX_NPROBE_GROWTH = 4  # times the nprobe of trained lists; beyond it, searches are slow
MIN_NPROBE_POWER = 0.25  # least growth, if 10 and 100 neighbours need the same nprobe

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class IndexOptions:
    """The user's options for an index."""

    kind: str = "auto"  # auto, exact or ivf
    recall: float = 0.98  # share of the 10 nearest that an approximate index must find
    memory: int = 1 << 30  # bytes

    def choose_kind(self, rows: int, dimensions: int) -> str:
        """Return "exact" while it is fast enough and fits in memory, otherwise "ivf"."""
        if rows < MIN_IVF_ROWS or self.kind == "exact":
            return "exact"
        is_small = rows * dimensions <= MAX_EXACT_VALUES and estimate_exact_bytes(rows, dimensions) <= self.memory
        return "ivf" if self.kind == "ivf" or not is_small else "exact"


def estimate_exact_bytes(rows: int, dimensions: int) -> int:
    """Return the memory of an exact index: float32 values, and two 8-byte ids a row."""
    return rows * (4 * dimensions + 16)


def build_exact_index(vectors: Path, target: Path) -> dict[str, Any]:
    """Write a FlatIndex of a vector file to `target`; return the segment's details."""
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    FlatIndex.from_chunks(dimensions, [(file.ids, file.vectors)]).save(target)
    return {"kind": "exact", "recall": 1.0, "memory_bytes": estimate_exact_bytes(rows, dimensions)}


@dataclass(frozen=True)
class PreviousLists:
    """The lists of the previous segment of the same encoder.

    Training lists and finding the nearest centroid of each row both take n^1.5 for n rows. With the previous centroids,
    only new and changed rows are assigned to lists.
    """

    index: IvfIndex
    trained_rows: int  # rows of the segment for which the centroids were trained
    trained_nprobe: int  # the nprobe of that segment

    def are_usable(self, rows: int) -> bool:
        """Return whether the lists have about the right length for so many rows."""
        return self.trained_rows / MAX_REUSE_GROWTH < rows < self.trained_rows * MAX_REUSE_GROWTH


def build_ivf_index(
    vectors: Path, target: Path, options: IndexOptions, previous: PreviousLists | None = None
) -> dict[str, Any]:
    """Write the inverted lists of a vector file to `target`, and the search parameters into the file's header.

    The centroids are those of `previous` if that is usable and searches stay fast, and else trained. The parameters are
    measured on a seeded sample of the vectors. Return the segment's details.
    """
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    if previous is not None and not previous.are_usable(rows):
        previous = None
    lists = _train_lists(file.vectors) if previous is None else previous.index.make_empty_lists()
    index = _fill_lists(lists, file, None if previous is None else previous.index)
    measurements = _tune_nprobe(index, file, options.recall)
    if previous is not None and index.tuning.nprobe > MAX_NPROBE_GROWTH * previous.trained_nprobe:
        logger.info("the lists of the previous segment do not fit the new rows; training new ones")
        return build_ivf_index(vectors, target, options)
    write_header(vectors, {"rows": rows, "dimensions": dimensions, "effort": vars(index.tuning)})
    write_faiss_index(lists, target)
    memory = rows * (dimensions + 16) + lists.nlist * 4 * dimensions
    if memory > options.memory:
        logger.warning("The index takes %d MB of memory, more than SIMILE_INDEX_MEMORY allows.", memory >> 20)
    trained = (rows, index.tuning.nprobe) if previous is None else (previous.trained_rows, previous.trained_nprobe)
    return {
        "kind": "ivf",
        "nlist": lists.nlist,
        "trained_rows": trained[0],
        "trained_nprobe": trained[1],
        "memory_bytes": memory,
    } | measurements


def _sample_rows(rows: int, count: int) -> Ids:
    """Return a seeded sample of row numbers, ascending."""
    chosen = np.random.default_rng(INDEX_BUILD_SEED).choice(rows, min(rows, count), replace=False)
    return np.sort(chosen)


def _train_lists(vectors: FloatArray) -> Any:
    """Return empty lists; their centroids and the quantiser's ranges are learned from a seeded sample."""
    rows, dimensions = vectors.shape
    list_count = max(1, min(ceil(4 * sqrt(rows)), rows // TRAINING_VECTORS_PER_LIST))
    centroids = faiss.IndexFlatL2(dimensions)
    lists = faiss.IndexIVFScalarQuantizer(centroids, dimensions, list_count, faiss.ScalarQuantizer.QT_8bit)
    lists.sq.rangestat_arg = QUANTIZER_RANGE_MARGIN
    lists.cp.niter, lists.cp.seed = KMEANS_ITERATIONS, INDEX_BUILD_SEED
    lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = TRAINING_VECTORS_PER_LIST, 1
    lists.train(vectors[_sample_rows(rows, list_count * TRAINING_VECTORS_PER_LIST)])
    return lists


def _fill_lists(lists: Any, file: VectorFile, previous: IvfIndex | None) -> IvfIndex:
    """Add every row to its list, chunk by chunk, and measure the distances to centroids and to quantised bytes.

    Rows of `previous`, which has the same centroids, keep their lists.
    """
    centroids = lists.quantizer.reconstruct_n(0, lists.nlist)
    find_known = None if previous is None else previous.make_list_finder()
    error, centroid_distances = 0.0, []
    for start in range(0, len(file.ids), SCAN_CHUNK_ROWS):
        rows = np.arange(start, min(start + SCAN_CHUNK_ROWS, len(file.ids)))
        chunk = np.ascontiguousarray(file.vectors[start : start + SCAN_CHUNK_ROWS])
        nearest = np.full(len(rows), -1) if find_known is None else find_known(file.ids[rows], chunk)
        unknown = np.flatnonzero(nearest < 0)
        if len(unknown):
            nearest[unknown] = lists.quantizer.search(np.ascontiguousarray(chunk[unknown]), 1)[1][:, 0]
        lists.add_core(len(chunk), faiss.swig_ptr(chunk), faiss.swig_ptr(rows), faiss.swig_ptr(nearest))
        offsets = chunk - centroids[nearest]
        quantisation_errors = offsets - lists.sq.decode(lists.sq.compute_codes(offsets))
        error = max(error, float(_compute_norms(quantisation_errors).max()))
        centroid_distances.append(_compute_norms(offsets))
    usual, reach = map(float, np.quantile(np.concatenate(centroid_distances), [TYPICAL_REACH_QUANTILE, 1]))
    return IvfIndex(lists, file, IvfTuning(nprobe=1, power=1.0, error=error, reach=reach, usual=usual))


def _compute_norms(vectors: FloatArray) -> Float64Array:
    lengths: Float64Array = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return lengths


def _tune_nprobe(index: IvfIndex, file: VectorFile, target_recall: float) -> dict[str, Any]:
    """Set the smallest nprobe that reaches the target for 10 neighbours, and its growth; return the measurements."""
    started = time.monotonic()
    many = min(MANY_NEIGHBOURS, len(file.ids) // 4)
    sample = _sample_rows(len(file.ids), TUNING_SAMPLE_SIZE)
    queries = file.vectors[sample]
    distances = _compute_true_distances(file, queries, many + 1)
    few, recall = _find_min_nprobe(index, queries, distances[:, TUNED_NEIGHBOURS], TUNED_NEIGHBOURS, target_recall)
    more, _ = _find_min_nprobe(index, queries, distances[:, many], many, target_recall, min_nprobe=few)
    power = max(MIN_NPROBE_POWER, log(more / few) / log(many / TUNED_NEIGHBOURS))
    index.tuning = replace(index.tuning, nprobe=few, power=power)
    logger.info("recall %.4f with nprobe %d, measured in %.0f s", recall, few, time.monotonic() - started)
    return {
        "nprobe": few,
        "recall": round(recall, 4),
        "recall_target": target_recall,
        "sample": {"queries": len(sample), "seed": INDEX_BUILD_SEED, "neighbours": TUNED_NEIGHBOURS},
        "nprobe_for_many": {"neighbours": many, "nprobe": more},
    }


def _find_min_nprobe(
    index: IvfIndex,
    queries: FloatArray,
    neighbour_distances: Float64Array,
    k: int,
    target_recall: float,
    min_nprobe: int = 1,
) -> tuple[int, float]:
    """Find the smallest nprobe whose recall is two standard errors above the target.

    Args:
        queries: (n, d), rows of the index.
        neighbour_distances: (n,), the true distance of each query's k-th neighbour, itself not counted.
        min_nprobe: The first nprobe to try.

    Returns:
        nprobe and its recall of the k nearest.
    """
    for nprobe in _make_nprobe_grid(min_nprobe, index.list_count):
        if nprobe == index.list_count:  # every vector is compared then: exact, and slow to measure
            break
        index.tuning = replace(index.tuning, nprobe=nprobe, power=0.0)
        recalls = _measure_recall(index, queries, neighbour_distances, k)
        if recalls.mean() - 2 * recalls.std() / sqrt(len(recalls)) >= target_recall:
            return nprobe, float(recalls.mean())
    return index.list_count, 1.0


def _measure_recall(index: IvfIndex, queries: FloatArray, neighbour_distances: Float64Array, k: int) -> Float64Array:
    """Return the share (n,) of its k nearest neighbours that each query finds. The query itself does not count."""
    results = index.search(queries, k + 1)
    found = np.array(
        [(distances <= limit).sum() for (_, distances), limit in zip(results, neighbour_distances, strict=True)]
    )
    recalls: Float64Array = (found - 1) / k
    return recalls


def _make_nprobe_grid(min_nprobe: int, list_count: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12 … from `min_nprobe` on, ending with all lists."""
    powers = [2**n for n in range(list_count.bit_length())]
    grid = {n for power in powers for n in (power, power * 3 // 2) if min_nprobe <= n < list_count}
    return sorted(grid | {list_count})


def _compute_true_distances(file: VectorFile, queries: FloatArray, k: int) -> Float64Array:
    """Return the exact distances (n, k) of the nearest vectors, the query itself included, by a full scan."""
    # FAISS expands |a-b|² for a batch: centred vectors keep the digits that matter.
    mean = queries.mean(axis=0)
    results: list[Neighbours] = [(np.empty(0, np.int64), np.empty(0))] * len(queries)
    for start in range(0, len(file.ids), 4 * SCAN_CHUNK_ROWS):
        chunk = np.ascontiguousarray(file.vectors[start : start + 4 * SCAN_CHUNK_ROWS])
        _, nearest = faiss.knn(queries - mean, chunk - mean, min(k + SPARE_NEIGHBOURS, len(chunk)))
        chunk_results = [
            compute_exact_neighbours(query, rows + start, chunk[rows])
            for query, rows in zip(queries, nearest, strict=True)
        ]
        results = [merge_neighbours(pair, k) for pair in zip(results, chunk_results, strict=True)]
    return np.array([distances for _, distances in results])
