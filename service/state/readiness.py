"""What the service knows of itself: whether it can answer, and what it would search."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simile.core.errors import SimileError
from simile.service.middleware.limits import UploadLimiter
from simile.service.observability.metrics import ServiceMetrics
from simile.service.state.searcher_provider import SearcherProvider

INDEX_REFRESH_SECONDS = 15.0  # seconds between two looks at the index


class NotReady(Exception):
    """Searches can't be answered now, for these reasons."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(" ".join(reasons))


@dataclass
class Readiness:
    """One process's knowledge of itself. `prepared`: set when the encoder and its runtime have been loaded."""

    searcher_provider: SearcherProvider
    upload_limiter: UploadLimiter
    metrics: ServiceMetrics
    loaded_event: threading.Event = field(default_factory=threading.Event)
    stop_event: threading.Event = field(default_factory=threading.Event)

    def check(self) -> dict[str, Any]:
        """The encoder's fingerprint and the count of images, both asked for now. Raises NotReady."""
        refusal, found = self.upload_limiter.get_refusal(), None
        reasons = [] if refusal is None else [str(refusal.detail)]
        if not self.loaded_event.is_set():
            reasons.append("The encoder and its runtime are being loaded.")
        else:
            try:
                searcher = self.searcher_provider.get_searcher()
                found = searcher.check_ready()  # loads the encoder, and counts in the catalogue
                len(searcher.index)  # opens the index
            except SimileError as error:
                reasons.append(str(error))
        if reasons or found is None:
            raise NotReady(reasons)
        return found

    def preload(self) -> None:
        """Loads what searches need. What is missing, the first request will say."""
        try:
            self.searcher_provider.preload()
        finally:
            self.loaded_event.set()
        self.update_index_metrics()

    def update_index_metrics(self) -> None:
        """Writes the facts of the index into the figures; says nothing where there is no index yet."""
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
        """Prepares, then notes the facts every now and then, until it ends."""
        self.preload()
        while not self.stop_event.wait(INDEX_REFRESH_SECONDS):
            self.update_index_metrics()
