"""Connections to the catalogue. The one place that knows SQLite from other databases."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from simile.core.atomic_write import fsync_path
from simile.core.errors import BadSetting, HomeBusy, HomeError, HomeNotWritable
from simile.store.home import Home, translate_write_errors

BUSY_TIMEOUT_SECONDS = 30
# What SQLite says when it can't write, in the words of its source (sqlite3ErrStr).
NOT_WRITABLE_MESSAGES = ("readonly database", "disk is full", "unable to open database file", "disk I/O error")
DAMAGE_MESSAGES = ("disk image is malformed", "file is not a database", "no such table", "no such column")


def make_engine(home: Home, foreign_keys: bool = True) -> Engine:
    """An engine on the home's catalogue; one that only reads where nothing can be written.

    Migrations turn foreign keys off: SQLite alters a table by making it anew, and dropping the old one would delete
    what points to it.
    """
    url, file = _parse_database_url(home), _find_read_only_file(home)
    try:
        engine = create_engine(url) if file is None else _make_read_only_engine(url, file)
    except ImportError as error:
        raise BadSetting(f"SIMILE_DATABASE_URL needs {error.name}. Install it, or leave the variable out.") from error
    event.listen(engine, "handle_error", lambda context: _translate_database_error(home, context))
    if engine.dialect.name == "sqlite":
        event.listen(
            engine, "connect", lambda connection, _: _configure_connection(connection, foreign_keys, file is None)
        )
        event.listen(engine, "begin", _begin_transaction)
    return engine


def _parse_database_url(home: Home) -> URL:
    try:
        return make_url(home.url)
    except ArgumentError:  # what it says may show the password
        raise BadSetting("SIMILE_DATABASE_URL is no SQLAlchemy URL. Correct it, or leave it out for SQLite.") from None


def _find_read_only_file(home: Home) -> Path | None:
    """The catalogue's file if it is there and nothing can be written to it or beside it."""
    file = find_catalogue_file(home)
    if file is None or not file.is_file():
        return None
    return None if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) else file


def _make_read_only_engine(url: URL, file: Path) -> Engine:
    # Nothing is pooled: each transaction looks anew whether somebody has begun to write.
    return create_engine(url, creator=lambda: _connect_read_only(file), poolclass=NullPool)


def _connect_read_only(file: Path) -> sqlite3.Connection:
    """A connection that makes no file.

    Whoever may write keeps a log and an index of it beside the catalogue: then those are read too. With nobody there,
    SQLite would want to make them; told that the file can't change, it does without.
    """
    log, index = (file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))
    in_use = index.exists() or (log.exists() and log.stat().st_size > 0)
    address = f"{file.as_uri()}?{'mode=ro' if in_use else 'immutable=1'}"
    return sqlite3.connect(address, uri=True, check_same_thread=False)


def _configure_connection(connection: Any, foreign_keys: bool, writable: bool) -> None:
    # The driver must not begin transactions by itself: it begins them late, and never for DDL or SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    if writable:
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # a commit that was acknowledged survives a power cut
    cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    cursor.close()


def _begin_transaction(connection: Connection) -> None:
    """A writer takes the write lock at once: a reader that turns writer half-way fails instead of waiting."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _translate_database_error(home: Home, context: ExceptionContext) -> None:
    """Raises the home's own errors for what the user can do something about; others pass as they are."""
    reason = str(context.original_exception)
    if any(words in reason for words in NOT_WRITABLE_MESSAGES):
        raise HomeNotWritable(
            f"Can't use {home.catalogue_path}: {reason}. Make space or give permission, and try again."
        )
    if "database is locked" in reason:
        raise HomeBusy(
            f"{home.catalogue_path} was busy for {BUSY_TIMEOUT_SECONDS} seconds. Stop the other writer, or try again."
        )
    if any(words in reason for words in DAMAGE_MESSAGES):
        raise HomeError(f"{home.catalogue_path} is damaged: {reason}. Restore it from a backup.")


def catalogue_exists(home: Home) -> bool:
    """Whether there can be a catalogue. Asked before connecting: SQLite makes an empty file for whoever connects."""
    if _parse_database_url(home).get_backend_name() != "sqlite":
        return True
    file = find_catalogue_file(home)
    return file is not None and file.is_file()


def find_catalogue_file(home: Home) -> Path | None:
    """The catalogue's file, or None where it is none (another database, or SQLite in memory)."""
    database = _parse_database_url(home)
    if database.get_backend_name() != "sqlite" or not database.database:
        return None
    return Path(database.database).absolute()


def back_up_catalogue(home: Home, revision: str) -> Path | None:
    """Copies the catalogue to `<its name>.bak-<revision>` beside it and gives the copy's path.

    None for a database other than SQLite: its own tools make its backups. Raises HomeNotWritable.
    """
    source = find_catalogue_file(home)
    if source is None:
        return None
    target = source.with_name(f"{source.name}.bak-{revision}")
    unfinished = target.with_name(f"{target.name}.tmp")
    with translate_write_errors(target):
        try:
            copy_catalogue(source, unfinished)
            fsync_path(unfinished)
            unfinished.replace(target)
            fsync_path(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def copy_catalogue(source: Path, target: Path) -> None:
    """Copies an SQLite catalogue as it stands at this moment, to a new file; others may read and write meanwhile.

    Raises OSError with ENOSPC where the copy finds no space, HomeError where the source can't be read.
    """
    target.unlink(missing_ok=True)
    live = sqlite3.connect(source) if os.access(source.parent, os.W_OK) else _connect_read_only(source)
    copy = sqlite3.connect(target)
    try:
        live.backup(copy)
    except sqlite3.Error as error:
        if any(words in str(error) for words in DAMAGE_MESSAGES):
            raise HomeError(f"{source} is damaged: {error}. Restore it from a backup.") from error
        raise OSError(errno.ENOSPC, str(error), str(target)) from error
    finally:
        copy.close()
        live.close()


def check_integrity(connection: Connection) -> list[str]:
    """What SQLite itself finds wrong with the file, one sentence each; nothing for other databases."""
    if connection.dialect.name != "sqlite":
        return []
    lines = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
    return lines + find_broken_references(connection)


def find_broken_references(connection: Connection) -> list[str]:
    """Rows that point to a row that isn't there, one sentence each; SQLite only, others can't hold any."""
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.execute(text("PRAGMA foreign_key_check"))
    return [f"row {row[1]} of {row[0]} points to a row of {row[2]} that does not exist" for row in rows]
