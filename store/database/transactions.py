"""How the catalogue is read and written. Each noun's verbs (images.py, runs.py, …) build on this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Self, TypeVar

from sqlalchemy import Connection, select, update

from simile.store.catalogue.records import State
from simile.store.database.engine import make_engine
from simile.store.database.tables import StateRow
from simile.store.home import Home

T = TypeVar("T")

CHUNK = 500  # ids or paths in one IN (…): below the smallest limit on parameters of any database


class Transactions:
    """An open catalogue. Close it, or use it in `with`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._engine = make_engine(home)
        self._writes = self._engine.execution_options(writes=True)

    def close(self) -> None:
        """Closes the connections; the next verb would open new ones."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees the catalogue as it stands at its first query."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, int]]:
        """One transaction that others wait for, and the number of the change that it makes.

        Counting first makes writers queue on any database, so that numbers are committed in order.
        """
        with self._writes.begin() as connection:
            count = update(StateRow).values(changes=StateRow.changes + 1).returning(StateRow.changes)
            yield connection, connection.execute(count).scalar_one()

    @contextmanager
    def noting(self) -> Iterator[Connection]:
        """One transaction on what no query depends on (runs, failures): it does not count as a change."""
        with self._writes.begin() as connection:
            yield connection

    def state(self) -> State:
        """The change counter, the active encoder and the current segment: one tiny query."""
        with self.reading() as connection:
            return read_state(connection)

    def changes(self) -> int:
        """How many transactions have changed the catalogue."""
        return self.state().changes


_STATE = select(StateRow.changes, StateRow.active_encoder, StateRow.segment_id)  # put together once: see images.py


def read_state(connection: Connection) -> State:
    row = connection.execute(_STATE).one()
    return State(row.changes, row.active_encoder, row.segment_id)


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
