"""The values of fields in memory, to count images by them. They are read when they are first needed after a change."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.tables import MetadataRow
from simile.store.database.transactions import read_state
from simile.store.facets.file_values import FileTable, FileValues


@dataclass
class FacetTables:
    """What was read of the catalogue as of one change."""

    change: int
    files: FileTable
    values: dict[str, FileValues] = field(default_factory=dict)
    metadata_names: list[str] | None = None

    def read_values(self, connection: Connection, name: str) -> FileValues:
        """Return the values of a field. Raises BadSetting if no file can have it."""
        if name not in self.values:
            self.values[name] = FileValues.read(connection, self.files, name)
        return self.values[name]

    def read_metadata_names(self, connection: Connection) -> list[str]:
        """Return the names of metadata, sorted."""
        if self.metadata_names is None:
            names = select(MetadataRow.name).distinct().order_by(MetadataRow.name)
            self.metadata_names = list(connection.scalars(names))
        return self.metadata_names


class FacetIndex:
    """The values of the fields of a catalogue. Safe to share between threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._tables: FacetTables | None = None

    def read(self, names: Iterable[str]) -> tuple[FileTable, dict[str, FileValues]]:
        """Return all files and the values of these fields, as of one commit. Raises BadSetting for an unknown field."""
        names = list(names)
        return self._catalogue.repeat(lambda: self._read(names))

    def get_metadata_names(self) -> list[str]:
        """Return the names of all metadata, sorted."""
        with self._lock, self._catalogue.begin_read() as connection:
            return self._open_tables(connection).read_metadata_names(connection)

    def _read(self, names: list[str]) -> tuple[FileTable, dict[str, FileValues]]:
        with self._lock, self._catalogue.begin_read() as connection:
            tables = self._open_tables(connection)
            return tables.files, {name: tables.read_values(connection, name) for name in names}

    def _open_tables(self, connection: Connection) -> FacetTables:
        """Return the tables as of the transaction."""
        change = read_state(connection).changes
        if self._tables is None or self._tables.change != change:
            self._tables = FacetTables(change, FileTable.read(connection))
        return self._tables
