"""Cache of latent-space data that takes too long to compute for each request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from simile.core.errors import BeingComputed, HomeError, SimileError
from simile.explore.latent.sampling import LatentMixture, MixtureBasis, get_mixture
from simile.explore.latent.traversal import LatentRange, measure_latent_range
from simile.explore.outliers.cache import OutlierListing, measure_outliers
from simile.explore.outliers.detector import check_enough_images
from simile.search.background import BackgroundCache
from simile.search.searcher import Searcher
from simile.store.database.transactions import CatalogueState
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

T = TypeVar("T")


class SnapshotCache(Generic[T]):
    """A value that is computed from all vectors of the active encoder, and again when the collection changes a lot."""

    def __init__(self, compute: Callable[[Searcher], T]) -> None:
        self._compute = compute
        self._compute_lock = threading.Lock()  # a mixture takes seconds of all cores: only one thread fits it
        self._entry: tuple[MixtureBasis, T] | None = None

    def get(self, searcher: Searcher) -> T:
        """Return the cached value, or compute it."""
        with self._compute_lock:
            snapshot = searcher.index.get_snapshot()
            basis = MixtureBasis(snapshot.encoder.fingerprint, snapshot.base_segment_id or 0, len(snapshot))
            if self._entry is None or not self._entry[0].is_compatible(basis):
                self._entry = basis, self._compute(searcher)
            return self._entry[1]


class LatentCache:
    """Latent-space data of one home. Thread-safe."""

    def __init__(self) -> None:
        self._range_cache, self._mixture_cache = SnapshotCache(measure_latent_range), SnapshotCache(get_mixture)
        self._lock = threading.Lock()
        self._outlier_cache: BackgroundCache[OutlierListing] | None = None
        self._last_failure: tuple[CatalogueState, SimileError] | None = None

    def get_ranges(self, searcher: Searcher) -> LatentRange:
        """Return the range of each dimension. Raises NothingIndexed."""
        return self._range_cache.get(searcher)

    def get_mixture(self, searcher: Searcher) -> LatentMixture:
        """Return the mixture fitted to the collection. Raises TooFewPictures, NothingIndexed."""
        return self._mixture_cache.get(searcher)

    def get_outliers(self, searcher: Searcher) -> OutlierListing:
        """Return the outliers, without deleted images. They are measured in the background, and stored.

        After a change of the collection they are measured again; until then the previous ones are returned.

        Raises:
            BeingComputed: They were never measured before.
            NothingIndexed, TooFewPictures.
        """
        snapshot = searcher.index.get_snapshot()
        check_enough_images(searcher, len(snapshot))
        known = self._get_outlier_cache(searcher).get(snapshot)
        if known is not None:
            existing = searcher.catalogue.images.get_many([outlier.image_id for outlier in known.outliers])
            return replace(known, outliers=[outlier for outlier in known.outliers if outlier.image_id in existing])
        if self._last_failure is not None and self._last_failure[0] == snapshot.state:
            raise self._last_failure[1]
        raise BeingComputed("The outliers are being measured. Try again in a few seconds.")

    def close(self) -> None:
        """Stop the measurement in the background. Measurements of single images stay on disk."""
        if self._outlier_cache is not None:
            self._outlier_cache.close()

    def _get_outlier_cache(self, searcher: Searcher) -> BackgroundCache[OutlierListing]:
        with self._lock:
            if self._outlier_cache is None:
                measure = partial(self._measure_outliers, searcher)
                self._outlier_cache = BackgroundCache(searcher.home, OutlierListing, measure, compute_on_demand=True)
            return self._outlier_cache

    def _measure_outliers(
        self, searcher: Searcher, snapshot: Snapshot, stopping: threading.Event
    ) -> OutlierListing | None:
        """Measure the outliers; a failed measurement is not repeated until the catalogue changes."""
        if self._last_failure is not None and self._last_failure[0] == snapshot.state:
            return None
        try:
            return measure_outliers(searcher, snapshot, stopping)
        except SimileError as error:
            self._last_failure = snapshot.state, error
        except Exception:  # any failure is shown to the user, and must not be repeated at every request
            log.exception("outlier measurement failed")
            failure = HomeError("The outliers could not be measured; see the log of the service.")
            self._last_failure = snapshot.state, failure
        return None
