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

from simile.core.atomic_write import fsync_path
from simile.core.errors import HomeBusy, IndexDamaged
from simile.store.catalogue.records import EncoderRecord, SegmentRecord
from simile.store.database.tables import DeletionRow, SegmentRow, StateRow, utc_now
from simile.store.database.transactions import Repository, read_state
from simile.store.home import Home, translate_write_errors
from simile.store.index.build import IndexOptions, build_exact_index, build_ivf_index
from simile.store.index.flat import FlatIndex, VectorIndex
from simile.store.index.ivf import VECTORS_SUFFIX, IvfIndex
from simile.store.index.vector_file import VectorFile

# By the kind noted in the row: "flat" is what the first homes called an exact index.
INDEX_CLASSES: dict[str, type[FlatIndex] | type[IvfIndex]] = {
    "flat": FlatIndex,
    "exact": FlatIndex,
    "ivf": IvfIndex,
}
RETAINED_SEGMENTS = 2  # the current segment, and the one before it for a process that is just opening it
MAX_HASHED_BYTES = 64 << 20  # bytes of a file that are hashed whenever it is opened: 50 ms. `verify` hashes all


@dataclass(frozen=True)
class WrittenSegment:
    """A segment whose files are on the disk, and whose row is not written yet. See SegmentRecord."""

    kind: str
    file: str
    rows: int
    sha256: str
    details: dict[str, Any]


class SegmentRepository(Repository):
    """Verbs on segments. The pointer is written last, in the transaction that makes the segment known."""

    def find(self, segment_id: int) -> SegmentRecord | None:
        """One segment, or None if it has been cleared away."""
        with self.database.begin_read() as connection:
            return find_segment_record(connection, segment_id)

    def publish(self, encoder: str, written: WrittenSegment, change: int, *, activate: bool = False) -> set[str]:
        """Makes a written segment the current one; gives the files still in use.

        One that covers less than the current segment is not published: the deletions it lacks are cleared away.
        `activate`: puts the encoder in use by the same transaction. Raises HomeBusy where that can't be done.
        """
        with self.database.begin_write() as (connection, _):
            current = read_state(connection).segment_id
            newest = None if current is None else find_segment_record(connection, current)
            if newest is None or newest.change <= change:
                _set_current_segment(connection, encoder, written, change, newest, activate=activate)
            elif activate:
                raise HomeBusy("Another process has made a newer segment meanwhile. Run the command again.")
            return _delete_old_segments(connection)

    def get_file_names(self) -> set[str]:
        """The files in segments/ that are in use."""
        with self.database.begin_read() as connection:
            return read_files_in_use(connection)


def find_segment_record(connection: Connection, segment_id: int) -> SegmentRecord | None:
    row = connection.execute(select(SegmentRow.__table__).where(SegmentRow.id == segment_id)).one_or_none()
    return None if row is None else SegmentRecord(**row._mapping)


def read_files_in_use(connection: Connection) -> set[str]:
    """The names of all files of all segments that a row knows."""
    rows = connection.execute(select(SegmentRow.__table__))
    return {name for row in rows for name in get_segment_hashes(SegmentRecord(**row._mapping))}


def get_segment_hashes(segment: SegmentRecord) -> dict[str, str]:
    """The names of a segment's files, and the SHA-256 of each."""
    sums: dict[str, str] = segment.details.get("files", {segment.file: segment.sha256})
    return sums


def get_first_tracked_deletion(segment: SegmentRecord) -> int:
    """The change from which on all deletions are known: a snapshot that is older can't be brought up to date."""
    return int(segment.details.get("deletions_since", segment.change))  # the first homes cleared all that it covers


