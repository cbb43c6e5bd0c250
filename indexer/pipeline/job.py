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
from simile.core.records import Failure, FileFacts, IndexSummary
from simile.core.settings import Settings
from simile.core.signals import finishing
from simile.images.formats import Limits
from simile.images.loading.loader import Prepared, prepare_files
from simile.images.loading.worker_pool import Workers
from simile.images.sources.folders import Found
from simile.images.sources.gitignore import Patterns
from simile.images.sources.sources import Sources, facts_of
from simile.indexer.pipeline.plan import Plan, Task, check_prune, describe, make_plan
from simile.indexer.pipeline.publish import Publishing
from simile.indexer.pipeline.spool import Spool
from simile.indexer.pipeline.writer import Storing
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import KnownFile
from simile.store.database import schema
from simile.store.home import Home

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder
    from simile.models.training.loop import Progress

log = logging.getLogger(__name__)

SAID = 500  # files whose metadata is looked at together


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
    on_training: Callable[[Progress], None] = lambda _: None
    on_progress: Callable[[IndexSummary, int], None] = lambda _summary, _total: None
    patterns: Patterns = field(default_factory=Patterns)
    wait: float = 0.0
    on_run: Callable[[int], None] = lambda _: None


def index(settings: Settings, sources: Sequence[Path | str], request: IndexRequest) -> IndexSummary:
    """Brings the home up to date with the files in `sources` (models/walk.py says what may be named).

    A file that can't be used is listed in the summary and costs nothing else. Batches are stored one by one: after an
    interruption of any kind the next run goes on from the last one. Raises NoSuchPath, HomeBusy, HomeNotWritable,
    TooFewPictures (nothing trained and too little to train on) and NoSuchEncoder.
    """
    home = Home(settings.home, settings.database_url)
    opened = Sources(sources, [home.encoders, home.segments, home.uploads], request.patterns)
    if request.dry_run:
        return _dry_run(home, opened, request, settings)
    with home.lock("simile index", wait=request.wait):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            return _Job(home, catalogue, settings, request).run(opened)


def _dry_run(home: Home, sources: Sources, request: IndexRequest, settings: Settings) -> IndexSummary:
    """What a run would find, by sizes and times alone; nothing is written, not even a home."""
    fingerprint = None if request.encoder is None else _found(home, request.encoder, settings).fingerprint
    if schema.revision(home) is None:
        plan = make_plan(None, sources, None)
    else:
        schema.check(home)
        with Catalogue(home) as catalogue:
            active = catalogue.active_encoder()
            plan = make_plan(catalogue, sources, fingerprint or (active.fingerprint if active else None))
    if request.prune:
        check_prune(plan)
    summary = _summary(0, plan)
    summary.changed = sum(task.known is not None for task in plan.todo)
    summary.new = len(plan.todo) - summary.changed
    return _count_vanished(summary, plan.vanished, request.prune)


def _summary(run_id: int, plan: Plan) -> IndexSummary:
    return IndexSummary(
        run_id, unchanged=plan.unchanged, ignored=plan.found.ignored, failures=list(plan.found.failures)
    )


def _count_vanished(summary: IndexSummary, vanished: set[str], prune: bool) -> IndexSummary:
    if prune:
        summary.removed += len(vanished)
    else:
        summary.missing += len(vanished)
    return summary


