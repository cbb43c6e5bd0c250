"""Open the Searcher of the process on first use, and check whether it can answer searches."""

from __future__ import annotations

import gc
import logging
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from simile.core.errors import SimileError
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkCost
from simile.images.loading.sandbox import DecodeSandbox
from simile.search.queries import StageObserver
from simile.search.searcher import Searcher
from simile.service.errors import ProblemException
from simile.service.middleware.limits import UploadLimiter
from simile.service.observability.metrics import ServiceMetrics
from simile.store.database.transactions import SERVICE_REPEAT_SECONDS

logger = logging.getLogger(__name__)

_PATH_PATTERN = re.compile(r"\S*/\S+")
INDEX_REFRESH_SECONDS = 15.0  # between two updates of the index metrics


class SearcherProvider:
    """Holds the Searcher of the process, which the first request to an indexed home opens.

    The service can start before the first `simile index`; until then its responses say what is missing.
    """

    def __init__(self, settings: Settings, observe: StageObserver, *, background: bool = False) -> None:
        """Create the provider; `observe` and `background` as in Searcher."""
        self.searcher: Searcher | None = None
        self._settings, self._observe, self._background = settings, observe, background
        self._open_lock = threading.Lock()
        # No request waits longer than answer_seconds, although indexing may.
        seconds = min(settings.decode_seconds, settings.answer_seconds)
        cost = WorkCost(seconds, settings.upload_memory, settings.upload_cpu_seconds)
        self.sandbox = DecodeSandbox(settings.workers, cost, Limits.from_settings(settings))

    def get_searcher(self) -> Searcher:
        """Return the Searcher. Raises NothingIndexed without a catalogue, HomeOutdated, HomeTooNew."""
        with self._open_lock:
            if self.searcher is None:
                self.searcher = Searcher(
                    self._settings,
                    observe=self._observe,
                    background=self._background,
                    decode_upload=self.sandbox.run,
                    decode_indexed=self.sandbox.run_indexed,
                )
                self.searcher.catalogue.repeat_seconds = SERVICE_REPEAT_SECONDS
            return self.searcher

    def close(self) -> None:
        """Close the Searcher, if it was opened."""
        self.sandbox.close()
        if self.searcher is not None:
            self.searcher.close()


@dataclass(kw_only=True)
class Readiness:
    """The readiness of one process.

    Attributes:
        loaded_event: Set when the encoder and its runtime have been loaded.
        stop_event: Set to end `watch`.
    """

    searcher_provider: SearcherProvider
    upload_limiter: UploadLimiter
    metrics: ServiceMetrics
    loaded_event: threading.Event = field(default_factory=threading.Event)
    stop_event: threading.Event = field(default_factory=threading.Event)
    _logged_reason: str = ""

    def check(self) -> dict[str, Any]:
        """Return the encoder's fingerprint as `encoder` and the number of images as `images`.

        Raises:
            ProblemException: Searches cannot be answered now; 503 with all reasons.
        """
        refusal, state = self.upload_limiter.get_refusal(), None
        reasons = [] if refusal is None else [str(refusal.detail)]
        if not self.loaded_event.is_set():
            reasons.append("The encoder and its runtime are being loaded.")
        else:
            try:
                searcher = self.searcher_provider.get_searcher()
                state = searcher.check_ready()  # loads the encoder, and counts in the catalogue
                len(searcher.index)  # opens the index
            except SimileError as error:
                self._log_reason(str(error))
                reasons.append(_PATH_PATTERN.sub("(path in the log)", str(error)))  # anyone may ask for the readiness
        if reasons or state is None:
            raise ProblemException(503, "not-ready", " ".join(reasons), retry_after=1)
        self._logged_reason = ""
        return state

    def _log_reason(self, reason: str) -> None:
        """Log a reason once, not at each request of a health check."""
        if reason != self._logged_reason:
            self._logged_reason = reason
            logger.warning("not ready: %s", reason)

    def update_index_metrics(self) -> None:
        """Update the metrics of the index; without an index they stay unchanged."""
        try:
            searcher = self.searcher_provider.get_searcher()
            snapshot = searcher.index.get_snapshot()
            segment = (
                None if snapshot.base_segment_id is None else searcher.catalogue.segments.find(snapshot.base_segment_id)
            )
            images = searcher.count_images()
        except SimileError:
            return
        self.metrics.set_index_metrics(
            images=images,
            pending=snapshot.pending_count,
            rows=0 if segment is None else segment.rows,
            recall=1.0 if segment is None else float(segment.details.get("recall") or 1.0),
            encoder=snapshot.encoder.fingerprint,
            kind="none" if segment is None else segment.kind,
        )

    def watch(self) -> None:
        """Load the encoder, then update the metrics regularly until `stop_event` is set; runs in a thread."""
        try:
            with suppress(SimileError):  # left to the first request
                self.searcher_provider.sandbox.start()
                self.searcher_provider.get_searcher().get_encoder().start_runtimes()
            # The libraries have a million objects that stay: a garbage collection of all would stop the event loop.
            gc.collect()
            gc.freeze()
        finally:
            self.loaded_event.set()
        self.update_index_metrics()
        while not self.stop_event.wait(INDEX_REFRESH_SECONDS):
            self.update_index_metrics()
