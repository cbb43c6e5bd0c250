"""Files: where the pictures' bytes are."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, delete, insert, or_, select, update

from simile.core.records import FileStat
from simile.store.catalogue.records import KnownFile
from simile.store.database.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow
from simile.store.database.transactions import Repository, split_chunks
from simile.store.home import Home, translate_write_errors

KnownFileRow = tuple[str, int, int, int, bool]  # path, image id, size, mtime_ns, embedded

STREAM_OPTIONS = {"yield_per": 5000}  # rows fetched together, where there may be a million


class FileRepository(Repository):
    """Verbs on locations. A path is absolute; one path leads to one image, an image may have several."""

    def find_under(self, prefixes: Sequence[str], encoder: str | None = None) -> dict[str, KnownFile]:
        """Every known file that is one of `prefixes` or lies in one of them (as folders), by path.

        `embedded` speaks of the encoder with this fingerprint; it is False without one.
        """
        blocks = (block for prefix in prefixes for block in self.iterate_under(prefix, encoder))
        return {row[0]: make_known_file(row) for block in blocks for row in block}

    def iterate_under(self, prefix: str, encoder: str | None = None) -> Generator[list[KnownFileRow]]:
        """(path, image id, size, mtime_ns, embedded) of the known files in a folder or archive, sorted by path.

        As of the first, in lists of some thousands: there may be millions.
        """
        with self.database.begin_read() as connection:
            result = connection.execute(
                _make_known_files_query(encoder).where(make_under_condition(prefix)).order_by(LocationRow.path)
            )
            cursor = result.cursor
            assert cursor is not None
            while rows := cursor.fetchmany(
                STREAM_OPTIONS["yield_per"]
            ):  # plain tuples: half the time of SQLAlchemy's rows
                yield list(rows)
            result.close()

    def get_many(self, paths: Iterable[str], encoder: str | None = None) -> dict[str, KnownFile]:
        """Those of the files that are known, by path."""
        known: dict[str, KnownFile] = {}
        with self.database.begin_read() as connection:
            for chunk in split_chunks(paths):
                for row in connection.execute(_make_known_files_query(encoder).where(LocationRow.path.in_(chunk))):
                    known[row.path] = make_known_file(row)
        return known

    def iterate_without_embedding(self, encoder: str, prefix: str | None = None) -> Iterator[tuple[int, FileStat]]:
        """(image id, file) of all files of the images without a vector by this encoder, by id and path.

        With `prefix`: only those in this folder.
        """
        columns = select(LocationRow.image_id, LocationRow.path, LocationRow.size, LocationRow.mtime_ns)
        query = columns.outerjoin(EmbeddingRow, _make_embedding_join(encoder)).where(EmbeddingRow.image_id.is_(None))
        if prefix is not None:
            query = query.where(make_under_condition(prefix))
        with self.database.begin_read() as connection:
            ordered = query.order_by(LocationRow.image_id, LocationRow.path)
            for image_id, path, size, mtime_ns in connection.execute(ordered, execution_options=STREAM_OPTIONS):
                yield image_id, FileStat(path, size, mtime_ns)

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, tuple[FileStat, ...]]:
        """The files of each image, sorted by path; ids that don't exist are left out."""
        found: dict[int, list[FileStat]] = {}
        with self.database.begin_read() as connection:
            for row in read_locations(connection, image_ids):
                found.setdefault(row.image_id, []).append(FileStat(row.path, row.size, row.mtime_ns))
        return {image_id: tuple(files) for image_id, files in found.items()}

    def update_stats(self, files: Sequence[FileStat]) -> None:
        """Notes new sizes and times of known paths, whose contents are as before."""
        rows = [{"at": file.path, "size": file.size, "mtime_ns": file.mtime_ns} for file in files]
        values: dict[str, Any] = {"size": bindparam("size"), "mtime_ns": bindparam("mtime_ns")}
        if rows:
            with self.database.begin_write() as (connection, _):
                connection.execute(update(LocationRow).where(LocationRow.path == bindparam("at")).values(values), rows)

    def add(self, files: Sequence[tuple[int, FileStat]]) -> int:
        """Notes that each path holds the image with this id; gives how many images were left without a file.

        A path that held another image is re-pointed, and an image left without a file is deleted.
        """
        if not files:
            return 0
        with self.database.begin_write() as (connection, change):
            return delete_orphaned_images(connection, change, assign_paths(connection, files))

    def move(self, old_path: str, file: FileStat) -> None:
        """Notes that the file at `old_path` is now at `facts.path`, which must be unknown."""
        with self.database.begin_write() as (connection, _):
            new = {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
            connection.execute(update(LocationRow).where(LocationRow.path == old_path).values(new))

    def delete(self, paths: Sequence[str]) -> int:
        """Forgets these files; gives how many images were left without a file and so deleted."""
        if not paths:
            return 0
        with self.database.begin_write() as (connection, change):
            gone = delete_orphaned_images(connection, change, delete_paths(connection, paths))
        delete_uploads(self.database.home, paths)
        return gone


def make_known_file(row: KnownFileRow | Row[str, int, int, int, bool]) -> KnownFile:
    """The same with names."""
    _, image_id, size, mtime_ns, embedded = row
    return KnownFile(image_id, size, mtime_ns, bool(embedded))  # SQLite says 0 and 1


def _make_known_files_query(encoder: str | None) -> Select[str, int, int, int, bool]:
    has_vector = EmbeddingRow.image_id.is_not(None)
    files = select(LocationRow.path, LocationRow.image_id, LocationRow.size, LocationRow.mtime_ns, has_vector)
    return files.select_from(LocationRow).outerjoin(EmbeddingRow, _make_embedding_join(encoder))


def _make_embedding_join(encoder: str | None) -> ColumnElement[bool]:
    return and_(EmbeddingRow.image_id == LocationRow.image_id, EmbeddingRow.encoder == encoder)


def make_under_condition(prefix: str) -> ColumnElement[bool]:
    """Whether a location is this file, or lies in this folder or archive."""
    # A range, because LIKE ignores case in SQLite and can't use the index there. The last character of the
    # upper end is the one that follows the separator.
    folder = prefix.rstrip(os.sep) + os.sep
    end = folder[:-1] + chr(ord(os.sep) + 1)
    return or_(LocationRow.path == prefix, and_(LocationRow.path >= folder, LocationRow.path < end))


# Put together once: every search asks it, and composing it takes as long as running it.
_LOCATIONS_QUERY = (
    select(LocationRow.image_id, LocationRow.path, LocationRow.size, LocationRow.mtime_ns)
    .where(LocationRow.image_id.in_(bindparam("ids", expanding=True)))
    .order_by(LocationRow.path)
)


def read_locations(connection: Connection, image_ids: Iterable[int]) -> list[Row[tuple[int, str, int, int]]]:
    """(image_id, path, size, mtime_ns) of these images' files, sorted by path within each chunk of ids."""
    found: list[Row[tuple[int, str, int, int]]] = []
    for chunk in split_chunks(image_ids):
        found += connection.execute(_LOCATIONS_QUERY, {"ids": chunk})
    return found


def assign_paths(connection: Connection, files: Iterable[tuple[int, FileStat]]) -> set[int]:
    """Makes each path lead to its image; gives the images that may have lost a path by it.

    A known path keeps its row, and with it what a manifest says of the file.
    """
    wanted = {facts.path: (image_id, facts) for image_id, facts in files}  # the last one named wins
    before: dict[str, int] = {}
    for chunk in split_chunks(wanted):
        at = select(LocationRow.path, LocationRow.image_id).where(LocationRow.path.in_(chunk))
        before.update((path, image_id) for path, image_id in connection.execute(at))
    rows = [
        {"image_id": image_id, "path": facts.path, "size": facts.size, "mtime_ns": facts.mtime_ns}
        for image_id, facts in wanted.values()
    ]
    new = [row for row in rows if row["path"] not in before]
    known = [{**row, "at": row["path"]} for row in rows if row["path"] in before]
    if new:
        connection.execute(insert(LocationRow), new)
    if known:
        values: dict[str, Any] = {name: bindparam(name) for name in ("image_id", "size", "mtime_ns")}
        connection.execute(update(LocationRow).where(LocationRow.path == bindparam("at")).values(values), known)
    return set(before.values())


def delete_paths(connection: Connection, paths: Iterable[str]) -> set[int]:
    """Removes these paths; gives the images that they led to."""
    touched: set[int] = set()
    for chunk in split_chunks(paths):
        gone = delete(LocationRow).where(LocationRow.path.in_(chunk)).returning(LocationRow.image_id)
        touched.update(connection.scalars(gone))
    return touched


def delete_orphaned_images(connection: Connection, change: int, candidates: Iterable[int]) -> int:
    """Deletes those of the images that no file holds any more; gives how many there were.

    Their vectors go with them; a row in `deletions` masks them in the segments that still hold them.
    """
    count = 0
    for chunk in split_chunks(candidates):
        held = set(connection.scalars(select(LocationRow.image_id).where(LocationRow.image_id.in_(chunk))))
        gone = [image_id for image_id in chunk if image_id not in held]
        if gone:
            connection.execute(delete(ImageRow).where(ImageRow.id.in_(gone)))
            connection.execute(insert(DeletionRow), [{"image_id": image_id, "change": change} for image_id in gone])
        count += len(gone)
    return count


def delete_uploads(home: Home, paths: Iterable[str]) -> None:
    """Removes those of the files that simile itself stored. The user's own files are never touched."""
    for path in map(Path, paths):
        if path.parent == home.uploads:
            with translate_write_errors(path):
                path.unlink(missing_ok=True)
