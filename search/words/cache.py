"""The vocabulary of a home: learned when a text asks for it, stored, and learned again after a change."""

from __future__ import annotations

import threading
import time

from simile.core.errors import BeingComputed
from simile.search.background import BackgroundCache
from simile.search.words.vocabulary import Vocabulary
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.snapshot import Snapshot

MIN_AGE_SECONDS = 30.0  # of a vocabulary that a service replaces: indexing changes the catalogue many times a minute
WAIT_SECONDS = 20.0  # for the first vocabulary


class VocabularyCache:
    """Gives the vocabulary of a snapshot. Safe to share between threads.

    Args:
        background: Return the previous vocabulary while a new one is learned. Otherwise `get` waits for the new one.
    """

    def __init__(self, catalogue: Catalogue, *, background: bool) -> None:
        self._catalogue = catalogue
        self._cache = BackgroundCache(catalogue.home, Vocabulary, self._learn, compute_on_demand=False)
        self._background = background
        self._known: Vocabulary | None = None
        self._next_check = 0.0  # time.monotonic()
        self._lock = threading.Lock()

    def get(self, snapshot: Snapshot) -> Vocabulary:
        """Return the vocabulary; waits for it if there is none yet. Raises BeingComputed if that takes too long."""
        with self._lock:
            known = self._known
            is_recent = self._background and time.monotonic() < self._next_check
            if (
                known is not None
                and known.encoder == snapshot.encoder.fingerprint
                and (is_recent or known.fits(snapshot))
            ):
                return known
            self._next_check = time.monotonic() + MIN_AGE_SECONDS
            known = self._cache.get(snapshot)
        if known is None or not known.fits(snapshot):
            self._cache.start(snapshot)
        if known is None or not (self._background or known.fits(snapshot)):
            self._cache.wait(WAIT_SECONDS if self._background else None)
            known = self._cache.get(snapshot)
        if known is None:
            raise BeingComputed("The words of this collection are being learned. Try again in a few seconds.")
        self._known = known
        return known

    def find(self, snapshot: Snapshot) -> Vocabulary | None:
        """Return the vocabulary that was learned last, if any."""
        return self._cache.get(snapshot)

    def close(self) -> None:
        """Stop learning."""
        self._cache.close()

    def _learn(self, snapshot: Snapshot, stop_event: threading.Event) -> Vocabulary | None:
        from simile.search.words.fit import learn_words  # noqa: PLC0415  # scikit-learn takes a second

        return learn_words(self._catalogue, snapshot, stop_event)
