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

from simile.core.atomic_write import fsync_path
from simile.core.records import Failure, FloatArray
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.worker_pool import WorkerPool
from simile.images.matching.features import DESCRIPTOR_SIDE, MIN_KEYPOINT_SIDE, Float32Array
from simile.images.matching.homography import make_square_symmetries
from simile.images.matching.tasks import compute_thumbnail_descriptor
from simile.store.home import translate_write_errors
from simile.store.index.flat import is_member
from simile.store.index.snapshot import Snapshot

pass

MAX_NEIGHBOURS = 100  # of a picture, at most; a set of more equal pictures is found by its bytes and pixels
QUERY_BATCH_SIZE = 512  # pictures that ask together
NO_LAST_NEIGHBOUR = np.iinfo(np.int64).max
PAIR_DTYPE = np.dtype([("first", "<i8"), ("second", "<i8"), ("distance", "<f4")])

Ids = NDArray[np.int64]
PairArray = NDArray[np.void]


@dataclass(frozen=True)
class CandidateCounts:
    """What was found: how many pairs, and how many pictures had more neighbours than are taken."""

    pairs: int
    crowded: int


def write_candidates(
    snapshot: Snapshot,
    radius: float,
    path: Path,
    on_progress: Callable[[int, int], None],
    *,
    allowed_ids: Ids | None = None,
    max_neighbours: int = MAX_NEIGHBOURS,
    min_neighbours: int = 0,
) -> CandidateCounts:
    """Writes all pairs within `radius` to `path`, each once, as NEAR records. Raises HomeNotWritable.

    anyway: so many nearest ones of each picture are written however far they are. Memory: the ids, and two numbers for
    each picture.
    """
    ids = np.concatenate([part.get_live_ids() for part in snapshot.segments])
    ids = np.sort(ids if allowed_ids is None else np.intersect1d(ids, allowed_ids, assume_unique=True))
    reached, last = (
        np.full(len(ids), np.inf),
        np.full(len(ids), NO_LAST_NEIGHBOUR),
    )  # how far each saw: beyond, others must
    pairs = crowded = 0
    with translate_write_errors(path), path.open("wb") as file:
        for start in range(0, len(ids), QUERY_BATCH_SIZE):
            asking = ids[start : start + QUERY_BATCH_SIZE]
            found = snapshot.search(get_vectors(snapshot, asking), max_neighbours + 1, allowed_ids)
            for at, (near, distances) in enumerate(found, start):
                others = np.flatnonzero(near != ids[at])[:max_neighbours]
                others = others[(distances[others] <= radius) | (np.arange(len(others)) < min_neighbours)]
                near, distances = near[others], distances[others]  # noqa: PLW2901  # those that are taken
                is_full = len(near) == max_neighbours
                crowded += is_full and distances[-1] <= radius
                reached[at] = distances[-1] if is_full else max(radius, distances.max(initial=0))
                if len(near) and reached[at] == distances[-1]:
                    last[at] = near[-1]
                places = np.searchsorted(ids, near)
                missed = (distances > reached[places]) | ((distances == reached[places]) & (ids[at] > last[places]))
                new = (near > ids[at]) | missed
                pairs += _append_pairs(file.write, ids[at], near[new], distances[new])
            on_progress(min(start + QUERY_BATCH_SIZE, len(ids)), len(ids))
    fsync_path(path)  # it counts as done from here on
    return CandidateCounts(pairs, int(crowded))


def read_candidates(path: Path) -> PairArray:
    """The pairs (n,) of NEAR records, mapped from the file; empty where there are none."""
    if not path.stat().st_size:
        return np.empty(0, PAIR_DTYPE)
    return np.memmap(path, PAIR_DTYPE, mode="r")


def get_vectors(snapshot: Snapshot, ids: Ids) -> FloatArray:
    """(n, d') of these ids, all of which the snapshot holds."""
    vectors = np.empty((len(ids), snapshot.encoder.indexed_dimensions), np.float32)
    for part in snapshot.segments:
        here = is_member(ids, part.index.ids) & ~np.isin(ids, part.masked_ids)
        if here.any():
            vectors[here] = part.index.get_vectors(ids[here])
    return vectors


