"""PostgreSQL as the catalogue's database: connections, isolation, errors, and the lock of the home.

Several hosts may share one database. Reading transactions see one snapshot (REPEATABLE READ); writing transactions are
READ COMMITTED and number their change last, so that they wait for each other only for a short time.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, ExceptionContext, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from simile.core.errors import (
    BadSetting,
    DatabaseUnavailable,
    HomeNotWritable,
    TransactionConflict,
)

log = logging.getLogger(__name__)

# Options of libpq that a URL does not give: a host that is cut off from the network is noticed after 11 seconds.
CONNECTION_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "11000",
}
# The same for the server, which keeps the lock of a host that is cut off for two hours otherwise.
SERVER_KEEPALIVES = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
POOL_SIZE, MAX_OVERFLOW, POOL_TIMEOUT_SECONDS = 5, 35, 10  # the service runs up to 40 requests at once
PING_AFTER_SECONDS = 1.0
MIN_SERVER_VERSION = 14
LOCK_KEY = 0x73696D696C65  # "simile", of the advisory lock; each database has its own locks
LOCK_CHECK_SECONDS = 2.0
LOCK_RECOVERY_SECONDS = 60.0  # a lost lock is taken again within this time, for a failover
MAX_HOLDER_BYTES = 63  # of application_name

# SQLSTATE codes and messages, https://www.postgresql.org/docs/current/errcodes-appendix.html.
_CONFLICT_STATES = ("40001", "40P01", "23503", "23505")  # serialization, deadlock, foreign key, unique
_UNAVAILABLE_STATES = ("57P01", "57P02", "57P03", "53300", "25006", "25P03", "08")
_PERMANENT_MESSAGES = ("authentication failed", "does not exist", "no pg_hba.conf entry", "invalid connection option")


def make_postgresql_engine(url: URL) -> Engine:
    """Create an engine. Its transactions are REPEATABLE READ unless the execution option `writes` is set."""
    engine = create_engine(
        _add_connection_defaults(url),
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        isolation_level="REPEATABLE READ",
    )
    event.listen(engine, "handle_error", _translate_error)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_ping_if_idle, engine.dialect))
    return engine


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_idle(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Check a connection that was not used for a moment, so that few requests meet a dead one after a failover.

    `pool_pre_ping` would check it at every use, which doubles the time of a small query.
    """
    if time.monotonic() - record.info.get("used_at", time.monotonic()) > PING_AFTER_SECONDS:
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool connects anew


def _add_connection_defaults(url: URL) -> URL:
    return url.update_query_dict({name: value for name, value in CONNECTION_DEFAULTS.items() if name not in url.query})


