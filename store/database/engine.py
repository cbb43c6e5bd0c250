"""Connections to the catalogue: a file of SQLite, or a server of PostgreSQL (postgresql.py).

Only this package distinguishes the two.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, HomeBusy, HomeError, HomeNotWritable
from simile.store.database.postgresql import make_postgresql_engine
from simile.store.home import Home, translate_write_errors

BUSY_TIMEOUT_SECONDS = 30
LOG_INDEX_BYTES = 32 * 1024  # the smallest index of the log; SQLite creates it with 3 bytes
# Parts of SQLite's messages (sqlite3ErrStr) when it can't write, and when the file is damaged.
NOT_WRITABLE_MESSAGES = ("readonly database", "disk is full", "unable to open database file", "disk I/O error")
_IS_READ_ONLY = "is_read_only"  # of a connection, in the record of the pool
DAMAGE_MESSAGES = ("disk image is malformed", "file is not a database", "no such table", "no such column")


def make_engine(home: Home, foreign_keys: bool = True) -> Engine:
    """Create an engine for the home's catalogue. It is read-only if the file can't be written, or if the disk is full.

    Migrations turn foreign keys off: SQLite alters a table by copying it, and dropping the old table would delete the
    rows that refer to it. Raises BadSetting if the database URL is invalid, or needs a driver that is not installed.
    """
    url, file = parse_database_url(home), find_catalogue_file(home)
    is_writable = file is None or not file.is_file() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))
    try:
        if url.get_backend_name() == "postgresql":
            return make_postgresql_engine(url)
        if file is None or is_writable:
            engine = create_engine(url)
        else:  # without a pool: each transaction checks again whether a writer has opened the catalogue
            engine = create_engine(url, creator=partial(_connect_read_only, file), poolclass=NullPool)
    except ImportError as error:
        raise BadSetting(
            f"SIMILE_DATABASE_URL needs {error.name}. For PostgreSQL `pip install 'simile[postgres]'`, or leave the "
            "variable out."
        ) from error
    event.listen(engine, "handle_error", lambda context: _translate_database_error(home, context))
    if engine.dialect.name == "sqlite":
        if file is not None and is_writable:
            event.listen(engine, "do_connect", partial(_connect_by_space, file))
            event.listen(engine, "checkin", _close_read_only)
        event.listen(
            engine,
            "connect",
            lambda connection, record: _configure_connection(
                connection, foreign_keys, is_writable and not record.info.get(_IS_READ_ONLY)
            ),
        )
        event.listen(engine, "begin", _begin_transaction)
    return engine


def parse_database_url(home: Home) -> URL:
    """Return the URL of the catalogue. Raises BadSetting."""
    try:
        return make_url(home.url)
    except ArgumentError:  # its message may contain the password
        raise BadSetting("SIMILE_DATABASE_URL is no SQLAlchemy URL. Correct it, or leave it out for SQLite.") from None


def _connect_by_space(
    file: Path, dialect: Any, record: Any, arguments: Any, options: dict[str, Any]
) -> sqlite3.Connection:
    """Connect for reading and writing; only for reading if the disk has no space for the log and its index."""
    connection, is_read_only = _open_catalogue(file, lambda: dialect.connect(*arguments, **options))
    record.info[_IS_READ_ONLY] = is_read_only
    return connection


def _close_read_only(_connection: Any, record: Any) -> None:
    """Close a connection that found no space, so that the next transaction tries again."""
    if record.info.get(_IS_READ_ONLY):
        record.invalidate()


def _open_catalogue(file: Path, connect: Callable[[], sqlite3.Connection]) -> tuple[sqlite3.Connection, bool]:
    """Return a connection, and whether it can only read because the disk is full."""
    connection = connect()
    try:
        connection.execute("PRAGMA schema_version")  # SQLite opens the log
    except sqlite3.Error as error:
        if any(message in str(error) for message in NOT_WRITABLE_MESSAGES):
            connection.close()
            return _connect_read_only(file), True
    return connection, False


def _connect_read_only(file: Path) -> sqlite3.Connection:
    """Connect without creating a file.

    A writer keeps a log and its index next to the catalogue; if they exist, they are read too. Otherwise SQLite would
    create them, unless it is told that the file is immutable. If there was no space for them, nothing is in them.
    """
    has_log = _get_size(file.with_name(f"{file.name}-wal")) > 0
    in_use = has_log or _get_size(file.with_name(f"{file.name}-shm")) >= LOG_INDEX_BYTES
    address = f"{file.as_uri()}?{'mode=ro' if in_use else 'immutable=1'}"
    return sqlite3.connect(address, uri=True, check_same_thread=False)


def _get_size(file: Path) -> int:
    """Return the size of a file, 0 if it does not exist."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _configure_connection(connection: Any, foreign_keys: bool, writable: bool) -> None:
    # The driver must not begin transactions itself: it begins them late, and never for DDL or SELECT.
    connection.isolation_level = None
    for function in (math.radians, math.sin, math.cos):  # for distances; not every build of SQLite has them
        connection.create_function(function.__name__, 1, partial(_call_unless_none, function), deterministic=True)
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    if writable:
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged commit survives a power cut
    cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    cursor.close()


