"""Making the index of a segment from a file of vectors: which kind, and how much effort its searches need."""

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
    Neighbours,
    compute_exact_neighbours,
    merge_neighbours,
)
from simile.store.index.ivf import TUNED_NEIGHBOURS, IvfIndex, IvfTuning
from simile.store.index.vector_file import VectorFile, write_header

logger = logging.getLogger(__name__)

MAX_EXACT_VALUES = 16 << 20  # rows x dimensions that two cores compare with a query in 10 ms
MIN_IVF_ROWS = 256  # rows: below, lists would hold next to nothing
TRAINING_VECTORS_PER_LIST = 40  # vectors a list to learn its centre from; FAISS asks for 39 at least
KMEANS_ITERATIONS = 10  # of k-means; more change recall by less than the sample can tell
QUANTIZER_RANGE_MARGIN = 0.25  # of the range of each number in the sample, on both sides: others lie outside it
TUNING_SAMPLE_SIZE, INDEX_BUILD_SEED = 1000, 0
TYPICAL_REACH_QUANTILE = 0.995  # share of the vectors: see Effort
MANY_NEIGHBOURS = 100  # neighbours, to see how the effort grows with them
MIN_NPROBE_POWER = 0.25  # of that growth, where ten and a hundred took the same

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class IndexOptions:
    """What a person may say of an index: `kind` auto, exact or ivf; `memory` in bytes; `recall` of the 10 nearest."""

    kind: str = "auto"
    recall: float = 0.98
    memory: int = 1 << 30

    def choose_kind(self, rows: int, dimensions: int) -> str:
        """exact while it is fast enough and within memory, else ivf."""
        if rows < MIN_IVF_ROWS or self.kind == "exact":
            return "exact"
        small = rows * dimensions <= MAX_EXACT_VALUES and estimate_exact_bytes(rows, dimensions) <= self.memory
        return "ivf" if self.kind == "ivf" or not small else "exact"


def estimate_exact_bytes(rows: int, dimensions: int) -> int:
    """Memory of an exact index: float32, and ids twice over."""
    return rows * (4 * dimensions + 16)


def build_exact_index(vectors: Path, target: Path) -> dict[str, Any]:
    """Writes a FlatIndex of the file of vectors; gives what there is to note of it."""
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    index = FlatIndex(dimensions)
    index.add(file.ids, file.vectors)
    index.save(target)
    return {"kind": "exact", "recall": 1.0, "memory_bytes": estimate_exact_bytes(rows, dimensions)}


def build_ivf_index(vectors: Path, target: Path, options: IndexOptions) -> dict[str, Any]:
    """Writes inverted lists of the file of vectors, and into its header what searching them needs.

    Gives what there is to note: the effort was measured on a seeded sample of the vectors themselves.
    """
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    lists = _train_lists(file.vectors)
    index = _fill_lists(lists, file)
    found = _tune_nprobe(index, file, options.recall)
    write_header(vectors, {"rows": rows, "dimensions": dimensions, "effort": vars(index.tuning)})
    with target.open("wb") as out:  # through Python's file, as FlatIndex.save
        faiss.write_index(lists, faiss.PyCallbackIOWriter(out.write))  # type: ignore[attr-defined]
    memory = rows * (dimensions + 16) + lists.nlist * 4 * dimensions
    if memory > options.memory:
        logger.warning("The index takes %d MB of memory, more than SIMILE_INDEX_MEMORY allows.", memory >> 20)
    return {"kind": "ivf", "nlist": lists.nlist, "memory_bytes": memory} | found


