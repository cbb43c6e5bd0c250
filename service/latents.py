"""What the service keeps of the latent space between requests: what takes longer than a step of a slider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from core.errors import BeingComputed, SimileError
from explore.generation import Mixture, mixture_of
from explore.outliers import Judged, Outlier, find_outliers
from explore.traversal import Reach, reach_of
from search.searcher import Searcher

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, int | None]  # the encoder, and the segment: what is newer changes little
LISTED = 1000  # outliers


class _Closed(Exception):
    """The service is about to stop."""


class Latents:
    """Of one home. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Key, Any]] = {}
        self._at_work: threading.Thread | None = None
        self._failed: tuple[Key, SimileError] | None = None
        self._closing = threading.Event()

    def reach(self, searcher: Searcher) -> Reach:
        """How far each dimension reaches. Raises NothingIndexed."""
        return self._once(searcher, "reach", lambda: reach_of(searcher))

    def mixture(self, searcher: Searcher) -> Mixture:
        """Gaussians fitted to the collection. Raises TooFewPictures, NothingIndexed."""
        return self._once(searcher, "mixture", lambda: mixture_of(searcher, 0))

    def outliers(self, searcher: Searcher) -> tuple[list[Outlier], Judged]:
        """The pictures least like the rest, at most LISTED; measured behind the searches.

        Raises BeingComputed until then, NothingIndexed, TooFewPictures.
        """
        key = _key(searcher)
        with self._lock:
            kept = self._kept.get("outliers")
            if kept is not None and kept[0] == key:
                found: tuple[list[Outlier], Judged] = kept[1]
                return found
            if self._failed is not None and self._failed[0] == key:
                failed, self._failed = self._failed[1], None
                raise failed
            if self._at_work is None or not self._at_work.is_alive():
                self._at_work = threading.Thread(
                    target=self._find_outliers, args=(searcher, key), name="outliers", daemon=True
                )
                self._at_work.start()
        raise BeingComputed("Which pictures are least like the rest is being measured. Ask again in some seconds.")

    def close(self) -> None:
        """Ends what is being measured: what was measured so far is kept on the disk."""
        self._closing.set()
        if self._at_work is not None:
            self._at_work.join()

    def _find_outliers(self, searcher: Searcher, key: Key) -> None:
        try:
            found = find_outliers(searcher, LISTED, self._look_up)
        except _Closed:
            return
        except SimileError as error:
            self._failed = key, error
        except Exception:
            log.exception("the outliers could not be measured")
        else:
            with self._lock:
                self._kept["outliers"] = key, found

    def _look_up(self, _stage: str, _done: int, _total: int) -> None:
        """Told of every step of a long piece of work."""
        if self._closing.is_set():
            raise _Closed

    def _once(self, searcher: Searcher, name: str, make: Callable[[], T]) -> T:
        key = _key(searcher)
        kept = self._kept.get(name)
        if kept is not None and kept[0] == key:
            found: T = kept[1]
            return found
        made = make()
        self._kept[name] = key, made
        return made


def _key(searcher: Searcher) -> Key:
    snapshot = searcher.index.current()
    return snapshot.encoder.fingerprint, snapshot.base
