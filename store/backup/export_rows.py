"""Read everything that an export contains about each image, in chunks of rows from one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, select

from simile.core.records import FloatArray, PhotoMetadata
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.embeddings import unpack_vector
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.metadata import METADATA_JOIN, read_image_photos
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import EmbeddingRow, ImageRow, LocationRow, MetadataRow, PhotoMetadataRow

EXPORT_CHUNK_ROWS = 4096  # 4 MB of mu and log-variance at 128 dimensions


@dataclass(frozen=True, kw_only=True)
class ExportRows:
    """Columns of n images, by ascending id."""

    ids: NDArray[np.int64]
    sha256: list[str]
    formats: list[str]
    sizes: list[int]
    widths: list[int]
    heights: list[int]
    paths: list[tuple[str, ...]]  # sorted
    metadata: list[dict[str, str]]  # text by name; if an image's files differ, the first one wins
    photos: list[PhotoMetadata | None]  # of the first file that has any
    mu: FloatArray  # (n, d)
    log_variance: FloatArray  # (n, d), NaN if the encoder has none

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class ExportReader:
    """Reads the images that an encoder has embedded. Valid within `open_export_reader`."""

    encoder: EncoderRecord
    count: int  # of images
    has_variance: bool
    has_photos: bool  # whether an image of the home has photo metadata
    numeric_by_name: dict[str, bool]  # for each name of metadata, whether all its texts are numbers
    max_lengths: dict[str, int]  # most characters of a metadata text, by name, and of a path, as "path"
    connection: Connection

    def iterate_chunks(self) -> Iterator[ExportRows]:
        """Yield all images in chunks, in bounded memory."""
        columns = select(ImageRow.__table__, EmbeddingRow.mu, EmbeddingRow.log_variance)
        query = columns.join(EmbeddingRow, EmbeddingRow.image_id == ImageRow.id)
        query = query.where(EmbeddingRow.encoder == self.encoder.fingerprint).order_by(ImageRow.id)
        last_id = 0
        while rows := self.connection.execute(query.where(ImageRow.id > last_id).limit(EXPORT_CHUNK_ROWS)).all():
            last_id = rows[-1].id
            yield self._make_export_rows(rows)

    def _make_export_rows(self, rows: Sequence[Row[Any]]) -> ExportRows:
        in_range = LocationRow.image_id.between(rows[0].id, rows[-1].id)
        no_variance = np.full(self.encoder.dimensions, np.nan, np.float32)
        paths: dict[int, list[str]] = {}
        files = select(LocationRow.image_id, LocationRow.path).where(in_range).order_by(LocationRow.path)
        for image_id, path in self.connection.execute(files):
            paths.setdefault(image_id, []).append(path)
        metadata: dict[int, dict[str, str]] = {}
        if self.numeric_by_name:
            items = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text).join(MetadataRow, METADATA_JOIN)
            for image_id, name, text in self.connection.execute(items.where(in_range).order_by(LocationRow.path)):
                metadata.setdefault(image_id, {}).setdefault(name, text)
        photos = read_image_photos(self.connection, [row.id for row in rows]) if self.has_photos else {}
        return ExportRows(
            ids=np.array([row.id for row in rows], np.int64),
            sha256=[row.sha256 for row in rows],
            formats=[row.format for row in rows],
            sizes=[row.size for row in rows],
            widths=[row.width for row in rows],
            heights=[row.height for row in rows],
            paths=[tuple(paths.get(row.id, ())) for row in rows],
            metadata=[metadata.get(row.id, {}) for row in rows],
            photos=[photos.get(row.id) for row in rows],
            mu=np.stack([unpack_vector(row.mu) for row in rows]),
            log_variance=np.stack(
                [unpack_vector(row.log_variance) if row.log_variance else no_variance for row in rows]
            ),
        )


@contextmanager
def open_export_reader(catalogue: Catalogue, fingerprint: str) -> Iterator[ExportReader]:
    """Open a reader of an encoder's images, as of now. Others may write meanwhile. Raises NoSuchEncoder."""
    with catalogue.begin_read() as connection:
        encoder = get_encoder_record(connection, fingerprint)
        counts = select(func.count(), func.count(EmbeddingRow.log_variance)).where(EmbeddingRow.encoder == fingerprint)
        count, variance_count = connection.execute(counts).one()
        # Names of metadata, files that have it, files where it is a number, characters of the longest text.
        lengths = func.max(func.length(MetadataRow.text))
        columns = select(MetadataRow.name, func.count(), func.count(MetadataRow.number), lengths)
        metadata_stats = connection.execute(columns.group_by(MetadataRow.name).order_by(MetadataRow.name)).all()
        max_lengths = {name: length for name, _, _, length in metadata_stats}
        max_lengths["path"] = connection.scalar(select(func.max(func.length(LocationRow.path)))) or 1
        yield ExportReader(
            encoder=encoder,
            count=count,
            has_variance=variance_count > 0,
            has_photos=connection.scalar(select(PhotoMetadataRow.location_id).limit(1)) is not None,
            numeric_by_name={name: files == numbers for name, files, numbers, _ in metadata_stats},
            max_lengths=max_lengths,
            connection=connection,
        )
