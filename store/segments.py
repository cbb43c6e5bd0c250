"""Segments: index files that never change once they are published, and the pointer to the current one."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from core.durable import sync
from core.errors import IndexDamaged
from store.home import Home, writing
from store.records import EncoderRecord, SegmentRecord
from store.tables import DeletionRow, SegmentRow, StateRow, now
from store.transactions import Transactions, read_state
from store.vectors import FlatIndex, VectorIndex

KIND = "flat"
KEPT = 2  # the current segment, and the one before it for a process that is just opening it


class Segments(Transactions):
    """Verbs on segments. The pointer is written last, in the transaction that makes the segment known."""

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """One segment, or None if it has been cleared away."""
        with self.reading() as connection:
            return read_segment(connection, segment_id)

    def publish_segment(self, encoder: str, file: str, rows: int, change: int, sha256: str) -> set[str]:
        """Makes a written file the current segment; gives the files still in use.

        One that covers less than the current segment is not published: the deletions it lacks are cleared away.
        """
        values = {"encoder": encoder, "file": file, "kind": KIND, "rows": rows, "change": change, "sha256": sha256}
        with self.writing() as (connection, _):
            current = read_state(connection).segment_id
            newest = None if current is None else read_segment(connection, current)
            if newest is None or newest.change <= change:
                insertion = insert(SegmentRow).values(values | {"created_at": now()}).returning(SegmentRow.id)
                segment_id = connection.execute(insertion).scalar_one()
                connection.execute(update(StateRow).values(segment_id=segment_id))
                connection.execute(delete(DeletionRow).where(DeletionRow.change <= change))
            return _forget_old(connection)

    def segment_files(self) -> set[str]:
        """The files in segments/ that are in use."""
        with self.reading() as connection:
            return set(connection.scalars(select(SegmentRow.file)))


def read_segment(connection: Connection, segment_id: int) -> SegmentRecord | None:
    row = connection.execute(select(SegmentRow.__table__).where(SegmentRow.id == segment_id)).one_or_none()
    return None if row is None else SegmentRecord(**row._mapping)


def _forget_old(connection: Connection) -> set[str]:
    newest = select(SegmentRow.id, SegmentRow.file).order_by(SegmentRow.id.desc()).limit(KEPT)
    kept = connection.execute(newest).all()
    connection.execute(delete(SegmentRow).where(SegmentRow.id.not_in([row.id for row in kept])))
    return {row.file for row in kept}


def write_segment(home: Home, encoder: EncoderRecord, index: VectorIndex, change: int) -> tuple[str, str]:
    """Writes the index into segments/, durably; gives the file's name and its SHA-256. Raises HomeNotWritable.

    The name holds the content's hash: the same content gets the same name, another content never does.
    """
    unfinished = home.segments / f"{uuid.uuid4().hex}.tmp"
    with writing(home.segments):
        try:
            index.save(unfinished)
            sync(unfinished)
            sha256 = file_hash(unfinished)
            name = f"{change:012d}-{encoder.fingerprint[:12]}-{sha256[:12]}.faiss"
            unfinished.replace(home.segments / name)
            sync(home.segments)
        finally:
            unfinished.unlink(missing_ok=True)
    return name, sha256


def open_segment(home: Home, segment: SegmentRecord) -> VectorIndex:
    """The segment's index. Raises IndexDamaged if the file is missing, altered or of another size than noted."""
    path = home.segments / segment.file
    try:
        if file_hash(path) != segment.sha256:
            raise IndexDamaged(f"{path} has been altered. Run `simile rebuild`.")
        index = FlatIndex.load(path)
    except OSError as error:
        raise IndexDamaged(f"{path} can't be read: {error.strerror}. Run `simile rebuild`.") from error
    if len(index) != segment.rows:
        raise IndexDamaged(f"{path} holds {len(index)} vectors instead of {segment.rows}. Run `simile rebuild`.")
    return index


def clear_segments(home: Home, kept: set[str]) -> None:
    """Removes every file in segments/ that is not in `kept`. The caller holds the home's lock."""
    with writing(home.segments):
        for path in home.segments.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