def compute_distance(snapshot: Snapshot, first: int, second: int) -> float:
    """Euclidean, between the indexed vectors of two pictures that the snapshot holds."""
    one, other = get_vectors(snapshot, np.array([first, second], np.int64)).astype(np.float64)
    return float(np.linalg.norm(one - other))


def estimate_median_distance(snapshot: Snapshot, pair_count: int = 200) -> float:
    """The median distance between two pictures, of some pairs drawn with a seed; 0 of fewer than two pictures."""
    ids = np.concatenate([part.get_live_ids() for part in snapshot.segments])
    if len(ids) < 2:
        return 0.0
    drawn = np.random.default_rng(0).choice(ids, (pair_count, 2))
    first, second = (get_vectors(snapshot, column).astype(np.float64) for column in drawn.T)
    apart = np.linalg.norm(first - second, axis=1)[drawn[:, 0] != drawn[:, 1]]
    return float(np.median(apart)) if len(apart) else 0.0


def iterate_in_locality_order(pairs: PairArray) -> Iterator[tuple[int, int, float]]:
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


def _append_pairs(write: Callable[[bytes], object], image_id: int, others: Ids, distances: NDArray[np.float64]) -> int:
    rows = np.empty(len(others), PAIR_DTYPE)
    rows["first"], rows["second"] = np.minimum(image_id, others), np.maximum(image_id, others)
    rows["distance"] = distances
    write(rows.tobytes())
    return len(rows)


TINY_SQUARE_SIDE = DESCRIPTOR_SIDE // 2  # pixels: 512 bytes a picture
MIN_TINY_CORRELATION = (
    0.95  # correlation: of 20,000 garments and digits each has a hundred others above 0.9, a dozen above this
)
TINY_BATCH_PAIRS = 20_000  # pairs
ORIENTATIONS = [
    way.astype(np.int64).ravel()
    for way in make_square_symmetries(
        np.arange(TINY_SQUARE_SIDE**2, dtype=np.float32).reshape(TINY_SQUARE_SIDE, TINY_SQUARE_SIDE)
    )
]


def filter_tiny_pairs(
    pairs: PairArray,
    longer_sides: dict[int, int],
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> PairArray:
    """All pairs but those of two tiny pictures that are not alike. sides: the longer side of each picture."""
    ends = [
        np.array([longer_sides[image] < MIN_KEYPOINT_SIDE for image in pairs[end].tolist()], bool)
        for end in ("first", "second")
    ]
    tiny = ends[0] & ends[1]
    if not tiny.any():
        return pairs
    ids = np.unique(np.concatenate([pairs["first"][tiny], pairs["second"][tiny]]))
    squares = _read_squares(ids, paths, workers, limits, on_progress)
    kept, places = ~tiny, np.flatnonzero(tiny)
    for start in range(0, len(places), TINY_BATCH_PAIRS):
        rows = places[start : start + TINY_BATCH_PAIRS]
        first, second = (squares[np.searchsorted(ids, pairs[end][rows])] for end in ("first", "second"))
        kept[rows] = _compute_correlation(first.astype(np.float32), second.astype(np.float32)) >= MIN_TINY_CORRELATION
    return np.asarray(pairs[kept])


def _read_squares(
    ids: NDArray[np.int64],
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """(n, SIDE²), each of mean 0 and length 1; zeros for what can't be read."""
    squares = np.zeros((len(ids), TINY_SQUARE_SIDE * TINY_SQUARE_SIDE), np.float16)
    task = partial(compute_thumbnail_descriptor, limits=limits)
    for at, square in enumerate(workers.map(task, [paths[image] for image in ids.tolist()])):
        if not isinstance(square, Failure | WorkerLost):
            small = square.reshape(TINY_SQUARE_SIDE, 2, TINY_SQUARE_SIDE, 2).mean((1, 3)).ravel()
            squares[at] = small / max(float(np.linalg.norm(small)), 1e-6)
        on_progress(at + 1, len(ids))
    return squares


def _compute_correlation(first: Float32Array, second: Float32Array) -> Float32Array:
    """The highest correlation (n,) of squares (n, SIDE²) in the eight ways."""
    found: Float32Array = np.max([np.einsum("nd,nd->n", first, second[:, way]) for way in ORIENTATIONS], axis=0)
    return found
