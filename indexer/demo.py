"""The demo: pictures, training, index and three searches, without a question asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.records import IndexSummary
from core.settings import Settings
from indexer.job import IndexRequest, index
from models.datasets import write_dataset, write_digits
from models.training import Progress
from search.searcher import Searcher
from search.sheets import write_sheet

SEARCHES, HITS, SEED = 3, 8, 4


def run_demo(
    settings: Settings,
    dataset: str,
    images: Path | None,
    minutes: float,
    on_training: Callable[[Progress], None],
    on_progress: Callable[[IndexSummary, int], None],
) -> tuple[Path, IndexSummary]:
    """Makes the demo's home and gives the contact sheet's path. Run again, it goes on from what is there."""
    photos = images or write_pictures(settings.home, dataset)
    request = IndexRequest(minutes=minutes, on_training=on_training, on_progress=on_progress)
    summary = index(settings, [photos], request)
    sheet = settings.home / "searches.png"
    with Searcher(settings) as searcher:
        records = searcher.images(limit=searcher.count())
        chosen = np.random.default_rng(SEED).choice(len(records), min(SEARCHES, len(records)), replace=False)
        answers = [(searcher.by_id(records[n].id, limit=HITS), searcher.pixels(records[n].id)) for n in chosen]
        write_sheet(searcher, answers, sheet)
    return sheet, summary


def write_pictures(home: Path, dataset: str) -> Path:
    """The dataset as files below the demo's home; gives their folder."""
    folder = home / dataset
    if dataset == "digits":
        write_digits(folder)
    else:
        write_dataset(dataset, folder, home / "downloads")
    return folder
