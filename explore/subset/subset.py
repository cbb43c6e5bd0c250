"""A small subset of the collection: diverse, representative, or without copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting
from simile.core.records import Filter, FloatArray
from simile.search.searcher import Searcher

SubsetMethod = Literal["diverse", "representative", "unique"]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class SubsetImage:
    """An image of a subset. `count`: number of images of the collection that it represents, itself included."""

    image_id: int
    path: str
    count: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return PurePath(self.path).name


def select_subset(
    searcher: Searcher, count: int | None, method: SubsetMethod, filter: Filter | None = None, seed: int = 0
) -> list[SubsetImage]:
    """Select images of the collection by their indexed vectors.

    Args:
        searcher: The home.
        count: The largest number of images; None, only with `unique`: no limit.
        method: diverse: each image is as far as possible from those before it (farthest-point traversal, Gonzalez 1985,
            https://doi.org/10.1016/0304-3975(85)90224-5), starting with the image nearest to the mean. representative:
            the images nearest to the centres of k-means (k-means++, Arthur and Vassilvitskii 2007), the largest cluster
            first. unique: one image of each group of known copies and series; of more than `count`, a random sample.
        filter: Which images may be selected; None: all.
        seed: Of k-means, and of the sample. The same seed selects the same images.

    Raises:
        NothingIndexed: The home has no images.
        BadSetting: There is no count, and the method needs one.
    """
    if count is None and method != "unique":
        raise BadSetting(f"how={method} needs a number of images. Add -n 100.")
    snapshot = searcher.index.get_snapshot()
    matching_ids = searcher.index.find_matching_ids(filter)
    ids, vectors = snapshot.get_vectors(snapshot.get_live_ids() if matching_ids is None else matching_ids)
    if not len(ids):
        return []
    if method == "unique":
        positions, copy_counts = searcher.get_copy_groups(snapshot).collapse(ids, ids)
        counts = copy_counts + 1
        if count is not None and count < len(positions):
            sample = np.sort(np.random.default_rng(seed).choice(len(positions), count, replace=False))
            positions, counts = positions[sample], counts[sample]
    else:
        assert count is not None
        select = select_farthest_points if method == "diverse" else select_medoids
        positions, counts = select(vectors, min(count, len(ids)), seed)
    chosen = ids[positions].tolist()
    summaries = searcher.catalogue.images.get_summaries(chosen)
    return [
        SubsetImage(image_id, summaries[image_id].paths[0] if summaries[image_id].paths else "", represented)
        for image_id, represented in zip(chosen, counts.tolist(), strict=True)
        if image_id in summaries  # otherwise it was deleted meanwhile
    ]


def select_farthest_points(vectors: FloatArray, count: int, seed: int = 0) -> tuple[Positions, Positions]:  # noqa: ARG001
    """Return the positions (count,) of points far from each other, and how many points are nearest to each (count,).

    Args:
        vectors: The points, (n, d).
        count: At most n.
        seed: Not used: nothing is random.
    """
    points = vectors.astype(np.float64)
    chosen = int(np.square(points - points.mean(axis=0)).sum(axis=1).argmin())
    positions = [chosen]
    nearest = np.zeros(len(points), np.int64)
    distances = np.square(points - points[chosen]).sum(axis=1)
    distances[chosen] = -1.0  # a selected point is not selected again, also among equal points
    while len(positions) < count:
        chosen = int(distances.argmax())
        new_distances = np.square(points - points[chosen]).sum(axis=1)
        is_nearer = new_distances < distances
        distances[is_nearer], nearest[is_nearer] = new_distances[is_nearer], len(positions)
        distances[chosen], nearest[chosen] = -1.0, len(positions)
        positions.append(chosen)
    return np.array(positions, np.int64), np.bincount(nearest, minlength=count)


def select_medoids(vectors: FloatArray, count: int, seed: int = 0) -> tuple[Positions, Positions]:
    """Return the positions (m,) of the points nearest to the centres of k-means, and the sizes of the clusters (m,).

    m is below `count` if there are fewer different points.

    Args:
        vectors: The points, (n, d).
        count: Number of clusters, at most n.
        seed: Of the first centres.
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import, and only needed here

    distinct_count = min(count, len(np.unique(vectors, axis=0)))
    clusters = KMeans(distinct_count, n_init=1, random_state=seed).fit(vectors)
    distances = np.square(vectors - clusters.cluster_centers_[clusters.labels_]).sum(axis=1)
    order = np.lexsort((distances, clusters.labels_))
    _, first = np.unique(clusters.labels_[order], return_index=True)
    positions, sizes = order[first], np.bincount(clusters.labels_, minlength=distinct_count)
    by_size = np.argsort(-sizes, kind="stable")
    return positions[by_size], sizes[by_size]