class _Job:
    """One run, under the home's lock."""

    def __init__(self, home: Home, catalogue: Catalogue, settings: Settings, request: IndexRequest) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request
        self.limits = Limits.from_settings(settings)

    def run(self, sources: Sources) -> IndexSummary:
        fingerprint = self._fingerprint()
        plan = make_plan(self.catalogue, sources, fingerprint)
        if not plan.files and not plan.known:
            raise BadSetting(f"{describe(sources.given)} holds no pictures{_why(plan.found)}. Name another folder.")
        if self.request.prune:
            check_prune(plan)
        settings = {"sources": sources.given, "prune": self.request.prune, "encoder": fingerprint}
        summary = _summary(self.catalogue.start_run("index", settings), plan)
        self.catalogue.add_failures(summary.run_id, summary.failures)
        status = "failed"
        try:
            self.request.on_run(summary.run_id)
            self._do(plan, fingerprint, summary)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            counts = {name: value for name, value in asdict(summary).items() if isinstance(value, int | float)}
            self.catalogue.finish_run(summary.run_id, status, counts | {"failed": len(summary.failures)})
        return summary

    def _do(self, plan: Plan, fingerprint: str | None, summary: IndexSummary) -> None:
        switches = fingerprint is not None and self._switches_to(fingerprint)
        # What nobody can name as a source is looked after in every run; to change encoders, all that the home holds.
        rest = None if switches else str(self.home.uploads)
        if plan.todo or (fingerprint and next(self.catalogue.lacking(fingerprint, rest), None)):
            fingerprint = self._embed_all(plan, fingerprint, rest, summary)
        self._note_said(plan)
        if self.request.prune:
            self.catalogue.forget_paths(sorted(plan.vanished))
        _count_vanished(summary, plan.vanished, self.request.prune)
        if fingerprint is not None:
            Publishing(self.catalogue, self.settings, self.request.prune).publish(fingerprint, switches, summary)

    def _fingerprint(self) -> str | None:
        """The encoder asked for, else the active one, else None: it must be trained first."""
        if self.request.encoder is not None:
            return self._adopted(self.request.encoder)
        active = self.catalogue.active_encoder()
        return active.fingerprint if active else None

    def _adopted(self, reference: str) -> str:
        from simile.search.encoder_registry import adopt  # noqa: PLC0415  # see the top

        encoder = _found(self.home, reference, self.settings)
        adopt(self.home, self.catalogue, encoder, Path(reference))
        return encoder.fingerprint

    def _switches_to(self, fingerprint: str) -> bool:
        """Whether another encoder is in use, so that all of the home must be embedded before this one can be."""
        active = self.catalogue.active_encoder()
        if active is None or active.fingerprint == fingerprint:
            return False
        return self.catalogue.count_embeddings(active.fingerprint) > 0

    def _encoder(self, fingerprint: str | None, plan: Plan) -> TrainedEncoder:
        """The network, loaded or trained."""
        from simile.indexer.training.train import TrainingRequest, train_encoder  # noqa: PLC0415  # see the top
        from simile.search.encoder_registry import load_encoder  # noqa: PLC0415

        if fingerprint is not None:
            return load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        request = TrainingRequest(minutes=self.request.minutes, resume=None)
        log.info("no encoder yet: training one on these pictures, for at most %g minutes", self.request.minutes)
        files = [task.file for task in plan.todo]
        encoder = train_encoder(self.home, self.catalogue, self.settings, files, request, self.request.on_training)
        self.catalogue.activate(encoder.fingerprint)
        return encoder

    # Embedding

    def _embed_all(self, plan: Plan, fingerprint: str | None, rest: str | None, summary: IndexSummary) -> str:
        """Everything in the plan, then what the encoder has not seen of the rest; gives the encoder's fingerprint."""
        settings = self.settings
        with Workers(settings.workers, settings.decode_seconds, settings.max_pixels) as workers:  # start meanwhile
            encoder = self._encoder(fingerprint, plan)
            with finishing(workers.stop) as asked:
                self._embed(plan.todo, plan, encoder, workers, summary)
                failed = {failure.path for failure in summary.failures}
                while not asked.is_set() and (tasks := Spool(self._lacking(encoder.fingerprint, rest, failed))):
                    self._embed(tasks, plan, encoder, workers, summary)
                    failed |= {failure.path for failure in summary.failures}
            if asked.is_set():
                raise KeyboardInterrupt
        return encoder.fingerprint

    def _lacking(self, fingerprint: str, rest: str | None, failed: set[str]) -> Iterator[Task]:
        """For each image without a vector the first of its files that is there and has not failed."""
        rows = self.catalogue.lacking(fingerprint, rest)
        for image_id, files in groupby(rows, key=lambda row: row[0]):
            for _, known in files:
                facts = None if known.path in failed else _facts_or_none(known.path)
                if facts is not None:
                    yield Task(facts, KnownFile(image_id, known.size, known.mtime_ns, False), named=False)
                    break

    def _embed(
        self, tasks: Spool[Task], plan: Plan, encoder: TrainedEncoder, workers: Workers, summary: IndexSummary
    ) -> None:
        started, before, total = time.monotonic(), summary.seconds, summary.done + len(tasks)
        storing = Storing(self.catalogue, plan, encoder, summary)
        for batch in _batches(self._prepared(tasks, encoder, workers), self.settings.batch_size):
            failures = [result for _, result in batch if isinstance(result, Failure)]
            summary.failures += failures
            self.catalogue.add_failures(summary.run_id, failures)
            storing.store([(task, result) for task, result in batch if isinstance(result, Prepared)])
            summary.done += len(batch)
            summary.seconds = round(before + time.monotonic() - started, 3)
            self.request.on_progress(summary, total)

    def _prepared(
        self, tasks: Iterable[Task], encoder: TrainedEncoder, workers: Workers
    ) -> Iterator[tuple[Task, Prepared | Failure]]:
        waiting: deque[Task] = deque()

        def paths() -> Iterator[str]:
            for task in tasks:
                waiting.append(task)
                yield task.file.path

        for result in prepare_files(paths(), encoder.preprocessing, self.limits, workers):
            yield waiting.popleft(), result

    def _note_said(self, plan: Plan) -> None:
        """What manifests say of files that are unchanged themselves."""
        said = iter(plan.said)
        while chunk := list(islice(said, SAID)):
            self.catalogue.set_metadata(dict(chunk))


def _found(home: Home, reference: str, settings: Settings) -> TrainedEncoder:
    from simile.search.encoder_registry import find_encoder  # noqa: PLC0415  # see the top

    return find_encoder(home, reference, settings.device, settings.runtime)


def _facts_or_none(path: str) -> FileFacts | None:
    try:
        return facts_of(path)
    except OSError:
        return None


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def _why(found: Found) -> str:
    if found.failures:
        return f" that can be read ({found.failures[0].path}: {found.failures[0].reason})"
    return f" ({found.ignored} files of other kinds)" if found.ignored else ""
