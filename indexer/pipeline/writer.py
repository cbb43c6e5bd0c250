"""From prepared pictures to committed rows: what is new is embedded, what is known only moves, or gains a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simile.core.records import FileFacts, IndexSummary
from simile.indexer.pipeline.plan import Plan, Task

pass
from simile.images.loading.loader import Prepared
from simile.images.sources.sources import is_gone
from simile.store.catalogue.catalogue import Catalogue

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder
from collections.abc import Sequence

import numpy as np

from simile.core.records import FileFacts
from simile.store.catalogue.records import NewPicture


@dataclass(frozen=True)
class Storing:
    """Stores batches, and counts in `summary` what each file was."""

    catalogue: Catalogue
    plan: Plan
    encoder: TrainedEncoder
    summary: IndexSummary

    def store(self, batch: list[tuple[Task, Prepared]]) -> None:
        """Embeds what is new in the batch and commits it; known contents only gain, move or refresh a location."""
        known = self.catalogue.images_by_sha((picture.sha256 for _, picture in batch), self.encoder.fingerprint)
        embedded = {sha: image.image_id for sha, image in known.items() if image.embedded}
        fresh = [(task, picture) for task, picture in batch if picture.sha256 not in embedded]
        rows = embedded_rows([(task.file, picture) for task, picture in fresh], self.encoder, with_errors=False)
        self.catalogue.store_batch(rows, self.encoder.fingerprint, self.encoder.runtime)
        contents = {picture.sha256 for _, picture in fresh}
        self.summary.embedded += len(contents)
        self.summary.duplicates += len(fresh) - len(contents)
        seen = [(task, known[picture.sha256].image_id) for task, picture in fresh if picture.sha256 in known]
        self._count_fresh([(task, picture) for task, picture in fresh if picture.sha256 not in known])
        self._place(seen, stored=True)
        self._place([(task, embedded[p.sha256]) for task, p in batch if p.sha256 in embedded])
        said = {task.file.path: task.said for task, _ in batch if task.said is not None}
        self.catalogue.set_metadata(said)

    def _count_fresh(self, files: list[tuple[Task, Prepared]]) -> None:
        """Contents that nobody had seen before this batch: new files, or changed ones."""
        seen: set[str] = set()
        for task, picture in files:
            _count(task, self.summary, copied=picture.sha256 in seen)
            seen.add(picture.sha256)

    def _place(self, files: list[tuple[Task, int]], *, stored: bool = False) -> None:
        """Files whose content was known: touched, moved, one more copy, or changed into that. `stored`: have a row."""
        locations = self.catalogue.locations_of({image_id for _, image_id in files})
        touched: list[FileFacts] = []
        added: list[tuple[int, FileFacts]] = []
        left_behind: list[str] = []
        taken: set[str] = set()
        for task, image_id in files:
            places = [place.path for place in locations.get(image_id, ()) if place.path not in taken]
            left = None if task.known else self._left(task.file.path, places)
            if task.known is not None and task.known.image_id == image_id:
                touched.append(task.file)
                self.summary.unchanged += task.named
            elif left is not None:
                taken.add(left)
                self.plan.vanished.discard(left)
                self.summary.moved += 1
                if stored:
                    left_behind.append(left)
                else:
                    self.catalogue.move_location(left, task.file)
            else:
                added.append((image_id, task.file))
                self.summary.duplicates += not stored
                _count(task, self.summary, copied=True)
        if not stored:
            self.catalogue.touch_locations(touched)
            self.catalogue.add_locations(added)
        self.catalogue.forget_paths(left_behind)

    def _left(self, path: str, places: list[str]) -> str | None:
        """The place that a picture has left for `path`: one of the sources', else any other where it no longer is."""
        vanished = (place for place in places if place in self.plan.vanished)
        return next(vanished, None) or next((place for place in places if place != path and is_gone(place)), None)


def _count(task: Task, summary: IndexSummary, *, copied: bool) -> None:
    if task.known is None:
        summary.new += 1
        summary.copied += copied
    else:
        summary.changed += 1


def embedded_rows(
    files: Sequence[tuple[FileFacts, Prepared]], encoder: TrainedEncoder, *, with_errors: bool
) -> list[NewPicture]:
    """One row for each file, in order; a content that occurs twice is embedded once. Raises NotFinite.

    `with_errors`: also decodes, for the reconstruction error. That takes longer than to encode, so the job leaves it
    to whoever asks for a picture's (search/searcher.py).
    """
    contents = {picture.sha256: picture for _, picture in files}
    if not contents:
        return []
    batch = np.stack([picture.array for picture in contents.values()])
    latent, errors = encoder.embed(batch) if with_errors else (encoder.encode(batch), None)
    log_variance = None if latent.sigma is None else 2 * np.log(latent.sigma)
    number = {sha256: number for number, sha256 in enumerate(contents)}
    return [
        NewPicture(
            sha256=picture.sha256,
            size=picture.size,
            format=picture.format,
            width=picture.width,
            height=picture.height,
            facts=file,
            mu=latent.mu[number[picture.sha256]],
            log_variance=None if log_variance is None else log_variance[number[picture.sha256]],
            reconstruction_error=None if errors is None else float(errors[number[picture.sha256]]),
        )
        for file, picture in files
    ]
