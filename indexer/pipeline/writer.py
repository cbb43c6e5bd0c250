"""Write the results of batches: files of known images get or move a location, and everything is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from simile.core.records import Failure, FileStat, IndexSummary, PhotoMetadata
from simile.images.sources.sources import is_path_missing
from simile.indexer.pipeline.file_embedder import EmbeddedBatch, StoredFile
from simile.indexer.pipeline.plan import IndexPlan, IndexTask
from simile.store.catalogue.catalogue import Catalogue

PhotosByPath = dict[str, PhotoMetadata | None]

MAX_REMEMBERED_IMAGES = 10_000  # images with old locations that are kept from batch to batch


class CountedImages:
    """The images that a run has embedded and counted, for runs that embed in several processes.

    Two processes may embed the same content at the same time, and the batch of a process that was lost is repeated,
    although it may be stored already. So a process can't know whether its batch is the one that counts.
    """

    def __init__(self, first_id: int) -> None:
        """Start with no image. `first_id`: ids of images that were added during the run are at least this."""
        self._first_id = first_id
        self._bits = bytearray()  # one bit for each id: a set of 100 million ids would take gigabytes

    def correct(self, task: IndexTask, file: StoredFile) -> StoredFile:
        """Return the result as a run in a single process would have it."""
        known, is_added = task.known_file, file.image_id >= self._first_id
        lacked_vector = known is not None and known.image_id == file.image_id and not known.embedded
        if file.has_vector and not is_added and not lacked_vector:
            return file
        is_counted = not self._add(file.image_id)
        return file._replace(is_known=is_counted or not is_added, has_vector=is_counted)

    def _add(self, image_id: int) -> bool:
        """Add an image; return whether it is new here."""
        position, mask = image_id // 8, 1 << image_id % 8
        self._bits.extend(bytes(max(0, position + 1 - len(self._bits))))
        is_new = not self._bits[position] & mask
        self._bits[position] |= mask
        return is_new


@dataclass(frozen=True, kw_only=True)
class IndexBatchWriter:
    """Stores the results of batches, and counts in `summary` whether files are new, changed, moved or copies.

    `old_locations` has the missing files of images that got files in this run, each file once: an image may have any
    number of files, and checking all of them again for each new one would take the square of the time.
    """

    catalogue: Catalogue
    plan: IndexPlan
    summary: IndexSummary
    counted_images: CountedImages | None = None  # None in a run that embeds in one process
    old_locations: dict[int, Iterator[str]] = field(default_factory=dict)

    def write(self, batch: EmbeddedBatch) -> None:
        """Store and count the results of a batch."""
        failed = [(task, result) for task, result in batch if isinstance(result, Failure)]
        failures = [failure for _, failure in failed]
        self.summary.failures += failures
        self.catalogue.runs.add_failures(self.summary.run_id, failures)
        self.catalogue.files.set_failures([failure for task, failure in failed if task.known_file is not None])
        files = self._correct([(task, result) for task, result in batch if isinstance(result, StoredFile)])
        new = [(task, file) for task, file in files if not file.has_vector]
        embedded_ids = {file.image_id for _, file in new}
        self.summary.embedded += len(embedded_ids)
        self.summary.duplicates += len(new) - len(embedded_ids)
        # Files of known images get, move or refresh a location.
        self._count_new_images([(task, file.image_id) for task, file in new if not file.is_known])
        self._update_locations([(task, file.image_id) for task, file in new if file.is_known], has_row=True)
        photos = {task.file.path: file.photo for task, file in files if file.has_vector}
        self._update_locations([(task, file.image_id) for task, file in files if file.has_vector], photos)
        metadata = {task.file.path: task.metadata for task, _ in files if task.metadata is not None}
        self.catalogue.metadata.set_for_files(metadata)

    def _correct(self, files: list[tuple[IndexTask, StoredFile]]) -> list[tuple[IndexTask, StoredFile]]:
        """Return the results as a run in a single process would have them."""
        if self.counted_images is None:
            return files
        corrected = [(task, self.counted_images.correct(task, file)) for task, file in files]
        # Files of images that were stored with another file: their own locations may not be there.
        pairs = zip(files, corrected, strict=True)
        lacking = [(task, file) for (task, file), (_, new) in pairs if file.has_vector and not new.has_vector]
        photos = {task.file.path: file.photo for task, file in lacking}
        self.catalogue.files.add([(file.image_id, task.file) for task, file in lacking], photos=photos)
        return corrected

    def _count_new_images(self, files: list[tuple[IndexTask, int]]) -> None:
        """Count files of images that the catalogue did not know: new or changed files."""
        seen: set[int] = set()
        for task, image_id in files:
            _count_file(task, self.summary, is_copy=image_id in seen)
            seen.add(image_id)

    def _update_locations(
        self, files: list[tuple[IndexTask, int]], photos: PhotosByPath | None = None, *, has_row: bool = False
    ) -> None:
        """Update the locations of files with a known content, and count them.

        Args:
            files: Tasks with the ids of their images.
            photos: Photo metadata of the files, by path.
            has_row: Whether the locations of these files are stored already, with their photo metadata.
        """
        photos = photos or {}
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
                    replace, photo = self.counted_images is not None, photos[task.file.path]
                    self.catalogue.files.move(old_path, task.file, {task.file.path: photo}, replace=replace)
            else:
                added.append((image_id, task.file))
                self.summary.duplicates += not has_row
                _count_file(task, self.summary, is_copy=True)
        if not has_row:
            # First, so that after a crash the files are read again.
            self.catalogue.photo_metadata.set_for_files({file.path: photos[file.path] for file in touched})
            self.catalogue.files.update_stats(touched)
            self.catalogue.files.add(added, photos={file.path: photos[file.path] for _, file in added})
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
