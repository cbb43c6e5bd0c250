"""Candidate pairs: all pairs of images that are near in the latent space, found in bounded memory.

Each image queries the index for its nearest neighbours within the radius, MAX_NEIGHBOURS at most. So the number of
pairs grows linearly with the collection; no distance matrix is built. Pairs are written to a file as they are found.
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
from simile.store.index.snapshot import Snapshot

MAX_NEIGHBOURS = 100  # per image; larger sets of equal images are found by their bytes and pixels
QUERY_BATCH_SIZE = 512  # images per index query
NO_LAST_NEIGHBOUR = np.iinfo(np.int64).max
PAIR_DTYPE = np.dtype([("first", "<i8"), ("second", "<i8"), ("distance", "<f4")])

TINY_SQUARE_SIDE = DESCRIPTOR_SIDE // 2  # pixels; 512 bytes per image
# Of 20,000 garments and digits each has about a hundred others above a correlation of 0.9, and a dozen above 0.95.
MIN_TINY_CORRELATION = 0.95
TINY_BATCH_PAIRS = 20_000  # bounds the memory of one comparison
ORIENTATIONS = [  # index arrays of the eight rotations and mirrorings of a flattened square
    square.astype(np.int64).ravel()
    for square in make_square_symmetries(
        np.arange(TINY_SQUARE_SIDE**2, dtype=np.float32).reshape(TINY_SQUARE_SIDE, TINY_SQUARE_SIDE)
    )
]

Ids = NDArray[np.int64]
PairArray = NDArray[np.void]
StageProgress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class CandidateCounts:
    """The number of pairs, and the number of images with more neighbours in the radius than were taken."""

    pairs: int
    crowded: int


def write_candidates(
    snapshot: Snapshot,
    radius: float,
    path: Path,
    on_progress: StageProgress,
    *,
    allowed_ids: Ids | None = None,
    max_neighbours: int = MAX_NEIGHBOURS,
) -> CandidateCounts:
    """Write all pairs within `radius` to `path`, each pair once. Raises HomeNotWritable.

    Memory: the ids, and two numbers per image.

    Args:
        path: Receives records of PAIR_DTYPE.
        allowed_ids: Only pairs of these images; None for all images.
    """
    ids = snapshot.get_live_ids()
    if allowed_ids is not None:
        ids = np.intersect1d(ids, allowed_ids, assume_unique=True)
    # An image is the smaller id of most of its pairs and writes those. It also writes a pair with a smaller id if the
    # other image did not reach this one because it had too many neighbours. So remember how far each image reached.
    reached, last = np.full(len(ids), np.inf), np.full(len(ids), NO_LAST_NEIGHBOUR)
    pair_count = crowded = 0
    with translate_write_errors(path), path.open("wb") as file:
        for start in range(0, len(ids), QUERY_BATCH_SIZE):
            queries = get_vectors(snapshot, ids[start : start + QUERY_BATCH_SIZE])
            results = snapshot.search(queries, max_neighbours + 1, allowed_ids)
            for row, (all_neighbours, all_distances) in enumerate(results, start):
                # The neighbours that count: not the image itself, and within the radius.
                columns = np.flatnonzero(all_neighbours != ids[row])[:max_neighbours]
                columns = columns[all_distances[columns] <= radius]
                neighbours, distances = all_neighbours[columns], all_distances[columns]
                # How far this image reached, and the largest id at that distance.
                is_full = len(neighbours) == max_neighbours
                crowded += is_full
                reached[row] = distances[-1] if is_full else radius
                if len(neighbours) and reached[row] == distances[-1]:
                    last[row] = neighbours[-1]
                # Pairs that the neighbour writes itself are left out.
                rows = np.searchsorted(ids, neighbours)
                is_missed = (distances > reached[rows]) | ((distances == reached[rows]) & (ids[row] > last[rows]))
                is_new = (neighbours > ids[row]) | is_missed
                file.write(_make_records(ids[row], neighbours[is_new], distances[is_new]).tobytes())
                pair_count += int(is_new.sum())
            on_progress(min(start + QUERY_BATCH_SIZE, len(ids)), len(ids))
    fsync_path(path)  # a later run relies on the file
    return CandidateCounts(pair_count, int(crowded))


def read_candidates(path: Path) -> PairArray:
    """Return the pairs (n,) of PAIR_DTYPE as a memory map of the file."""
    if not path.stat().st_size:  # an empty file can't be mapped
        return np.empty(0, PAIR_DTYPE)
    return np.memmap(path, PAIR_DTYPE, mode="r")


def get_vectors(snapshot: Snapshot, ids: Ids) -> FloatArray:
    """Return the indexed vectors (n, d') of ids (n,), in their order; the snapshot must contain all of them."""
    present, vectors = snapshot.get_vectors(np.unique(ids))
    return vectors[np.searchsorted(present, ids)]


def compute_distance(snapshot: Snapshot, first: int, second: int) -> float:
    """Return the Euclidean distance between the indexed vectors of two images of the snapshot."""
    first_vector, second_vector = get_vectors(snapshot, np.array([first, second], np.int64)).astype(np.float64)
    return float(np.linalg.norm(first_vector - second_vector))


def estimate_median_distance(snapshot: Snapshot, pair_count: int = 200) -> float:
    """Return the median distance of random pairs of images (fixed seed); 0 if there are fewer than two images."""
    ids = snapshot.get_live_ids()
    if len(ids) < 2:
        return 0.0
    drawn = np.random.default_rng(0).choice(ids, (pair_count, 2))
    first, second = (get_vectors(snapshot, column).astype(np.float64) for column in drawn.T)
    distances = np.linalg.norm(first - second, axis=1)[drawn[:, 0] != drawn[:, 1]]
    return float(np.median(distances)) if len(distances) else 0.0


def iterate_in_locality_order(pairs: PairArray) -> Iterator[tuple[int, int, float]]:
    """Yield (first, second, distance) so that pairs with common images follow each other.

    Then few image files are opened twice. The order is the reverse Cuthill–McKee order of the graph of all pairs.
    """
    if not len(pairs):
        return
    ids, positions = np.unique(np.concatenate([pairs["first"], pairs["second"]]), return_inverse=True)
    ends = positions.reshape(2, -1).astype(np.int32)
    both = np.concatenate([ends, ends[::-1]], axis=1)
    graph = coo_array((np.ones(both.shape[1], np.int8), (both[0], both[1])), shape=(len(ids), len(ids))).tocsr()
    rank = np.empty(len(ids), np.int64)
    rank[reverse_cuthill_mckee(graph, symmetric_mode=True)] = np.arange(len(ids))
    ranked = np.sort(rank[ends], axis=0)
    for row in np.lexsort((ranked[1], ranked[0])).tolist():
        yield int(pairs["first"][row]), int(pairs["second"][row]), float(pairs["distance"][row])


def filter_tiny_pairs(
    pairs: PairArray,
    longer_sides: dict[int, int],
    paths: dict[int, str],
    workers: WorkerPool,
    limits: Limits,
    on_progress: StageProgress,
) -> PairArray:
    """Remove pairs of two tiny images whose thumbnails do not correlate.

    Args:
        pairs: (n,) of PAIR_DTYPE.
        longer_sides: The longer side of each image in pixels, by image id.
        paths: One file of each image, by image id.
    """
    ends = [
        np.array([longer_sides[image_id] < MIN_KEYPOINT_SIDE for image_id in pairs[end].tolist()], bool)
        for end in ("first", "second")
    ]
    is_tiny = ends[0] & ends[1]
    if not is_tiny.any():
        return pairs
    ids = np.unique(np.concatenate([pairs["first"][is_tiny], pairs["second"][is_tiny]]))
    squares = _read_squares(ids, paths, workers, limits, on_progress)
    is_candidate, tiny_rows = ~is_tiny, np.flatnonzero(is_tiny)
    for start in range(0, len(tiny_rows), TINY_BATCH_PAIRS):
        rows = tiny_rows[start : start + TINY_BATCH_PAIRS]
        first, second = (
            squares[np.searchsorted(ids, pairs[end][rows])].astype(np.float32) for end in ("first", "second")
        )
        is_candidate[rows] = _compute_correlation(first, second) >= MIN_TINY_CORRELATION
    return np.asarray(pairs[is_candidate])


def _make_records(image_id: int, neighbours: Ids, distances: NDArray[np.float64]) -> PairArray:
    """Return records (n,) of PAIR_DTYPE that pair one image with its neighbours (n,)."""
    records = np.empty(len(neighbours), PAIR_DTYPE)
    records["first"], records["second"] = np.minimum(image_id, neighbours), np.maximum(image_id, neighbours)
    records["distance"] = distances
    return records


def _read_squares(
    ids: Ids, paths: dict[int, str], workers: WorkerPool, limits: Limits, on_progress: StageProgress
) -> NDArray[np.float16]:
    """Return thumbnails (n, TINY_SQUARE_SIDE²) of mean 0 and length 1; zeros for unreadable files."""
    squares = np.zeros((len(ids), TINY_SQUARE_SIDE * TINY_SQUARE_SIDE), np.float16)
    task = partial(compute_thumbnail_descriptor, limits=limits)
    for row, descriptor in enumerate(workers.map(task, [paths[image_id] for image_id in ids.tolist()])):
        if not isinstance(descriptor, Failure | WorkerLost):
            square = descriptor.reshape(TINY_SQUARE_SIDE, 2, TINY_SQUARE_SIDE, 2).mean((1, 3)).ravel()
            squares[row] = square / max(float(np.linalg.norm(square)), 1e-6)
        on_progress(row + 1, len(ids))
    return squares


def _compute_correlation(first: Float32Array, second: Float32Array) -> Float32Array:
    """Return the correlations (n,) of squares (n, TINY_SQUARE_SIDE²), each in the best of the eight orientations."""
    best: Float32Array = np.max([np.einsum("nd,nd->n", first, second[:, order]) for order in ORIENTATIONS], axis=0)
    return best
