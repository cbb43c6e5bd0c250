"""Candidates: pairs of pictures that are near in the latent space, of a whole collection, in bounded memory.

Each picture asks the index for what is within the radius, its nearest NEIGHBOURS at most, so no more than NEIGHBOURS
pairs a picture are ever written, and never a matrix of all against all. They go to a file as they are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from core.records import FloatArray
from store.home import writing
from store.snapshot import Snapshot
from store.vectors import among

NEIGHBOURS = 100  # of a picture, at most; a set of more equal pictures is found by its bytes and pixels
CHUNK = 512  # pictures that ask together
NO_LAST = np.iinfo(np.int64).max
NEAR = np.dtype([("first", "<i8"), ("second", "<i8"), ("distance", "<f4")])

Ids = NDArray[np.int64]
Pairs = NDArray[np.void]


@dataclass(frozen=True)
class Written:
    """What was found: how many pairs, and how many pictures had more neighbours than are taken."""

    pairs: int
    crowded: int


def write_candidates(
    snapshot: Snapshot,
    radius: float,
    path: Path,
    on_progress: Callable[[int, int], None],
    *,
    only: Ids | None = None,
    neighbours: int = NEIGHBOURS,
) -> Written:
    """Writes all pairs within `radius` to `path`, each once, as NEAR records. Raises HomeNotWritable.

    Memory: the ids, and two numbers for each picture.
    """
    ids = np.concatenate([part.living() for part in snapshot.parts])
    ids = np.sort(ids if only is None else np.intersect1d(ids, only, assume_unique=True))
    reached, last = np.full(len(ids), np.inf), np.full(len(ids), NO_LAST)  # how far each saw: beyond, others must
    pairs = crowded = 0
    with writing(path), path.open("wb") as file:
        for start in range(0, len(ids), CHUNK):
            asking = ids[start : start + CHUNK]
            found = snapshot.search(vectors_of(snapshot, asking), neighbours + 1, only)
            for at, (near, distances) in enumerate(found, start):
                others = (distances <= radius) & (near != ids[at])
                if others.sum() >= neighbours:
                    crowded += 1
                    reached[at], last[at] = distances[-1], near[-1]
                places = np.searchsorted(ids, near)
                missed = (distances > reached[places]) | ((distances == reached[places]) & (ids[at] > last[places]))
                new = others & ((near > ids[at]) | missed)
                pairs += _append(file.write, ids[at], near[new], distances[new])
            on_progress(min(start + CHUNK, len(ids)), len(ids))
    return Written(pairs, crowded)


def read_candidates(path: Path) -> Pairs:
    """The pairs (n,) of NEAR records, mapped from the file; empty where there are none."""
    if not path.stat().st_size:
        return np.empty(0, NEAR)
    return np.memmap(path, NEAR, mode="r")


def vectors_of(snapshot: Snapshot, ids: Ids) -> FloatArray:
    """(n, d') of these ids, all of which the snapshot holds."""
    vectors = np.empty((len(ids), snapshot.encoder.indexed_dimensions), np.float32)
    for part in snapshot.parts:
        here = among(ids, part.index.ids) & ~np.isin(ids, part.masked)
        if here.any():
            vectors[here] = part.index.vectors(ids[here])
    return vectors


def distance_between(snapshot: Snapshot, first: int, second: int) -> float:
    """Euclidean, between the indexed vectors of two pictures that the snapshot holds."""
    one, other = vectors_of(snapshot, np.array([first, second], np.int64)).astype(np.float64)
    return float(np.linalg.norm(one - other))


def in_order(pairs: Pairs) -> Iterator[tuple[int, int, float]]:
    """The pairs, those of one neighbourhood together, so that few pictures are opened twice.

    By the reverse Cuthill–McKee order of the graph that they make.
    """
    if not len(pairs):
        return
    ids, places = np.unique(np.concatenate([pairs["first"], pairs["second"]]), return_inverse=True)
    ends = places.reshape(2, -1).astype(np.int32)
    both = np.concatenate([ends, ends[::-1]], axis=1)
    graph = coo_array((np.ones(both.shape[1], np.int8), (both[0], both[1])), shape=(len(ids), len(ids))).tocsr()
    rank = np.empty(len(ids), np.int64)
    rank[reverse_cuthill_mckee(graph, symmetric_mode=True)] = np.arange(len(ids))
    ranked = np.sort(rank[ends], axis=0)
    for at in np.lexsort((ranked[1], ranked[0])).tolist():
        yield int(pairs["first"][at]), int(pairs["second"][at]), float(pairs["distance"][at])


def _append(write: Callable[[bytes], object], one: int, others: Ids, distances: NDArray[np.float64]) -> int:
    rows = np.empty(len(others), NEAR)
    rows["first"], rows["second"] = np.minimum(one, others), np.maximum(one, others)
    rows["distance"] = distances
    write(rows.tobytes())
    return len(rows)
