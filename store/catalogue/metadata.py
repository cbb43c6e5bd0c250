"""Metadata of files: names and texts from manifests and from people, and the metadata of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, String, cast, delete, func, select

from simile.core.errors import NoSuchImage
from simile.core.filters.parser import parse_number
from simile.core.records import PhotoMetadata
from simile.store.catalogue.records import Shot
from simile.store.database.tables import ImageRow, LocationRow, MetadataRow, PhotoKeywordRow, PhotoMetadataRow
from simile.store.database.transactions import Repository, insert_rows, split_chunks

METADATA_JOIN = MetadataRow.location_id == LocationRow.id
_PHOTO_JOIN = PhotoMetadataRow.location_id == LocationRow.id
_KEYWORD_JOIN = PhotoKeywordRow.location_id == LocationRow.id
_PHOTO_FIELDS = [field.name for field in fields(PhotoMetadata) if field.name != "keywords"]
_PHOTOS_QUERY: Any = (
    select(PhotoMetadataRow.location_id, *(getattr(PhotoMetadataRow, name) for name in _PHOTO_FIELDS))
    .join(LocationRow, _PHOTO_JOIN)
    .order_by(LocationRow.path)
)
_KEYWORDS_QUERY = (
    select(PhotoKeywordRow.location_id, PhotoKeywordRow.keyword)
    .join(LocationRow, _KEYWORD_JOIN)
    .order_by(PhotoKeywordRow.keyword)
)


class MetadataRepository(Repository):
    """Queries and updates of metadata. An image has the metadata of its files; where they differ, the first wins."""

    def get_for_files(self, paths: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the metadata of these files by path; files without metadata are left out."""
        metadata: dict[str, dict[str, str]] = {}
        query = select(LocationRow.path, MetadataRow.name, MetadataRow.text).join(MetadataRow, METADATA_JOIN)
        for path, name, text in self.read_in_chunks(query, LocationRow.path, paths):
            metadata.setdefault(path, {})[name] = text
        return metadata

    def get_names(self) -> list[str]:
        """Return the names that any file's metadata has, sorted."""
        return [name for (name,) in self.stream(select(MetadataRow.name).distinct().order_by(MetadataRow.name))]

    def get_values(self, name: str, limit: int) -> list[str]:
        """Return different values of a name, at most `limit`."""
        values = select(MetadataRow.text).where(MetadataRow.name == name).distinct()
        return [text for (text,) in self.stream(values.limit(limit))]

    def iterate_items(self) -> Iterator[Row[int, str, str]]:
        """Yield image id, name and text of all metadata; an image with several files may repeat an item."""
        columns = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text)
        return self.stream(columns.join(LocationRow, METADATA_JOIN))

    def set_for_files(self, metadata_by_path: Mapping[str, Mapping[str, str]]) -> int:
        """Replace the metadata of files, and return how many files changed. Unknown paths are ignored."""
        before = self.get_for_files(metadata_by_path)
        changed = {
            path: metadata for path, metadata in metadata_by_path.items() if before.get(path, {}) != dict(metadata)
        }
        if changed:
            with self.database.begin_write() as (connection, _):
                write_file_metadata(connection, changed)
        return len(changed)

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, dict[str, str]]:
        """Return the metadata of these images by id; images without metadata are left out."""
        metadata: dict[int, dict[str, str]] = {}
        columns = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text).join(MetadataRow, METADATA_JOIN)
        ordered = columns.order_by(LocationRow.path, MetadataRow.name)
        for image_id, name, text in self.read_in_chunks(ordered, LocationRow.image_id, image_ids):
            metadata.setdefault(image_id, {}).setdefault(name, text)
        return metadata

    def set_for_image(self, image_id: int, metadata: Mapping[str, str]) -> None:
        """Replace the metadata of all files of an image. Raises NoSuchImage."""
        with self.database.begin_write() as (connection, _):
            locations = select(LocationRow.id).where(LocationRow.image_id == image_id)
            metadata_by_location = dict.fromkeys(connection.scalars(locations), metadata)
            if not metadata_by_location:
                raise NoSuchImage(image_id)
            _replace_location_metadata(connection, metadata_by_location)