def _make_unpooled_engine(url: URL) -> Engine:
    """Create an engine for single queries, without a pool: the session ends with its connection."""
    engine = create_engine(_add_connection_defaults(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    event.listen(engine, "handle_error", _translate_error)
    return engine


def get_host_name() -> str:
    """Return the name of this host, as other hosts read it in messages."""
    return socket.gethostname()


def _translate_error(context: ExceptionContext) -> None:
    """Raise an error of simile for what a user or a repetition can repair; other errors pass unchanged."""
    error = context.original_exception
    if context.execution_context is not None and context.is_disconnect:
        with suppress(Exception):
            context.execution_context.cursor.close()  # SQLAlchemy leaves it open
    state, reason = str(getattr(error, "sqlstate", None) or ""), " ".join(str(error).split())
    if "NUL" in reason and "0x00" in reason:
        raise BadSetting("A text contains the character NUL, which PostgreSQL can't store. Remove it.")
    if state in _CONFLICT_STATES:
        raise TransactionConflict("Another writer changed the same rows. Try again.", reason) from error
    if state == "53100":
        raise HomeNotWritable(f"The database server has no space: {reason}. Make space there, and try again.")
    has_not_connected = context.connection is None
    if has_not_connected and any(message in reason for message in _PERMANENT_MESSAGES):
        raise BadSetting(f"The database refuses the connection: {reason}. Correct SIMILE_DATABASE_URL.")
    if context.is_disconnect or has_not_connected or (state and state.startswith(_UNAVAILABLE_STATES)):
        raise DatabaseUnavailable(
            "The database can't be reached. Check the server and SIMILE_DATABASE_URL, or try again later.", reason
        ) from error


class DatabaseLock:
    """An advisory lock of a database, held by one connection outside every pool.

    PostgreSQL releases it when the connection ends: at once if the process dies, and after some seconds if its host is
    cut off. A thread checks the connection. If it is lost, for example in a failover, the thread takes the lock again;
    if another process has it by then, this process is interrupted, as by Ctrl-C. A pooler such as PgBouncer in
    transaction mode can't hold such locks.
    """

    def __init__(self, url: URL, purpose: str) -> None:
        holder = f"{purpose}, process {os.getpid()} on {get_host_name()}"
        # application_name shows the holder in pg_stat_activity, for as long as it holds the lock.
        name = holder.encode()[:MAX_HOLDER_BYTES].decode(errors="ignore")
        options = " ".join(filter(None, [str(url.query.get("options", "")), SERVER_KEEPALIVES]))
        self._engine = _make_unpooled_engine(url.update_query_dict({"application_name": name, "options": options}))
        self._connection: Connection | None = None
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Try to take the lock, and return whether it was free. Raises DatabaseUnavailable."""
        connection = self._engine.connect()
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
            connection.close()
            return False
        self._connection = connection
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="database-lock", daemon=True)
            self._thread.start()
        return True

    def release(self) -> None:
        """Release the lock."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        if self._connection is not None and not self._connection.closed:
            with suppress(DatabaseUnavailable, DBAPIError):
                # The session ends, too, and with it the lock, but only some time after the connection is closed.
                self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
                self._connection.close()

    def _watch(self) -> None:
        while not self._released.wait(LOCK_CHECK_SECONDS):
            try:
                assert self._connection is not None
                self._connection.scalar(text("SELECT 1"))
            except (DatabaseUnavailable, DBAPIError):
                if not self._recover():
                    log.error("The lock of the home was lost, and another process may have it. Stopping.")
                    os.kill(os.getpid(), signal.SIGINT)
                    return

    def _recover(self) -> bool:
        """Take the lock again, and return whether that succeeded."""
        deadline = time.monotonic() + LOCK_RECOVERY_SECONDS
        with suppress(DatabaseUnavailable, DBAPIError):
            assert self._connection is not None
            self._connection.close()
        while time.monotonic() < deadline and not self._released.wait(0.5):
            with suppress(DatabaseUnavailable, DBAPIError):
                return self.acquire()
        return self._released.is_set()


_HOLDER_QUERY = text(
    "SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "JOIN pg_database d ON d.oid = l.database AND d.datname = current_database() "
    "WHERE l.locktype = 'advisory' AND l.granted AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
)


def find_lock_holder(url: URL) -> str | None:
    """Return who holds the lock of the home: command, process, host, and since when; None if it is free."""
    with _make_unpooled_engine(url).connect() as connection:
        row = connection.execute(_HOLDER_QUERY, {"key": LOCK_KEY}).first()
    return None if row is None else f"{row[0]}, since {row[1]:%Y-%m-%d %H:%M:%S} {row[1].tzname()}"


def check_server_settings(connection: Connection) -> list[str]:
    """Return the unsafe settings of the server and the database, one sentence each."""
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY(:names)"
    names = ["server_version_num", "server_encoding", "fsync", "full_page_writes", "synchronous_commit"]
    settings: dict[str, str] = dict(connection.execute(text(query), {"names": names}).all())
    problems = []
    if int(settings["server_version_num"]) < MIN_SERVER_VERSION * 10_000:
        version = int(settings["server_version_num"]) // 10_000
        problems.append(f"the server is PostgreSQL {version}; simile needs {MIN_SERVER_VERSION} or newer")
    if settings["server_encoding"] != "UTF8":
        problems.append(f"its encoding is {settings['server_encoding']}; create the database with ENCODING 'UTF8'")
    problems += [
        f"{name} is off; a crash of the server can lose or damage rows that were acknowledged"
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if settings[name] == "off"
    ]
    columns = (
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = current_schema() "
        "AND (table_name, column_name) IN (('locations', 'path'), ('metadata', 'name'), ('metadata', 'text')) "
        "AND collation_name IS DISTINCT FROM 'C' ORDER BY 1"
    )
    return problems + [
        f'{name} is not compared by bytes; run ALTER TABLE … ALTER COLUMN … TYPE VARCHAR COLLATE "C"'
        for name in connection.scalars(text(columns))
    ]
