"""Find series: shots of one camera that were taken seconds apart and look alike.

They are no copies: each is a photo of its own. A person usually wants the best one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta

import numpy as np

from simile.dedup.detection.candidates import estimate_median_distance, get_vectors
from simile.dedup.records import ImagePair, sort_pair
from simile.store.catalogue.records import Shot
from simile.store.index.snapshot import Snapshot

DEFAULT_SERIES_SECONDS = 10.0  # between a shot and the one before
ALIKE_FRACTION = 0.5  # of the median distance of two images, within which two shots look alike
MAX_EARLIER_SHOTS = 20  # with which a shot is compared, so that a film of frames takes linear time

ImagePairKey = tuple[int, int]  # two image ids, the smaller first


def find_series(
    snapshot: Snapshot, shots: Mapping[int, Shot], near: Collection[ImagePairKey], seconds: float
) -> list[ImagePair]:
    """Return the pairs of shots that belong to one series.

    Two shots look alike if they are near copies of each other, or within ALIKE_FRACTION of the median distance of two
    images. Near copies with the same time are one shot: a copy keeps the time of its original.

    Args:
        shots: By id, for images of the snapshot.
        near: The pairs of near copies.
        seconds: The longest time between two shots of a pair.
    """
    compared = list(_iterate_neighbours(shots, seconds))
    if not compared:
        return []
    first, second = (get_vectors(snapshot, np.array(ids, np.int64)) for ids in zip(*compared, strict=True))
    distances = np.linalg.norm(first.astype(np.float64) - second, axis=1).tolist()
    radius = ALIKE_FRACTION * estimate_median_distance(snapshot)
    pairs = []
    for pair, distance in zip(compared, distances, strict=True):
        is_copy, gap = pair in near, _measure_gap(shots, pair)
        if (is_copy and gap) or (not is_copy and distance <= radius):
            pairs.append(ImagePair(*pair, "series", distance, None, f"taken {gap:.3g} seconds apart"))
    return pairs


def _iterate_neighbours(shots: Mapping[int, Shot], seconds: float) -> Iterator[ImagePairKey]:
    """Yield pairs of shots of one camera, at most so many seconds apart."""
    ordered = sorted(shots, key=lambda image_id: (shots[image_id].camera or "", shots[image_id].taken, image_id))
    limit = timedelta(seconds=seconds)
    for position, image_id in enumerate(ordered):
        shot = shots[image_id]
        for other_id in reversed(ordered[max(0, position - MAX_EARLIER_SHOTS) : position]):
            other = shots[other_id]
            if other.camera != shot.camera or shot.taken - other.taken > limit:
                break
            yield sort_pair(other_id, image_id)


def _measure_gap(shots: Mapping[int, Shot], pair: ImagePairKey) -> float:
    return abs((shots[pair[0]].taken - shots[pair[1]].taken).total_seconds())
