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
from simile.store.index.flat import CHUNK, SPARE, FlatIndex, Neighbours, exactly, merge
from simile.store.index.ivf import NEAREST, Effort, InvertedIndex
from simile.store.index.vector_file import VectorFile, write_notes

logger = logging.getLogger(__name__)

EXACT_NUMBERS = 16 << 20  # rows x dimensions that two cores compare with a query in 10 ms
FEWEST = 256  # rows: below, lists would hold next to nothing
LEARNT_FROM = 40  # vectors a list to learn its centre from; FAISS asks for 39 at least
ROUNDS = 10  # of k-means; more change recall by less than the sample can tell
WIDER = 0.25  # of the range of each number in the sample, on both sides: others lie outside it
SAMPLE, SEED = 1000, 0
USUAL = 0.995  # share of the vectors: see Effort
MANY = 100  # neighbours, to see how the effort grows with them
LEAST_POWER = 0.25  # of that growth, where ten and a hundred took the same

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Wanted:
    """What a person may say of an index: `kind` auto, exact or ivf; `memory` in bytes; `recall` of the 10 nearest."""

    kind: str = "auto"
    recall: float = 0.98
    memory: int = 1 << 30

    def chosen(self, rows: int, dimensions: int) -> str:
        """exact while it is fast enough and within memory, else ivf."""
        if rows < FEWEST or self.kind == "exact":
            return "exact"
        small = rows * dimensions <= EXACT_NUMBERS and exact_bytes(rows, dimensions) <= self.memory
        return "ivf" if self.kind == "ivf" or not small else "exact"


def exact_bytes(rows: int, dimensions: int) -> int:
    """Memory of an exact index: float32, and ids twice over."""
    return rows * (4 * dimensions + 16)


def build_exact(vectors: Path, target: Path) -> dict[str, Any]:
    """Writes a FlatIndex of the file of vectors; gives what there is to note of it."""
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    index = FlatIndex(dimensions)
    index.add(file.ids, file.vectors)
    index.save(target)
    return {"kind": "exact", "recall": 1.0, "memory_bytes": exact_bytes(rows, dimensions)}


