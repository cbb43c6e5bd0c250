"""The demo: get images, index them and run three searches, without any input."""

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
from simile.store.database import schema
from simile.store.home import Home

DEMO_SEARCHES, DEMO_HITS, DEMO_SEED = 3, 8, 4


def run_demo(
    settings: Settings,
    dataset: str,
    images: Path | None,
    minutes: float | None,
    on_training: Callable[[TrainingProgress], None],
    on_progress: Callable[[IndexSummary, int], None],
) -> tuple[Path, IndexSummary]:
    """Create the demo's home, or continue with an existing one.

    Args:
        settings: Settings with the demo's home.
        dataset: Name of a demo dataset; not used with `images`.
        images: A folder of own images, or None.
        minutes: Time limit of the training; None to use the shipped encoder.
        on_training: As in IndexRequest.
        on_progress: As in IndexRequest.

    Returns:
        Path of the contact sheet with the searches, and the summary of the indexing run.

    Raises:
        BadSetting: The home holds a demo of other images.
    """
    photos = images or settings.home / dataset
    _check_same_images(settings, photos)
    if images is None and dataset == "digits":
        write_digits(photos)
    elif images is None:
        write_dataset(dataset, photos, settings.home / "downloads")
    request = IndexRequest(minutes=minutes, on_training=on_training, on_progress=on_progress)
    summary = index(settings, [photos], request)
    sheet = settings.home / "searches.png"
    with Searcher(settings) as searcher:
        records = searcher.list_images(limit=searcher.count_images())
        records = [record for record in records if any(Path(path).is_file() for path in record.paths)]
        chosen = np.random.default_rng(DEMO_SEED).choice(len(records), min(DEMO_SEARCHES, len(records)), replace=False)
        results = [(searcher.by_id(records[n].id, limit=DEMO_HITS), searcher.get_pixels(records[n].id)) for n in chosen]
        write_contact_sheet(searcher, results, sheet)
        # So that the web page is fast from the first search on.
        searcher.get_encoder().start_runtimes()
    return sheet, summary


def _check_same_images(settings: Settings, source: Path) -> None:
    """Raise BadSetting if the home holds other images: its encoder was not trained on these."""
    home = Home.from_settings(settings)
    if schema.read_revision(home) != schema.HEAD_REVISION:
        return
    with Catalogue(home) as catalogue:
        if catalogue.images.count() and not catalogue.files.find_under([os.path.abspath(source)]):  # noqa: PTH100  # as in walk()
            raise BadSetting(f"{home.root} holds a demo of other images. Name another folder with --home.")
