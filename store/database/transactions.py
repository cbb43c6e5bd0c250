"""Transactions on the catalogue, and the base of the repositories that use them (images.py, runs.py, …).

On PostgreSQL a connection may be lost in the middle of a transaction. Nothing of it is stored then, or all of it if the
connection was lost during the commit; so every method of a repository that is safe to repeat is repeated.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar, TypeVarTuple

from sqlalchemy import ARRAY, Connection, Executable, Row, Select, bindparam, func, insert, select, update

from simile.core.errors import DatabaseUnavailable, TransactionConflict
from simile.store.database.engine import make_engine
from simile.store.database.tables import StateRow
from simile.store.home import Home

log = logging.getLogger(__name__)

T = TypeVar("T")
Record = TypeVar("Record")
Method = TypeVar("Method", bound=Callable[..., Any])
Columns = TypeVarTuple("Columns")

SQL_CHUNK_SIZE = 500  # ids or paths in one IN (…): below the limit on parameters of every database
STREAM_OPTIONS = {"yield_per": 5000}  # rows fetched at a time, in queries that may return a million
JOB_REPEAT_SECONDS = 60.0  # a command waits so long for a lost database: a failover takes 1 to 30 seconds
SERVICE_REPEAT_SECONDS = 5.0  # a request of the service; then it gets 503
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 1.0  # between repetitions

NumberChange = Callable[[], int]
_repeating = threading.local()


class CatalogueState(NamedTuple):
    """The state of the catalogue."""

    changes: int  # number of transactions that have changed it
    active_encoder: str | None
    segment_id: int | None  # the current segment


class Database:
    """An open database of a home. Close it, or use it in `with`."""

    def __init__(self, home: Home, repeat_seconds: float = JOB_REPEAT_SECONDS) -> None:
        self.home, self.repeat_seconds = home, repeat_seconds
        self._engine = make_engine(home)
        self._read_engine, self._write_engine = self._engine, self._engine.execution_options(writes=True)
        self._query_engine = self._engine
        if self.is_server:
            self._read_engine = self._engine.execution_options(postgresql_readonly=True)
            self._write_engine = self._write_engine.execution_options(isolation_level="READ COMMITTED")
            # One query needs no transaction: its BEGIN and ROLLBACK would take as long as the query.
            self._query_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def is_server(self) -> bool:
        """Whether the database is a server that several hosts may share, not a file of this host."""
        return self._engine.dialect.name == "postgresql"

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
        with self.repeat(self._read_engine.connect) as connection:
            yield connection

    @contextmanager
    def begin_query(self) -> Iterator[Connection]:
        """Connect for a single query."""
        with self.repeat(self._query_engine.connect) as connection:
            yield connection

    @contextmanager
    def begin_write(self) -> Iterator[tuple[Connection, NumberChange]]:
        """Begin a writing transaction, and yield its connection and a function that returns the number of its change.

        The first call of the function updates the counter, so that writers wait for each other until the commit and
        the numbers are committed in order. So call it late: after everything that does not depend on the number.
        """
        with self._begin() as connection:
            count = update(StateRow).values(changes=StateRow.changes + 1).returning(StateRow.changes)
            number_change = functools.cache(lambda: connection.execute(count).scalar_one())
            yield connection, number_change
            number_change()

    @contextmanager
    def begin_untracked_write(self) -> Iterator[Connection]:
        """Begin a writing transaction on rows that no search depends on (runs, failures). It is not a change."""
        with self._begin() as connection:
            yield connection

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self.repeat(self._write_engine.connect) as connection, connection.begin():
            yield connection

    def repeat(self, function: Callable[[], T]) -> T:
        """Return the result of a function, which is called again if the connection is lost or rows are in conflict.

        Raises DatabaseUnavailable after `repeat_seconds`. Within the function there is no further repetition.
        """
        if getattr(_repeating, "active", False):
            return function()
        deadline, pause = time.monotonic() + self.repeat_seconds, FIRST_PAUSE_SECONDS
        _repeating.active = True
        try:
            while True:
                try:
                    return function()
                except DatabaseUnavailable as error:
                    is_last = time.monotonic() + pause > deadline
                    if is_last or not isinstance(error, TransactionConflict):
                        log.warning("%s The database says: %s", error, error.reason)
                    if is_last:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
        finally:
            _repeating.active = False

    def get_state(self) -> CatalogueState:
        """Return the change counter, the active encoder and the current segment, with one small query."""

        def read() -> CatalogueState:
            with self.begin_query() as connection:
                return read_state(connection)

        return self.repeat(read)

    def count_changes(self) -> int:
        """Return how many transactions have changed the catalogue."""
        return self.get_state().changes


def once(method: Method) -> Method:
    """Mark a method of a repository that must not be repeated: its result would be lost with the connection."""
    method.is_once = True  # type: ignore[attr-defined]
    return method


class Repository:
    """Base of the repositories: queries and updates of one kind of row. Each method is a transaction of its own.

    Public methods are repeated when the connection is lost, except generators and those marked with `once`.
    """

    def __init_subclass__(cls) -> None:
        for name, method in list(vars(cls).items()):
            is_repeatable = inspect.isfunction(method) and not inspect.isgeneratorfunction(method)
            if is_repeatable and not name.startswith("_") and not hasattr(method, "is_once"):
                setattr(cls, name, _make_repeatable(method))

    def __init__(self, database: Database) -> None:
        self.database = database

    def read_all(self, record: Callable[..., Record], query: Executable) -> list[Record]:
        """Return the rows of a query as records, whose fields are named as the columns."""
        with self.database.begin_query() as connection:
            return read_records(connection, record, query)

    def read_first(self, record: Callable[..., Record], query: Executable) -> Record | None:
        """Return the first row of a query as a record, or None."""
        return next(iter(self.read_all(record, query)), None)

    def read_value(self, query: Select[T]) -> T:
        """Return the only value of a query."""
        with self.database.begin_query() as connection:
            return connection.execute(query).scalar_one()

    def read_in_chunks(self, query: Select[*Columns], column: Any, values: Iterable[Any]) -> Iterator[Row[*Columns]]:
        """Yield the rows whose `column` has one of the values, chunk by chunk."""
        with self.database.begin_read() as connection:
            for chunk in split_chunks(values):
                yield from connection.execute(query.where(column.in_(chunk)))

    def stream(self, query: Select[*Columns]) -> Iterator[Row[*Columns]]:
        """Yield the rows of a query that may return a million.

        If the connection is lost, the query is repeated before its first row, but not in the middle of its rows: a
        caller that can start again uses `Database.repeat`.
        """
        with ExitStack() as stack:

            def start() -> tuple[Iterator[Row[*Columns]], list[Row[*Columns]]]:
                connection = stack.enter_context(self.database.begin_read())
                result = stack.enter_context(connection.execute(query, execution_options=STREAM_OPTIONS))
                rows = iter(result)
                return rows, list(islice(rows, 1))

            rows, first = self.database.repeat(start)
            if first:
                yield from first
                yield from rows

    def write_untracked(self, statement: Executable) -> None:
        """Execute a statement on rows that no search depends on."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(statement)


