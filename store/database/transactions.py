"""Transactions on the catalogue. The repositories (images.py, runs.py, …) use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, Self, TypeVar

from sqlalchemy import Connection, select, update

from simile.store.database.engine import make_engine
from simile.store.database.tables import StateRow
from simile.store.home import Home

T = TypeVar("T")

SQL_CHUNK_SIZE = 500  # ids or paths in one IN (…): below the limit on parameters of every database


class CatalogueState(NamedTuple):
    """The state of the catalogue."""

    changes: int  # number of transactions that have changed it
    active_encoder: str | None
    segment_id: int | None  # the current segment


class Database:
    """An open database. Close it, or use it in `with`.

    Args:
        home: The home whose catalogue is opened.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._engine = make_engine(home)
        self._write_engine = self._engine.execution_options(writes=True)

    def close(self) -> None:
        """Close the connections. The next query would open new ones."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def begin_read(self) -> Iterator[Connection]:
        """Begin a transaction that sees the catalogue as of its first query."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def begin_write(self) -> Iterator[tuple[Connection, int]]:
        """Begin a writing transaction, and yield its connection and the number of its change.

        Updating the counter first makes writers wait for each other in any database, so that the numbers are committed
        in order.
        """
        with self._write_engine.begin() as connection:
            count = update(StateRow).values(changes=StateRow.changes + 1).returning(StateRow.changes)
            yield connection, connection.execute(count).scalar_one()

    @contextmanager
    def begin_untracked_write(self) -> Iterator[Connection]:
        """Begin a writing transaction on rows that no search depends on (runs, failures). It is not a change."""
        with self._write_engine.begin() as connection:
            yield connection

    def get_state(self) -> CatalogueState:
        """Return the change counter, the active encoder and the current segment, with one small query."""
        with self.begin_read() as connection:
            return read_state(connection)

    def count_changes(self) -> int:
        """Return how many transactions have changed the catalogue."""
        return self.get_state().changes


class Repository:
    """Base of the repositories: queries and updates of one kind of row, on a shared database.

    Args:
        database: The open database whose transactions the repository uses.
    """

    def __init__(self, database: Database) -> None:
        self.database = database


# Built once, as in catalogue/images.py.
_STATE_QUERY = select(StateRow.changes, StateRow.active_encoder, StateRow.segment_id)


def read_state(connection: Connection) -> CatalogueState:
    """Return the catalogue's state within a transaction."""
    row = connection.execute(_STATE_QUERY).one()
    return CatalogueState(row.changes, row.active_encoder, row.segment_id)


def split_chunks(items: Iterable[T], size: int = SQL_CHUNK_SIZE) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
