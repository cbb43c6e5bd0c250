"""Segments: index files that never change once they are published, and the pointer to the current one."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from simile.core.atomic_write import sync
from simile.core.errors import HomeBusy, IndexDamaged
from simile.store.catalogue.records import EncoderRecord, SegmentRecord
from simile.store.database.tables import DeletionRow, SegmentRow, StateRow, now
from simile.store.database.transactions import Transactions, read_state
from simile.store.home import Home, writing
from simile.store.index.build import Wanted, build_exact, build_ivf
from simile.store.index.flat import FlatIndex, VectorIndex
from simile.store.index.ivf import VECTORS, InvertedIndex
from simile.store.index.vector_file import VectorFile

# By the kind noted in the row: "flat" is what the first homes called an exact index.
KINDS: dict[str, type[FlatIndex] | type[InvertedIndex]] = {
    "flat": FlatIndex,
    "exact": FlatIndex,
    "ivf": InvertedIndex,
}
KEPT = 2  # the current segment, and the one before it for a process that is just opening it
HASHED = 64 << 20  # bytes of a file that are hashed whenever it is opened: 50 ms. `verify` hashes all


@dataclass(frozen=True)
class Written:
    """A segment whose files are on the disk, and whose row is not written yet. See SegmentRecord."""

    kind: str
    file: str
    rows: int
    sha256: str
    details: dict[str, Any]


class Segments(Transactions):
    """Verbs on segments. The pointer is written last, in the transaction that makes the segment known."""

    def segment(self, segment_id: int) -> SegmentRecord | None:
        """One segment, or None if it has been cleared away."""
        with self.reading() as connection:
            return read_segment(connection, segment_id)

    def publish_segment(self, encoder: str, written: Written, change: int, *, activate: bool = False) -> set[str]:
        """Makes a written segment the current one; gives the files still in use.

        One that covers less than the current segment is not published: the deletions it lacks are cleared away.
        `activate`: puts the encoder in use by the same transaction. Raises HomeBusy where that can't be done.
        """
        with self.writing() as (connection, _):
            current = read_state(connection).segment_id
            newest = None if current is None else read_segment(connection, current)
            if newest is None or newest.change <= change:
                _point(connection, encoder, written, change, newest, activate=activate)
            elif activate:
                raise HomeBusy("Another process has made a newer segment meanwhile. Run the command again.")
            return _forget_old(connection)

    def segment_files(self) -> set[str]:
        """The files in segments/ that are in use."""
        with self.reading() as connection:
            return files_in_use(connection)


def read_segment(connection: Connection, segment_id: int) -> SegmentRecord | None:
    row = connection.execute(select(SegmentRow.__table__).where(SegmentRow.id == segment_id)).one_or_none()
    return None if row is None else SegmentRecord(**row._mapping)


def files_in_use(connection: Connection) -> set[str]:
    """The names of all files of all segments that a row knows."""
    rows = connection.execute(select(SegmentRow.__table__))
    return {name for row in rows for name in files_of(SegmentRecord(**row._mapping))}


def files_of(segment: SegmentRecord) -> dict[str, str]:
    """The names of a segment's files, and the SHA-256 of each."""
    sums: dict[str, str] = segment.details.get("files", {segment.file: segment.sha256})
    return sums


def deletions_since(segment: SegmentRecord) -> int:
    """The change from which on all deletions are known: a snapshot that is older can't be brought up to date."""
    return int(segment.details.get("deletions_since", segment.change))  # the first homes cleared all that it covers


def _point(
    connection: Connection,
    encoder: str,
    written: Written,
    change: int,
    newest: SegmentRecord | None,
    *,
    activate: bool,
) -> None:
    """Writes the row and the pointer.

    Deletions are kept back to the segment before: what is searched meanwhile in other processes stands on that one,
    and is brought up to date by them until the new one is open.
    """
    since = change if newest is None else newest.change
    values = {**vars(written), "encoder": encoder, "change": change, "created_at": now()}
    values["details"] = written.details | {"deletions_since": since}
    segment_id = connection.execute(insert(SegmentRow).values(values).returning(SegmentRow.id)).scalar_one()
    moved = {"segment_id": segment_id} | ({"active_encoder": encoder} if activate else {})
    connection.execute(update(StateRow).values(moved))
    connection.execute(delete(DeletionRow).where(DeletionRow.change <= since))


def _forget_old(connection: Connection) -> set[str]:
    newest = select(SegmentRow.id).order_by(SegmentRow.id.desc()).limit(KEPT)
    kept = list(connection.scalars(newest))
    connection.execute(delete(SegmentRow).where(SegmentRow.id.not_in(kept)))
    return files_in_use(connection)


def write_segment(home: Home, encoder: EncoderRecord, vectors: Path, change: int, wanted: Wanted) -> Written:
    """Writes an index of a file of vectors, as write_vectors makes it, into segments/, durably.

    The file of vectors becomes part of it where the kind of index needs it. The name holds the contents' hash: the
    same contents get the same name, others never do. Raises HomeNotWritable.
    """
    rows, dimensions = VectorFile.open(vectors).vectors.shape
    kind = wanted.chosen(rows, dimensions)
    with writing(home.segments), unfinished(home) as lists:
        details = build_ivf(vectors, lists, wanted) if kind == "ivf" else build_exact(vectors, lists)
        parts = {".faiss": lists} | ({VECTORS: vectors} if kind == "ivf" else {})
        sums = {suffix: file_hash(path) for suffix, path in parts.items()}
        digest = hashlib.sha256("".join(sums.values()).encode()).hexdigest() if len(sums) > 1 else sums[".faiss"]
        stem = f"{change:012d}-{encoder.fingerprint[:12]}-{digest[:12]}"
        details["disk_bytes"] = sum(path.stat().st_size for path in parts.values())
        details["files"] = {stem + suffix: sha256 for suffix, sha256 in sums.items()}
        for suffix, path in parts.items():
            sync(path)
            path.replace(home.segments / (stem + suffix))
        sync(home.segments)
    return Written(kind, f"{stem}.faiss", rows, sums[".faiss"], details)


@contextmanager
def unfinished(home: Home) -> Iterator[Path]:
    """A path in segments/ to write to; what is left there in the end is removed."""
    path = home.segments / f"{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def open_segment(home: Home, segment: SegmentRecord, *, hashed: int | None = None) -> VectorIndex:
    """The segment's index. Raises IndexDamaged if a file is missing, altered or of another size than noted.

    `hashed`: bytes up to which a file is hashed to see whether it is altered; every file without it.
    """
    if segment.kind not in KINDS:
        raise IndexDamaged(f"{segment.file} is an index of kind {segment.kind!r}, unknown here. Run `simile rebuild`.")
    path = home.segments / segment.file
    try:
        for name, sha256 in files_of(segment).items():
            path = home.segments / name
            if (hashed is None or path.stat().st_size <= hashed) and file_hash(path) != sha256:
                raise IndexDamaged(f"{path} has been altered. Run `simile rebuild`.")
        index = KINDS[segment.kind].load(home.segments / segment.file)
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
