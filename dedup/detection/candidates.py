"""Candidates: pairs of pictures that are near in the latent space, of a whole collection, in bounded memory.

Each picture asks the index for what is within the radius, its nearest NEIGHBOURS at most, so no more than NEIGHBOURS
pairs a picture are ever written, and never a matrix of all against all. They go to a file as they are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from simile.core.atomic_write import sync
from simile.core.records import Failure, FloatArray
from simile.store.home import writing
from simile.store.index.flat import among
from simile.store.index.snapshot import Snapshot

pass
from simile.images.formats import Limits
from simile.images.loading.fork_server import Lost
from simile.images.loading.worker_pool import Workers
from simile.images.matching.features import SQUARE, TINY, Floats
from simile.images.matching.homography import ways
from simile.images.matching.tasks import square_of

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
    anyway: int = 0,
) -> Written:
    """Writes all pairs within `radius` to `path`, each once, as NEAR records. Raises HomeNotWritable.

    anyway: so many nearest ones of each picture are written however far they are. Memory: the ids, and two numbers for
    each picture.
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
                others = np.flatnonzero(near != ids[at])[:neighbours]
                others = others[(distances[others] <= radius) | (np.arange(len(others)) < anyway)]
                near, distances = near[others], distances[others]  # noqa: PLW2901  # those that are taken
                is_full = len(near) == neighbours
                crowded += is_full and distances[-1] <= radius
                reached[at] = distances[-1] if is_full else max(radius, distances.max(initial=0))
                if len(near) and reached[at] == distances[-1]:
                    last[at] = near[-1]
                places = np.searchsorted(ids, near)
                missed = (distances > reached[places]) | ((distances == reached[places]) & (ids[at] > last[places]))
                new = (near > ids[at]) | missed
                pairs += _append(file.write, ids[at], near[new], distances[new])
            on_progress(min(start + CHUNK, len(ids)), len(ids))
    sync(path)  # it counts as done from here on
    return Written(pairs, int(crowded))


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


def spread(snapshot: Snapshot, pairs: int = 200) -> float:
    """The median distance between two pictures, of some pairs drawn with a seed; 0 of fewer than two pictures."""
    ids = np.concatenate([part.living() for part in snapshot.parts])
    if len(ids) < 2:
        return 0.0
    drawn = np.random.default_rng(0).choice(ids, (pairs, 2))
    first, second = (vectors_of(snapshot, column).astype(np.float64) for column in drawn.T)
    apart = np.linalg.norm(first - second, axis=1)[drawn[:, 0] != drawn[:, 1]]
    return float(np.median(apart)) if len(apart) else 0.0


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


SIDE = SQUARE // 2  # pixels: 512 bytes a picture
ALIKE = 0.95  # correlation: of 20,000 garments and digits each has a hundred others above 0.9, a dozen above this
TOGETHER = 20_000  # pairs
WAYS = [way.astype(np.int64).ravel() for way in ways(np.arange(SIDE**2, dtype=np.float32).reshape(SIDE, SIDE))]


def worth_comparing(
    pairs: Pairs,
    sides: dict[int, int],
    files: dict[int, str],
    workers: Workers,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> Pairs:
    """All pairs but those of two tiny pictures that are not alike. sides: the longer side of each picture."""
    ends = [np.array([sides[image] < TINY for image in pairs[end].tolist()], bool) for end in ("first", "second")]
    tiny = ends[0] & ends[1]
    if not tiny.any():
        return pairs
    ids = np.unique(np.concatenate([pairs["first"][tiny], pairs["second"][tiny]]))
    squares = _squares(ids, files, workers, limits, on_progress)
    kept, places = ~tiny, np.flatnonzero(tiny)
    for start in range(0, len(places), TOGETHER):
        rows = places[start : start + TOGETHER]
        first, second = (squares[np.searchsorted(ids, pairs[end][rows])] for end in ("first", "second"))
        kept[rows] = _likeness(first.astype(np.float32), second.astype(np.float32)) >= ALIKE
    return np.asarray(pairs[kept])


def _squares(
    ids: NDArray[np.int64],
    files: dict[int, str],
    workers: Workers,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """(n, SIDE²), each of mean 0 and length 1; zeros for what can't be read."""
    squares = np.zeros((len(ids), SIDE * SIDE), np.float16)
    task = partial(square_of, limits=limits)
    for at, square in enumerate(workers.map(task, [files[image] for image in ids.tolist()])):
        if not isinstance(square, Failure | Lost):
            small = square.reshape(SIDE, 2, SIDE, 2).mean((1, 3)).ravel()
            squares[at] = small / max(float(np.linalg.norm(small)), 1e-6)
        on_progress(at + 1, len(ids))
    return squares


def _likeness(first: Floats, second: Floats) -> Floats:
    """The highest correlation (n,) of squares (n, SIDE²) in the eight ways."""
    found: Floats = np.max([np.einsum("nd,nd->n", first, second[:, way]) for way in WAYS], axis=0)
    return found
