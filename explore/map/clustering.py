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

Method = Literal["kmeans", "hdbscan"]
METHODS: tuple[Method, ...] = get_args(Method)
Numbers = NDArray[np.int32]

USUAL, MOST = 12, 200  # clusters of k-means
PER_CLUSTER = 5  # pictures, below which there are fewer clusters than asked for
SMALLEST = 0.01  # share of the collection that the smallest cluster of HDBSCAN has, unless it is said
DRAWN = 10_000  # pictures that HDBSCAN looks at: it compares each with each, 8 s; others go with their nearest of them
NONE = -1  # the number of what belongs to no cluster
BLOCK = 1024


def check_clusters(method: str, count: int | None) -> None:
    """Raises BadSetting."""
    if method not in METHODS:
        raise BadSetting(f"clusters can't be {method!r}. Give kmeans or hdbscan.")
    if count is not None and not 2 <= count <= (MOST if method == "kmeans" else 1_000_000):
        raise BadSetting(
            f"count can't be {count}. Ask for 2 to {MOST} clusters of k-means, or at least 2 pictures each."
        )


def find_clusters(vectors: FloatArray, method: Method, count: int | None, seed: int) -> Numbers:
    """The cluster (n,) of each of vectors (n, d), numbered from the largest on; NONE for what belongs to none.

    count: with kmeans how many; with hdbscan how many pictures the smallest has. None: what is usual.
    """
    check_clusters(method, count)
    if method == "hdbscan":
        return _by_size(_hdbscan(vectors, count, seed))
    different = len(np.unique(vectors, axis=0)) if len(vectors) < 1000 else len(vectors)
    wanted = max(1, min(USUAL if count is None else count, different, -(-len(vectors) // PER_CLUSTER)))
    return _by_size(_kmeans(vectors, wanted, seed))


def typical(vectors: FloatArray, clusters: Numbers) -> NDArray[np.int64]:
    """Which row (c,) of vectors (n, d) lies nearest to the middle of each cluster."""
    found = np.empty(clusters.max(initial=NONE) + 1, np.int64)
    for number in range(len(found)):
        members = np.flatnonzero(clusters == number)
        middle = vectors[members].mean(axis=0, dtype=np.float64)
        found[number] = members[np.square(vectors[members] - middle).sum(axis=1).argmin()]
    return found


def _kmeans(vectors: FloatArray, count: int, seed: int) -> Numbers:
    from sklearn.cluster import KMeans  # noqa: PLC0415  # a second, and only here

    return np.asarray(KMeans(count, n_init=3, random_state=seed).fit_predict(vectors), np.int32)


def _hdbscan(vectors: FloatArray, smallest: int | None, seed: int) -> Numbers:
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415

    drawn = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:DRAWN])
    share = len(drawn) / len(vectors)
    size = max(5, round(SMALLEST * len(drawn))) if smallest is None else max(2, round(smallest * share))
    if size >= len(drawn):
        return np.full(len(vectors), NONE, np.int32)
    among = np.asarray(HDBSCAN(min_cluster_size=size, copy=True).fit_predict(vectors[drawn]), np.int32)
    found = np.empty(len(vectors), np.int32)
    found[drawn] = among
    others = np.setdiff1d(np.arange(len(vectors)), drawn)
    squares = np.square(vectors[drawn]).sum(axis=1)
    for start in range(0, len(others), BLOCK):
        rows = others[start : start + BLOCK]
        found[rows] = among[(squares - 2 * vectors[rows] @ vectors[drawn].T).argmin(axis=1)]
    return found


def _by_size(clusters: Numbers) -> Numbers:
    """The same, the largest called 0."""
    known, sizes = np.unique(clusters[clusters != NONE], return_counts=True)
    order = known[np.lexsort((known, -sizes))]
    place = np.empty(len(known), np.int32)
    place[np.searchsorted(known, order)] = np.arange(len(known))
    found = np.full(len(clusters), NONE, np.int32)
    inside = clusters != NONE
    found[inside] = place[np.searchsorted(known, clusters[inside])]
    return found
