"""Read everything that an export contains about each image, in chunks of rows from one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, select

from simile.core.records import FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.embeddings import unpack_vector
from simile.store.catalogue.encoders import get_encoder_record
from simile.store.catalogue.records import EncoderRecord
from simile.store.database.tables import EmbeddingRow, ImageRow, LocationRow, MetadataRow

EXPORT_CHUNK_ROWS = 4096  # 4 MB of mu and log-variance at 128 dimensions


@dataclass(frozen=True, kw_only=True)
class ExportRows:
    """Columns of n images, by ascending id.

    Attributes:
        paths: All files of each image, sorted.
        metadata: Text by name; if an image's files differ, the first one wins.
        mu: (n, d).
        log_variance: (n, d), NaN if the encoder has none.
    """

    ids: NDArray[np.int64]
    sha256: list[str]
    formats: list[str]
    sizes: list[int]
    widths: list[int]
    heights: list[int]
    paths: list[tuple[str, ...]]
    metadata: list[dict[str, str]]
    mu: FloatArray
    log_variance: FloatArray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class ExportReader:
    """Reads the images that an encoder has embedded. Valid within `open_export_reader`.

    Attributes:
        count: Number of images.
        numeric_by_name: For each name of metadata, whether all its texts are numbers.
        max_lengths: Largest number of characters of a metadata text, by name, and of a path, as "path".
    """

    encoder: EncoderRecord
    count: int
    has_variance: bool
    numeric_by_name: dict[str, bool]
    max_lengths: dict[str, int]
    connection: Connection

    def iterate_chunks(self) -> Iterator[ExportRows]:
        """Yield all images in chunks, in bounded memory."""
        last_id = 0
        while rows := self._read_rows_after(last_id):
            last_id = rows[-1].id
            yield self._make_export_rows(rows)

    def _read_rows_after(self, last_id: int) -> list[Row[Any]]:
        columns = select(ImageRow.__table__, EmbeddingRow.mu, EmbeddingRow.log_variance).join(
            EmbeddingRow, EmbeddingRow.image_id == ImageRow.id
        )
        query = columns.where(EmbeddingRow.encoder == self.encoder.fingerprint, ImageRow.id > last_id)
        return list(self.connection.execute(query.order_by(ImageRow.id).limit(EXPORT_CHUNK_ROWS)))

    def _make_export_rows(self, rows: list[Row[Any]]) -> ExportRows:
        in_range = LocationRow.image_id.between(rows[0].id, rows[-1].id)
        no_variance = np.full(self.encoder.dimensions, np.nan, np.float32)
        paths, metadata = self._read_paths(in_range), self._read_metadata(in_range)
        return ExportRows(
            ids=np.array([row.id for row in rows], np.int64),
            sha256=[row.sha256 for row in rows],
            formats=[row.format for row in rows],
            sizes=[row.size for row in rows],
            widths=[row.width for row in rows],
            heights=[row.height for row in rows],
            paths=[tuple(paths.get(row.id, ())) for row in rows],
            metadata=[metadata.get(row.id, {}) for row in rows],
            mu=np.stack([unpack_vector(row.mu) for row in rows]),
            log_variance=np.stack(
                [unpack_vector(row.log_variance) if row.log_variance else no_variance for row in rows]
            ),
        )

    def _read_paths(self, in_range: Any) -> dict[int, list[str]]:
        paths: dict[int, list[str]] = {}
        query = select(LocationRow.image_id, LocationRow.path).where(in_range).order_by(LocationRow.path)
        for image_id, path in self.connection.execute(query):
            paths.setdefault(image_id, []).append(path)
        return paths

    def _read_metadata(self, in_range: Any) -> dict[int, dict[str, str]]:
        metadata: dict[int, dict[str, str]] = {}
        if self.numeric_by_name:
            columns = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text).join(
                MetadataRow, MetadataRow.location_id == LocationRow.id
            )
            for image_id, name, text in self.connection.execute(columns.where(in_range).order_by(LocationRow.path)):
                metadata.setdefault(image_id, {}).setdefault(name, text)
        return metadata


@contextmanager
def open_export_reader(catalogue: Catalogue, fingerprint: str) -> Iterator[ExportReader]:
    """Open a reader of an encoder's images, as of now. Others may write meanwhile. Raises NoSuchEncoder."""
    with catalogue.begin_read() as connection:
        encoder = get_encoder_record(connection, fingerprint)
        counts = select(func.count(), func.count(EmbeddingRow.log_variance)).where(EmbeddingRow.encoder == fingerprint)
        count, variance_count = connection.execute(counts).one()
        metadata_stats = _read_metadata_stats(connection)
        max_lengths = {name: length for name, _, _, length in metadata_stats}
        max_lengths["path"] = connection.scalar(select(func.max(func.length(LocationRow.path)))) or 1
        yield ExportReader(
            encoder=encoder,
            count=count,
            has_variance=variance_count > 0,
            numeric_by_name={name: files == numbers for name, files, numbers, _ in metadata_stats},
            max_lengths=max_lengths,
            connection=connection,
        )


def _read_metadata_stats(connection: Connection) -> list[Row[str, int, int, int]]:
    """Return (name, number of files that have it, number of files where it is a number, longest text)."""
    columns = select(
        MetadataRow.name, func.count(), func.count(MetadataRow.number), func.max(func.length(MetadataRow.text))
    )
    return list(connection.execute(columns.group_by(MetadataRow.name).order_by(MetadataRow.name)))
