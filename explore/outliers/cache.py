"""The outliers of a collection as they are kept: HOME/gauges/<encoder>-<segment>-outliers.npz. Derived, see behind.py.

So several processes of a service measure them once, and one that is started anew has them at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from simile.explore.outliers.detector import Outlier, find_outliers
from simile.search.background import CacheSpec
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids
from simile.store.index.snapshot import Snapshot

MAX_STORED_OUTLIERS = 1000


@dataclass(frozen=True, eq=False)
class OutlierListing:
    """The pictures least like the rest, the strangest first, at most LISTED.

    ids (n,): all that were judged, ascending. changes: where the catalogue stood then. neighbour: the k whose distance
    counts.
    """

    encoder: str
    segment: int | None
    changes: int
    ids: Ids
    neighbour: int
    outliers: Sequence[Outlier]

    def fits(self, images: int) -> bool:
        """Whether it is of so many pictures."""
        return images == len(self.ids)

    def save(self, path: Path) -> None:
        """Writes it as an .npz without pickle."""
        about = {name: getattr(self, name) for name in ("encoder", "segment", "changes", "neighbour")}
        listed = [asdict(one) for one in self.outliers]
        with path.open("wb") as file:
            np.savez(file, about=json.dumps(about), ids=self.ids, outliers=json.dumps(listed))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads it. Raises OSError, EOFError, BadZipFile, KeyError, TypeError or ValueError for anything else."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            listed = [Outlier(**one) for one in json.loads(str(stored["outliers"]))]
            return cls(**json.loads(str(stored["about"])), ids=stored["ids"], outliers=listed)


def is_current(listing: OutlierListing, snapshot: Snapshot) -> bool:
    """Whether just these pictures were judged, though something else may have been said of them since."""
    if listing.changes == snapshot.state.changes:
        return True
    return listing.fits(len(snapshot)) and np.array_equal(listing.ids, snapshot.get_live_ids())


def make_outlier_cache_spec(searcher: Searcher) -> CacheSpec[OutlierListing]:
    """How outliers are measured behind the searches, written and read."""
    return CacheSpec(
        suffix="-outliers.npz",
        measure=lambda snapshot, stop_event: measure_outliers(searcher, snapshot, stop_event),
        save=OutlierListing.save,
        load=OutlierListing.load,
        is_valid=is_current,
    )


def measure_outliers(searcher: Searcher, snapshot: Snapshot, stopping: threading.Event) -> OutlierListing | None:
    """The listing of what is indexed now; None where it was told to stop, or another encoder has come into use.

    What was measured of single pictures until then is kept. Raises TooFewPictures, NothingIndexed.
    """

    def look_up(_stage: str, _done: int, _total: int) -> None:
        if stopping.is_set():
            raise _MeasurementStopped

    changes = searcher.catalogue.get_state().changes
    try:
        found, judged = find_outliers(searcher, MAX_STORED_OUTLIERS, look_up)
    except _MeasurementStopped:
        return None
    encoder = snapshot.encoder.fingerprint
    if searcher.catalogue.get_state().active_encoder != encoder:
        return None
    return OutlierListing(encoder, snapshot.base_segment_id, changes, np.sort(judged.ids), judged.neighbour, found)


class _MeasurementStopped(Exception):
    """Whoever wanted it is about to end."""
