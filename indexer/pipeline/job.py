"""The batch indexing job: changed files of the sources become rows, then a segment.

    sources --plan--> tasks --worker processes--> images --batches--> vectors --transactions--> rows --> segment
                        '--------- in this process, or in actors on Ray ----------------'

Networks are imported only where they are needed: a run that embeds nothing does not wait for torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from simile.core.errors import BadSetting
from simile.core.records import FileStat, IndexSummary
from simile.core.settings import Settings
from simile.core.signals import stop_on_interrupt
from simile.images.formats import Limits
from simile.images.loading.loader import sample_images
from simile.images.loading.worker_pool import WorkerPool
from simile.images.metadata.reader import MetadataReader
from simile.images.sources.buckets import UPLOAD_SCHEME
from simile.images.sources.folders import WalkResult, describe_kinds
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import ImageSources, is_stdin, read_file_facts, walk_sources
from simile.images.transforms import choose_preprocessing
from simile.indexer.pipeline.file_embedder import FileEmbedder, TaskEmbedder
from simile.indexer.pipeline.plan import IndexPlan, IndexTask, Spool, check_prune, describe_sources, make_index_plan
from simile.indexer.pipeline.publish import publish_rows
from simile.indexer.pipeline.ray_embedder import RayEmbedder, check_ray
from simile.indexer.pipeline.writer import CountedImages, IndexBatchWriter
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import KnownFile
from simile.store.database import schema
from simile.store.database.transactions import split_chunks
from simile.store.home import Home
from simile.store.object_removal import remove_marked_objects
from simile.store.object_transfer import share_files

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder
    from simile.models.training.loop import TrainingProgress

log = logging.getLogger(__name__)

KIND_SAMPLE_SIZE = 32  # images that tell photographs from small images of one size
METADATA_BATCH_SIZE = 500  # files per metadata transaction


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """The user's options for indexing.

    Attributes:
        encoder: Fingerprint or folder of the encoder, or "shipped"; None for the active one, and in a home without
            an encoder for the shipped one.
        prune: Forget files that no longer exist.
        reread: Read files again even if their size and time are unchanged.
        dry_run: Only report what a run would do.
        list_ignored: List the files that are ignored, not only their number.
        train: Train an encoder on the images first, and use it.
        minutes: Time limit of the training. In a home without an encoder it implies `train`.
        on_training: Called after each training step.
        on_progress: Called after each batch with the summary so far and the total number of files.
        patterns: Files to include or exclude.
        wait: Seconds to wait for a home that is in use.
        on_run: Called with the run's id when the run starts.
        labels: COCO's JSON or YOLO's data.yaml, with annotations that become metadata.
        min_age: Leave out new and changed files that were modified less than so many seconds ago, as incomplete.
        ray: Address of the Ray cluster that embeds the images, "auto" for the one of this machine; None: this process
            does.
    """

    encoder: str | None = None
    prune: bool = False
    reread: bool = False
    dry_run: bool = False
    list_ignored: bool = False
    train: bool = False
    minutes: float | None = None
    on_training: Callable[[TrainingProgress], None] = lambda _: None
    on_progress: Callable[[IndexSummary, int], None] = lambda _summary, _total: None
    patterns: PathPatterns = field(default_factory=PathPatterns)
    wait: float = 0.0
    on_run: Callable[[int], None] = lambda _: None
    labels: Path | None = None
    ray: str | None = None
    min_age: float = 0.0


def index(settings: Settings, sources: Sequence[Path | str], request: IndexRequest) -> IndexSummary:
    """Update the home from the files in `sources`.

    A file that can't be used is listed in the summary and does not stop the run. Each batch is stored when it is
    done: after any interruption the next run continues after the last batch.

    `sources` are folders, archives, files, patterns or lists (images/sources/sources.py).

    Raises:
        NoSuchPath: A source, or the file of labels, does not exist.
        HomeBusy, HomeNotWritable: The home can't be used.
        TooFewPictures: There are too few images to train an encoder.
        NoSuchEncoder: The encoder of the request does not exist.
        BadSetting: Ray is requested, and can't be used; or the file of labels can't be.
        WorkersFailed: Actors of Ray, or the processes that decode images, end before they have done their work.
        ObjectsUnavailable: The object store, if there is one, can't be used.
    """
    if request.ray is not None:
        check_ray(request.ray)
    home = Home.from_settings(settings)
    image_sources = ImageSources(sources, home.own_folders, request.patterns, with_metadata=True, labels=request.labels)
    if request.list_ignored:
        image_sources.result.ignored_files = []
    if request.dry_run:
        return _run_dry(home, image_sources, request, settings)
    with home.lock("simile index", wait=request.wait):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            share_files(catalogue)
            if request.train and catalogue.encoders.find_active() is not None:
                request = replace(request, encoder=_train_another(home, catalogue, settings, sources, request))
            summary = _IndexingRun(home, catalogue, settings, request).run(image_sources)
            remove_marked_objects(catalogue)
            return summary


def _train_another(
    home: Home, catalogue: Catalogue, settings: Settings, sources: Sequence[Path | str], request: IndexRequest
) -> str:
    """Train an encoder in a home that has one, and return its fingerprint."""
    from simile.indexer.training.dataset import TrainingRequest  # noqa: PLC0415
    from simile.indexer.training.train import train_encoder  # noqa: PLC0415  # imports torch

    if any(map(is_stdin, sources)):
        raise BadSetting(
            "A list on stdin can't be read twice, to train and to index. Run `simile train PHOTOS`, then "
            "`simile index - --encoder FINGERPRINT`."
        )
    files = walk_sources(sources, home.own_folders, request.patterns).files
    training = TrainingRequest(minutes=request.minutes, resume=None)
    return train_encoder(home, catalogue, settings, files, training, request.on_training).encoder.fingerprint


def _run_dry(home: Home, sources: ImageSources, request: IndexRequest, settings: Settings) -> IndexSummary:
    """Compare sizes and times of files with the catalogue; nothing is written, not even a home."""
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
    scan = plan.scan
    return IndexSummary(
        run_id=run_id,
        unchanged=plan.unchanged,
        ignored=scan.ignored_count,
        partners=len(scan.partners),
        ignored_kinds=dict(scan.ignored_kinds),
        ignored_files=scan.ignored_files,
        failures=list(scan.failures),
    )


def _count_missing_files(summary: IndexSummary, missing_paths: set[str], prune: bool) -> IndexSummary:
    if prune:
        summary.removed += len(missing_paths)
    else:
        summary.missing += len(missing_paths)
    return summary


class _IndexingRun:
    """A run of the job, under the home's lock."""

    def __init__(self, home: Home, catalogue: Catalogue, settings: Settings, request: IndexRequest) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request
        self.limits = Limits.from_settings(settings)

    def run(self, sources: ImageSources) -> IndexSummary:
        """Plan and execute the run, and record its status and failures in the catalogue."""
        fingerprint = self._get_target_fingerprint()
        plan = make_index_plan(
            self.catalogue, sources, fingerprint, reread=self.request.reread, min_age=self.request.min_age
        )
        # `find` may find nothing: an empty list on stdin is no mistake.
        is_empty_list = not plan.present_by_root and any(map(is_stdin, sources.sources))
        if not plan.file_count and not plan.known_count and not is_empty_list:
            raise BadSetting(
                f"{describe_sources(sources.sources)} holds no images{_explain_no_images(plan.scan)}. "
                "Name another folder."
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
        # Images outside the sources that lack a vector: uploads have no source folder, so every run embeds them; a new
        # encoder needs vectors of all images of the home.
        rest = None if switches else UPLOAD_SCHEME if self.home.objects.is_shared else str(self.home.uploads)
        if plan.tasks or (
            fingerprint and next(self.catalogue.files.iterate_without_embedding(fingerprint, rest), None)
        ):
            fingerprint = self._embed_all(plan, fingerprint, rest, summary)
        for batch in split_chunks(plan.metadata_updates, METADATA_BATCH_SIZE):
            self.catalogue.metadata.set_for_files(dict(batch))
        self._delete_outdated_link_names(plan)
        self.catalogue.files.delete(plan.partner_paths)
        if self.request.prune:
            self.catalogue.files.delete(sorted(plan.missing_paths))
        _count_missing_files(summary, plan.missing_paths, self.request.prune)
        if summary.embedded or summary.removed:
            self.catalogue.quality.update_limits()
        if fingerprint is not None:
            prune = self.request.prune
            publish_rows(self.catalogue, self.settings, fingerprint, summary, is_switch=switches, prune=prune)

    def _delete_outdated_link_names(self, plan: IndexPlan) -> None:
        """Delete names of files that the run has read under another name, and that hold another image now."""
        known = self.catalogue.files.get_many({*plan.link_paths, *plan.link_paths.values()})
        both = [(link, real) for link, real in plan.link_paths.items() if link in known and real in known]
        self.catalogue.files.delete([link for link, real in both if known[link].image_id != known[real].image_id])

    def _get_target_fingerprint(self) -> str | None:
        """Return the requested encoder, else the active one, else None: then an encoder must be trained."""
        if self.request.encoder is not None:
            from simile.search.encoder_registry import import_encoder  # noqa: PLC0415

            encoder = _find_encoder(self.home, self.request.encoder, self.settings)
            import_encoder(self.home, self.catalogue, encoder, self.request.encoder)
            return encoder.fingerprint
        active = self.catalogue.encoders.find_active()
        return active.fingerprint if active else None

    def _is_switching_to(self, fingerprint: str) -> bool:
        """Return whether another encoder is active, so that all images must be embedded before the switch."""
        active = self.catalogue.encoders.find_active()
        if active is None or active.fingerprint == fingerprint:
            return False
        return self.catalogue.embeddings.count(active.fingerprint) > 0

    def _get_encoder(self, fingerprint: str | None, plan: IndexPlan) -> TrainedEncoder:
        """Load the encoder; in a home without one, train it or take the shipped one."""
        from simile.search.encoder_registry import load_encoder  # noqa: PLC0415  # imports torch

        if fingerprint is not None:
            return load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        if self.request.train or self.request.minutes is not None:
            encoder = self._train_encoder([task.file for task in plan.tasks])
        else:
            encoder = self._import_shipped_encoder(plan)
        self.catalogue.encoders.activate(encoder.fingerprint)
        return encoder

    def _train_encoder(self, files: Sequence[FileStat]) -> TrainedEncoder:
        from simile.indexer.training.dataset import TrainingRequest  # noqa: PLC0415
        from simile.indexer.training.train import train_encoder  # noqa: PLC0415  # imports torch

        log.info("training an encoder on these images")
        request = TrainingRequest(minutes=self.request.minutes, resume=None)
        result = train_encoder(self.home, self.catalogue, self.settings, files, request, self.request.on_training)
        return result.encoder

    def _import_shipped_encoder(self, plan: IndexPlan) -> TrainedEncoder:
        """Copy the shipped encoder into the home, and log what training would add."""
        from simile.indexer.training.dataset import is_photographic  # noqa: PLC0415
        from simile.models.pretrained import SHIPPED  # noqa: PLC0415  # imports torch
        from simile.search.encoder_registry import import_encoder  # noqa: PLC0415  # imports torch

        encoder = _find_encoder(self.home, SHIPPED, self.settings)
        import_encoder(self.home, self.catalogue, encoder, SHIPPED)
        paths = [task.file.path for task in islice(plan.tasks, KIND_SAMPLE_SIZE)]
        sample = sample_images(paths, self.limits, self.settings.workers, KIND_SAMPLE_SIZE, seed=0)
        if not sample or is_photographic(choose_preprocessing(sample, image_size=None)):
            log.info("using the encoder that comes with simile; `simile train PHOTOS` adapts it to these images")
        else:
            log.info(
                "using the encoder that comes with simile. These images are small: an encoder that is trained on them "
                "alone finds neighbours better. For that: `simile index PHOTOS --train`"
            )
        return encoder

    def _embed_all(
        self, plan: IndexPlan, fingerprint: str | None, rest_folder: str | None, summary: IndexSummary
    ) -> str:
        """Embed the plan's files, then other images without a vector; return the encoder's fingerprint."""
        with ExitStack() as stack:
            start_embedder = self._start_embedder(stack)
            encoder = self._get_encoder(fingerprint, plan)  # the workers start meanwhile
            embedder = start_embedder(encoder)

            def find_tasks(failed_paths: set[str]) -> Spool[IndexTask]:  # again if the database is lost meanwhile
                find = self._find_tasks_without_vector
                return self.catalogue.repeat(lambda: Spool(find(encoder.fingerprint, rest_folder, failed_paths)))

            with stop_on_interrupt(embedder.stop) as stop_event:
                self._embed_tasks(plan.tasks, plan, embedder, summary)
                failed = {failure.path for failure in summary.failures}
                while not stop_event.is_set() and (tasks := find_tasks(failed)):
                    self._embed_tasks(tasks, plan, embedder, summary)
                    failed |= {failure.path for failure in summary.failures}
            if stop_event.is_set():
                raise KeyboardInterrupt
        return encoder.fingerprint

    def _start_embedder(self, stack: ExitStack) -> Callable[[TrainedEncoder], TaskEmbedder]:
        """Start what embeds files, until the stack ends; return a function that gives it the encoder."""
        settings = self.settings
        if self.request.ray is not None:
            address = self.request.ray
            return lambda encoder: stack.enter_context(
                RayEmbedder(self.catalogue, settings, encoder.fingerprint, address)
            )
        workers = stack.enter_context(WorkerPool(settings.workers, settings.decode_seconds, settings.max_pixels))
        return lambda encoder: FileEmbedder(
            catalogue=self.catalogue,
            encoder=encoder,
            workers=workers,
            limits=self.limits,
            batch_size=settings.batch_size,
            metadata_reader=MetadataReader(with_gps=settings.gps),
        )

    def _find_tasks_without_vector(
        self, fingerprint: str, rest_folder: str | None, failed_paths: set[str]
    ) -> Iterator[IndexTask]:
        """Yield a task for each image without a vector: its first file that exists and has not failed."""
        rows = self.catalogue.files.iterate_without_embedding(fingerprint, rest_folder)
        for image_id, files in groupby(rows, key=lambda row: row[0]):
            for _, known in files:
                file = None if known.path in failed_paths else _read_file_facts(known)
                if file is not None:
                    yield IndexTask(file, KnownFile(image_id, known.size, known.mtime_ns, False), is_from_source=False)
                    break

    def _embed_tasks(
        self, tasks: Spool[IndexTask], plan: IndexPlan, embedder: TaskEmbedder, summary: IndexSummary
    ) -> None:
        """Read, encode and store the files of the tasks in batches."""
        start, seconds_before, total = time.monotonic(), summary.seconds, summary.done + len(tasks)
        counted = None
        if self.request.ray is not None:
            counted = CountedImages(1 + max(self.catalogue.images.get_ids(1, newest_first=True), default=0))
        writer = IndexBatchWriter(catalogue=self.catalogue, plan=plan, summary=summary, counted_images=counted)
        for batch in embedder.embed(tasks):
            writer.write(batch)
            summary.done += len(batch)
            summary.seconds = round(seconds_before + time.monotonic() - start, 3)
            self.request.on_progress(summary, total)


def _find_encoder(home: Home, reference: str, settings: Settings) -> TrainedEncoder:
    from simile.search.encoder_registry import find_encoder  # noqa: PLC0415  # imports torch

    return find_encoder(home, reference, settings.device, settings.runtime)


def _read_file_facts(known: FileStat) -> FileStat | None:
    """Return the current size and time of a known file; None if there is none. An upload does not change."""
    try:
        return known if known.path.startswith(UPLOAD_SCHEME) else read_file_facts(known.path)
    except OSError:
        return None


def _explain_no_images(scan: WalkResult) -> str:
    if scan.failures:
        return f" that can be read ({scan.failures[0].path}: {scan.failures[0].reason})"
    return f" (files of other kinds: {describe_kinds(scan.ignored_kinds)})" if scan.ignored_kinds else ""
