"""Check whether the process can answer searches, and update the metrics of the index."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simile.core.errors import SimileError
from simile.service.middleware.limits import UploadLimiter
from simile.service.observability.metrics import ServiceMetrics
from simile.service.state.searcher_provider import SearcherProvider

logger = logging.getLogger(__name__)

_PATH_PATTERN = re.compile(r"\S*/\S+")
INDEX_REFRESH_SECONDS = 15.0  # between two updates of the index metrics


class NotReady(Exception):
    """Searches cannot be answered now; the message has the reasons."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(" ".join(reasons))


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
        """Return the encoder's fingerprint as `encoder` and the number of images as `images`. Raises NotReady."""
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
            raise NotReady(reasons)
        self._logged_reason = ""
        return state

    def _log_reason(self, reason: str) -> None:
        """Log a reason once, not at each request of a health check."""
        if reason != self._logged_reason:
            self._logged_reason = reason
            logger.warning("not ready: %s", reason)

    def preload(self) -> None:
        """Load the encoder, then update the metrics; errors are left to the first request."""
        try:
            self.searcher_provider.preload()
        finally:
            self.loaded_event.set()
        self.update_index_metrics()

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
        details = {} if segment is None else segment.details
        self.metrics.set_index_metrics(
            images=images,
            pending=snapshot.pending_count,
            rows=0 if segment is None else segment.rows,
            recall=float(details.get("recall") or 1.0),
            encoder=snapshot.encoder.fingerprint,
            kind="none" if segment is None else segment.kind,
        )

    def watch(self) -> None:
        """Load the encoder, then update the metrics regularly until `stop_event` is set; runs in a thread."""
        self.preload()
        while not self.stop_event.wait(INDEX_REFRESH_SECONDS):
            self.update_index_metrics()
