"""Whether what a home holds is whole: rows, vectors, segment and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, select

from core.errors import IndexDamaged
from store.catalogue import Catalogue
from store.distances import to_indexed
from store.embeddings import stack, unpack
from store.encoders import find_encoder
from store.engine import damage
from store.files import STREAM
from store.home import Home
from store.records import EncoderRecord, SegmentRecord
from store.segments import open_segment, read_segment
from store.tables import DeletionRow, EmbeddingRow, EncoderRow, ImageRow, LocationRow, SegmentRow
from store.transactions import read_state
from store.vectors import VectorIndex

REBUILD = "Run `simile rebuild`."
INDEX = "Run `simile index` on its folder again."
RESTORE = "Restore the catalogue from a backup."


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `kind`: a word to sort by; `what`: with path or id; `next_step`: what to do."""

    kind: str
    what: str
    next_step: str


def verify(home: Home) -> list[Problem]:
    """Everything that is wrong with a home whose schema is current; empty when nothing is.

    Reads every vector once. An interrupted run is no problem: the next one continues. Whether an encoder's
    weights have been altered is checked where they are loaded.
    """
    with Catalogue(home) as catalogue, catalogue.reading() as connection:
        broken = [Problem("database", sentence, RESTORE) for sentence in damage(connection)]
        if broken:  # what else is read from it would mean little
            return broken
        checks = (_vectors, _images, _segment, _encoders)
        return [problem for check in checks for problem in check(home, connection)]


def leftovers(home: Home) -> list[Problem]:
    """Files in the home that nothing points to, such as a writer leaves that was killed between file and row.

    No search sees them and nobody was told that they are stored; an upload under way looks the same for a moment.
    """
    with Catalogue(home) as catalogue, catalogue.reading() as connection:
        return list(_orphans_of(home, connection))


def _vectors(_: Home, connection: Connection) -> Iterator[Problem]:
    """Vectors of a wrong length, and numbers that are not finite."""
    dimensions = dict(connection.execute(select(EncoderRow.fingerprint, EncoderRow.dimensions)).all())
    columns = select(EmbeddingRow.image_id, EmbeddingRow.encoder, EmbeddingRow.mu, EmbeddingRow.log_variance)
    for image_id, encoder, *vectors in connection.execute(columns, execution_options=STREAM):
        for name, stored in zip(("mu", "log_variance"), vectors, strict=True):
            wrong = stored is not None and _wrong_with(stored, dimensions[encoder])
            if wrong:
                yield Problem("vector", f"{name} of image {image_id} by encoder {encoder} {wrong}.", RESTORE)


def _wrong_with(stored: bytes, dimensions: int) -> str | None:
    if len(stored) != 4 * dimensions:
        return f"has {len(stored)} bytes instead of {4 * dimensions}"
    return None if np.isfinite(unpack(stored)).all() else "holds NaN or infinity"


def _images(_: Home, connection: Connection) -> Iterator[Problem]:
    """Images that no file holds, or that the active encoder never saw."""
    lost = select(ImageRow.id).outerjoin(LocationRow).where(LocationRow.id.is_(None)).order_by(ImageRow.id)
    for image_id in connection.scalars(lost):
        yield Problem("image", f"Image {image_id} has no file.", f"Delete image {image_id}.")
    encoder = read_state(connection).active_encoder
    seen = (EmbeddingRow.image_id == ImageRow.id) & (EmbeddingRow.encoder == encoder)
    unseen = select(ImageRow.id).outerjoin(EmbeddingRow, seen).where(EmbeddingRow.image_id.is_(None))
    for image_id in connection.scalars(unseen.order_by(ImageRow.id)):
        yield Problem("image", f"Image {image_id} has no vector by the active encoder.", INDEX)


def _segment(home: Home, connection: Connection) -> Iterator[Problem]:
    """A segment that is missing or altered, or that says something else than the rows it covers."""
    segment_id = read_state(connection).segment_id
    segment = None if segment_id is None else read_segment(connection, segment_id)
    encoder = None if segment is None else find_encoder(connection, segment.encoder)
    if segment is None or encoder is None:
        return
    try:
        index = open_segment(home, segment)
        if index.dimensions != encoder.indexed_dimensions:
            raise IndexDamaged(f"{segment.file} holds vectors of {index.dimensions} numbers. {REBUILD}")
    except IndexDamaged as error:
        what, _, next_step = str(error).partition(". ")
        yield Problem("segment", f"{what}.", next_step)
    else:
        yield from _against_rows(connection, segment, encoder, index)


def _against_rows(
    connection: Connection, segment: SegmentRecord, encoder: EncoderRecord, index: VectorIndex
) -> Iterator[Problem]:
    """Covered rows that the segment lacks or holds otherwise, and ids that no row explains."""
    columns = select(EmbeddingRow.image_id, EmbeddingRow.mu, EmbeddingRow.change)
    query = columns.where(EmbeddingRow.encoder == encoder.fingerprint)
    unexplained = set(index.ids.tolist()) - set(connection.scalars(select(DeletionRow.image_id)))
    for rows in connection.execute(query, execution_options=STREAM).partitions():
        unexplained.difference_update(row.image_id for row in rows)
        whole = [row for row in rows if row.change <= segment.change and len(row.mu) == 4 * encoder.dimensions]
        for image_id in _different([row.image_id for row in whole], [row.mu for row in whole], encoder, index):
            yield Problem("segment", f"{segment.file} lacks the vector of image {image_id}, or has another.", REBUILD)
    for image_id in sorted(unexplained):
        yield Problem("segment", f"{segment.file} holds image {image_id}, which has no row.", REBUILD)


def _different(ids: list[int], stored: list[bytes], encoder: EncoderRecord, index: VectorIndex) -> list[int]:
    """Those of the ids whose vector in the index is not the one stored."""
    if not ids:
        return []
    there = np.isin(ids, index.present(ids))
    expected = to_indexed(stack(stored), encoder.index_dims, encoder.metric)[there]
    # Scaling to length 1 may round differently on another machine.
    close = np.isclose(index.vectors(np.array(ids)[there]), expected, rtol=1e-5, atol=1e-7, equal_nan=True)
    there[there] = close.all(axis=1)
    return [image_id for image_id, same in zip(ids, there, strict=True) if not same]


def _orphans_of(home: Home, connection: Connection) -> Iterator[Problem]:
    for path in _orphans(home.segments, set(connection.scalars(select(SegmentRow.file)))):
        yield Problem("orphan", f"{path} belongs to no segment.", f"{REBUILD[:-1]}, which removes it.")
    uploads = select(LocationRow.path).where(LocationRow.path.startswith(str(home.uploads), autoescape=True))
    for path in _orphans(home.uploads, {Path(path).name for path in connection.scalars(uploads)}):
        yield Problem(
            "orphan", f"{path} belongs to no image.", "Its upload was never answered: remove it, or upload it again."
        )


def _orphans(folder: Path, known: set[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []


def _encoders(home: Home, connection: Connection) -> Iterator[Problem]:
    """Encoders whose folder is gone."""
    for fingerprint in connection.scalars(select(EncoderRow.fingerprint).order_by(EncoderRow.fingerprint)):
        folder = home.encoders / fingerprint
        if not folder.is_dir():
            yield Problem("encoder", f"{folder} is missing.", "Put the encoder's folder back from a backup.")
