"""Clusters of a collection, each with its most typical image.

k-means (Lloyd, 1982) puts every image into one of a given number of clusters. HDBSCAN (Campello, Moulavi and Sander,
2013) finds the number of dense regions itself, and leaves out the images between them.
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

DEFAULT_CLUSTER_COUNT, MAX_CLUSTER_COUNT = 12, 200  # of k-means
MIN_IMAGES_PER_CLUSTER = 5  # of k-means, on average: a small collection gets fewer clusters
MIN_CLUSTER_FRACTION = 0.01  # size of HDBSCAN's smallest cluster, as a fraction of the collection
HDBSCAN_SAMPLE_SIZE = 10_000  # HDBSCAN compares all pairs: 8 s for 10,000 images, 40 s for 20,000
NO_CLUSTER = -1  # the number of images without a cluster


def check_cluster_settings(method: str, count: int | None) -> None:
    """Raise BadSetting for an unknown method or an unusable count."""
    if method not in CLUSTER_METHODS:
        raise BadSetting(f"clusters can't be {method!r}. Give kmeans or hdbscan.")
    if count is not None and not 2 <= count <= (MAX_CLUSTER_COUNT if method == "kmeans" else 1_000_000):
        raise BadSetting(
            f"count can't be {count}. Give 2 to {MAX_CLUSTER_COUNT} clusters for kmeans, or at least 2 images for "
            "each cluster of hdbscan."
        )


def find_clusters(vectors: FloatArray, method: ClusterMethod, count: int | None, seed: int) -> ClusterNumbers:
    """Cluster vectors (n, d). Raises BadSetting.

    Args:
        count: Number of clusters for kmeans; images in the smallest cluster for hdbscan; None for the default.

    Returns:
        The cluster (n,) of each vector, 0 for the largest cluster, NO_CLUSTER for none.
    """
    check_cluster_settings(method, count)
    if method == "hdbscan":
        return _renumber_by_size(_run_hdbscan(vectors, count, seed))
    from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import, and only needed here

    # Copies of a few images can't fill many clusters; the check is only worth its time for small collections.
    distinct = len(np.unique(vectors, axis=0)) if len(vectors) < 1000 else len(vectors)
    limit = min(distinct, -(-len(vectors) // MIN_IMAGES_PER_CLUSTER))
    cluster_count = max(1, min(DEFAULT_CLUSTER_COUNT if count is None else count, limit))
    return _renumber_by_size(np.asarray(KMeans(cluster_count, n_init=3, random_state=seed).fit_predict(vectors)))


def find_typical_rows(vectors: FloatArray, clusters: ClusterNumbers) -> NDArray[np.int64]:
    """Return for each cluster (c,) the row of vectors (n, d) that is nearest to the cluster's mean."""
    typical_rows = np.empty(clusters.max(initial=NO_CLUSTER) + 1, np.int64)
    for number in range(len(typical_rows)):
        members = np.flatnonzero(clusters == number)
        mean = vectors[members].mean(axis=0, dtype=np.float64)
        typical_rows[number] = members[np.square(vectors[members] - mean).sum(axis=1).argmin()]
    return typical_rows


def _run_hdbscan(vectors: FloatArray, min_size: int | None, seed: int) -> NDArray[np.int64]:
    """Cluster a sample, and give each other vector the cluster of its nearest vector in the sample."""
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415  # slow to import, and only needed here
    from sklearn.metrics import pairwise_distances_argmin  # noqa: PLC0415

    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:HDBSCAN_SAMPLE_SIZE])
    fraction = len(sample) / len(vectors)
    size = max(5, round(MIN_CLUSTER_FRACTION * len(sample))) if min_size is None else max(2, round(min_size * fraction))
    clusters = np.full(len(vectors), NO_CLUSTER)
    if size >= len(sample):
        return clusters
    clusters[sample] = HDBSCAN(min_cluster_size=size, copy=True).fit_predict(vectors[sample])
    others = np.setdiff1d(np.arange(len(vectors)), sample)
    if len(others):
        clusters[others] = clusters[sample][pairwise_distances_argmin(vectors[others], vectors[sample])]
    return clusters


def _renumber_by_size(clusters: NDArray[np.signedinteger]) -> ClusterNumbers:
    """Renumber clusters so that 0 is the largest one; NO_CLUSTER stays."""
    numbers, sizes = np.unique(clusters[clusters != NO_CLUSTER], return_counts=True)
    renumbered = np.full(len(clusters), NO_CLUSTER, np.int32)
    for new_number, row in enumerate(np.lexsort((numbers, -sizes))):
        renumbered[clusters == numbers[row]] = new_number
    return renumbered
