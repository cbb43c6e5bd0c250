"""Measure the quality of indexed images that have none, without embedding them (`simile quality --measure`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from simile.core.records import Failure, ImageQuality, OnProgress
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.loader import decode_files, measure_file
from simile.images.sources.sources import is_path_missing
from simile.indexer.pipeline.metadata import read_in_workers
from simile.indexer.pipeline.plan import Spool
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.database.transactions import split_chunks
from simile.store.home import Home

BATCH_SIZE = 500  # images in a transaction
CHANGED_REASON = "the file has changed since it was indexed; run `simile index`"


class _Task(NamedTuple):
    image_id: int
    sha256: str
    path: str


@dataclass(kw_only=True)
class MeasurementSummary:
    """Counts of images: `measured` in this run; `missing`: without a file that exists."""

    measured: int = 0
    missing: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def measure_quality_of_images(
    settings: Settings, on_progress: OnProgress = lambda _stage, _done, _total: None, *, wait: float = 0.0
) -> MeasurementSummary:
    """Measure the images of the home that were not measured, and compute the limits of the issues again.

    Each batch is stored when it is measured: after an interruption the next run continues there. `wait`: seconds to
    wait for a home that is in use.

    Raises NothingIndexed, HomeBusy, HomeNotWritable, WorkersFailed, ObjectsUnavailable.
    """
    home = Home.from_settings(settings)
    if schema.read_revision(home) is None:
        schema.check_schema(home)  # says what to do
    with home.lock("simile quality --measure", wait=wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            summary, start = MeasurementSummary(), time.monotonic()
            tasks = Spool(_select_tasks(catalogue, summary))
            done = 0
            for batch in split_chunks(_measure(tasks, settings), BATCH_SIZE):
                _store(catalogue, batch, summary)
                done += len(batch)
                on_progress("measuring quality", done, len(tasks))
            catalogue.quality.update_limits()
            summary.seconds = round(time.monotonic() - start, 3)
            return summary


def _select_tasks(catalogue: Catalogue, summary: MeasurementSummary) -> Iterator[_Task]:
    """Yield the first file of each image that was not measured; count images without a file."""
    rows = catalogue.quality.iterate_unmeasured()
    for (image_id, sha256), files in groupby(rows, key=lambda row: (row[0], row[1])):
        paths = [path for _, _, path in files]
        path = next((path for path in paths if not is_path_missing(path)), None)
        if path is None:
            summary.missing += 1
        else:
            yield _Task(image_id, sha256, path)


def _measure(tasks: Spool[_Task], settings: Settings) -> Iterator[tuple[_Task, tuple[str, ImageQuality] | Failure]]:
    """Yield each task with the hash and the quality of its file."""
    limits = Limits.from_settings(settings)
    measure = partial(measure_file, limits=limits)
    return read_in_workers(
        tasks, attrgetter("path"), lambda paths, pool: decode_files(measure, paths, limits, pool), settings
    )


def _store(
    catalogue: Catalogue, batch: Sequence[tuple[_Task, tuple[str, ImageQuality] | Failure]], summary: MeasurementSummary
) -> None:
    found: dict[int, ImageQuality] = {}
    for task, result in batch:
        if isinstance(result, Failure):
            summary.failures.append(result)
        elif result[0] != task.sha256:
            summary.failures.append(Failure(task.path, CHANGED_REASON))
        else:
            found[task.image_id] = result[1]
    catalogue.quality.set_for_images(found)
    summary.measured += len(found)
