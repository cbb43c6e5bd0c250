"""The batch indexing job: what changed in these folders becomes rows, then a segment.

Networks are imported where they are needed: a run that finds nothing to embed never waits for torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadSetting
from core.records import Failure, FileFacts, IndexSummary
from core.settings import Settings
from indexer.plan import Plan, check_prune, make_plan
from indexer.rows import embedded_rows
from models.collection import Prepared, prepare_files
from models.images import Limits
from models.walk import Found, check_sources
from store import schema
from store.catalogue import Catalogue
from store.home import Home
from store.index import Index

if TYPE_CHECKING:
    from models.encoder import TrainedEncoder
    from models.training import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexRequest:
    """What a person may say about indexing. `minutes` bounds the training of a home without an encoder."""

    encoder: str | None = None
    prune: bool = False
    dry_run: bool = False
    minutes: float = 10.0
    on_training: Callable[[Progress], None] = lambda _: None
    on_progress: Callable[[IndexSummary, int], None] = lambda _summary, _total: None


def index(settings: Settings, sources: Sequence[Path], request: IndexRequest) -> IndexSummary:
    """Brings the home up to date with the files in `sources`.

    A file that can't be used is listed in the summary and costs nothing else. Batches are stored one by one: after an
    interruption of any kind the next run goes on from the last one. Raises NoSuchPath, HomeBusy, HomeNotWritable,
    TooFewPictures (nothing trained and too little to train on) and NoSuchEncoder.
    """
    home = Home(settings.home, settings.database_url)
    check_sources(sources)
    if request.dry_run:
        return _dry_run(home, sources, request, settings)
    with home.lock("simile index"):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            return _Job(home, catalogue, settings, request).run(sources)


def _dry_run(home: Home, sources: Sequence[Path], request: IndexRequest, settings: Settings) -> IndexSummary:
    """What a run would find, by sizes and times alone; nothing is written, not even a home."""
    fingerprint = None if request.encoder is None else _found(home, request.encoder, settings).fingerprint
    if schema.revision(home) is None:
        plan = make_plan(home, None, sources, None)
    else:
        schema.check(home)
        with Catalogue(home) as catalogue:
            active = catalogue.active_encoder()
            plan = make_plan(home, catalogue, sources, fingerprint or (active.fingerprint if active else None))
    if request.prune:
        check_prune(plan, sources)
    summary = _summary(0, plan)
    summary.changed = sum(file.path in plan.known for file in plan.todo)
    summary.new = len(plan.todo) - summary.changed
    return _count_vanished(summary, plan.vanished, request.prune)


def _summary(run_id: int, plan: Plan) -> IndexSummary:
    return IndexSummary(
        run_id, unchanged=plan.unchanged, ignored=plan.found.ignored, failures=list(plan.found.failures)
    )


def _count_vanished(summary: IndexSummary, vanished: set[str], prune: bool) -> IndexSummary:
    if prune:
        summary.removed = len(vanished)
    else:
        summary.missing = len(vanished)
    return summary


class _Job:
    """One run, under the home's lock."""

    def __init__(self, home: Home, catalogue: Catalogue, settings: Settings, request: IndexRequest) -> None:
        self.home, self.catalogue, self.settings, self.request = home, catalogue, settings, request

    def run(self, sources: Sequence[Path]) -> IndexSummary:
        fingerprint = self._fingerprint()
        plan = make_plan(self.home, self.catalogue, sources, fingerprint)
        if not plan.found.files and not plan.known:
            raise BadSetting(
                f"{', '.join(map(str, sources))} holds no pictures{_why(plan.found)}. Name another folder."
            )
        if self.request.prune:
            check_prune(plan, sources)
        settings = {"sources": [str(source) for source in sources], "prune": self.request.prune, "encoder": fingerprint}
        summary = _summary(self.catalogue.start_run("index", settings), plan)
        status = "failed"
        try:
            encoder = self._encoder(fingerprint, plan)
            if encoder is not None:
                self._embed_all(plan, encoder, summary)
            self._forget(plan, summary)
            self._publish(encoder.fingerprint if encoder else fingerprint)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.catalogue.add_failures(summary.run_id, summary.failures)
            counts = {name: value for name, value in asdict(summary).items() if isinstance(value, int | float)}
            self.catalogue.finish_run(summary.run_id, status, counts | {"failed": len(summary.failures)})
        return summary

    def _fingerprint(self) -> str | None:
        """The encoder asked for, else the active one, else None: it must be trained first."""
        if self.request.encoder is not None:
            return self._adopted(self.request.encoder)
        active = self.catalogue.active_encoder()
        return active.fingerprint if active else None

    def _adopted(self, reference: str) -> str:
        from search.encoders import adopt  # noqa: PLC0415  # see the top

        encoder = _found(self.home, reference, self.settings)
        adopt(self.home, self.catalogue, encoder, Path(reference))
        return encoder.fingerprint

    def _encoder(self, fingerprint: str | None, plan: Plan) -> TrainedEncoder | None:
        """The network, loaded or trained; None when there is nothing to embed."""
        if fingerprint is not None and not plan.todo:
            return None
        from indexer.training import TrainingRequest, train_encoder  # noqa: PLC0415  # see the top
        from search.encoders import load_encoder  # noqa: PLC0415

        if fingerprint is not None:
            return load_encoder(self.home, fingerprint, self.settings.device, self.settings.runtime)
        request = TrainingRequest(minutes=self.request.minutes, resume=None)
        log.info("no encoder yet: training one on these pictures, for at most %g minutes", self.request.minutes)
        encoder = train_encoder(self.home, self.catalogue, self.settings, plan.todo, request, self.request.on_training)
        self.catalogue.activate(encoder.fingerprint)
        return encoder

    def _embed_all(self, plan: Plan, encoder: TrainedEncoder, summary: IndexSummary) -> None:
        started = time.monotonic()
        limits = Limits(self.settings.max_pixels, self.settings.max_bytes)
        prepared = prepare_files(
            (file.path for file in plan.todo), encoder.preprocessing, limits, self.settings.workers
        )
        for batch in _batches(zip(plan.todo, prepared, strict=True), self.settings.batch_size):
            summary.failures += [result for _, result in batch if isinstance(result, Failure)]
            good = [(file, result) for file, result in batch if isinstance(result, Prepared)]
            self._store(good, plan, encoder, summary)
            summary.seconds = round(time.monotonic() - started, 3)
            self.request.on_progress(summary, len(plan.todo))

    def _store(
        self, batch: list[tuple[FileFacts, Prepared]], plan: Plan, encoder: TrainedEncoder, summary: IndexSummary
    ) -> None:
        """Embeds what is new in the batch and commits it; known contents only gain, move or refresh a location."""
        known = self.catalogue.images_by_sha((picture.sha256 for _, picture in batch), encoder.fingerprint)
        embedded = {sha: image.image_id for sha, image in known.items() if image.embedded}
        fresh = [(file, picture) for file, picture in batch if picture.sha256 not in embedded]
        self.catalogue.store_batch(embedded_rows(fresh, encoder), encoder.fingerprint, encoder.runtime)
        contents = {picture.sha256 for _, picture in fresh}
        summary.embedded += len(contents)
        summary.duplicates += len(fresh) - len(contents)
        self._count([(file, picture.sha256 in known) for file, picture in fresh], plan, summary)
        seen_before = [(file, embedded[picture.sha256]) for file, picture in batch if picture.sha256 in embedded]
        self._place(seen_before, plan, summary)

    def _place(self, files: list[tuple[FileFacts, int]], plan: Plan, summary: IndexSummary) -> None:
        """Files whose content is embedded already: touched, moved, or one more copy."""
        locations = self.catalogue.locations_of({image_id for _, image_id in files})
        touched, added = [], []
        for file, image_id in files:
            before = plan.known.get(file.path)
            left = [place.path for place in locations.get(image_id, ()) if place.path in plan.vanished]
            if before is not None and before.image_id == image_id:
                touched.append(file)
                summary.unchanged += 1
            elif before is None and left:
                self.catalogue.move_location(left[0], file)
                plan.vanished.discard(left[0])
                summary.moved += 1
            else:
                added.append((image_id, file))
                summary.duplicates += 1
                self._count([(file, True)], plan, summary)
        self.catalogue.touch_locations(touched)
        self.catalogue.add_locations(added)

    def _count(self, files: list[tuple[FileFacts, bool]], plan: Plan, summary: IndexSummary) -> None:
        """New or changed, by whether the path was known; the same content under another encoder is neither."""
        for file, content_known in files:
            if file.path not in plan.known:
                summary.new += 1
            elif content_known and not plan.known[file.path].embedded:
                summary.unchanged += 1
            else:
                summary.changed += 1

    def _forget(self, plan: Plan, summary: IndexSummary) -> None:
        if self.request.prune:
            self.catalogue.forget_paths(sorted(plan.vanished))
        _count_vanished(summary, plan.vanished, self.request.prune)

    def _publish(self, fingerprint: str | None) -> None:
        """Puts the encoder in use and folds new and deleted rows into a segment, where there are any."""
        active = self.catalogue.active_encoder()
        if fingerprint is not None and (active is None or active.fingerprint != fingerprint):
            self.catalogue.activate(fingerprint)
        Index(self.catalogue).publish()
        hidden = self.catalogue.count_images() - self.catalogue.count_embeddings(fingerprint) if fingerprint else 0
        if hidden > 0:
            found_again = "no search finds them until `simile index` runs on their folders"
            log.warning("%d pictures have no vector by the encoder now in use: %s", hidden, found_again)


def _found(home: Home, reference: str, settings: Settings) -> TrainedEncoder:
    from search.encoders import find_encoder  # noqa: PLC0415  # see the top

    return find_encoder(home, reference, settings.device, settings.runtime)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def _why(found: Found) -> str:
    if found.failures:
        return f" that can be read ({found.failures[0].path}: {found.failures[0].reason})"
    return f" ({found.ignored} files of other kinds)" if found.ignored else ""
