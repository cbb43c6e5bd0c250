"""The catalogue on a real server of PostgreSQL: isolation, lost connections, writers of several hosts, the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, make_url, select, text

from simile.core.errors import BadSetting, DatabaseUnavailable, HomeBusy, JobRunning
from simile.core.filters.expression import Condition
from simile.core.records import FileStat, Filter
from simile.store.backup.verify import find_problems
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.files import assign_paths
from simile.store.catalogue.records import NewImage
from simile.store.database import postgresql, schema
from simile.store.database.tables import ImageRow, JobRow, LocationRow
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.snapshot import iterate_index_vectors
from tests.support.servers.postgresql import Postgres, running_server

ENCODER = "a" * 16
LOCK_CODE = "from pathlib import Path; from simile.store.home import Home; import sys, time\n"
LOCK_CODE += "with Home(Path(sys.argv[1]), sys.argv[2]).lock('simile index'): print('held', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_server() as server:
        server.execute("CREATE DATABASE template_home")
        schema.upgrade_schema(Home(server.folder.parent / "template", server.get_url("template_home")))
        yield server


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest) -> str:
    """The URL of a database of one's own, with a current catalogue."""
    name = f"test_{abs(hash(request.node.nodeid)):x}"
    server.copy_database("template_home", name)
    return server.get_url(name)


@pytest.fixture
def catalogue(url: str, tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue(Home(tmp_path / "home", url).create()) as catalogue:
        catalogue.encoders.register(ENCODER, "first", "vae", dimensions=4)
        yield catalogue


def make_image(name: str, path: str | None = None) -> NewImage:
    sha256 = name.encode().hex().rjust(64, "0")
    file = FileStat(path or f"/photos/{name}.png", 10, 20)
    mu = np.random.default_rng(len(name)).normal(size=4).astype(np.float32)
    return NewImage(sha256=sha256, size=10, format="PNG", width=3, height=3, file=file, mu=mu)


def kill_connections(server: Postgres, condition: str = "true") -> None:
    """End the server's connections to databases of tests, as a failover does."""
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname LIKE 'test_%' AND pid <> pg_backend_pid() AND {condition}"
    )


def run_together(*functions: Callable[[], Any]) -> None:
    """Run functions in threads and raise the first error."""
    errors: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_reading_transaction_sees_one_snapshot(catalogue: Catalogue) -> None:
    count = select(func.count()).select_from(ImageRow)
    catalogue.images.add_batch([make_image("one")], ENCODER, "torch")
    with catalogue.begin_read() as connection:
        assert connection.scalar(count) == 1
        catalogue.images.add_batch([make_image("two")], ENCODER, "torch")
        assert connection.scalar(count) == 1
    assert catalogue.images.count() == 2


def test_readers_cannot_write(catalogue: Catalogue) -> None:
    with pytest.raises(DatabaseUnavailable, match="reached"), catalogue.begin_read() as connection:
        connection.execute(text("DELETE FROM images"))


def test_ids_have_64_bits(catalogue: Catalogue) -> None:
    with catalogue.begin_untracked_write() as connection:
        for table in ("images", "locations"):
            connection.execute(text(f"SELECT setval('{table}_id_seq', 3000000000)"))
    catalogue.encoders.activate(ENCODER)
    image = make_image("large")
    (image_id,) = catalogue.images.add_batch([image], ENCODER, "torch", {image.file.path: {"label": "cat"}})
    assert image_id > 2**31
    assert catalogue.metadata.get_for_images([image_id]) == {image_id: {"label": "cat"}}
    index = Index(catalogue)
    assert [hit for hit, _ in index.search(image.mu[None], 1)[0]] == [image_id]
    catalogue.images.delete(image_id)
    assert len(index) == 0


def test_metadata_is_compared_by_bytes(catalogue: Catalogue) -> None:
    names = ("a", "B", "z", "é")
    images = [make_image(name) for name in names]
    metadata = {image.file.path: {"name": name} for name, image in zip(names, images, strict=True)}
    ids = catalogue.images.add_batch(images, ENCODER, "torch", metadata)
    matching = Index(catalogue).find_matching_ids(Filter(where=(Condition("name", ">", "Z"),)))
    assert matching is not None
    assert set(matching) == {ids[0], ids[2], ids[3]}  # "B" < "Z" < "a"


def test_a_nul_character_is_refused_and_named(catalogue: Catalogue) -> None:
    image = make_image("one")
    with pytest.raises(BadSetting, match="NUL"):
        catalogue.images.add_batch([image], ENCODER, "torch", {image.file.path: {"label": "a\0b"}})
    assert catalogue.images.count() == 0


def test_a_lost_connection_is_noticed_only_as_a_pause(catalogue: Catalogue, server: Postgres) -> None:
    catalogue.images.add_batch([make_image("one")], ENCODER, "torch")
    kill_connections(server)
    assert catalogue.images.count() == 1
    kill_connections(server)
    catalogue.images.add_batch([make_image("two")], ENCODER, "torch")
    assert catalogue.images.count() == 2


