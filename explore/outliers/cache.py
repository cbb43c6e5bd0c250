"""The stored outliers of a collection: HOME/gauges/<encoder>-<segment>-outliers.npz.

They are measured in the background (search/background.py), once for all processes of a service and for its next start.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from simile.core.arrays import read_arrays, write_arrays
from simile.explore.outliers.detector import Outlier, find_outliers
from simile.search.background import CacheEntry
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids
from simile.store.index.snapshot import Snapshot

MAX_STORED_OUTLIERS = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class OutlierListing(CacheEntry):
    """The first MAX_STORED_OUTLIERS outliers of a collection, the highest score first."""

    suffix: ClassVar = "-outliers.npz"

    changes: int  # state of the catalogue
    ids: Ids  # ids (n,) of all scored images, ascending
    neighbour: int  # the k of the k-th neighbour
    outliers: Sequence[Outlier]

    def fits(self, snapshot: Snapshot) -> bool:
        """Return whether the listing is of exactly these images; their metadata may have changed since."""
        if self.changes == snapshot.state.changes:
            return True
        return len(self.ids) == len(snapshot) and np.array_equal(self.ids, snapshot.get_live_ids())

    def save(self, path: Path) -> None:
        """Write the listing as an .npz file without pickles."""
        about = {name: getattr(self, name) for name in ("encoder", "segment", "changes", "neighbour")}
        outliers = [asdict(outlier) for outlier in self.outliers]
        write_arrays(path, about=json.dumps(about), ids=self.ids, outliers=json.dumps(outliers))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a listing. Raises one of ARRAY_FILE_ERRORS for any other file."""
        stored = read_arrays(path)
        outliers = [Outlier(**fields) for fields in json.loads(str(stored["outliers"]))]
        return cls(**json.loads(str(stored["about"])), ids=stored["ids"], outliers=outliers)


def measure_outliers(searcher: Searcher, snapshot: Snapshot, stop_event: threading.Event) -> OutlierListing | None:
    """Measure the outliers of the current collection. Raises TooFewPictures, NothingIndexed.

    None if the event was set, or the active encoder has changed. Measurements of single images are kept.
    """

    def check_stop_event(_stage: str, _done: int, _total: int) -> None:
        if stop_event.is_set():
            raise _MeasurementStopped

    changes = searcher.catalogue.get_state().changes
    try:
        outliers, scores = find_outliers(searcher, MAX_STORED_OUTLIERS, check_stop_event)
    except _MeasurementStopped:
        return None
    encoder = snapshot.encoder.fingerprint
    if searcher.catalogue.get_state().active_encoder != encoder:
        return None
    return OutlierListing(
        encoder=encoder,
        segment=snapshot.base_segment_id,
        changes=changes,
        ids=np.sort(scores.ids),
        neighbour=scores.neighbour,
        outliers=outliers,
    )


class _MeasurementStopped(Exception):
    """The stop event was set."""
