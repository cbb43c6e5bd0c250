"""Metadata of files, from manifests and from people: names and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import Connection, Row, delete, select

from simile.core.errors import NoSuchImage
from simile.core.filter_parser import parse_number
from simile.store.database.tables import LocationRow, MetadataRow
from simile.store.database.transactions import Repository, insert_rows, split_chunks

METADATA_JOIN = MetadataRow.location_id == LocationRow.id


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
