"""What the service keeps of the latent space between requests: what takes longer than a step of a slider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from simile.core.errors import BeingComputed, HomeError, SimileError
from simile.explore.latent.sampling import LatentMixture, MixtureBasis, get_mixture
from simile.explore.latent.traversal import LatentRange, measure_latent_range
from simile.explore.outliers.cache import OutlierListing, make_outlier_cache_spec
from simile.explore.outliers.detector import check_enough_images
from simile.search.background import BackgroundCache, CacheSpec
from simile.search.searcher import Searcher
from simile.store.database.transactions import CatalogueState
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

T = TypeVar("T")


class SnapshotCache(Generic[T]):
    """Something that holds for the vectors of one encoder until these have grown or shrunk a good deal."""

    def __init__(self, compute: Callable[[Searcher], T]) -> None:
        self._compute = compute
        self._compute_lock = threading.Lock()  # a mixture takes seconds of all cores: nobody makes it twice
        self._entry: tuple[MixtureBasis, T] | None = None

    def get(self, searcher: Searcher) -> T:
        """What was made, or is made now."""
        with self._compute_lock:
            snapshot = searcher.index.get_snapshot()
            stand = MixtureBasis(snapshot.encoder.fingerprint, snapshot.base_segment_id or 0, len(snapshot))
            if self._entry is None or not self._entry[0].is_compatible(stand):
                self._entry = stand, self._compute(searcher)
            return self._entry[1]


class LatentCache:
    """Of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._range_cache, self._mixture_cache = SnapshotCache(measure_latent_range), SnapshotCache(get_mixture)
        self._lock = threading.Lock()
        self._outlier_cache: BackgroundCache[OutlierListing] | None = None
        self._last_failure: tuple[CatalogueState, SimileError] | None = None

    def get_ranges(self, searcher: Searcher) -> LatentRange:
        """How far each dimension reaches. Raises NothingIndexed."""
        return self._range_cache.get(searcher)

    def get_mixture(self, searcher: Searcher) -> LatentMixture:
        """Gaussians fitted to the collection. Raises TooFewPictures, NothingIndexed."""
        return self._mixture_cache.get(searcher)

    def get_outliers(self, searcher: Searcher) -> OutlierListing:
        """The pictures least like the rest, of those that are still there; measured behind the searches, and kept.

        After a change they are measured anew, and until then listed as before.
        Raises BeingComputed while nothing is known, NothingIndexed, TooFewPictures.
        """
        snapshot = searcher.index.get_snapshot()
        check_enough_images(searcher, len(snapshot))
        known = self._get_outlier_cache(searcher).get(snapshot)
        if known is not None:
            there = searcher.catalogue.images.get_many([one.image_id for one in known.outliers])
            return replace(known, outliers=[one for one in known.outliers if one.image_id in there])
        if self._last_failure is not None and self._last_failure[0] == snapshot.state:
            raise self._last_failure[1]
        raise BeingComputed("Which pictures are least like the rest is being measured. Ask again in some seconds.")

    def close(self) -> None:
        """Ends what is being measured: what was measured so far is kept on the disk."""
        if self._outlier_cache is not None:
            self._outlier_cache.close()

    def _get_outlier_cache(self, searcher: Searcher) -> BackgroundCache[OutlierListing]:
        with self._lock:
            if self._outlier_cache is None:
                kind = make_outlier_cache_spec(searcher)
                self._outlier_cache = BackgroundCache(
                    searcher.home, replace(kind, measure=self._make_guarded_measure(kind)), compute_on_demand=True
                )
            return self._outlier_cache

    def _make_guarded_measure(
        self, spec: CacheSpec[OutlierListing]
    ) -> Callable[[Snapshot, threading.Event], OutlierListing | None]:
        """The same, but what failed is not tried again before something has changed."""

        def measure(snapshot: Snapshot, stopping: threading.Event) -> OutlierListing | None:
            if self._last_failure is not None and self._last_failure[0] == snapshot.state:
                return None
            try:
                return spec.measure(snapshot, stopping)
            except SimileError as error:
                self._last_failure = snapshot.state, error
            except Exception:
                log.exception("the outliers could not be measured")
                said = HomeError("The outliers could not be measured; the log of the service says why.")
                self._last_failure = snapshot.state, said
            return None

        return measure
