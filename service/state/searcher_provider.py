"""The one way from the service into the home."""

from __future__ import annotations

import threading
from contextlib import suppress

from simile.core.errors import SimileError
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.sandbox import Proving
from simile.search.engine import Observe
from simile.search.searcher import Searcher


class Door:
    """The one Searcher of the process, opened by the first request that finds a home to search.

    So a service may start before the first `simile index`: until then its answers say what is missing.
    """

    def __init__(self, settings: Settings, observe: Observe, *, background: bool = False) -> None:
        """observe, background: see Searcher."""
        self.settings = settings
        self.searcher: Searcher | None = None
        self._observe, self._background = observe, background
        self._opening = threading.Lock()
        limits = Limits.from_settings(settings)
        # Nobody waits for an answer longer than that, whatever indexing allows.
        self._proving = Proving(settings.workers, min(settings.decode_seconds, settings.answer_seconds), limits)

    def open(self) -> Searcher:
        """The Searcher. Raises NothingIndexed where there is no catalogue yet, HomeOutdated, HomeTooNew."""
        with self._opening:
            if self.searcher is None:
                self.searcher = Searcher(
                    self.settings, observe=self._observe, background=self._background, prove=self._proving.check
                )
            return self.searcher

    def prepare(self) -> None:
        """Loads the encoder and its fast runtime. Where something is missing, the first request will say what."""
        with suppress(SimileError):
            self.open().encoder().prepare()

    def close(self) -> None:
        """Closes it, if it was ever opened."""
        self._proving.close()
        if self.searcher is not None:
            self.searcher.close()
