"""Rank images by the distance to their k-th nearest neighbour, the largest first: outliers come first.

Ramaswamy, Rastogi and Shim, Efficient Algorithms for Mining Outliers from Large Data Sets, 2000.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from simile.core.arrays import read_arrays, write_arrays
from simile.core.records import FloatArray
from simile.search.background import CacheEntry
from simile.store.index.flat import Distances, Ids, use_single_search_thread
from simile.store.index.snapshot import Snapshot

OUTLIER_NEIGHBOUR_RANK = 10  # k: more than the usual number of copies of one image, which would hide it
OUTLIER_BATCH_SIZE = 128  # queries in one index search: their distances are one matrix product
MAX_UNRANKED_IMAGES = 256  # new images that are few enough to be ranked during a request


@dataclass(frozen=True)
class OutlierRanking(CacheEntry):
    """The ranking of the images that were there when it was computed."""

    suffix: ClassVar = "-unlike.npz"

    ids: Ids  # (n,), sorted by falling distance, equal distances by id
    distances: Distances  # (n,) to the k-th nearest neighbour

    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether only few images were added or deleted since."""
        return abs(len(snapshot) - len(self.ids)) <= MAX_UNRANKED_IMAGES

    def restrict_to(self, ids: Ids) -> Self:
        """Return the ranking of these images only (ids ascending); images that are not ranked are left out."""
        is_selected = np.isin(self.ids, ids, assume_unique=True)
        return replace(self, ids=self.ids[is_selected], distances=self.distances[is_selected])

    def find_position_after(self, distance: float, image_id: int) -> int:
        """Return the position of the first image after this one, which may be deleted."""
        is_before = (self.distances > distance) | ((self.distances == distance) & (self.ids <= image_id))
        return int(is_before.sum())

    def update_to(self, snapshot: Snapshot) -> Self:
        """Return the ranking without deleted images and with the new ones, if these are few."""
        live_ids = snapshot.get_live_ids()
        new_ids = np.setdiff1d(live_ids, self.ids)
        live = self.restrict_to(live_ids)
        if not len(new_ids) or len(new_ids) > MAX_UNRANKED_IMAGES:
            return live
        ids, vectors = snapshot.get_vectors(new_ids)
        new_distances = _compute_outlier_distances(ids, vectors, snapshot)
        return live._sort(np.append(live.ids, ids), np.append(live.distances, new_distances))

    def save(self, path: Path) -> None:
        """Save it as .npz without pickle."""
        write_arrays(path, **vars(self) | {"segment": -1 if self.segment is None else self.segment})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a saved ranking. Raises one of ARRAY_FILE_ERRORS for a bad file."""
        stored = read_arrays(path)
        segment = int(stored["segment"])
        return cls(str(stored["encoder"]), None if segment < 0 else segment, stored["ids"], stored["distances"])

    def _sort(self, ids: Ids, distances: Distances) -> Self:
        order = np.lexsort((ids, -distances))
        return replace(self, ids=ids[order], distances=distances[order])


def compute_outlier_ranking(
    snapshot: Snapshot, stop_event: threading.Event, is_busy: Callable[[], bool]
) -> OutlierRanking | None:
    """Rank all images of a snapshot, on one core; call it in its own thread. Returns None if it was stopped.

    Args:
        is_busy: Whether others search now; then it pauses for half of the time.
    """
    use_single_search_thread()
    ids = snapshot.get_live_ids()
    distances = np.empty(len(ids))
    for start in range(0, len(ids), OUTLIER_BATCH_SIZE):
        started_at = time.monotonic()
        batch_ids, vectors = snapshot.get_vectors(ids[start : start + OUTLIER_BATCH_SIZE])
        distances[start : start + OUTLIER_BATCH_SIZE] = _compute_outlier_distances(batch_ids, vectors, snapshot)
        if stop_event.wait(min(time.monotonic() - started_at, 1.0) if is_busy() else 0):
            return None
    ranking = OutlierRanking(snapshot.encoder.fingerprint, snapshot.base_segment_id, ids, distances)
    return ranking._sort(ids, distances)


def _compute_outlier_distances(ids: Ids, vectors: FloatArray, snapshot: Snapshot) -> Distances:
    """Compute the distance (m,) of each image to its k-th nearest other image.

    With fewer other images it is the distance to the farthest; without any, 0.
    """
    outlier_distances = np.zeros(len(ids))
    for row, (neighbour_ids, distances) in enumerate(snapshot.search(vectors, OUTLIER_NEIGHBOUR_RANK + 1)):
        others = distances[neighbour_ids != ids[row]][:OUTLIER_NEIGHBOUR_RANK]
        outlier_distances[row] = others[-1] if len(others) else 0.0
    return outlier_distances
