"""From prepared pictures to committed rows: what is new is embedded, what is known only moves, or gains a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simile.core.records import FileStat, IndexSummary
from simile.images.loading.loader import PreparedImage
from simile.images.sources.sources import is_path_missing
from simile.indexer.pipeline.plan import IndexPlan, IndexTask
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder


pass


@dataclass(frozen=True)
class IndexBatchWriter:
    """Stores batches, and counts in `summary` what each file was."""

    catalogue: Catalogue
    plan: IndexPlan
    encoder: TrainedEncoder
    summary: IndexSummary

    def write(self, batch: list[tuple[IndexTask, PreparedImage]]) -> None:
        """Embeds what is new in the batch and commits it; known contents only gain, move or refresh a location."""
        known = self.catalogue.images.find_by_sha256((picture.sha256 for _, picture in batch), self.encoder.fingerprint)
        embedded = {sha: image.image_id for sha, image in known.items() if image.embedded}
        fresh = [(task, picture) for task, picture in batch if picture.sha256 not in embedded]
        rows = make_embedding_rows([(task.file, picture) for task, picture in fresh], self.encoder, with_errors=False)
        self.catalogue.images.add_batch(rows, self.encoder.fingerprint, self.encoder.runtime)
        contents = {picture.sha256 for _, picture in fresh}
        self.summary.embedded += len(contents)
        self.summary.duplicates += len(fresh) - len(contents)
        seen = [(task, known[picture.sha256].image_id) for task, picture in fresh if picture.sha256 in known]
        self._count_new_contents([(task, picture) for task, picture in fresh if picture.sha256 not in known])
        self._update_locations(seen, has_row=True)
        self._update_locations([(task, embedded[p.sha256]) for task, p in batch if p.sha256 in embedded])
        said = {task.file.path: task.metadata for task, _ in batch if task.metadata is not None}
        self.catalogue.metadata.set_for_files(said)

    def _count_new_contents(self, files: list[tuple[IndexTask, PreparedImage]]) -> None:
        """Contents that nobody had seen before this batch: new files, or changed ones."""
        seen: set[str] = set()
        for task, picture in files:
            _count_file(task, self.summary, is_copy=picture.sha256 in seen)
            seen.add(picture.sha256)

    def _update_locations(self, files: list[tuple[IndexTask, int]], *, has_row: bool = False) -> None:
        """Files whose content was known: touched, moved, one more copy, or changed into that. `stored`: have a row."""
        locations = self.catalogue.files.get_for_images({image_id for _, image_id in files})
        touched: list[FileStat] = []
        added: list[tuple[int, FileStat]] = []
        left_behind: list[str] = []
        taken: set[str] = set()
        for task, image_id in files:
            places = [place.path for place in locations.get(image_id, ()) if place.path not in taken]
            left = None if task.known_file else self._find_old_location(task.file.path, places)
            if task.known_file is not None and task.known_file.image_id == image_id:
                touched.append(task.file)
                self.summary.unchanged += task.is_from_source
            elif left is not None:
                taken.add(left)
                self.plan.missing_paths.discard(left)
                self.summary.moved += 1
                if has_row:
                    left_behind.append(left)
                else:
                    self.catalogue.files.move(left, task.file)
            else:
                added.append((image_id, task.file))
                self.summary.duplicates += not has_row
                _count_file(task, self.summary, is_copy=True)
        if not has_row:
            self.catalogue.files.update_stats(touched)
            self.catalogue.files.add(added)
        self.catalogue.files.delete(left_behind)

    def _find_old_location(self, path: str, known_paths: list[str]) -> str | None:
        """The place that a picture has left for `path`: one of the sources', else any other where it no longer is."""
        vanished = (place for place in known_paths if place in self.plan.missing_paths)
        return next(vanished, None) or next(
            (place for place in known_paths if place != path and is_path_missing(place)), None
        )


def _count_file(task: IndexTask, summary: IndexSummary, *, is_copy: bool) -> None:
    if task.known_file is None:
        summary.new += 1
        summary.copied += is_copy
    else:
        summary.changed += 1


def make_embedding_rows(
    files: Sequence[tuple[FileStat, PreparedImage]], encoder: TrainedEncoder, *, with_errors: bool
) -> list[NewImage]:
    """One row for each file, in order; a content that occurs twice is embedded once. Raises NotFinite.

    `with_errors`: also decodes, for the reconstruction error. That takes longer than to encode, so the job leaves it
    to whoever asks for a picture's (search/searcher.py).
    """
    contents = {picture.sha256: picture for _, picture in files}
    if not contents:
        return []
    batch = np.stack([picture.array for picture in contents.values()])
    latent, errors = encoder.encode_with_errors(batch) if with_errors else (encoder.encode(batch), None)
    log_variance = None if latent.sigma is None else 2 * np.log(latent.sigma)
    number = {sha256: number for number, sha256 in enumerate(contents)}
    return [
        NewImage(
            sha256=picture.sha256,
            size=picture.size,
            format=picture.format,
            width=picture.width,
            height=picture.height,
            file=file,
            mu=latent.mu[number[picture.sha256]],
            log_variance=None if log_variance is None else log_variance[number[picture.sha256]],
            reconstruction_error=None if errors is None else float(errors[number[picture.sha256]]),
        )
        for file, picture in files
    ]
