"""What the service keeps of the latent space between requests: what takes longer than a step of a slider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from simile.core.errors import BeingComputed, HomeError, SimileError
from simile.explore.latent.sampling import Mixture, Stand, mixture_of
from simile.explore.latent.traversal import Reach, reach_of
from simile.explore.outliers.cache import Listing, listing_kind
from simile.explore.outliers.detector import check_enough
from simile.search.background import Behind, Kind
from simile.search.searcher import Searcher
from simile.store.catalogue.records import State
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Kept(Generic[T]):
    """Something that holds for the vectors of one encoder until these have grown or shrunk a good deal."""

    def __init__(self, make: Callable[[Searcher], T]) -> None:
        self._make = make
        self._making = threading.Lock()  # a mixture takes seconds of all cores: nobody makes it twice
        self._kept: tuple[Stand, T] | None = None

    def get(self, searcher: Searcher) -> T:
        """What was made, or is made now."""
        with self._making:
            snapshot = searcher.index.current()
            stand = Stand(snapshot.encoder.fingerprint, snapshot.base or 0, len(snapshot))
            if self._kept is None or not self._kept[0].is_like(stand):
                self._kept = stand, self._make(searcher)
            return self._kept[1]


class Latents:
    """Of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._reaches, self._mixtures = _Kept(reach_of), _Kept(mixture_of)
        self._lock = threading.Lock()
        self._outliers: Behind[Listing] | None = None
        self._failed: tuple[State, SimileError] | None = None

    def reach(self, searcher: Searcher) -> Reach:
        """How far each dimension reaches. Raises NothingIndexed."""
        return self._reaches.get(searcher)

    def mixture(self, searcher: Searcher) -> Mixture:
        """Gaussians fitted to the collection. Raises TooFewPictures, NothingIndexed."""
        return self._mixtures.get(searcher)

    def outliers(self, searcher: Searcher) -> Listing:
        """The pictures least like the rest, of those that are still there; measured behind the searches, and kept.

        After a change they are measured anew, and until then listed as before.
        Raises BeingComputed while nothing is known, NothingIndexed, TooFewPictures.
        """
        snapshot = searcher.index.current()
        check_enough(searcher, len(snapshot))
        known = self._behind(searcher).current(snapshot)
        if known is not None:
            there = searcher.catalogue.images([one.image_id for one in known.outliers])
            return replace(known, outliers=[one for one in known.outliers if one.image_id in there])
        if self._failed is not None and self._failed[0] == snapshot.state:
            raise self._failed[1]
        raise BeingComputed("Which pictures are least like the rest is being measured. Ask again in some seconds.")

    def close(self) -> None:
        """Ends what is being measured: what was measured so far is kept on the disk."""
        if self._outliers is not None:
            self._outliers.close()

    def _behind(self, searcher: Searcher) -> Behind[Listing]:
        with self._lock:
            if self._outliers is None:
                kind = listing_kind(searcher)
                self._outliers = Behind(searcher.home, replace(kind, measure=self._guarded(kind)), always=True)
            return self._outliers

    def _guarded(self, kind: Kind[Listing]) -> Callable[[Snapshot, threading.Event], Listing | None]:
        """The same, but what failed is not tried again before something has changed."""

        def measure(snapshot: Snapshot, stopping: threading.Event) -> Listing | None:
            if self._failed is not None and self._failed[0] == snapshot.state:
                return None
            try:
                return kind.measure(snapshot, stopping)
            except SimileError as error:
                self._failed = snapshot.state, error
            except Exception:
                log.exception("the outliers could not be measured")
                said = HomeError("The outliers could not be measured; the log of the service says why.")
                self._failed = snapshot.state, said
            return None

        return measure
