"""What the service knows of itself: whether it can answer, and what it would search."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simile.core.errors import SimileError
from simile.service.middleware.limits import House
from simile.service.observability.metrics import Metrics
from simile.service.state.searcher_provider import Door

EVERY = 15.0  # seconds between two looks at the index


class NotReady(Exception):
    """Searches can't be answered now, for these reasons."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(" ".join(reasons))


@dataclass
class Facts:
    """One process's knowledge of itself. `prepared`: set when the encoder and its runtime have been loaded."""

    door: Door
    house: House
    metrics: Metrics
    prepared: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def ready(self) -> dict[str, Any]:
        """The encoder's fingerprint and the count of images, both asked for now. Raises NotReady."""
        refusal, found = self.house.refusal(), None
        reasons = [] if refusal is None else [str(refusal.detail)]
        if not self.prepared.is_set():
            reasons.append("The encoder and its runtime are being loaded.")
        else:
            try:
                searcher = self.door.open()
                found = searcher.ready()  # loads the encoder, and counts in the catalogue
                len(searcher.index)  # opens the index
            except SimileError as error:
                reasons.append(str(error))
        if reasons or found is None:
            raise NotReady(reasons)
        return found

    def prepare(self) -> None:
        """Loads what searches need. What is missing, the first request will say."""
        try:
            self.door.prepare()
        finally:
            self.prepared.set()
        self.note()

    def note(self) -> None:
        """Writes the facts of the index into the figures; says nothing where there is no index yet."""
        try:
            searcher = self.door.open()
            snapshot = searcher.index.current()
            segment = None if snapshot.base is None else searcher.catalogue.segment(snapshot.base)
            images = searcher.count()
        except SimileError:
            return
        details = {} if segment is None else segment.details
        self.metrics.note_index(
            images=images,
            pending=snapshot.pending,
            rows=0 if segment is None else segment.rows,
            recall=float(details.get("recall") or 1.0),
            encoder=snapshot.encoder.fingerprint,
            kind="none" if segment is None else segment.kind,
        )

    def watch(self) -> None:
        """Prepares, then notes the facts every now and then, until it ends."""
        self.prepare()
        while not self.ended.wait(EVERY):
            self.note()
