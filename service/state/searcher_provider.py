"""Open the Searcher of the process on first use."""

from __future__ import annotations

import threading
from contextlib import suppress

from simile.core.errors import SimileError
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.sandbox import DecodeSandbox
from simile.search.queries import StageObserver
from simile.search.searcher import Searcher


class SearcherProvider:
    """Holds the Searcher of the process, which the first request to an indexed home opens.

    The service can start before the first `simile index`; until then its responses say what is missing.
    """

    def __init__(self, settings: Settings, observe: StageObserver, *, background: bool = False) -> None:
        """Create the provider; `observe` and `background` as in Searcher."""
        self.settings = settings
        self.searcher: Searcher | None = None
        self._observe, self._background = observe, background
        self._open_lock = threading.Lock()
        limits = Limits.from_settings(settings)
        # No request waits longer than answer_seconds, although indexing may.
        self._sandbox = DecodeSandbox(settings.workers, min(settings.decode_seconds, settings.answer_seconds), limits)

    def get_searcher(self) -> Searcher:
        """Return the Searcher. Raises NothingIndexed without a catalogue, HomeOutdated, HomeTooNew."""
        with self._open_lock:
            if self.searcher is None:
                self.searcher = Searcher(
                    self.settings,
                    observe=self._observe,
                    background=self._background,
                    validate_upload=self._sandbox.check,
                )
            return self.searcher

    def preload(self) -> None:
        """Load the encoder and its fast runtime; errors are left to the first request."""
        with suppress(SimileError):
            self.get_searcher().get_encoder().start_runtimes()

    def close(self) -> None:
        """Close the Searcher, if it was opened."""
        self._sandbox.close()
        if self.searcher is not None:
            self.searcher.close()