def _make_repeatable(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: Repository, *args: Any, **options: Any) -> T:
        # An iterator can't be read twice.
        values = [list(value) if isinstance(value, Iterator) else value for value in args]
        return self.database.repeat(lambda: method(self, *values, **options))

    return call


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


def insert_rows(connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows with the same columns."""
    if connection.dialect.name == "postgresql":
        connection.execute(*_make_array_insert(insert(table), table, rows))
    else:
        connection.execute(insert(table), list(rows))


def insert_new(
    connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]], returning: Sequence[Any]
) -> Iterator[Row[Any]]:
    """Insert rows with the same columns, and yield columns of those that were inserted.

    A row is left out if its unique columns are taken: another writer may have inserted it a moment ago.
    """
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")  # only the one in use is loaded
    statement: Any = dialect.insert(table)
    parameters: Any = list(rows)
    if connection.dialect.name == "postgresql":
        statement, parameters = _make_array_insert(statement, table, rows)
    yield from connection.execute(statement.on_conflict_do_nothing().returning(*returning), parameters)


def _make_array_insert(statement: Any, table: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Return a statement that inserts all rows, and its parameters: each column as an array.

    With a statement or a list of parameters for each row, the driver and the server would take several times as long.
    """
    columns = [table.__table__.c[name] for name in rows[0]]
    values = select(*(func.unnest(bindparam(column.name, type_=ARRAY(column.type))) for column in columns))
    return statement.from_select(columns, values), {c.name: [row[c.name] for row in rows] for c in columns}
