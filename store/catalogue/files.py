"""Files: where the images are stored on disk."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from simile.core.records import Failure, FileStat, PhotoMetadata
from simile.images.sources.buckets import UPLOAD_SCHEME, get_upload_object
from simile.store.catalogue.keys import charge_uploads
from simile.store.catalogue.metadata import write_photo_metadata
from simile.store.catalogue.records import KnownFile, UploadAccount
from simile.store.database.tables import DeletionRow, EmbeddingRow, ImageRow, LocationRow
from simile.store.database.transactions import STREAM_OPTIONS, NumberChange, Repository, insert_rows, split_chunks
from simile.store.home import Home, translate_write_errors

KnownFileRow = tuple[str, int, int, int, bool, bool]  # path, image id, size, mtime_ns, embedded, failed


class FileRepository(Repository):
    """Queries and updates of files. A path is absolute and has one image; an image may have several paths."""

    def find_under(self, prefixes: Sequence[str], encoder: str | None = None) -> dict[str, KnownFile]:
        """Return the known files that are one of the absolute paths `prefixes` or in one of them, by path.

        `embedded` is for this encoder, and False without one; the same in the next two methods.
        """
        chunks = (chunk for prefix in prefixes for chunk in self.iterate_under(prefix, encoder))
        return {row[0]: make_known_file(row) for chunk in chunks for row in chunk}

    def iterate_under(self, prefix: str, encoder: str | None = None) -> Generator[list[KnownFileRow]]:
        """Yield the known files in a folder or archive as plain tuples, sorted by path.

        They come in lists of some thousands: there may be millions. Each list is from a transaction of its own, because
        one transaction for all of them could last as long as the indexing of a folder, and would end with the
        connection.
        """
        size = STREAM_OPTIONS["yield_per"]
        query = _make_known_files_query(encoder).where(make_under_condition(prefix)).order_by(LocationRow.path)
        rows = self._read_tuples(query.limit(size))
        while rows:
            yield rows
            is_last = len(rows) < size
            rows = [] if is_last else self._read_tuples(query.where(LocationRow.path > rows[-1][0]).limit(size))

    def _read_tuples(self, query: Select[*KnownFileRow]) -> list[KnownFileRow]:
        """Return rows as plain tuples, which take half the time of SQLAlchemy's rows."""

        def read() -> list[KnownFileRow]:
            with self.database.begin_query() as connection, connection.execute(query) as result:
                cursor: Any = result.cursor
                return list(map(tuple, cursor.fetchall()))

        return self.database.repeat(read)

    def get_many(self, paths: Iterable[str], encoder: str | None = None) -> dict[str, KnownFile]:
        """Return the known ones of these files, by path."""
        rows = self.read_in_chunks(_make_known_files_query(encoder), LocationRow.path, paths)
        return {row.path: make_known_file(row) for row in rows}

    def get_folders(self) -> list[str]:
        """Return the folders and archives, with their inner folders, that directly hold known files.

        Uploads in an object store are in no folder.
        """
        # The characters after the last separator are cut off at the right end.
        folder = func.rtrim(LocationRow.path, func.replace(LocationRow.path, os.sep, ""))
        query = select(folder).where(~make_under_condition(UPLOAD_SCHEME)).distinct()
        return [path.rstrip(os.sep) or os.sep for (path,) in self.stream(query)]

    def iterate_paths(self) -> Iterator[Row[int, str]]:
        """Yield image id and path of all files."""
        return self.stream(select(LocationRow.image_id, LocationRow.path))

    def iterate_without_embedding(self, encoder: str, prefix: str | None = None) -> Iterator[tuple[int, FileStat]]:
        """Yield (image id, file) of the images in a folder without an embedding by this encoder, by id and path."""
        query = select(*_FILE_COLUMNS).outerjoin(EmbeddingRow, _make_embedding_join(encoder))
        query = query.where(EmbeddingRow.image_id.is_(None))
        if prefix is not None:
            query = query.where(make_under_condition(prefix))
        for image_id, path, size, mtime_ns in self.stream(query.order_by(LocationRow.image_id, LocationRow.path)):
            yield image_id, FileStat(path, size, mtime_ns)

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, tuple[FileStat, ...]]:
        """Return the files of each image, sorted by path; unknown ids are left out."""
        files: dict[int, list[FileStat]] = {}
        with self.database.begin_read() as connection:
            for image_id, path, size, mtime_ns in read_locations(connection, image_ids):
                files.setdefault(image_id, []).append(FileStat(path, size, mtime_ns))
        return {image_id: tuple(of_image) for image_id, of_image in files.items()}

    def update_stats(self, files: Sequence[FileStat]) -> None:
        """Store new sizes and times of known paths, whose contents have not changed."""
        rows = [{"known_path": file.path, "size": file.size, "mtime_ns": file.mtime_ns} for file in files]
        if rows:
            with self.database.begin_write() as (connection, _):
                connection.execute(_make_update("size", "mtime_ns"), rows)

    def set_failures(self, failures: Sequence[Failure]) -> None:
        """Store why known files could not be read. They count as copies of nothing until they are read again."""
        rows = [{"known_path": failure.path, "failure": failure.reason} for failure in failures]
        if rows:
            with self.database.begin_write() as (connection, _):
                connection.execute(_make_update("failure"), rows)

    def add(
        self,
        files: Sequence[tuple[int, FileStat]],
        account: UploadAccount | None = None,
        photos: Mapping[str, PhotoMetadata | None] | None = None,
    ) -> int:
        """Store (image id, file) pairs, and return how many images were deleted.

        A path of another image now belongs to the new one; an image left without a file is deleted. New files that are
        uploads count towards `account`. `photos`: the photo metadata of the files, by path. Raises QuotaExceeded.
        """
        if not files:
            return 0
        with self.database.begin_write() as (connection, number_change):
            with charge_uploads(connection, [file for _, file in files], account, number_change):
                candidates = assign_paths(connection, files)
            if photos:
                write_photo_metadata(connection, photos)
            return delete_orphaned_images(connection, number_change, candidates)

    def move(
        self,
        old_path: str,
        file: FileStat,
        photos: Mapping[str, PhotoMetadata | None] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Store that the file at `old_path` is now at `file.path`, which must be unknown, or is replaced.

        `photos`: its photo metadata now, by path, because a sidecar may have changed; None keeps them.
        """
        with self.database.begin_write() as (connection, _):
            if replace:
                connection.execute(delete(LocationRow).where(LocationRow.path == file.path))
            new = {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns, "failure": None}
            connection.execute(update(LocationRow).where(LocationRow.path == old_path).values(new))
            if photos:
                write_photo_metadata(connection, photos)

    def delete(self, paths: Sequence[str]) -> int:
        """Delete these files from the catalogue, and return how many images were deleted, having no file left."""
        if not paths:
            return 0
        with self.database.begin_write() as (connection, number_change):
            candidates: set[int] = set()
            for chunk in split_chunks(paths):
                deletion = delete(LocationRow).where(LocationRow.path.in_(chunk)).returning(LocationRow.image_id)
                candidates.update(connection.scalars(deletion))
            deleted_count = delete_orphaned_images(connection, number_change, candidates)
        delete_uploads(self.database.home, paths)
        return deleted_count

    def discard_upload(self, path: str) -> None:
        """Delete an uploaded file unless it is in the catalogue; no other writer can add it meanwhile."""
        with self.database.begin_untracked_write() as connection:
            if connection.scalar(select(LocationRow.id).where(LocationRow.path == path)) is None:
                delete_uploads(self.database.home, [path])


def make_known_file(row: KnownFileRow | Row[str, int, int, int, bool, bool]) -> KnownFile:
    """Return the row as a KnownFile."""
    _, image_id, size, mtime_ns, embedded, failed = row
    return KnownFile(image_id, size, mtime_ns, bool(embedded), bool(failed))  # SQLite returns 0 and 1


def _make_known_files_query(encoder: str | None) -> Select[str, int, int, int, bool, bool]:
    has_vector, has_failed = EmbeddingRow.image_id.is_not(None), LocationRow.failure.is_not(None)
    columns = (LocationRow.path, LocationRow.image_id, LocationRow.size, LocationRow.mtime_ns)
    files = select(*columns, has_vector, has_failed)
    return files.select_from(LocationRow).outerjoin(EmbeddingRow, _make_embedding_join(encoder))


def _make_embedding_join(encoder: str | None) -> ColumnElement[bool]:
    return and_(EmbeddingRow.image_id == LocationRow.image_id, EmbeddingRow.encoder == encoder)


def make_under_condition(prefix: str) -> ColumnElement[bool]:
    """Return the condition that a location is this file, or is in this folder or archive; UPLOAD_SCHEME: any upload."""
    # A range, because LIKE ignores case in SQLite and can't use the index. The upper bound ends with the character that
    # follows the separator.
    folder = prefix if prefix == UPLOAD_SCHEME else prefix.rstrip(os.sep) + os.sep
    end = folder[:-1] + chr(ord(folder[-1]) + 1)
    return or_(LocationRow.path == prefix, and_(LocationRow.path >= folder, LocationRow.path < end))


_FILE_COLUMNS = (LocationRow.image_id, LocationRow.path, LocationRow.size, LocationRow.mtime_ns)
# Built once: every search runs it, and building it takes as long as running it.
_LOCATIONS_QUERY = (
    select(*_FILE_COLUMNS).where(LocationRow.image_id.in_(bindparam("ids", expanding=True))).order_by(LocationRow.path)
)


def read_locations(connection: Connection, image_ids: Iterable[int]) -> list[Row[int, str, int, int]]:
    """Return (image_id, path, size, mtime_ns) of these images' files, sorted by path within each chunk of ids."""
    return [row for chunk in split_chunks(image_ids) for row in connection.execute(_LOCATIONS_QUERY, {"ids": chunk})]


def assign_paths(connection: Connection, files: Iterable[tuple[int, FileStat]]) -> set[int]:
    """Assign the paths of (image id, file) pairs, and return the ids of images that may have lost a path.

    A known path keeps its row, and with it its metadata. Of several pairs with the same path, the last one wins.
    """
    by_path = {file.path: (image_id, file) for image_id, file in files}
    previous_images: dict[str, int] = {}
    for chunk in split_chunks(by_path):
        query = select(LocationRow.path, LocationRow.image_id).where(LocationRow.path.in_(chunk))
        previous_images.update((path, image_id) for path, image_id in connection.execute(query))
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
        for image_id, file in by_path.values()
    ]
    rows.sort(key=lambda row: row["path"])  # in one order, so that no two writers wait for each other
    new = [row for row in rows if row["path"] not in previous_images]
    if new:  # a path that another writer is adding is a conflict: the transaction is repeated
        insert_rows(connection, LocationRow, new)
    known = [{**row, "known_path": row["path"]} for row in rows if row["path"] in previous_images]
    if known:
        connection.execute(_make_update("image_id", "size", "mtime_ns"), known)
    return set(previous_images.values())


