"""Files: where the pictures' bytes are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, insert, or_, select, update

from core.records import FileFacts
from store.home import Home, writing
from store.records import KnownFile
from store.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow
from store.transactions import Transactions, chunks

STREAM = {"yield_per": 5000}  # rows fetched together, where there may be a million


class Files(Transactions):
    """Verbs on locations. A path is absolute; one path leads to one image, an image may have several."""

    def known_locations(self, prefixes: Sequence[str], encoder: str | None = None) -> dict[str, KnownFile]:
        """Every known file that is one of `prefixes` or lies in one of them (as folders), by path.

        `embedded` speaks of the encoder with this fingerprint; it is False without one.
        """
        known: dict[str, KnownFile] = {}
        has_vector = EmbeddingRow.image_id.is_not(None)
        join = and_(EmbeddingRow.image_id == LocationRow.image_id, EmbeddingRow.encoder == encoder)
        files = select(LocationRow.path, LocationRow.image_id, LocationRow.size, LocationRow.mtime_ns, has_vector)
        with self.reading() as connection:
            for prefix in prefixes:
                query = files.select_from(LocationRow).outerjoin(EmbeddingRow, join).where(_under(prefix))
                for path, image_id, size, mtime_ns, embedded in connection.execute(query, execution_options=STREAM):
                    known[path] = KnownFile(image_id, size, mtime_ns, embedded)
        return known

    def locations_of(self, image_ids: Iterable[int]) -> dict[int, tuple[FileFacts, ...]]:
        """The files of each image, sorted by path; ids that don't exist are left out."""
        found: dict[int, list[FileFacts]] = {}
        with self.reading() as connection:
            for row in location_rows(connection, image_ids):
                found.setdefault(row.image_id, []).append(FileFacts(row.path, row.size, row.mtime_ns))
        return {image_id: tuple(files) for image_id, files in found.items()}

    def touch_locations(self, files: Sequence[FileFacts]) -> None:
        """Notes new sizes and times of known paths, whose contents are as before."""
        rows = [{"at": file.path, "size": file.size, "mtime_ns": file.mtime_ns} for file in files]
        values: dict[str, Any] = {"size": bindparam("size"), "mtime_ns": bindparam("mtime_ns")}
        if rows:
            with self.writing() as (connection, _):
                connection.execute(update(LocationRow).where(LocationRow.path == bindparam("at")).values(values), rows)

    def add_locations(self, files: Sequence[tuple[int, FileFacts]]) -> int:
        """Notes that each path holds the image with this id; gives how many images were left without a file.

        A path that held another image is re-pointed, and an image left without a file is deleted.
        """
        if not files:
            return 0
        with self.writing() as (connection, change):
            return drop_images(connection, change, point(connection, files))

    def move_location(self, old_path: str, facts: FileFacts) -> None:
        """Notes that the file at `old_path` is now at `facts.path`, which must be unknown."""
        with self.writing() as (connection, _):
            new = {"path": facts.path, "size": facts.size, "mtime_ns": facts.mtime_ns}
            connection.execute(update(LocationRow).where(LocationRow.path == old_path).values(new))

    def forget_paths(self, paths: Sequence[str]) -> int:
        """Forgets these files; gives how many images were left without a file and so deleted."""
        if not paths:
            return 0
        with self.writing() as (connection, change):
            gone = drop_images(connection, change, unpoint(connection, paths))
        remove_uploads(self.home, paths)
        return gone


def _under(prefix: str) -> ColumnElement[bool]:
    # A range, because LIKE ignores case in SQLite and can't use the index there. The last character of the
    # upper end is the one that follows the separator.
    folder = prefix.rstrip(os.sep) + os.sep
    end = folder[:-1] + chr(ord(os.sep) + 1)
    return or_(LocationRow.path == prefix, and_(LocationRow.path >= folder, LocationRow.path < end))


def location_rows(connection: Connection, image_ids: Iterable[int]) -> list[Row[tuple[int, str, int, int]]]:
    """(image_id, path, size, mtime_ns) of these images' files, sorted by path within each chunk of ids."""
    columns = select(LocationRow.image_id, LocationRow.path, LocationRow.size, LocationRow.mtime_ns)
    found: list[Row[tuple[int, str, int, int]]] = []
    for chunk in chunks(image_ids):
        found += connection.execute(columns.where(LocationRow.image_id.in_(chunk)).order_by(LocationRow.path))
    return found


def point(connection: Connection, files: Iterable[tuple[int, FileFacts]]) -> set[int]:
    """Makes each path lead to its image; gives the images that lost a path by it."""
    wanted = {facts.path: (image_id, facts) for image_id, facts in files}  # the last one named wins
    before = unpoint(connection, list(wanted))
    rows = [
        {"image_id": image_id, "path": facts.path, "size": facts.size, "mtime_ns": facts.mtime_ns}
        for image_id, facts in wanted.values()
    ]
    connection.execute(insert(LocationRow), rows)
    return before


def unpoint(connection: Connection, paths: Iterable[str]) -> set[int]:
    """Removes these paths; gives the images that they led to."""
    touched: set[int] = set()
    for chunk in chunks(paths):
        gone = delete(LocationRow).where(LocationRow.path.in_(chunk)).returning(LocationRow.image_id)
        touched.update(connection.scalars(gone))
    return touched


def drop_images(connection: Connection, change: int, candidates: Iterable[int]) -> int:
    """Deletes those of the images that no file holds any more; gives how many there were.

    Their vectors go with them; a row in `deletions` masks them in the segments that still hold them.
    """
    count = 0
    for chunk in chunks(candidates):
        held = set(connection.scalars(select(LocationRow.image_id).where(LocationRow.image_id.in_(chunk))))
        gone = [image_id for image_id in chunk if image_id not in held]
        if gone:
            connection.execute(delete(ImageRow).where(ImageRow.id.in_(gone)))
            connection.execute(insert(DeletionRow), [{"image_id": image_id, "change": change} for image_id in gone])
        count += len(gone)
    return count


def remove_uploads(home: Home, paths: Iterable[str]) -> None:
    """Removes those of the files that simile itself stored. The user's own files are never touched."""
    for path in map(Path, paths):
        if path.parent == home.uploads:
            with writing(path):
                path.unlink(missing_ok=True)
