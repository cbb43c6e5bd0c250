"""The batch indexing job: what changed in these sources becomes rows, then a segment.

    sources --plan--> tasks --worker processes--> pictures --batches--> vectors --transactions--> rows --> segment

Networks are imported where they are needed: a run that finds nothing to embed never waits for torch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simile.core.errors import BadSetting
from simile.core.records import Failure, FileStat, IndexSummary
from simile.core.settings import Settings
from simile.core.signals import stop_on_interrupt
from simile.images.formats import Limits
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.folders import WalkResult
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import ImageSources, read_file_facts
from simile.indexer.pipeline.plan import IndexPlan, IndexTask, check_prune, describe_sources, make_index_plan
from simile.indexer.pipeline.publish import IndexPublisher
from simile.indexer.pipeline.spool import Spool
from simile.indexer.pipeline.writer import IndexBatchWriter
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import KnownFile
from simile.store.database import schema
from simile.store.home import Home

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder
    from simile.models.training.loop import TrainingProgress

log = logging.getLogger(__name__)

METADATA_BATCH_SIZE = 500  # files whose metadata is looked at together


@dataclass(frozen=True)
class IndexRequest:
    """What a person may say about indexing.

    minutes: bound of the training of a home without an encoder. wait: seconds to wait for a home that is in use.
    on_run: gets the run's id as soon as it has one.
    """

    encoder: str | None = None
    prune: bool = False
    dry_run: bool = False
    minutes: float = 10.0
    on_training: Callable[[TrainingProgress], None] = lambda _: None
    on_progress: Callable[[IndexSummary, int], None] = lambda _summary, _total: None
    patterns: PathPatterns = field(default_factory=PathPatterns)
    wait: float = 0.0
    on_run: Callable[[int], None] = lambda _: None


def index(settings: Settings, sources: Sequence[Path | str], request: IndexRequest) -> IndexSummary:
    """Brings the home up to date with the files in `sources` (models/walk.py says what may be named).

    A file that can't be used is listed in the summary and costs nothing else. Batches are stored one by one: after an
    interruption of any kind the next run goes on from the last one. Raises NoSuchPath, HomeBusy, HomeNotWritable,
    TooFewPictures (nothing trained and too little to train on) and NoSuchEncoder.
    """
    home = Home(settings.home, settings.database_url)
    opened = ImageSources(sources, [home.encoders, home.segments, home.uploads], request.patterns)
    if request.dry_run:
        return _run_dry(home, opened, request, settings)
    with home.lock("simile index", wait=request.wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            return _IndexingRun(home, catalogue, settings, request).run(opened)


def _run_dry(home: Home, sources: ImageSources, request: IndexRequest, settings: Settings) -> IndexSummary:
    """What a run would find, by sizes and times alone; nothing is written, not even a home."""
    fingerprint = None if request.encoder is None else _find_encoder(home, request.encoder, settings).fingerprint
    if schema.read_revision(home) is None:
        plan = make_index_plan(None, sources, None)
    else:
        schema.check_schema(home)
        with Catalogue(home) as catalogue:
            active = catalogue.encoders.find_active()
            plan = make_index_plan(catalogue, sources, fingerprint or (active.fingerprint if active else None))
    if request.prune:
        check_prune(plan)
    summary = _make_summary(0, plan)
    summary.changed = sum(task.known_file is not None for task in plan.tasks)
    summary.new = len(plan.tasks) - summary.changed
    return _count_missing_files(summary, plan.missing_paths, request.prune)


def _make_summary(run_id: int, plan: IndexPlan) -> IndexSummary:
    return IndexSummary(
        run_id=run_id,
        unchanged=plan.unchanged,
        ignored=plan.scan.ignored_count,
        failures=list(plan.scan.failures),
    )


def _count_missing_files(summary: IndexSummary, missing_paths: set[str], prune: bool) -> IndexSummary:
    if prune:
        summary.removed += len(missing_paths)
    else:
        summary.missing += len(missing_paths)
    return summary


class _IndexingRun:
    """One run, under the home's lock."""

    def __init__(self, home: Home, catalogue: Catalogue, settings: Settings, request: IndexRequest) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request
        self.limits = Limits.from_settings(settings)

    def run(self, sources: ImageSources) -> IndexSummary:
        fingerprint = self._get_target_fingerprint()
        plan = make_index_plan(self.catalogue, sources, fingerprint)
        if not plan.file_count and not plan.known_count:
            raise BadSetting(
                f"{describe_sources(sources.sources)} holds no pictures{_explain_no_images(plan.scan)}. Name another folder."
            )
        if self.request.prune:
            check_prune(plan)
        settings = {"sources": sources.sources, "prune": self.request.prune, "encoder": fingerprint}
        summary = _make_summary(self.catalogue.runs.start("index", settings), plan)
        self.catalogue.runs.add_failures(summary.run_id, summary.failures)
        status = "failed"
        try:
            self.request.on_run(summary.run_id)
            self._execute(plan, fingerprint, summary)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            counts = {name: value for name, value in asdict(summary).items() if isinstance(value, int | float)}
            self.catalogue.runs.finish(summary.run_id, status, counts | {"failed": len(summary.failures)})
        return summary

    def _execute(self, plan: IndexPlan, fingerprint: str | None, summary: IndexSummary) -> None:
        switches = fingerprint is not None and self._is_switching_to(fingerprint)
        # What nobody can name as a source is looked after in every run; to change encoders, all that the home holds.
        rest = None if switches else str(self.home.uploads)
        if plan.tasks or (
            fingerprint and next(self.catalogue.files.iterate_without_embedding(fingerprint, rest), None)
        ):
            fingerprint = self._embed_all(plan, fingerprint, rest, summary)
        self._store_metadata(plan)
        if self.request.prune:
            self.catalogue.files.delete(sorted(plan.missing_paths))
        _count_missing_files(summary, plan.missing_paths, self.request.prune)
        if fingerprint is not None:
            IndexPublisher(self.catalogue, self.settings, self.request.prune).publish(fingerprint, switches, summary)

    def _get_target_fingerprint(self) -> str | None:
        """The encoder asked for, else the active one, else None: it must be trained first."""
        if self.request.encoder is not None:
            return self._import_encoder(self.request.encoder)
        active = self.catalogue.encoders.find_active()
        return active.fingerprint if active else None

    def _import_encoder(self, reference: str) -> str:
        from simile.search.encoder_registry import import_encoder  # noqa: PLC0415

        encoder = _find_encoder(self.home, reference, self.settings)
        import_encoder(self.home, self.catalogue, encoder, Path(reference))
        return encoder.fingerprint

    def _is_switching_to(self, fingerprint: str) -> bool:
        """Whether another encoder is in use, so that all of the home must be embedded before this one can be."""
        active = self.catalogue.encoders.find_active()
        if active is None or active.fingerprint == fingerprint:
            return False
        return self.catalogue.embeddings.count(active.fingerprint) > 0

    def _get_encoder(self, fingerprint: str | None, plan: IndexPlan) -> TrainedEncoder:
        """The network, loaded or trained."""
        from simile.indexer.training.train import TrainingRequest, train_encoder  # noqa: PLC0415  # see the top
        from simile.search.encoder_registry import load_encoder  # noqa: PLC0415  # see the top

        if fingerprint is not None:
            return load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        request = TrainingRequest(minutes=self.request.minutes, resume=None)
        log.info("no encoder yet: training one on these pictures, for at most %g minutes", self.request.minutes)
        files = [task.file for task in plan.tasks]
        encoder = train_encoder(self.home, self.catalogue, self.settings, files, request, self.request.on_training)
        self.catalogue.encoders.activate(encoder.fingerprint)
        return encoder

    # Embedding

    def _embed_all(
        self, plan: IndexPlan, fingerprint: str | None, rest_folder: str | None, summary: IndexSummary
    ) -> str:
        """Everything in the plan, then what the encoder has not seen of the rest; gives the encoder's fingerprint."""
        settings = self.settings
        with WorkerPool(settings.workers, settings.decode_seconds, settings.max_pixels) as workers:  # start meanwhile
            encoder = self._get_encoder(fingerprint, plan)
            with stop_on_interrupt(workers.stop) as asked:
                self._embed_tasks(plan.tasks, plan, encoder, workers, summary)
                failed = {failure.path for failure in summary.failures}
                while not asked.is_set() and (
                    tasks := Spool(self._find_tasks_without_vector(encoder.fingerprint, rest_folder, failed))
                ):
                    self._embed_tasks(tasks, plan, encoder, workers, summary)
                    failed |= {failure.path for failure in summary.failures}
            if asked.is_set():
                raise KeyboardInterrupt
        return encoder.fingerprint

    def _find_tasks_without_vector(
        self, fingerprint: str, rest_folder: str | None, failed_paths: set[str]
    ) -> Iterator[IndexTask]:
        """For each image without a vector the first of its files that is there and has not failed."""
        rows = self.catalogue.files.iterate_without_embedding(fingerprint, rest_folder)
        for image_id, files in groupby(rows, key=lambda row: row[0]):
            for _, known in files:
                facts = None if known.path in failed_paths else _read_file_facts(known.path)
                if facts is not None:
                    yield IndexTask(facts, KnownFile(image_id, known.size, known.mtime_ns, False), is_from_source=False)
                    break

    def _embed_tasks(
        self,
        tasks: Spool[IndexTask],
        plan: IndexPlan,
        encoder: TrainedEncoder,
        workers: WorkerPool,
        summary: IndexSummary,
    ) -> None:
        started, before, total = time.monotonic(), summary.seconds, summary.done + len(tasks)
        storing = IndexBatchWriter(self.catalogue, plan, encoder, summary)
        for batch in _make_batches(self._prepare_tasks(tasks, encoder, workers), self.settings.batch_size):
            failures = [result for _, result in batch if isinstance(result, Failure)]
            summary.failures += failures
            self.catalogue.runs.add_failures(summary.run_id, failures)
            storing.write([(task, result) for task, result in batch if isinstance(result, PreparedImage)])
            summary.done += len(batch)
            summary.seconds = round(before + time.monotonic() - started, 3)
            self.request.on_progress(summary, total)

    def _prepare_tasks(
        self, tasks: Iterable[IndexTask], encoder: TrainedEncoder, workers: WorkerPool
    ) -> Iterator[tuple[IndexTask, PreparedImage | Failure]]:
        waiting: deque[IndexTask] = deque()

        def paths() -> Iterator[str]:
            for task in tasks:
                waiting.append(task)
                yield task.file.path

        for result in prepare_files(paths(), encoder.preprocessing, self.limits, workers):
            yield waiting.popleft(), result

    def _store_metadata(self, plan: IndexPlan) -> None:
        """What manifests say of files that are unchanged themselves."""
        said = iter(plan.metadata_updates)
        while chunk := list(islice(said, METADATA_BATCH_SIZE)):
            self.catalogue.metadata.set_for_files(dict(chunk))


def _find_encoder(home: Home, reference: str, settings: Settings) -> TrainedEncoder:
    from simile.search.encoder_registry import find_encoder  # noqa: PLC0415  # see the top

    return find_encoder(home, reference, settings.device, settings.runtime)


def _read_file_facts(path: str) -> FileStat | None:
    try:
        return read_file_facts(path)
    except OSError:
        return None


def _make_batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def _explain_no_images(scan: WalkResult) -> str:
    if scan.failures:
        return f" that can be read ({scan.failures[0].path}: {scan.failures[0].reason})"
    return f" ({scan.ignored_count} files of other kinds)" if scan.ignored_count else ""