def _make_update(*columns: str) -> Update:
    """Return an update of these columns at the parameter `known_path`; the new values are parameters, too.

    It is for files that were just read: unless `failure` is a column, they have none.
    """
    values: dict[str, Any] = {"failure": None} | {name: bindparam(name) for name in columns}
    return update(LocationRow).where(LocationRow.path == bindparam("known_path")).values(values)


def delete_orphaned_images(connection: Connection, number_change: NumberChange, candidates: Iterable[int]) -> int:
    """Delete those of the candidate images that have no file left, and return how many.

    Their embeddings are deleted too; a row in `deletions` masks them in the segments that still hold them.
    """
    count = 0
    for chunk in split_chunks(sorted(candidates)):
        # Wait for other writers that are adding a file to one of these images; the next query sees the file.
        connection.execute(select(ImageRow.id).where(ImageRow.id.in_(chunk)).order_by(ImageRow.id).with_for_update())
        has_file = select(LocationRow.id).where(LocationRow.image_id == ImageRow.id).exists()  # it may have thousands
        orphans = list(connection.scalars(select(ImageRow.id).where(ImageRow.id.in_(chunk), ~has_file)))
        if orphans:
            connection.execute(delete(ImageRow).where(ImageRow.id.in_(orphans)))
            change = number_change()
            connection.execute(insert(DeletionRow), [{"image_id": image_id, "change": change} for image_id in orphans])
        count += len(orphans)
    return count


def delete_uploads(home: Home, paths: Iterable[str]) -> None:
    """Delete those of the files that are uploads. The user's own files are never touched."""
    for path in filter(home.is_upload, paths):
        if path.startswith(UPLOAD_SCHEME):
            home.objects.discard(get_upload_object(path))
            continue
        with translate_write_errors(Path(path)):
            Path(path).unlink(missing_ok=True)
