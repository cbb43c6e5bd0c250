"""Which pictures go together: clusters of what is compared of them, each with its most typical picture.

k-means (Lloyd, 1982) puts every picture into one of as many clusters as are asked for. HDBSCAN (Campello, Moulavi and
Sander, 2013) finds how many thick places there are, and leaves out what lies between them.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting
from simile.core.records import FloatArray

ClusterMethod = Literal["kmeans", "hdbscan"]
CLUSTER_METHODS: tuple[ClusterMethod, ...] = get_args(ClusterMethod)
ClusterNumbers = NDArray[np.int32]

DEFAULT_CLUSTER_COUNT, MAX_CLUSTER_COUNT = 12, 200  # clusters of k-means
MIN_IMAGES_PER_CLUSTER = 5  # pictures, below which there are fewer clusters than asked for
MIN_CLUSTER_FRACTION = 0.01  # share of the collection that the smallest cluster of HDBSCAN has, unless it is said
HDBSCAN_SAMPLE_SIZE = (
    10_000  # pictures that HDBSCAN looks at: it compares each with each, 8 s; others go with their nearest of them
)
NO_CLUSTER = -1  # the number of what belongs to no cluster
ASSIGNMENT_BLOCK_ROWS = 1024


def check_cluster_settings(method: str, count: int | None) -> None:
    """Raises BadSetting."""
    if method not in CLUSTER_METHODS:
        raise BadSetting(f"clusters can't be {method!r}. Give kmeans or hdbscan.")
    if count is not None and not 2 <= count <= (MAX_CLUSTER_COUNT if method == "kmeans" else 1_000_000):
        raise BadSetting(
            f"count can't be {count}. Ask for 2 to {MAX_CLUSTER_COUNT} clusters of k-means, or at least 2 pictures each."
        )


def find_clusters(vectors: FloatArray, method: ClusterMethod, count: int | None, seed: int) -> ClusterNumbers:
    """The cluster (n,) of each of vectors (n, d), numbered from the largest on; NONE for what belongs to none.

    count: with kmeans how many; with hdbscan how many pictures the smallest has. None: what is usual.
    """
    check_cluster_settings(method, count)
    if method == "hdbscan":
        return _renumber_by_size(_run_hdbscan(vectors, count, seed))
    different = len(np.unique(vectors, axis=0)) if len(vectors) < 1000 else len(vectors)
    wanted = max(
        1, min(DEFAULT_CLUSTER_COUNT if count is None else count, different, -(-len(vectors) // MIN_IMAGES_PER_CLUSTER))
    )
    return _renumber_by_size(_run_kmeans(vectors, wanted, seed))


def find_typical_rows(vectors: FloatArray, clusters: ClusterNumbers) -> NDArray[np.int64]:
    """Which row (c,) of vectors (n, d) lies nearest to the middle of each cluster."""
    found = np.empty(clusters.max(initial=NO_CLUSTER) + 1, np.int64)
    for number in range(len(found)):
        members = np.flatnonzero(clusters == number)
        middle = vectors[members].mean(axis=0, dtype=np.float64)
        found[number] = members[np.square(vectors[members] - middle).sum(axis=1).argmin()]
    return found


def _run_kmeans(vectors: FloatArray, count: int, seed: int) -> ClusterNumbers:
    from sklearn.cluster import KMeans  # noqa: PLC0415  # a second, and only here

    return np.asarray(KMeans(count, n_init=3, random_state=seed).fit_predict(vectors), np.int32)


def _run_hdbscan(vectors: FloatArray, min_size: int | None, seed: int) -> ClusterNumbers:
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415

    drawn = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:HDBSCAN_SAMPLE_SIZE])
    share = len(drawn) / len(vectors)
    size = max(5, round(MIN_CLUSTER_FRACTION * len(drawn))) if min_size is None else max(2, round(min_size * share))
    if size >= len(drawn):
        return np.full(len(vectors), NO_CLUSTER, np.int32)
    among = np.asarray(HDBSCAN(min_cluster_size=size, copy=True).fit_predict(vectors[drawn]), np.int32)
    found = np.empty(len(vectors), np.int32)
    found[drawn] = among
    others = np.setdiff1d(np.arange(len(vectors)), drawn)
    squares = np.square(vectors[drawn]).sum(axis=1)
    for start in range(0, len(others), ASSIGNMENT_BLOCK_ROWS):
        rows = others[start : start + ASSIGNMENT_BLOCK_ROWS]
        found[rows] = among[(squares - 2 * vectors[rows] @ vectors[drawn].T).argmin(axis=1)]
    return found


def _renumber_by_size(clusters: ClusterNumbers) -> ClusterNumbers:
    """The same, the largest called 0."""
    known, sizes = np.unique(clusters[clusters != NO_CLUSTER], return_counts=True)
    order = known[np.lexsort((known, -sizes))]
    place = np.empty(len(known), np.int32)
    place[np.searchsorted(known, order)] = np.arange(len(known))
    found = np.full(len(clusters), NO_CLUSTER, np.int32)
    inside = clusters != NO_CLUSTER
    found[inside] = place[np.searchsorted(known, clusters[inside])]
    return found
