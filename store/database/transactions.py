"""How the catalogue is read and written. Each noun's verbs (images.py, runs.py, …) build on this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Self, TypeVar

from sqlalchemy import Connection, select, update

from simile.store.catalogue.records import CatalogueState
from simile.store.database.engine import make_engine
from simile.store.database.tables import StateRow
from simile.store.home import Home

T = TypeVar("T")

SQL_CHUNK_SIZE = 500  # ids or paths in one IN (…): below the smallest limit on parameters of any database


class Database:
    """An open catalogue. Close it, or use it in `with`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._engine = make_engine(home)
        self._write_engine = self._engine.execution_options(writes=True)

    def close(self) -> None:
        """Closes the connections; the next verb would open new ones."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def begin_read(self) -> Iterator[Connection]:
        """One transaction that sees the catalogue as it stands at its first query."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def begin_write(self) -> Iterator[tuple[Connection, int]]:
        """One transaction that others wait for, and the number of the change that it makes.

        Counting first makes writers queue on any database, so that numbers are committed in order.
        """
        with self._write_engine.begin() as connection:
            count = update(StateRow).values(changes=StateRow.changes + 1).returning(StateRow.changes)
            yield connection, connection.execute(count).scalar_one()

    @contextmanager
    def begin_untracked_write(self) -> Iterator[Connection]:
        """One transaction on what no query depends on (runs, failures): it does not count as a change."""
        with self._write_engine.begin() as connection:
            yield connection

    def get_state(self) -> CatalogueState:
        """The change counter, the active encoder and the current segment: one tiny query."""
        with self.begin_read() as connection:
            return read_state(connection)

    def count_changes(self) -> int:
        """How many transactions have changed the catalogue."""
        return self.get_state().changes


class Repository:
    """Base of the repositories: queries and updates of one kind of row, on a shared database.

    Args:
        database: The open database whose transactions the repository uses.
    """

    def __init__(self, database: Database) -> None:
        self.database = database


_STATE_QUERY = select(
    StateRow.changes, StateRow.active_encoder, StateRow.segment_id
)  # put together once: see images.py


def read_state(connection: Connection) -> CatalogueState:
    row = connection.execute(_STATE_QUERY).one()
    return CatalogueState(row.changes, row.active_encoder, row.segment_id)


def split_chunks(items: Iterable[T], size: int = SQL_CHUNK_SIZE) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
