"""The one way from the service into the home."""

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
    """The one Searcher of the process, opened by the first request that finds a home to search.

    So a service may start before the first `simile index`: until then its answers say what is missing.
    """

    def __init__(self, settings: Settings, observe: StageObserver, *, background: bool = False) -> None:
        """observe, background: see Searcher."""
        self.settings = settings
        self.searcher: Searcher | None = None
        self._observe, self._background = observe, background
        self._open_lock = threading.Lock()
        limits = Limits.from_settings(settings)
        # Nobody waits for an answer longer than that, whatever indexing allows.
        self._sandbox = DecodeSandbox(settings.workers, min(settings.decode_seconds, settings.answer_seconds), limits)

    def get_searcher(self) -> Searcher:
        """The Searcher. Raises NothingIndexed where there is no catalogue yet, HomeOutdated, HomeTooNew."""
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
        """Loads the encoder and its fast runtime. Where something is missing, the first request will say what."""
        with suppress(SimileError):
            self.get_searcher().get_encoder().start_runtimes()

    def close(self) -> None:
        """Closes it, if it was ever opened."""
        self._sandbox.close()
        if self.searcher is not None:
            self.searcher.close()
