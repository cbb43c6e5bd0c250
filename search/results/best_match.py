"""Search by several images at once: each hit is near to one of the positives, and nearer to it than to a negative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from simile.core.records import FloatArray
from simile.store.index.flat import Neighbours, sort_by_distance
from simile.store.index.snapshot import Snapshot

POOL_GROWTH = 4  # factor, if too few of the neighbours are nearer to a positive


def find_best_matches(
    search: Callable[[int], Sequence[Neighbours]], count: int, negatives: FloatArray, snapshot: Snapshot
) -> Neighbours:
    """Find the images nearest to any positive, without those that are nearer to a negative.

    Args:
        search: Returns the nearest images of each positive, fewer than the number if there are no more.
        count: The largest number of images to return.
        negatives: Index vectors (n, d').
        snapshot: The vectors that are searched.

    Returns:
        Ids and distances to the nearest positive, ascending by distance, ties by id.
    """
    pool = count
    while True:
        found = search(pool)
        ids, distances = _drop_nearer_to_negatives(_merge_nearest(found), negatives, snapshot)
        if len(ids) >= count or all(len(of_positive[0]) < pool for of_positive in found):
            return ids[:count], distances[:count]
        pool *= POOL_GROWTH


def _merge_nearest(found: Sequence[Neighbours]) -> Neighbours:
    """Return each image once, with its smallest distance."""
    ids, distances = (np.concatenate(column) for column in zip(*found, strict=True))
    ids, distances = sort_by_distance(ids, distances)
    first = np.sort(np.unique(ids, return_index=True)[1])
    return ids[first], distances[first]


def _drop_nearer_to_negatives(neighbours: Neighbours, negatives: FloatArray, snapshot: Snapshot) -> Neighbours:
    ids, distances = neighbours
    if not len(negatives) or not len(ids):
        return neighbours
    from scipy.spatial.distance import cdist  # takes 0.2 s, which few searches need  # noqa: PLC0415

    found_ids, vectors = snapshot.get_vectors(np.sort(ids))
    nearest_negative = cdist(vectors, negatives).min(axis=1)[np.searchsorted(found_ids, ids)]
    is_nearer = distances <= nearest_negative
    return ids[is_nearer], distances[is_nearer]
