"""The collection by how unlike the rest each picture is: the distance to its k-th nearest neighbour, farthest first.

Ramaswamy, Rastogi and Shim, Efficient Algorithms for Mining Outliers from Large Data Sets, 2000.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from simile.core.records import FloatArray
from simile.store.index.flat import Distances, Ids, use_single_search_thread
from simile.store.index.snapshot import Snapshot

OUTLIER_NEIGHBOUR_RANK = 10  # the k: a handful of copies of one picture do not hide it
OUTLIER_BATCH_SIZE = 128  # queries in one call: of so many the distances are one product of matrices
MAX_UNRANKED_IMAGES = 256  # pictures that are newer are ranked while somebody waits


@dataclass(frozen=True)
class OutlierRanking:
    """ids, distances: (n,), the farthest first, ties by id; of the pictures that were there when it was made."""

    encoder: str
    segment: int | None
    ids: Ids
    distances: Distances

    def fits(self, images: int) -> bool:
        """Whether few pictures are newer, or gone."""
        return abs(images - len(self.ids)) <= MAX_UNRANKED_IMAGES

    def restrict_to(self, ids: Ids) -> Self:
        """The same of these ids alone, ascending; those that are not ranked are left out."""
        known = np.isin(self.ids, ids, assume_unique=True)
        return replace(self, ids=self.ids[known], distances=self.distances[known])

    def find_position_after(self, distance: float, image_id: int) -> int:
        """At which place those begin that come after this one, be it still there or not."""
        before = (self.distances > distance) | ((self.distances == distance) & (self.ids <= image_id))
        return int(before.sum())

    def update_to(self, snapshot: Snapshot) -> Self:
        """With the pictures that are newer, where they are few, and without those that are gone."""
        living = snapshot.get_live_ids()
        newer = np.setdiff1d(living, self.ids)
        kept = self.restrict_to(living)
        if not len(newer) or len(newer) > MAX_UNRANKED_IMAGES:
            return kept
        ids, vectors = snapshot.get_vectors(newer)
        return kept._sort(
            np.append(kept.ids, ids), np.append(kept.distances, _compute_outlier_distances(ids, vectors, snapshot))
        )

    def save(self, path: Path) -> None:
        """Writes it as an .npz without pickle."""
        segment = -1 if self.segment is None else self.segment
        with path.open("wb") as file:
            np.savez(file, encoder=self.encoder, segment=segment, ids=self.ids, distances=self.distances)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads it. Raises OSError, EOFError, BadZipFile, KeyError or ValueError for anything else."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            segment = int(stored["segment"])
            return cls(str(stored["encoder"]), None if segment < 0 else segment, stored["ids"], stored["distances"])

    def _sort(self, ids: Ids, distances: Distances) -> Self:
        order = np.lexsort((ids, -distances))
        return replace(self, ids=ids[order], distances=distances[order])


def compute_outlier_ranking(
    snapshot: Snapshot, stop_event: threading.Event, is_busy: Callable[[], bool]
) -> OutlierRanking | None:
    """The ranking of these vectors; None if it was told to stop. In a thread of its own, of which it takes one core.

    Rests as long as it works while others search.
    """
    use_single_search_thread()
    ids = snapshot.get_live_ids()
    distances = np.empty(len(ids))
    for start in range(0, len(ids), OUTLIER_BATCH_SIZE):
        began = time.monotonic()
        part, vectors = snapshot.get_vectors(ids[start : start + OUTLIER_BATCH_SIZE])
        distances[start : start + OUTLIER_BATCH_SIZE] = _compute_outlier_distances(part, vectors, snapshot)
        if stop_event.wait(min(time.monotonic() - began, 1.0) if is_busy() else 0):
            return None
    made = OutlierRanking(snapshot.encoder.fingerprint, snapshot.base_segment_id, ids, distances)
    return made._sort(ids, distances)


def _compute_outlier_distances(ids: Ids, vectors: FloatArray, snapshot: Snapshot) -> Distances:
    """The distance (m,) of each to its k-th nearest other; to the farthest, where there are fewer; 0 for a lone one."""
    found = snapshot.search(vectors, OUTLIER_NEIGHBOUR_RANK + 1)
    apart = np.zeros(len(ids))
    for place, (near, distances) in enumerate(found):
        others = distances[near != ids[place]][:OUTLIER_NEIGHBOUR_RANK]
        apart[place] = others[-1] if len(others) else 0.0
    return apart
