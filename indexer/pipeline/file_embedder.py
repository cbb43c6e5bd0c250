"""From files to committed rows: read, decode, encode and store. The job does it in its process, or in actors on Ray."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from simile.core.records import Failure, FileStat, PhotoMetadata
from simile.images.formats import Limits
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.metadata.reader import MetadataReader
from simile.indexer.pipeline.plan import IndexTask, Spool
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.transactions import split_chunks

if TYPE_CHECKING:
    from simile.models.inference.encoder import TrainedEncoder


class StoredFile(NamedTuple):
    """A file that was read; its image has a vector in the catalogue now."""

    image_id: int
    is_known: bool  # whether the catalogue had the image before the file's batch
    has_vector: bool  # whether it had a vector of the encoder before; if not, location and photo are stored, too
    photo: PhotoMetadata | None


EmbeddedBatch = list[tuple[IndexTask, StoredFile | Failure]]


class TaskEmbedder(Protocol):
    """What embeds the files of tasks."""

    def embed(self, tasks: Spool[IndexTask]) -> Iterator[EmbeddedBatch]:
        """Yield each task with its result, in batches. A batch is committed when it is yielded."""

    def stop(self) -> None:
        """Make `embed` end after the current batches."""


@dataclass(frozen=True, kw_only=True)
class FileEmbedder:
    """Embeds files in this process, which decodes them in the processes of a pool. Threads may share it."""

    catalogue: Catalogue
    encoder: TrainedEncoder
    workers: WorkerPool
    limits: Limits
    batch_size: int
    metadata_reader: MetadataReader
    _storing: threading.Lock = field(default_factory=threading.Lock)  # one batch at a time is encoded and stored

    def embed(self, tasks: Iterable[IndexTask]) -> Iterator[EmbeddedBatch]:
        """Return an iterator of each task with its result, in order, in batches; the workers read ahead."""
        # No variable here may keep the images of a batch: with it, the allocator returned and mapped the memory of each
        # batch again, which took a tenth of a second.
        return map(self._embed_batch, split_chunks(self._prepare(tasks), self.batch_size))

    def _embed_batch(self, batch: Sequence[tuple[IndexTask, PreparedImage | Failure]]) -> EmbeddedBatch:
        files = [(task.file, result) for task, result in batch if isinstance(result, PreparedImage)]
        with self._storing:
            stored = iter(self._store(files))
        return [(task, result if isinstance(result, Failure) else next(stored)) for task, result in batch]

    def stop(self) -> None:
        """Make `embed` end early: files that are decoded are still stored."""
        self.workers.stop()

    def _prepare(self, tasks: Iterable[IndexTask]) -> Iterator[tuple[IndexTask, PreparedImage | Failure]]:
        """Yield each task with its preprocessed image."""
        waiting: deque[IndexTask] = deque()

        def paths() -> Iterator[str]:
            for task in tasks:
                waiting.append(task)
                yield task.file.path

        preprocessing = self.encoder.preprocessing
        for result in prepare_files(paths(), preprocessing, self.limits, self.workers, self.metadata_reader):
            yield waiting.popleft(), result

    def _store(self, files: Sequence[tuple[FileStat, PreparedImage]]) -> list[StoredFile]:
        """Embed the contents without a vector by this encoder, and commit them with their locations."""
        known = self.catalogue.images.find_by_sha256((image.sha256 for _, image in files), self.encoder.fingerprint)
        embedded = {sha256 for sha256, record in known.items() if record.embedded}
        new = [(file, image) for file, image in files if image.sha256 not in embedded]
        rows = make_embedding_rows(new, self.encoder, with_errors=False)
        new_ids = self.catalogue.images.add_batch(rows, self.encoder.fingerprint, self.encoder.runtime)
        ids = {sha256: record.image_id for sha256, record in known.items()}
        ids.update((image.sha256, image_id) for (_, image), image_id in zip(new, new_ids, strict=True))
        return [
            StoredFile(ids[image.sha256], image.sha256 in known, image.sha256 in embedded, image.photo)
            for _, image in files
        ]


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
            photo=image.photo,
            quality=image.quality,
            mu=latent.mu[row_by_sha256[image.sha256]],
            log_variance=None if log_variance is None else log_variance[row_by_sha256[image.sha256]],
            reconstruction_error=None if errors is None else float(errors[row_by_sha256[image.sha256]]),
        )
        for file, image in files
    ]