def test_a_connection_that_was_idle_is_checked_before_its_use(
    catalogue: Catalogue, server: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgresql, "PING_AFTER_SECONDS", 0)
    catalogue.images.count()
    kill_connections(server)
    assert catalogue.images.count() == 0
    assert "can't be reached" not in caplog.text


def test_a_transaction_that_lost_its_connection_is_repeated(
    catalogue: Catalogue, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def kill_first(*arguments: Any) -> set[int]:
        calls.append(1)
        if len(calls) == 1:
            kill_connections(server)
        return assign_paths(*arguments)

    monkeypatch.setattr("simile.store.catalogue.images.assign_paths", kill_first)
    changes = catalogue.count_changes()
    (image_id,) = catalogue.images.add_batch([make_image("one")], ENCODER, "torch")
    assert len(calls) == 2
    assert catalogue.images.get(image_id).paths == ("/photos/one.png",)
    assert (catalogue.images.count(), catalogue.count_changes()) == (1, changes + 1)


def test_a_segment_is_built_although_the_connection_is_lost(
    catalogue: Catalogue, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.encoders.activate(ENCODER)
    image = make_image("one")
    (image_id,) = catalogue.images.add_batch([image], ENCODER, "torch")
    calls = []

    def kill_first(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            kill_connections(server)
        return iterate_index_vectors(*arguments)

    monkeypatch.setattr("simile.store.index.index.iterate_index_vectors", kill_first)
    index = Index(catalogue)
    kill_connections(server)
    with catalogue.home.lock("test"):
        index.publish()
    assert len(calls) == 2
    assert index.count_pending() == 0
    assert [hit for hit, _ in index.search(image.mu[None], 1)[0]] == [image_id]


def test_a_database_that_stays_away_is_an_error_after_the_limit(tmp_path: Path, server: Postgres) -> None:
    url = server.get_url("template_home").replace(str(server.port), "1")
    catalogue = Catalogue(Home(tmp_path, url), repeat_seconds=0.2)
    with pytest.raises(DatabaseUnavailable, match="can't be reached"):
        catalogue.images.count()


@pytest.mark.parametrize(("database", "reason"), [("missing", "does not exist")])
def test_a_wrong_url_is_an_error_at_once(tmp_path: Path, server: Postgres, database: str, reason: str) -> None:
    with pytest.raises(BadSetting, match=f"{reason}.*SIMILE_DATABASE_URL"):
        schema.read_revision(Home(tmp_path, server.get_url(database)))


def test_writers_that_add_the_same_images_double_and_lose_nothing(catalogue: Catalogue) -> None:
    names = [f"image {number}" for number in range(40)]

    def write(order: list[str]) -> None:
        for start in range(0, len(order), 5):
            batch = order[start : start + 5]
            catalogue.images.add_batch([make_image(name) for name in batch], ENCODER, "torch")

    run_together(lambda: write(names), lambda: write(names[::-1]), lambda: write(names[20:] + names[:20]))
    assert catalogue.images.count() == catalogue.embeddings.count(ENCODER) == 40
    assert len(catalogue.files.find_under(["/photos"])) == 40


def test_a_file_that_is_added_while_its_image_is_deleted_is_kept(catalogue: Catalogue) -> None:
    (image_id,) = catalogue.images.add_batch([make_image("one", "/photos/old.png")], ENCODER, "torch")
    deleting = threading.Thread(target=catalogue.files.delete, args=(["/photos/old.png"],))
    with catalogue.begin_write() as (connection, _):
        assign_paths(connection, [(image_id, FileStat("/photos/new.png", 10, 20))])
        deleting.start()
        while not connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            pass  # until the other writer waits for this one
    deleting.join()
    assert catalogue.images.get(image_id).paths == ("/photos/new.png",)


def test_changes_are_committed_in_the_order_of_their_numbers(catalogue: Catalogue) -> None:
    seen: list[int] = []

    def write(name: str) -> None:
        for number in range(10):
            catalogue.images.add_batch([make_image(f"{name} {number}")], ENCODER, "torch")

    def read() -> None:
        while len(seen) < 200:
            with catalogue.begin_read() as connection:
                changes = connection.scalar(text("SELECT changes FROM state"))
                newest = connection.scalar(text("SELECT coalesce(max(change), 0) FROM embeddings"))
            assert newest <= changes
            seen.append(changes)

    run_together(lambda: write("a"), lambda: write("b"), read)
    assert seen == sorted(seen)


def hold_lock(home: Path, url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOCK_CODE, home, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_host_is_told_who_holds_the_home(url: str, tmp_path: Path) -> None:
    here = Home(tmp_path / "here", url)
    process = hold_lock(tmp_path / "there", url)
    try:
        assert here.is_locked()
        with pytest.raises(HomeBusy, match=f"simile index, process {process.pid} on .*, since 20"), here.lock("other"):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    with here.lock("other", wait=5):
        assert here.holds_lock
    assert not here.is_locked()


def test_a_released_lock_is_free_at_once(url: str, tmp_path: Path) -> None:
    for number in range(20):
        with Home(tmp_path / f"home {number % 2}", url).lock("test"):
            pass


def test_a_lost_lock_is_taken_again(
    url: str, tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOCK_CHECK_SECONDS", 0.05)
    home = Home(tmp_path / "home", url)
    with home.lock("simile index"):
        kill_connections(server, "application_name LIKE 'simile index%'")
        while not home.is_locked():
            pass
        with pytest.raises(HomeBusy), Home(tmp_path / "other", url).lock("other"):
            pass


def test_a_process_whose_lock_was_taken_over_is_interrupted(
    url: str, tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOCK_CHECK_SECONDS", 0.05)
    interrupted = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    recover = postgresql.DatabaseLock._recover
    other = postgresql.DatabaseLock(make_url(url), "other")

    def lose(lock: postgresql.DatabaseLock) -> bool:
        assert other.acquire()
        return recover(lock)

    monkeypatch.setattr(postgresql.DatabaseLock, "_recover", lose)
    try:
        with Home(tmp_path / "home", url).lock("simile index"):
            kill_connections(server, "application_name LIKE 'simile index%'")
            assert interrupted.wait(20)
    finally:
        other.release()
        signal.signal(signal.SIGINT, previous)


def test_a_job_of_another_host_is_interrupted_only_when_it_is_silent(catalogue: Catalogue) -> None:
    job = catalogue.jobs.add("photos", prune=False)
    assert not catalogue.jobs.interrupt_dead()
    with pytest.raises(JobRunning, match=f"Job {job.id} on 'photos' is running on {os.uname().nodename}"):
        catalogue.jobs.add("photos", prune=False)
    with catalogue.begin_untracked_write() as connection:
        connection.execute(text("UPDATE jobs SET alive_at = now() - interval '31 seconds'"))
    catalogue.jobs.mark_alive(job.id)
    assert not catalogue.jobs.interrupt_dead()
    with catalogue.begin_untracked_write() as connection:
        connection.execute(text("UPDATE jobs SET alive_at = now() - interval '31 seconds'"))
    assert catalogue.jobs.interrupt_dead()
    assert catalogue.jobs.get(job.id).status == "interrupted"
    assert catalogue.jobs.add("photos", prune=False).id > job.id


def test_an_upgrade_keeps_rows(server: Postgres, tmp_path: Path) -> None:
    from alembic import command

    server.execute("CREATE DATABASE test_upgrade")
    home = Home(tmp_path / "home", server.get_url("test_upgrade")).create()
    config = schema.make_alembic_config(home)
    command.upgrade(config, "2026_11_30_file_failures")
    server.execute("INSERT INTO encoders VALUES ('e', 'n', 'vae', 1, NULL, 'l2', now())", "test_upgrade")
    server.execute("INSERT INTO images VALUES (DEFAULT, 'f', 1, 'PNG', 2, 3, now())", "test_upgrade")
    server.execute("INSERT INTO locations VALUES (DEFAULT, 1, '/a', 1, 1)", "test_upgrade")
    server.execute("INSERT INTO metadata VALUES (1, 'label', 'cat', NULL)", "test_upgrade")
    server.execute("INSERT INTO embeddings VALUES (1, 'e', '\\x00000000', NULL, NULL, 'torch', 1)", "test_upgrade")
    schema.upgrade_schema(home)
    with Catalogue(home) as catalogue:
        assert catalogue.metadata.get_for_images([1]) == {1: {"label": "cat"}}
        assert list(catalogue.embeddings.get(1, "e").mu) == [0]
        with catalogue.begin_read() as connection:
            assert connection.execute(select(LocationRow.path, LocationRow.failure)).all() == [("/a", None)]
            assert connection.execute(select(JobRow.host)).all() == []
    command.downgrade(config, "2026_11_30_file_failures")
    assert server.execute("SELECT path FROM locations", "test_upgrade") == [("/a",)]


def test_unsafe_settings_of_the_server_are_found(catalogue: Catalogue, server: Postgres) -> None:
    home = catalogue.home
    (home.encoders / ENCODER).mkdir()
    assert find_problems(home) == []
    database = make_url(home.url).database
    server.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with catalogue.begin_untracked_write() as connection:
        connection.execute(text('ALTER TABLE metadata ALTER COLUMN text TYPE VARCHAR COLLATE "ucs_basic"'))
    problems = [problem.description for problem in find_problems(home)]
    assert len(problems) == 2
    assert problems[0].startswith("synchronous_commit is off")
    assert problems[1].startswith("metadata.text is not compared by bytes")
