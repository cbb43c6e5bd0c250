"""The demo: pictures, training, index and three searches, without a question asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.models.demo_datasets import write_dataset, write_digits
from simile.models.training.loop import TrainingProgress
from simile.search.contact_sheet import write_contact_sheet
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageRecord
from simile.store.database import schema
from simile.store.home import Home

DEMO_SEARCHES, DEMO_HITS, DEMO_SEED = 3, 8, 4


def run_demo(
    settings: Settings,
    dataset: str,
    images: Path | None,
    minutes: float,
    on_training: Callable[[TrainingProgress], None],
    on_progress: Callable[[IndexSummary, int], None],
) -> tuple[Path, IndexSummary]:
    """Makes the demo's home and gives the contact sheet's path. Run again, it goes on from what is there."""
    _check_same_images(settings, images or settings.home / dataset)
    photos = images or write_demo_images(settings.home, dataset)
    request = IndexRequest(minutes=minutes, on_training=on_training, on_progress=on_progress)
    summary = index(settings, [photos], request)
    sheet = settings.home / "searches.png"
    with Searcher(settings) as searcher:
        records = [record for record in searcher.list_images(limit=searcher.count_images()) if _has_file(record)]
        chosen = np.random.default_rng(DEMO_SEED).choice(len(records), min(DEMO_SEARCHES, len(records)), replace=False)
        answers = [(searcher.by_id(records[n].id, limit=DEMO_HITS), searcher.get_pixels(records[n].id)) for n in chosen]
        write_contact_sheet(searcher, answers, sheet)
        # The page is fast from the first search on.
        searcher.get_encoder().start_runtimes()
    return sheet, summary


def _check_same_images(settings: Settings, source: Path) -> None:
    """Raises BadSetting where the home was made of other pictures: its encoder knows nothing of these."""
    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) != schema.HEAD_REVISION:
        return
    with Catalogue(home) as catalogue:
        if catalogue.images.count() and not catalogue.files.find_under([os.path.abspath(source)]):  # noqa: PTH100  # as in walk()
            raise BadSetting(f"{home.root} holds a demo of other pictures. Name another folder with --home.")


def _has_file(record: ImageRecord) -> bool:
    return any(Path(path).is_file() for path in record.paths)


def write_demo_images(home: Path, dataset: str) -> Path:
    """The dataset as files below the demo's home; gives their folder."""
    folder = home / dataset
    if dataset == "digits":
        write_digits(folder)
    else:
        write_dataset(dataset, folder, home / "downloads")
    return folder
