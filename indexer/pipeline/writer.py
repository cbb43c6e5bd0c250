"""Write batches of preprocessed images: new contents are embedded, known contents only get or move a location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


MAX_REMEMBERED_IMAGES = 10_000  # images with old locations that are kept from batch to batch


@dataclass(frozen=True, kw_only=True)
class IndexBatchWriter:
    """Stores batches, and counts in `summary` whether files are new, changed, moved or copies.

    `old_locations` has the missing files of images that got files in this run, each file once: an image may have any
    number of files, and checking all of them again for each new one would take the square of the time.
    """

    catalogue: Catalogue
    plan: IndexPlan
    encoder: TrainedEncoder
    summary: IndexSummary
    old_locations: dict[int, Iterator[str]] = field(default_factory=dict)

    def write(self, batch: list[tuple[IndexTask, PreparedImage]]) -> None:
        """Embed the new contents of a batch and commit all of its files."""
        # Contents without a vector by this encoder are embedded; one that occurs twice is embedded once.
        known = self.catalogue.images.find_by_sha256((image.sha256 for _, image in batch), self.encoder.fingerprint)
        embedded = {sha256: record.image_id for sha256, record in known.items() if record.embedded}
        new = [(task, image) for task, image in batch if image.sha256 not in embedded]
        rows = make_embedding_rows([(task.file, image) for task, image in new], self.encoder, with_errors=False)
        self.catalogue.images.add_batch(rows, self.encoder.fingerprint, self.encoder.runtime)
        contents = {image.sha256 for _, image in new}
        self.summary.embedded += len(contents)
        self.summary.duplicates += len(new) - len(contents)
        # Files of known contents get, move or refresh a location.
        known_files = [(task, known[image.sha256].image_id) for task, image in new if image.sha256 in known]
        self._count_new_contents([(task, image) for task, image in new if image.sha256 not in known])
        self._update_locations(known_files, has_row=True)
        self._update_locations([(task, embedded[image.sha256]) for task, image in batch if image.sha256 in embedded])
        metadata = {task.file.path: task.metadata for task, _ in batch if task.metadata is not None}
        self.catalogue.metadata.set_for_files(metadata)

    def _count_new_contents(self, files: list[tuple[IndexTask, PreparedImage]]) -> None:
        """Count files with a content that the catalogue did not know: new or changed files."""
        seen: set[str] = set()
        for task, image in files:
            _count_file(task, self.summary, is_copy=image.sha256 in seen)
            seen.add(image.sha256)

    def _update_locations(self, files: list[tuple[IndexTask, int]], *, has_row: bool = False) -> None:
        """Update the locations of files with a known content, and count them.

        Args:
            files: Tasks with the ids of their images.
            has_row: Whether the locations of these files are stored already.
        """
        self._remember_old_locations({image_id for task, image_id in files if task.known_file is None})
        touched: list[FileStat] = []
        added: list[tuple[int, FileStat]] = []
        old_paths: list[str] = []  # of moved files
        for task, image_id in files:
            old_path = None if task.known_file else next(self.old_locations[image_id], None)
            if task.known_file is not None and task.known_file.image_id == image_id:
                touched.append(task.file)
                self.summary.unchanged += task.is_from_source
            elif old_path is not None:
                self.plan.missing_paths.discard(old_path)
                self.summary.moved += 1
                if has_row:
                    old_paths.append(old_path)
                else:
                    self.catalogue.files.move(old_path, task.file)
            else:
                added.append((image_id, task.file))
                self.summary.duplicates += not has_row
                _count_file(task, self.summary, is_copy=True)
        if not has_row:
            self.catalogue.files.update_stats(touched)
            self.catalogue.files.add(added)
        self.catalogue.files.delete(old_paths)

    def _remember_old_locations(self, image_ids: set[int]) -> None:
        if len(self.old_locations) > MAX_REMEMBERED_IMAGES:
            self.old_locations.clear()
        unknown_ids = image_ids - self.old_locations.keys()
        locations = self.catalogue.files.get_for_images(unknown_ids)
        for image_id in unknown_ids:
            paths = [location.path for location in locations.get(image_id, ())]
            self.old_locations[image_id] = self._iterate_missing(paths)

    def _iterate_missing(self, paths: list[str]) -> Iterator[str]:
        """Yield the paths that no longer exist, from which a file may have been moved: first those in the sources.

        A name by a link counts, too, if the sources have the file under the real name of its folder.
        """
        missing = [path for path in paths if path in self.plan.missing_paths or path in self.plan.link_paths]
        others = set(paths).difference(missing)
        yield from missing
        yield from (path for path in paths if path in others and is_path_missing(path))


def _count_file(task: IndexTask, summary: IndexSummary, *, is_copy: bool) -> None:
    if task.known_file is None:
        summary.new += 1
        summary.copied += is_copy
    else:
        summary.changed += 1


def make_embedding_rows(
    files: Sequence[tuple[FileStat, PreparedImage]], encoder: TrainedEncoder, *, with_errors: bool
) -> list[NewImage]:
    """Embed files and return a row for each; a content that occurs twice is embedded once.

    Args:
        files: Files with their preprocessed images.
        encoder: The encoder to use.
        with_errors: Whether to decode, too, for the reconstruction error. This takes longer than encoding, so the
            indexing job leaves it out: search/searcher.py computes it on demand.

    Raises:
        NotFinite: The encoder gives NaN or infinity.
    """
    contents = {image.sha256: image for _, image in files}
    if not contents:
        return []
    batch = np.stack([image.array for image in contents.values()])
    latent, errors = encoder.encode_with_errors(batch) if with_errors else (encoder.encode(batch), None)
    log_variance = None if latent.sigma is None else 2 * np.log(latent.sigma)
    row_by_sha256 = {sha256: row for row, sha256 in enumerate(contents)}
    return [
        NewImage(
            sha256=image.sha256,
            size=image.size,
            format=image.format,
            width=image.width,
            height=image.height,
            file=file,
            mu=latent.mu[row_by_sha256[image.sha256]],
            log_variance=None if log_variance is None else log_variance[row_by_sha256[image.sha256]],
            reconstruction_error=None if errors is None else float(errors[row_by_sha256[image.sha256]]),
        )
        for file, image in files
    ]
