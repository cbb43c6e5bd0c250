"""What the service keeps of the latent space between requests: what takes longer than a step of a slider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from core.errors import BeingComputed, HomeError, SimileError
from explore.generation import mixture_of
from explore.mixture_files import Mixture, Stand
from explore.outliers import Judged, Outlier, find_outliers
from explore.traversal import Reach, reach_of
from search.searcher import Searcher
from store.records import State

log = logging.getLogger(__name__)

T = TypeVar("T")
LISTED = 1000  # outliers


class _Closed(Exception):
    """The service is about to stop."""


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
        self._outliers: tuple[State, tuple[list[Outlier], Judged]] | None = None
        self._failed: tuple[State, SimileError] | None = None
        self._at_work: threading.Thread | None = None
        self._closing = threading.Event()

    def reach(self, searcher: Searcher) -> Reach:
        """How far each dimension reaches. Raises NothingIndexed."""
        return self._reaches.get(searcher)

    def mixture(self, searcher: Searcher) -> Mixture:
        """Gaussians fitted to the collection. Raises TooFewPictures, NothingIndexed."""
        return self._mixtures.get(searcher)

    def outliers(self, searcher: Searcher) -> tuple[list[Outlier], Judged]:
        """The pictures least like the rest, at most LISTED; measured behind the searches.

        After a change they are measured anew, and until then those that are still there are listed as before.
        Raises BeingComputed while nothing is known, NothingIndexed, TooFewPictures.
        """
        state = searcher.index.current().state
        with self._lock:
            known, failed = self._outliers, self._failed
            if known is not None and known[0].active_encoder != state.active_encoder:
                known = None
            fresh = known is not None and known[0] == state
            if not fresh and (failed is None or failed[0] != state):
                self._begin(searcher, state)
        if known is not None:
            listed, judged = known[1]
            there = searcher.catalogue.images([one.image_id for one in listed])
            return [one for one in listed if one.image_id in there], judged
        if failed is not None and failed[0] == state:
            raise failed[1]
        raise BeingComputed("Which pictures are least like the rest is being measured. Ask again in some seconds.")

    def close(self) -> None:
        """Ends what is being measured: what was measured so far is kept on the disk."""
        self._closing.set()
        if self._at_work is not None:
            self._at_work.join()

    def _begin(self, searcher: Searcher, state: State) -> None:
        if self._at_work is None or not self._at_work.is_alive():
            self._at_work = threading.Thread(
                target=self._find_outliers, args=(searcher, state), name="outliers", daemon=True
            )
            self._at_work.start()

    def _find_outliers(self, searcher: Searcher, state: State) -> None:
        try:
            found = find_outliers(searcher, LISTED, self._look_up)
        except _Closed:
            return
        except SimileError as error:
            with self._lock:
                self._failed = state, error
        except Exception:
            log.exception("the outliers could not be measured")
            with self._lock:
                self._failed = state, HomeError("The outliers could not be measured; the log of the service says why.")
        else:
            with self._lock:
                self._outliers = state, found

    def _look_up(self, _stage: str, _done: int, _total: int) -> None:
        """Told of every step of a long piece of work."""
        if self._closing.is_set():
            raise _Closed
