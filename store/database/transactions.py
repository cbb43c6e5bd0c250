"""Transactions on the catalogue, and the base of the repositories that use them (images.py, runs.py, …)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Executable, Row, Select, select, update

from simile.store.database.engine import make_engine
from simile.store.database.tables import StateRow
from simile.store.home import Home

T = TypeVar("T")
Record = TypeVar("Record")
Columns = TypeVarTuple("Columns")

SQL_CHUNK_SIZE = 500  # ids or paths in one IN (…): below the limit on parameters of every database
STREAM_OPTIONS = {"yield_per": 5000}  # rows fetched at a time, in queries that may return a million


class CatalogueState(NamedTuple):
    """The state of the catalogue."""

    changes: int  # number of transactions that have changed it
    active_encoder: str | None
    segment_id: int | None  # the current segment


class Database:
    """An open database of a home. Close it, or use it in `with`."""

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
    """Base of the repositories: queries and updates of one kind of row. Each method is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def read_all(self, record: Callable[..., Record], query: Executable) -> list[Record]:
        """Return the rows of a query as records, whose fields are named as the columns."""
        with self.database.begin_read() as connection:
            return read_records(connection, record, query)

    def read_first(self, record: Callable[..., Record], query: Executable) -> Record | None:
        """Return the first row of a query as a record, or None."""
        return next(iter(self.read_all(record, query)), None)

    def read_value(self, query: Select[T]) -> T:
        """Return the only value of a query."""
        with self.database.begin_read() as connection:
            return connection.execute(query).scalar_one()

    def read_in_chunks(self, query: Select[*Columns], column: Any, values: Iterable[Any]) -> Iterator[Row[*Columns]]:
        """Yield the rows whose `column` has one of the values, chunk by chunk."""
        with self.database.begin_read() as connection:
            for chunk in split_chunks(values):
                yield from connection.execute(query.where(column.in_(chunk)))

    def stream(self, query: Select[*Columns]) -> Iterator[Row[*Columns]]:
        """Yield the rows of a query that may return a million."""
        with self.database.begin_read() as connection:
            yield from connection.execute(query, execution_options=STREAM_OPTIONS)

    def write_untracked(self, statement: Executable) -> None:
        """Execute a statement on rows that no search depends on."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(statement)


# Built once, as in catalogue/images.py.
_STATE_QUERY = select(StateRow.changes, StateRow.active_encoder, StateRow.segment_id)


def read_state(connection: Connection) -> CatalogueState:
    """Return the catalogue's state within a transaction."""
    return CatalogueState(*connection.execute(_STATE_QUERY).one())


def read_records(connection: Connection, record: Callable[..., Record], query: Executable) -> list[Record]:
    """Return the rows of a query as records, whose fields are named as the columns."""
    return [record(**row._mapping) for row in connection.execute(query)]


def split_chunks(items: Iterable[T], size: int = SQL_CHUNK_SIZE) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