def _train_lists(vectors: FloatArray) -> Any:
    """Empty lists whose centres, and ranges of numbers, are learnt from a seeded sample."""
    rows, dimensions = vectors.shape
    count = max(1, min(ceil(4 * sqrt(rows)), rows // TRAINING_VECTORS_PER_LIST))
    centres = faiss.IndexFlatL2(dimensions)
    lists = faiss.IndexIVFScalarQuantizer(centres, dimensions, count, faiss.ScalarQuantizer.QT_8bit)
    lists.sq.rangestat_arg = QUANTIZER_RANGE_MARGIN
    lists.cp.niter, lists.cp.seed = KMEANS_ITERATIONS, INDEX_BUILD_SEED
    lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = TRAINING_VECTORS_PER_LIST, 1
    sample = np.random.default_rng(INDEX_BUILD_SEED).choice(
        rows, min(rows, count * TRAINING_VECTORS_PER_LIST), replace=False
    )
    lists.train(vectors[np.sort(sample)])
    return lists


def _fill_lists(lists: Any, file: VectorFile) -> IvfIndex:
    """The lists with every row in them, some rows at a time, and how far vectors lie from centres and bytes."""
    centres = lists.quantizer.reconstruct_n(0, lists.nlist)
    error, reaches = 0.0, []
    for start in range(0, len(file.ids), SCAN_CHUNK_ROWS):
        rows = np.arange(start, min(start + SCAN_CHUNK_ROWS, len(file.ids)))
        part = np.ascontiguousarray(file.vectors[start : start + SCAN_CHUNK_ROWS])
        nearest = np.ascontiguousarray(lists.quantizer.search(part, 1)[1][:, 0])
        lists.add_core(len(part), faiss.swig_ptr(part), faiss.swig_ptr(rows), faiss.swig_ptr(nearest))
        offset = part - centres[nearest]
        lost = offset - lists.sq.decode(lists.sq.compute_codes(offset))
        error = max(error, float(_compute_norms(lost).max()))
        reaches.append(_compute_norms(offset))
    usual, reach = map(float, np.quantile(np.concatenate(reaches), [TYPICAL_REACH_QUANTILE, 1]))
    return IvfIndex(lists, file, IvfTuning(nprobe=1, power=1.0, error=error, reach=reach, usual=usual))


def _compute_norms(vectors: FloatArray) -> Float64Array:
    lengths: Float64Array = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return lengths


def _tune_nprobe(index: IvfIndex, file: VectorFile, target_recall: float) -> dict[str, Any]:
    """Sets the least effort that reaches the target for a few neighbours and for many; says what was measured."""
    started = time.monotonic()
    many = min(MANY_NEIGHBOURS, len(file.ids) // 4)
    sample = np.sort(
        np.random.default_rng(INDEX_BUILD_SEED).choice(
            len(file.ids), min(TUNING_SAMPLE_SIZE, len(file.ids)), replace=False
        )
    )
    queries = file.vectors[sample]
    distances = _compute_true_distances(file, queries, many + 1)
    few, recall = _find_min_nprobe(index, queries, distances[:, TUNED_NEIGHBOURS], TUNED_NEIGHBOURS, target_recall)
    more, _ = _find_min_nprobe(index, queries, distances[:, many], many, target_recall, min_nprobe=few)
    index.tuning = replace(
        index.tuning, nprobe=few, power=max(MIN_NPROBE_POWER, log(more / few) / log(many / TUNED_NEIGHBOURS))
    )
    logger.info("recall %.4f with %d lists, measured in %.0f s", recall, few, time.monotonic() - started)
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
    """The smallest nprobe whose recall of the k nearest is two standard errors above the target; and that recall."""
    for nprobe in _make_nprobe_grid(min_nprobe, index.list_count):
        if nprobe == index.list_count:  # the index then looks at every vector: exact, and slow to measure
            break
        index.tuning = replace(index.tuning, nprobe=nprobe, power=0.0)
        shares = _measure_recall(index, queries, neighbour_distances, k)
        if shares.mean() - 2 * shares.std() / sqrt(len(shares)) >= target_recall:
            return nprobe, float(shares.mean())
    return index.list_count, 1.0


def _measure_recall(index: IvfIndex, queries: FloatArray, neighbour_distances: Float64Array, k: int) -> Float64Array:
    """The share (n,) of its k nearest that each query finds; itself, which it finds for nothing, does not count."""
    answers = index.search(queries, k + 1)
    found = np.array(
        [(distances <= limit).sum() for (_, distances), limit in zip(answers, neighbour_distances, strict=True)]
    )
    shares: Float64Array = (found - 1) / k
    return shares


def _make_nprobe_grid(min_nprobe: int, list_count: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 … from `least` on, and all of the lists."""
    powers = [2**n for n in range(list_count.bit_length())]
    return sorted(
        {n for power in powers for n in (power, power * 3 // 2) if min_nprobe <= n < list_count} | {list_count}
    )


def _compute_true_distances(file: VectorFile, queries: FloatArray, k: int) -> Float64Array:
    """The distances (n, k) of the nearest, itself included, by looking at every vector."""
    middle = queries.mean(axis=0)  # FAISS expands |a-b|² here: far from zero it would lose the digits that matter
    best: list[Neighbours] = [(np.empty(0, np.int64), np.empty(0))] * len(queries)
    for start in range(0, len(file.ids), 4 * SCAN_CHUNK_ROWS):
        part = np.ascontiguousarray(file.vectors[start : start + 4 * SCAN_CHUNK_ROWS])
        _, near = faiss.knn(queries - middle, part - middle, min(k + SPARE_NEIGHBOURS, len(part)))
        exact = [
            compute_exact_neighbours(query, rows + start, part[rows]) for query, rows in zip(queries, near, strict=True)
        ]
        best = [merge_neighbours(pair, k) for pair in zip(best, exact, strict=True)]
    return np.array([distances for _, distances in best])