def build_ivf(vectors: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    """Writes inverted lists of the file of vectors, and into its header what searching them needs.

    Gives what there is to note: the effort was measured on a seeded sample of the vectors themselves.
    """
    file = VectorFile.open(vectors)
    rows, dimensions = file.vectors.shape
    lists = _trained(file.vectors)
    index = _filled(lists, file)
    found = _tuned(index, file, wanted.recall)
    write_notes(vectors, {"rows": rows, "dimensions": dimensions, "effort": vars(index.effort)})
    with target.open("wb") as out:  # through Python's file, as FlatIndex.save
        faiss.write_index(lists, faiss.PyCallbackIOWriter(out.write))  # type: ignore[attr-defined]
    memory = rows * (dimensions + 16) + lists.nlist * 4 * dimensions
    if memory > wanted.memory:
        logger.warning("The index takes %d MB of memory, more than SIMILE_INDEX_MEMORY allows.", memory >> 20)
    return {"kind": "ivf", "nlist": lists.nlist, "memory_bytes": memory} | found


def _trained(vectors: FloatArray) -> Any:
    """Empty lists whose centres, and ranges of numbers, are learnt from a seeded sample."""
    rows, dimensions = vectors.shape
    count = max(1, min(ceil(4 * sqrt(rows)), rows // LEARNT_FROM))
    centres = faiss.IndexFlatL2(dimensions)
    lists = faiss.IndexIVFScalarQuantizer(centres, dimensions, count, faiss.ScalarQuantizer.QT_8bit)
    lists.sq.rangestat_arg = WIDER
    lists.cp.niter, lists.cp.seed = ROUNDS, SEED
    lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = LEARNT_FROM, 1
    sample = np.random.default_rng(SEED).choice(rows, min(rows, count * LEARNT_FROM), replace=False)
    lists.train(vectors[np.sort(sample)])
    return lists


def _filled(lists: Any, file: VectorFile) -> InvertedIndex:
    """The lists with every row in them, some rows at a time, and how far vectors lie from centres and bytes."""
    centres = lists.quantizer.reconstruct_n(0, lists.nlist)
    error, reaches = 0.0, []
    for start in range(0, len(file.ids), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(file.ids)))
        part = np.ascontiguousarray(file.vectors[start : start + CHUNK])
        nearest = np.ascontiguousarray(lists.quantizer.search(part, 1)[1][:, 0])
        lists.add_core(len(part), faiss.swig_ptr(part), faiss.swig_ptr(rows), faiss.swig_ptr(nearest))
        offset = part - centres[nearest]
        lost = offset - lists.sq.decode(lists.sq.compute_codes(offset))
        error = max(error, float(_lengths(lost).max()))
        reaches.append(_lengths(offset))
    usual, reach = map(float, np.quantile(np.concatenate(reaches), [USUAL, 1]))
    return InvertedIndex(lists, file, Effort(nprobe=1, power=1.0, error=error, reach=reach, usual=usual))


def _lengths(vectors: FloatArray) -> Doubles:
    lengths: Doubles = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return lengths


def _tuned(index: InvertedIndex, file: VectorFile, target: float) -> dict[str, Any]:
    """Sets the least effort that reaches the target for a few neighbours and for many; says what was measured."""
    started = time.monotonic()
    many = min(MANY, len(file.ids) // 4)
    sample = np.sort(np.random.default_rng(SEED).choice(len(file.ids), min(SAMPLE, len(file.ids)), replace=False))
    queries = file.vectors[sample]
    distances = _true_distances(file, queries, many + 1)
    few, recall = _least_effort(index, queries, distances[:, NEAREST], NEAREST, target)
    more, _ = _least_effort(index, queries, distances[:, many], many, target, above=few)
    index.effort = replace(index.effort, nprobe=few, power=max(LEAST_POWER, log(more / few) / log(many / NEAREST)))
    logger.info("recall %.4f with %d lists, measured in %.0f s", recall, few, time.monotonic() - started)
    return {
        "nprobe": few,
        "recall": round(recall, 4),
        "recall_target": target,
        "sample": {"queries": len(sample), "seed": SEED, "neighbours": NEAREST},
        "nprobe_for_many": {"neighbours": many, "nprobe": more},
    }


def _least_effort(
    index: InvertedIndex, queries: FloatArray, limits: Doubles, k: int, target: float, above: int = 1
) -> tuple[int, float]:
    """The smallest nprobe whose recall of the k nearest is two standard errors above the target; and that recall."""
    for nprobe in _efforts(above, index.lists):
        if nprobe == index.lists:  # the index then looks at every vector: exact, and slow to measure
            break
        index.effort = replace(index.effort, nprobe=nprobe, power=0.0)
        shares = _shares(index, queries, limits, k)
        if shares.mean() - 2 * shares.std() / sqrt(len(shares)) >= target:
            return nprobe, float(shares.mean())
    return index.lists, 1.0


def _shares(index: InvertedIndex, queries: FloatArray, limits: Doubles, k: int) -> Doubles:
    """The share (n,) of its k nearest that each query finds; itself, which it finds for nothing, does not count."""
    answers = index.search(queries, k + 1)
    found = np.array([(distances <= limit).sum() for (_, distances), limit in zip(answers, limits, strict=True)])
    shares: Doubles = (found - 1) / k
    return shares


def _efforts(least: int, lists: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 … from `least` on, and all of the lists."""
    powers = [2**n for n in range(lists.bit_length())]
    return sorted({n for power in powers for n in (power, power * 3 // 2) if least <= n < lists} | {lists})


def _true_distances(file: VectorFile, queries: FloatArray, k: int) -> Doubles:
    """The distances (n, k) of the nearest, itself included, by looking at every vector."""
    middle = queries.mean(axis=0)  # FAISS expands |a-b|² here: far from zero it would lose the digits that matter
    best: list[Neighbours] = [(np.empty(0, np.int64), np.empty(0))] * len(queries)
    for start in range(0, len(file.ids), 4 * CHUNK):
        part = np.ascontiguousarray(file.vectors[start : start + 4 * CHUNK])
        _, near = faiss.knn(queries - middle, part - middle, min(k + SPARE, len(part)))
        exact = [exactly(query, rows + start, part[rows]) for query, rows in zip(queries, near, strict=True)]
        best = [merge(pair, k) for pair in zip(best, exact, strict=True)]
    return np.array([distances for _, distances in best])