class PhotoMetadataRepository(Repository):
    """Queries and updates of photo metadata. Of an image with several files, the first that has any counts."""

    def get_for_files(self, paths: Iterable[str]) -> dict[str, PhotoMetadata]:
        """Return the photo metadata of these files by path; files without any are left out."""
        with self.database.begin_read() as connection:
            return dict(_read_photos(connection, LocationRow.path, paths))

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, PhotoMetadata]:
        """Return the photo metadata of these images by id; images without any are left out."""
        with self.database.begin_read() as connection:
            return read_image_photos(connection, image_ids)

    def get_taken(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Return the ids of all images, and the earliest time at which they were taken, by id, as in ISO 8601."""
        earliest = cast(func.min(PhotoMetadataRow.taken), String)
        with_time = select(LocationRow.image_id, earliest).join(PhotoMetadataRow, _PHOTO_JOIN)
        with_time = with_time.where(PhotoMetadataRow.taken.is_not(None)).group_by(LocationRow.image_id)
        with self.database.begin_read() as connection:
            ids = np.array(connection.scalars(select(ImageRow.id)).all(), np.int64)
            return ids, {row[0]: row[1] for row in connection.execute(with_time)}

    def get_shots(self) -> dict[int, Shot]:
        """Return time and camera of the images with a known time, by id."""
        columns = select(LocationRow.image_id, PhotoMetadataRow.taken, PhotoMetadataRow.camera)
        query = columns.join(PhotoMetadataRow, _PHOTO_JOIN).order_by(LocationRow.path)
        shots: dict[int, Shot] = {}
        for image_id, taken, camera in self.stream(query):
            if taken is not None:
                shots.setdefault(image_id, Shot(taken, camera))
        return shots

    def iterate_keywords(self) -> Iterator[Row[int, str]]:
        """Yield image id and keyword of all photos; an image with several files may repeat a keyword."""
        return self.stream(select(LocationRow.image_id, PhotoKeywordRow.keyword).join(LocationRow, _KEYWORD_JOIN))

    def set_for_files(self, photos: Mapping[str, PhotoMetadata | None]) -> int:
        """Replace the photo metadata of files, and return how many files changed. Unknown paths are ignored."""
        before = self.get_for_files(photos)
        changed = {path: photo for path, photo in photos.items() if before.get(path) != photo}
        if changed:
            with self.database.begin_write() as (connection, _):
                write_photo_metadata(connection, changed)
        return len(changed)


def read_image_photos(connection: Connection, image_ids: Iterable[int]) -> dict[int, PhotoMetadata]:
    """Return the photo metadata of these images by id; images without any are left out."""
    photos: dict[int, PhotoMetadata] = {}
    for image_id, photo in _read_photos(connection, LocationRow.image_id, image_ids):
        photos.setdefault(image_id, photo)
    return photos


def _read_photos(connection: Connection, column: Any, values: Iterable[Any]) -> Iterator[tuple[Any, PhotoMetadata]]:
    """Yield the value and the photo metadata of each file with one of the values in this column, by path."""
    for chunk in split_chunks(values):
        keywords: dict[int, list[str]] = {}
        for location_id, keyword in connection.execute(_KEYWORDS_QUERY.where(column.in_(chunk))):
            keywords.setdefault(location_id, []).append(keyword)
        for row in connection.execute(_PHOTOS_QUERY.add_columns(column).where(column.in_(chunk))):
            location_id, *photo_values, value = row
            named = dict(zip(_PHOTO_FIELDS, photo_values, strict=True))
            yield value, PhotoMetadata(**named, keywords=tuple(keywords.get(location_id, ())))


def write_photo_metadata(connection: Connection, photos: Mapping[str, PhotoMetadata | None]) -> None:
    """Replace the photo metadata of files, by path; None deletes them. Unknown paths are ignored."""
    for chunk in split_chunks(photos):
        locations = select(LocationRow.id, LocationRow.path).where(LocationRow.path.in_(chunk))
        by_location = {location_id: photos[path] for location_id, path in connection.execute(locations)}
        connection.execute(delete(PhotoMetadataRow).where(PhotoMetadataRow.location_id.in_(by_location)))
        found = [(location_id, photo) for location_id, photo in by_location.items() if photo is not None]
        rows = [
            {"location_id": location_id, **{name: getattr(photo, name) for name in _PHOTO_FIELDS}}
            for location_id, photo in found
        ]
        keywords = [{"location_id": item, "keyword": keyword} for item, photo in found for keyword in photo.keywords]
        for table, new_rows in ((PhotoMetadataRow, rows), (PhotoKeywordRow, keywords)):
            if new_rows:
                insert_rows(connection, table, new_rows)


def write_file_metadata(connection: Connection, metadata_by_path: Mapping[str, Mapping[str, str]]) -> None:
    """Replace the metadata of files, by path. Unknown paths are ignored."""
    for chunk in split_chunks(metadata_by_path):
        locations = select(LocationRow.path, LocationRow.id).where(LocationRow.path.in_(chunk))
        _replace_location_metadata(
            connection, {location_id: metadata_by_path[path] for path, location_id in connection.execute(locations)}
        )


def _replace_location_metadata(connection: Connection, metadata_by_location: Mapping[int, Mapping[str, str]]) -> None:
    for chunk in split_chunks(metadata_by_location):
        connection.execute(delete(MetadataRow).where(MetadataRow.location_id.in_(chunk)))
    rows = [
        {"location_id": location_id, "name": name, "text": text, "number": parse_number(text)}
        for location_id, metadata in metadata_by_location.items()
        for name, text in metadata.items()
    ]
    if rows:
        insert_rows(connection, MetadataRow, rows)
