"""Read the metadata of indexed photos again, without decoding or embedding them (`simile index --metadata`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, tee
from pathlib import Path
from typing import TypeVar

from simile.core.records import Failure, OnProgress, PhotoMetadata
from simile.core.settings import Settings
from simile.core.signals import stop_on_interrupt
from simile.images.formats import Limits
from simile.images.loading.loader import read_metadata
from simile.images.loading.worker_pool import WorkerPool
from simile.images.metadata.reader import MetadataReader
from simile.images.sources.buckets import UPLOAD_SCHEME
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import ImageSources
from simile.indexer.pipeline.plan import IndexTask, Spool, make_index_plan
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.database.transactions import split_chunks
from simile.store.home import Home

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_SIZE = 500  # files in a transaction


@dataclass(kw_only=True)
class MetadataSummary:
    """Counts of files.

    Attributes:
        read: Files that were read; `described` of them have metadata, `updated` have other metadata than before.
        outdated: New and changed files: they are read when they are indexed.
        missing: Indexed files that no longer exist.
    """

    read: int = 0
    described: int = 0
    updated: int = 0
    outdated: int = 0
    missing: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def files_per_second(self) -> float:
        """Files read each second, rounded to one decimal."""
        return round(self.read / self.seconds, 1) if self.seconds > 0 else 0.0


def update_photo_metadata(
    settings: Settings,
    sources: Sequence[Path | str],
    patterns: PathPatterns,
    on_progress: OnProgress = lambda _stage, _done, _total: None,
    *,
    wait: float = 0.0,
) -> MetadataSummary:
    """Store the photo metadata that the indexed files of the sources, their sidecars and the uploads have now.

    A file that can't be read is listed in the summary, and its stored metadata stay. Each batch is stored when it is
    read. `wait`: seconds to wait for a home that is in use.

    Raises NothingIndexed, NoSuchPath, HomeBusy, HomeNotWritable, WorkersFailed, ObjectsUnavailable.
    """
    home = Home.from_settings(settings)
    image_sources = ImageSources(sources, home.own_folders, patterns)
    if schema.read_revision(home) is None:
        schema.check_schema(home)  # says what to do
    with home.lock("simile index --metadata", wait=wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            return _MetadataRun(catalogue, settings).run(image_sources, on_progress)


def read_in_workers(
    items: Iterable[Item],
    get_path: Callable[[Item], str],
    read: Callable[[Iterable[str], WorkerPool], Iterator[Result]],
    settings: Settings,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what `read` yields for its path, with a pool of worker processes.

    Raises KeyboardInterrupt at the end after Ctrl-C.
    """
    limits = Limits.from_settings(settings)
    waiting, sent = tee(items)
    with (
        WorkerPool(settings.workers, limits.seconds, limits.max_pixels) as pool,
        stop_on_interrupt(pool.stop) as stop_event,
    ):
        for result in read(map(get_path, sent), pool):
            yield next(waiting), result
    if stop_event.is_set():
        raise KeyboardInterrupt


class _MetadataRun:
    """A run, under the home's lock."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        self.catalogue, self.settings = catalogue, settings
        self.summary = MetadataSummary()

    def run(self, sources: ImageSources, on_progress: OnProgress) -> MetadataSummary:
        """Read and store the metadata of the files that are as they were when they were indexed."""
        summary, start = self.summary, time.monotonic()
        plan = make_index_plan(self.catalogue, sources, None, reread=True)
        summary.failures += plan.scan.failures
        summary.missing = len(plan.missing_paths)
        paths = Spool(chain(self._select_paths(plan.tasks), self._iterate_uploads()))
        done = 0
        for batch in split_chunks(self._read(paths), BATCH_SIZE):
            self._store(batch)
            done += len(batch)
            summary.seconds = round(time.monotonic() - start, 3)
            on_progress("reading metadata", done, len(paths))
        return summary

    def _select_paths(self, tasks: Iterable[IndexTask]) -> Iterator[str]:
        """Yield the files that have not changed since they were indexed; count the others."""
        for file, known, *_ in tasks:
            if known is not None and (known.size, known.mtime_ns) == (file.size, file.mtime_ns):
                yield file.path
            else:
                self.summary.outdated += 1

    def _iterate_uploads(self) -> Iterator[str]:
        """Yield the uploads, which are in none of the sources."""
        home = self.catalogue.home
        prefix = UPLOAD_SCHEME if home.objects.is_shared else str(home.uploads)
        for rows in self.catalogue.files.iterate_under(prefix):
            yield from (path for path, *_ in rows)

    def _read(self, paths: Iterable[str]) -> Iterator[tuple[str, PhotoMetadata | Failure | None]]:
        """Yield each path with its metadata."""
        reader, limits = MetadataReader(with_gps=self.settings.gps), Limits.from_settings(self.settings)
        return read_in_workers(paths, str, lambda sent, pool: read_metadata(sent, reader, limits, pool), self.settings)

    def _store(self, batch: Sequence[tuple[str, PhotoMetadata | Failure | None]]) -> None:
        failures = [result for _, result in batch if isinstance(result, Failure)]
        photos = {path: result for path, result in batch if not isinstance(result, Failure)}
        self.summary.failures += failures
        self.summary.read += len(photos)
        self.summary.described += sum(photo is not None for photo in photos.values())
        self.summary.updated += self.catalogue.photo_metadata.set_for_files(photos)
