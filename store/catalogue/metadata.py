"""Metadata: what manifests and people say of files, as names and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, delete, insert, select

from simile.core.errors import NoSuchImage
from simile.core.filter_parser import parse_number
from simile.store.database.tables import LocationRow, MetadataRow
from simile.store.database.transactions import Repository, split_chunks


class MetadataRepository(Repository):
    """Verbs on what is said of files. What is said of an image is what is said of the first of its files."""

    def get_for_files(self, paths: Iterable[str]) -> dict[str, dict[str, str]]:
        """What manifests say of these files, by path; files without a word are left out."""
        found: dict[str, dict[str, str]] = {}
        query = select(LocationRow.path, MetadataRow.name, MetadataRow.text).join_from(
            MetadataRow, LocationRow, MetadataRow.location_id == LocationRow.id
        )
        with self.database.begin_read() as connection:
            for chunk in split_chunks(paths):
                for path, name, text in connection.execute(query.where(LocationRow.path.in_(chunk))):
                    found.setdefault(path, {})[name] = text
        return found

    def set_for_files(self, metadata_by_path: Mapping[str, Mapping[str, str]]) -> int:
        """Notes what a manifest says of files, in place of what was said before; gives how many files that changed.

        Paths that are not known are left out.
        """
        before = self.get_for_files(metadata_by_path)
        new = {path: said for path, said in metadata_by_path.items() if before.get(path, {}) != dict(said)}
        if not new:
            return 0
        with self.database.begin_write() as (connection, _):
            write_file_metadata(connection, new)
        return len(new)

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, dict[str, str]]:
        """What is said of these images, by id; where their files disagree, what the first says. Others are left out."""
        found: dict[int, dict[str, str]] = {}
        columns = select(LocationRow.image_id, MetadataRow.name, MetadataRow.text).join(
            MetadataRow, MetadataRow.location_id == LocationRow.id
        )
        ordered = columns.order_by(LocationRow.path, MetadataRow.name)
        with self.database.begin_read() as connection:
            for chunk in split_chunks(image_ids):
                for image_id, name, text in connection.execute(ordered.where(LocationRow.image_id.in_(chunk))):
                    found.setdefault(image_id, {}).setdefault(name, text)
        return found

    def set_for_image(self, image_id: int, metadata: Mapping[str, str]) -> None:
        """Notes this of all files of an image, in place of what was said before. Raises NoSuchImage."""
        with self.database.begin_write() as (connection, _):
            locations = select(LocationRow.id).where(LocationRow.image_id == image_id)
            of_files = dict.fromkeys(connection.scalars(locations), metadata)
            if not of_files:
                raise NoSuchImage(image_id)
            _replace_location_metadata(connection, of_files)


def write_file_metadata(connection: Connection, metadata_by_path: Mapping[str, Mapping[str, str]]) -> None:
    """Says this of each file, by its path, in place of what was said before. Paths that are not known are left out."""
    for chunk in split_chunks(metadata_by_path):
        at = select(LocationRow.path, LocationRow.id).where(LocationRow.path.in_(chunk))
        _replace_location_metadata(
            connection, {location_id: metadata_by_path[path] for path, location_id in connection.execute(at)}
        )


def _replace_location_metadata(connection: Connection, metadata_by_location: Mapping[int, Mapping[str, str]]) -> None:
    """Says this of each location, by its id, and nothing else any more."""
    for chunk in split_chunks(metadata_by_location):
        connection.execute(delete(MetadataRow).where(MetadataRow.location_id.in_(chunk)))
    rows = [
        {"location_id": location_id, "name": name, "text": text, "number": parse_number(text)}
        for location_id, said in metadata_by_location.items()
        for name, text in said.items()
    ]
    if rows:
        connection.execute(insert(MetadataRow), rows)
