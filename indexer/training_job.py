"""`simile train`: walk, train, register, and put into use where nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.settings import Settings
from indexer.training import TrainingRequest, train_encoder
from models.patterns import Patterns
from models.training import Progress
from models.walk import check_sources, walk
from store import schema
from store.catalogue import Catalogue
from store.home import Home


def train_on(
    settings: Settings,
    sources: Sequence[Path],
    request: TrainingRequest,
    on_progress: Callable[[Progress], None],
    patterns: Patterns | None = None,
) -> dict[str, Any]:
    """Trains on the pictures in `sources`; gives the report's head, the folder, and whether it is in use now.

    A home that already holds vectors of another encoder keeps it in use: its vectors can't be compared with these.
    """
    home = Home(settings.home, settings.database_url)
    check_sources(sources)
    with home.lock("simile train"):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            files = walk(sources, [home.encoders, home.segments, home.uploads], patterns).files
            encoder = train_encoder(home, catalogue, settings, files, request, on_progress, roots=sources)
            active = catalogue.active_encoder()
            if active is None or catalogue.count_embeddings(active.fingerprint) == 0:
                catalogue.activate(encoder.fingerprint)
            in_use = catalogue.active_encoder()
    folder = home.encoders / encoder.fingerprint
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    del report["epochs"]
    return {**report, "folder": str(folder), "active": in_use is not None and in_use.fingerprint == encoder.fingerprint}
