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
from simile.models.training.loop import Progress
from simile.search.contact_sheet import write_sheet
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageRecord
from simile.store.database import schema
from simile.store.home import Home

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
    _refuse_other_pictures(settings, images or settings.home / dataset)
    photos = images or write_pictures(settings.home, dataset)
    request = IndexRequest(minutes=minutes, on_training=on_training, on_progress=on_progress)
    summary = index(settings, [photos], request)
    sheet = settings.home / "searches.png"
    with Searcher(settings) as searcher:
        records = [record for record in searcher.images(limit=searcher.count()) if _is_there(record)]
        chosen = np.random.default_rng(SEED).choice(len(records), min(SEARCHES, len(records)), replace=False)
        answers = [(searcher.by_id(records[n].id, limit=HITS), searcher.pixels(records[n].id)) for n in chosen]
        write_sheet(searcher, answers, sheet)
        # The page is fast from the first search on.
        searcher.encoder().prepare()
    return sheet, summary


def _refuse_other_pictures(settings: Settings, photos: Path) -> None:
    """Raises BadSetting where the home was made of other pictures: its encoder knows nothing of these."""
    home = Home(settings.home, settings.database_url)
    if schema.revision(home) != schema.HEAD:
        return
    with Catalogue(home) as catalogue:
        if catalogue.count_images() and not catalogue.known_locations([os.path.abspath(photos)]):  # noqa: PTH100  # as in walk()
            raise BadSetting(f"{home.root} holds a demo of other pictures. Name another folder with --home.")


def _is_there(record: ImageRecord) -> bool:
    return any(Path(path).is_file() for path in record.paths)


def write_pictures(home: Path, dataset: str) -> Path:
    """The dataset as files below the demo's home; gives their folder."""
    folder = home / dataset
    if dataset == "digits":
        write_digits(folder)
    else:
        write_dataset(dataset, folder, home / "downloads")
    return folder