def _set_current_segment(
    connection: Connection,
    encoder: str,
    written: WrittenSegment,
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
    values = {**vars(written), "encoder": encoder, "change": change, "created_at": utc_now()}
    values["details"] = written.details | {"deletions_since": since}
    segment_id = connection.execute(insert(SegmentRow).values(values).returning(SegmentRow.id)).scalar_one()
    moved = {"segment_id": segment_id} | ({"active_encoder": encoder} if activate else {})
    connection.execute(update(StateRow).values(moved))
    connection.execute(delete(DeletionRow).where(DeletionRow.change <= since))


def _delete_old_segments(connection: Connection) -> set[str]:
    newest = select(SegmentRow.id).order_by(SegmentRow.id.desc()).limit(RETAINED_SEGMENTS)
    kept = list(connection.scalars(newest))
    connection.execute(delete(SegmentRow).where(SegmentRow.id.not_in(kept)))
    return read_files_in_use(connection)


def write_segment(
    home: Home, encoder: EncoderRecord, vectors: Path, change: int, options: IndexOptions
) -> WrittenSegment:
    """Writes an index of a file of vectors, as write_vectors makes it, into segments/, durably.

    The file of vectors becomes part of it where the kind of index needs it. The name holds the contents' hash: the
    same contents get the same name, others never do. Raises HomeNotWritable.
    """
    rows, dimensions = VectorFile.open(vectors).vectors.shape
    kind = options.choose_kind(rows, dimensions)
    with translate_write_errors(home.segments), make_temporary_file(home) as lists:
        details = build_ivf_index(vectors, lists, options) if kind == "ivf" else build_exact_index(vectors, lists)
        parts = {".faiss": lists} | ({VECTORS_SUFFIX: vectors} if kind == "ivf" else {})
        sums = {suffix: hash_file(path) for suffix, path in parts.items()}
        digest = hashlib.sha256("".join(sums.values()).encode()).hexdigest() if len(sums) > 1 else sums[".faiss"]
        stem = f"{change:012d}-{encoder.fingerprint[:12]}-{digest[:12]}"
        details["disk_bytes"] = sum(path.stat().st_size for path in parts.values())
        details["files"] = {stem + suffix: sha256 for suffix, sha256 in sums.items()}
        for suffix, path in parts.items():
            fsync_path(path)
            path.replace(home.segments / (stem + suffix))
        fsync_path(home.segments)
    return WrittenSegment(kind, f"{stem}.faiss", rows, sums[".faiss"], details)


@contextmanager
def make_temporary_file(home: Home) -> Iterator[Path]:
    """A path in segments/ to write to; what is left there in the end is removed."""
    path = home.segments / f"{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def open_segment(home: Home, segment: SegmentRecord, *, max_hashed_bytes: int | None = None) -> VectorIndex:
    """The segment's index. Raises IndexDamaged if a file is missing, altered or of another size than noted.

    `hashed`: bytes up to which a file is hashed to see whether it is altered; every file without it.
    """
    if segment.kind not in INDEX_CLASSES:
        raise IndexDamaged(f"{segment.file} is an index of kind {segment.kind!r}, unknown here. Run `simile rebuild`.")
    path = home.segments / segment.file
    try:
        for name, sha256 in get_segment_hashes(segment).items():
            path = home.segments / name
            if (max_hashed_bytes is None or path.stat().st_size <= max_hashed_bytes) and hash_file(path) != sha256:
                raise IndexDamaged(f"{path} has been altered. Run `simile rebuild`.")
        index = INDEX_CLASSES[segment.kind].load(home.segments / segment.file)
    except OSError as error:
        raise IndexDamaged(f"{path} can't be read: {error.strerror}. Run `simile rebuild`.") from error
    if len(index) != segment.rows:
        raise IndexDamaged(f"{path} holds {len(index)} vectors instead of {segment.rows}. Run `simile rebuild`.")
    return index


def delete_unused_segment_files(home: Home, used_names: set[str]) -> None:
    """Removes every file in segments/ that is not in `kept`. The caller holds the home's lock."""
    with translate_write_errors(home.segments):
        for path in home.segments.iterdir():
            if path.name not in used_names:
                path.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
