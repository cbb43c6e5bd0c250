"""Everything that is known of each picture, row by row, as of one moment: what leaves the home in an export."""

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

EXPORT_CHUNK_ROWS = 4096  # rows at a time: 4 MB of mu and log-variance at 128 dimensions


@dataclass(frozen=True)
class ExportRows:
    """Some pictures, by ascending id. mu, log_variance: (n, d); log_variance is NaN where the encoder has none.

    paths: of each picture all its files, sorted. metadata: of each picture name to text; where its files disagree, what
    the first of them says.
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


@dataclass(frozen=True)
class ExportReader:
    """The pictures that one encoder has seen, `count` of them. names: of metadata, and whether all of it is numbers.

    longest: the most characters that a path, or the text under a name, has.
    """

    encoder: EncoderRecord
    count: int
    has_variance: bool
    numeric_by_name: dict[str, bool]
    max_lengths: dict[str, int]
    _connection: Connection

    def iterate_chunks(self) -> Iterator[ExportRows]:
        """All of them, some at a time, in bounded memory."""
        last = 0
        while rows := self._read_rows_after(last):
            last = rows[-1].id
            yield self._make_export_rows(rows)

    def _read_rows_after(self, last_id: int) -> list[Row[Any]]:
        columns = select(ImageRow.__table__, EmbeddingRow.mu, EmbeddingRow.log_variance).join(
            EmbeddingRow, EmbeddingRow.image_id == ImageRow.id
        )
        query = columns.where(EmbeddingRow.encoder == self.encoder.fingerprint, ImageRow.id > last_id)
        return list(self._connection.execute(query.order_by(ImageRow.id).limit(EXPORT_CHUNK_ROWS)))

    def _make_export_rows(self, rows: list[Row[Any]]) -> ExportRows:
        between = LocationRow.image_id.between(rows[0].id, rows[-1].id)
        nothing = np.full(self.encoder.dimensions, np.nan, np.float32)
        paths, metadata = self._read_paths(between), self._read_metadata(between)
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
            log_variance=np.stack([unpack_vector(row.log_variance) if row.log_variance else nothing for row in rows]),
        )

    def _read_paths(self, in_range: Any) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        query = select(LocationRow.image_id, LocationRow.path).where(in_range).order_by(LocationRow.path)
        for image_id, path in self._connection.execute(query):
            found.setdefault(image_id, []).append(path)
        return found

    def _read_metadata(self, in_range: Any) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        if self.numeric_by_name:
            columns = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text).join(
                MetadataRow, MetadataRow.location_id == LocationRow.id
            )
            for image_id, name, text in self._connection.execute(columns.where(in_range).order_by(LocationRow.path)):
                found.setdefault(image_id, {}).setdefault(name, text)
        return found


@contextmanager
def open_export_reader(catalogue: Catalogue, fingerprint: str) -> Iterator[ExportReader]:
    """What an encoder has seen, as of now: others may write meanwhile. Raises NoSuchEncoder."""
    with catalogue.begin_read() as connection:
        encoder = get_encoder_record(connection, fingerprint)
        of_encoder = select(func.count(), func.count(EmbeddingRow.log_variance)).where(
            EmbeddingRow.encoder == fingerprint
        )
        count, with_variance = connection.execute(of_encoder).one()
        found = _read_metadata_stats(connection)
        names = {name: known == numbers for name, known, numbers, _ in found}
        longest = {name: length for name, _, _, length in found}
        longest["path"] = connection.scalar(select(func.max(func.length(LocationRow.path)))) or 1
        yield ExportReader(encoder, count, with_variance > 0, names, longest, connection)


def _read_metadata_stats(connection: Connection) -> list[Row[str, int, int, int]]:
    """(name, how many files have it, for how many it is a number, the longest text)."""
    columns = select(
        MetadataRow.name, func.count(), func.count(MetadataRow.number), func.max(func.length(MetadataRow.text))
    )
    return list(connection.execute(columns.group_by(MetadataRow.name).order_by(MetadataRow.name)))