def _call_unless_none(function: Callable[[float], float], value: float | None) -> float | None:
    return None if value is None else function(value)


def _begin_transaction(connection: Connection) -> None:
    """Begin a transaction. A writer takes the write lock at once: later it would fail instead of waiting."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _translate_database_error(home: Home, context: ExceptionContext) -> None:
    """Raise a HomeError for database errors that the user can fix; other errors pass unchanged."""
    reason = str(context.original_exception)
    if any(message in reason for message in NOT_WRITABLE_MESSAGES):
        raise HomeNotWritable(
            f"Can't use {home.catalogue_path}: {reason}. Make space or give permission, and try again."
        )
    if "database is locked" in reason:
        raise HomeBusy(
            f"{home.catalogue_path} was busy for {BUSY_TIMEOUT_SECONDS} seconds. Stop the other writer, or try again."
        )
    if any(message in reason for message in DAMAGE_MESSAGES):
        raise HomeError(f"{home.catalogue_path} is damaged: {reason}. Restore it from a backup.")


def catalogue_exists(home: Home) -> bool:
    """Return whether a catalogue may exist. Check it before connecting, because SQLite creates a missing file."""
    if parse_database_url(home).get_backend_name() != "sqlite":
        return True
    file = find_catalogue_file(home)
    return file is not None and file.is_file()


def find_catalogue_file(home: Home) -> Path | None:
    """Return the catalogue's file, or None (another database, or SQLite in memory)."""
    database = parse_database_url(home)
    if database.get_backend_name() != "sqlite" or not database.database:
        return None
    return Path(database.database).absolute()


def back_up_catalogue(home: Home, revision: str) -> Path | None:
    """Copy the catalogue to `<its name>.bak-<revision>` in the same folder and return the copy's path.

    Returns None for other databases, which have their own tools for backups. Raises HomeNotWritable.
    """
    source = find_catalogue_file(home)
    if source is None:
        return None
    target = source.with_name(f"{source.name}.bak-{revision}")
    with translate_write_errors(target):
        write_atomically(target, lambda temporary: copy_catalogue(source, temporary))
    return target


def copy_catalogue(source: Path, target: Path) -> None:
    """Copy an SQLite catalogue as of this moment to a new file; others may read and write meanwhile.

    Raises OSError with ENOSPC if there is no space, or HomeError if the source can't be read.
    """
    target.unlink(missing_ok=True)
    if os.access(source.parent, os.W_OK):
        live, _ = _open_catalogue(source, partial(sqlite3.connect, source))
    else:
        live = _connect_read_only(source)
    copy = sqlite3.connect(target)
    try:
        live.backup(copy)
    except sqlite3.Error as error:
        if any(message in str(error) for message in DAMAGE_MESSAGES):
            raise HomeError(f"{source} is damaged: {error}. Restore it from a backup.") from error
        raise OSError(errno.ENOSPC, str(error), str(target)) from error
    finally:
        copy.close()
        live.close()


def check_integrity(connection: Connection) -> list[str]:
    """Return the problems that SQLite finds in its file, one sentence each; none for other databases."""
    if connection.dialect.name != "sqlite":
        return []
    lines = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
    foreign = [f"it has the {item}, which simile does not create" for item in find_foreign_objects(connection)]
    return lines + find_broken_references(connection) + foreign


def find_foreign_objects(connection: Connection) -> list[str]:
    """Return kind and name of what simile never creates in an SQLite file: a trigger could bring back a revoked key."""
    if connection.dialect.name != "sqlite":
        return []
    query = "type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL %'"
    rows = connection.execute(text(f"SELECT type, name FROM sqlite_master WHERE {query} ORDER BY name"))
    return [f"{kind} {name!r}" for kind, name in rows]


def find_broken_references(connection: Connection) -> list[str]:
    """Return rows that refer to a missing row, one sentence each. Only SQLite can hold such rows."""
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.execute(text("PRAGMA foreign_key_check"))
    return [f"row {row[1]} of {row[0]} refers to a row of {row[2]} that does not exist" for row in rows]
