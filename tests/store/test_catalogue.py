"""The catalogue: what it stores, deletes, and keeps after a crash."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import (
    BadSetting,
    EncoderMismatch,
    HomeBusy,
    HomeError,
    HomeNotWritable,
    NoSuchEncoder,
    NoSuchImage,
    NotFinite,
)
from simile.core.records import Failure, FileStat
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import KnownFile, KnownImage, NewImage
from simile.store.database.engine import make_engine
from simile.store.database.schema import upgrade_schema
from simile.store.home import Home, translate_write_errors
from tests.support.catalogue import make_new_image

VAE, OTHER = "a" * 64, "b" * 64


def new_image(name: str, content: str | None = None, folder: str = "/photos") -> NewImage:
    """Return an image whose mu depends on its content."""
    content = content or name
    mu = np.full(3, sum(map(ord, content)), np.float32)
    file = FileStat(f"{folder}/{name}", size=len(content), mtime_ns=1_000_000_007)
    fields = {"sha256": content.rjust(64, "0"), "size": len(content), "height": 6, "reconstruction_error": 0.25}
    return make_new_image(0, mu, file=file, log_variance=-mu, **fields)


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "first", "vae", dimensions=3)
        catalogue.encoders.activate(VAE)
        yield catalogue


def store(catalogue: Catalogue, *images: NewImage) -> list[int]:
    return catalogue.images.add_batch(images, VAE, "eager")


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_stored_image_is_read_back_completely(catalogue: Catalogue) -> None:
    before = datetime.now(UTC)
    (image_id,) = store(catalogue, new_image("cat.png"))
    image = catalogue.images.get(image_id)
    stored = (image.sha256, image.size, image.format, image.width, image.height)
    assert stored == ("cat.png".rjust(64, "0"), 7, "PNG", 8, 6)
    assert (image.paths, image.reconstruction_error) == (("/photos/cat.png",), 0.25)
    assert before <= image.created_at <= datetime.now(UTC)
    embedding = catalogue.embeddings.get(image_id, VAE)
    assert embedding.mu.tolist() == new_image("cat.png").mu.tolist()
    assert embedding.mu.dtype == np.float32
    assert embedding.log_variance is not None
    assert embedding.log_variance.tolist() == (-embedding.mu).tolist()


def test_an_encoder_without_a_variance_stores_none(catalogue: Catalogue) -> None:
    new = new_image("cat.png")
    (image_id,) = store(catalogue, replace(new, log_variance=None))
    assert catalogue.embeddings.get(image_id, VAE).log_variance is None
    ((ids, _, variance),) = catalogue.embeddings.iterate_chunks(VAE)
    assert (ids.tolist(), variance) == ([image_id], None)


def test_storing_again_keeps_the_id(catalogue: Catalogue) -> None:
    first = store(catalogue, new_image("a.png"), new_image("b.png"))
    assert store(catalogue, new_image("b.png"), new_image("a.png")) == first[::-1]
    assert catalogue.images.count() == 2
    assert catalogue.embeddings.count(VAE) == 2


def test_identical_files_are_one_image(catalogue: Catalogue) -> None:
    ids = store(catalogue, new_image("b.png", "same"), new_image("a.png", "same"))
    assert ids[0] == ids[1]
    assert catalogue.images.get(ids[0]).paths == ("/photos/a.png", "/photos/b.png")


def test_a_changed_file_leaves_its_old_image_and_deletes_it_if_it_was_the_last(catalogue: Catalogue) -> None:
    old, kept = store(catalogue, new_image("a.png", "old"), new_image("b.png", "kept"))
    store(catalogue, new_image("copy.png", "kept"))
    (new,) = store(catalogue, new_image("a.png", "new"))
    store(catalogue, new_image("b.png", "newer"))
    with pytest.raises(NoSuchImage):
        catalogue.images.get(old)
    assert catalogue.images.get(new).paths == ("/photos/a.png",)
    assert catalogue.images.get(kept).paths == ("/photos/copy.png",)


def test_deleted_id_is_never_reused(catalogue: Catalogue) -> None:
    (last,) = store(catalogue, new_image("a.png"))
    catalogue.images.delete(last)
    assert store(catalogue, new_image("a.png")) == [last + 1]


def test_deleting_an_image_deletes_its_files_and_vectors(catalogue: Catalogue) -> None:
    ids = store(catalogue, new_image("a.png"), new_image("b.png"))
    catalogue.images.delete(ids[0])
    for verb in (catalogue.images.get, catalogue.images.delete, lambda i: catalogue.embeddings.get(i, VAE)):
        with pytest.raises(NoSuchImage, match=f"no image {ids[0]}"):
            verb(ids[0])
    assert list(catalogue.files.find_under(["/"])) == ["/photos/b.png"]
    assert catalogue.embeddings.count(VAE) == 1


def test_only_uploads_are_removed_from_disk(catalogue: Catalogue, home: Home, tmp_path: Path) -> None:
    own, upload, pruned = tmp_path / "own.png", home.uploads / "up.png", home.uploads / "pruned.png"
    ids = []
    for path in (own, upload, pruned):
        path.write_bytes(b"x")
        ids += store(catalogue, new_image(path.name, folder=str(path.parent)))
    catalogue.images.delete(ids[0])
    catalogue.images.delete(ids[1])
    catalogue.files.delete([str(pruned)])
    assert own.exists()
    assert list(home.uploads.iterdir()) == []


def test_a_batch_with_one_bad_vector_stores_nothing(catalogue: Catalogue) -> None:
    before = catalogue.count_changes()
    good, bad = new_image("good.png"), new_image("bad.png")
    for mu, error in ((np.zeros(4, np.float32), EncoderMismatch), (np.full(3, np.nan, np.float32), NotFinite)):
        with pytest.raises(error, match=r"/photos/bad\.png"):
            store(catalogue, good, replace(bad, mu=mu))
    assert (catalogue.images.count(), catalogue.count_changes()) == (0, before)


def test_each_write_is_one_change_and_reading_is_none(catalogue: Catalogue) -> None:
    before = catalogue.count_changes()
    store(catalogue, *(new_image(f"{i}.png") for i in range(20)))
    assert catalogue.count_changes() == before + 1
    catalogue.runs.finish(catalogue.runs.start("index", {}), "finished", {})
    catalogue.images.get_page(5)
    assert catalogue.count_changes() == before + 1


def test_known_files_are_those_under_the_prefixes(catalogue: Catalogue) -> None:
    names = {"x.png": "/photos", "X.png": "/photos/sub", "y.png": "/photos2", "z_.png": "/ph%tos"}
    store(catalogue, *(new_image(name, folder=folder) for name, folder in names.items()))
    assert set(catalogue.files.find_under(["/photos"])) == {"/photos/x.png", "/photos/sub/X.png"}
    assert set(catalogue.files.find_under(["/photos/"])) == {"/photos/x.png", "/photos/sub/X.png"}
    assert set(catalogue.files.find_under(["/photos/x.png", "/ph%tos"])) == {"/photos/x.png", "/ph%tos/z_.png"}
    assert set(catalogue.files.find_under(["/PHOTOS", "/photo"])) == set()
    assert len(catalogue.files.find_under(["/"])) == 4


def test_embedded_is_about_the_given_encoder(catalogue: Catalogue) -> None:
    (image_id,) = store(catalogue, new_image("a.png"))
    catalogue.encoders.register(OTHER, "second", "vae", dimensions=3)
    assert catalogue.files.find_under(["/"], VAE)["/photos/a.png"] == KnownFile(image_id, 5, 1_000_000_007, True)
    assert not catalogue.files.find_under(["/"], OTHER)["/photos/a.png"].embedded
    assert not catalogue.files.find_under(["/"])["/photos/a.png"].embedded
    sha = new_image("a.png").sha256
    assert catalogue.images.find_by_sha256([sha, "unknown"], VAE) == {sha: KnownImage(image_id, True)}
    assert catalogue.images.find_by_sha256([sha], OTHER) == {sha: KnownImage(image_id, False)}
    with pytest.raises(EncoderMismatch, match="no vector by encoder b"):
        catalogue.embeddings.get(image_id, OTHER)


def test_paths_follow_their_files(catalogue: Catalogue) -> None:
    ids = store(catalogue, new_image("a.png"), new_image("b.png"))
    catalogue.files.update_stats([FileStat("/photos/a.png", 99, 5)])
    catalogue.files.move("/photos/b.png", FileStat("/new/b.png", 7, 8))
    assert catalogue.files.add([(ids[0], FileStat("/copy.png", 1, 2))]) == 0
    assert catalogue.files.get_for_images([*ids, 77]) == {
        ids[0]: (FileStat("/copy.png", 1, 2), FileStat("/photos/a.png", 99, 5)),
        ids[1]: (FileStat("/new/b.png", 7, 8),),
    }
    assert catalogue.files.delete(["/photos/a.png", "/unknown"]) == 0
    assert catalogue.files.add([(ids[0], FileStat("/new/b.png", 1, 2))]) == 1
    assert catalogue.files.delete(["/copy.png", "/new/b.png"]) == 1
    assert catalogue.images.count() == 0


def test_images_are_returned_in_the_given_order(catalogue: Catalogue) -> None:
    ids = store(catalogue, *(new_image(f"{i:04}.png") for i in range(1200)))
    assert ids == sorted(ids)
    asked = [*ids[::-1], 99999]
    assert list(catalogue.images.get_many(asked)) == ids[::-1]
    assert [image.id for image in catalogue.images.get_page(limit=3, offset=1100)] == ids[1100:1103]
    assert np.concatenate([chunk for chunk, _, _ in catalogue.embeddings.iterate_chunks(VAE)]).tolist() == ids


def test_encoders_are_known_by_fingerprint_and_used_when_activated(catalogue: Catalogue) -> None:
    made = catalogue.encoders.register(OTHER, "second", "supervised", 8, index_dims=[1, 2], metric="cosine")
    assert (made.index_dims, made.indexed_dimensions, made.metric) == ([1, 2], 2, "cosine")
    assert catalogue.encoders.register(OTHER, "again", "vae", 9) == made
    assert [encoder.fingerprint for encoder in catalogue.encoders.get_all()] == [VAE, OTHER]
    assert catalogue.encoders.find_active() == catalogue.encoders.get(VAE)
    catalogue.encoders.activate(OTHER)
    assert catalogue.encoders.find_active() == made
    for verb in (catalogue.encoders.get, catalogue.encoders.activate):
        with pytest.raises(NoSuchEncoder, match="simile encoders"):
            verb("unknown")
    assert catalogue.encoders.find_active() == made


def test_runs_remember_what_they_did(catalogue: Catalogue) -> None:
    run = catalogue.runs.start("index", {"workers": 2})
    catalogue.runs.add_failures(run, [Failure("/b", "truncated"), Failure("/a", "no image")])
    catalogue.runs.finish(run, "finished", {"new": 3})
    (record,) = catalogue.runs.get_latest()
    assert (record.kind, record.status) == ("index", "finished")
    assert (record.counts, record.settings) == ({"new": 3}, {"workers": 2})
    assert record.finished_at is not None
    assert record.finished_at >= record.started_at
    assert catalogue.runs.get_failures(run) == [Failure("/b", "truncated"), Failure("/a", "no image")]


def test_a_run_that_died_is_interrupted_when_the_next_starts(catalogue: Catalogue) -> None:
    catalogue.runs.start("index", {})
    catalogue.runs.start("index", {})
    assert [run.status for run in catalogue.runs.get_latest()] == ["running", "interrupted"]


STORE_AND_HANG = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.store.test_catalogue import *
home = Home(Path(sys.argv[1]))
with home.lock("index"), Catalogue(home) as catalogue:
    print(store(catalogue, new_image("a.png"), new_image("b.png")), flush=True)
    with catalogue.begin_write() as (connection, change):
        print("holding", flush=True)
        time.sleep(60)
"""


def test_acknowledged_rows_survive_a_kill_and_the_lock_is_released(catalogue: Catalogue, home: Home) -> None:
    with python(STORE_AND_HANG, home.root, Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "[1, 2]\n"
        assert other.stdout.readline() == "holding\n"
        with pytest.raises(HomeBusy, match=rf"process {other.pid}, `index`, since 20.*Wait until"), home.lock("prune"):
            pass
        assert catalogue.images.count() == 2  # a reader does not wait for a writer
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with home.lock("prune"):
        assert home.holds_lock
        assert store(catalogue, new_image("c.png")) == [3]
    assert not home.holds_lock


def test_the_lock_can_be_waited_for(home: Home) -> None:
    code = "import sys, time; from pathlib import Path; from simile.store.home import Home\n"
    code += "with Home(Path(sys.argv[1])).lock('index'): print('held', flush=True); sys.stdin.read(1)"
    command = [sys.executable, "-c", code, str(home.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HomeBusy), home.lock("prune", wait=0.1):
            pass
        other.communicate("x")
        with home.lock("prune", wait=10):
            assert "prune" in (home.root / "lock").read_text()


def test_writers_in_several_processes_wait_for_each_other(catalogue: Catalogue, home: Home) -> None:
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    code += "from tests.store.test_catalogue import *\n"
    code += "with Catalogue(Home(Path(sys.argv[1]))) as c:\n"
    code += "    for i in range(20): store(c, new_image(f'{sys.argv[3]}-{i}.png'))"
    before = catalogue.count_changes()
    processes = [python(code, home.root, Path(__file__).parents[2], number) for number in range(2)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert (catalogue.images.count(), catalogue.count_changes()) == (40, before + 40)


@pytest.mark.sqlite
def test_a_full_disk_is_named(catalogue: Catalogue) -> None:
    big = [new_image(f"{i}.png", folder="/" + "x" * 1000) for i in range(500)]
    with catalogue.begin_read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 40")  # as full as SQLite can be made without root
        connection.rollback()
    with pytest.raises(HomeNotWritable, match=r"catalogue\.sqlite: database or disk is full"):
        store(catalogue, *big)
    assert catalogue.images.count() == 0


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HomeNotWritable, match=r"Can't write .*file/home: Not a directory"):
        Home(tmp_path / "file" / "home").create()


def test_system_errors_are_recognised_in_any_exception_class(tmp_path: Path) -> None:
    full = pytest.raises(HomeNotWritable, match=r"No space left on device\. Make space")
    with full, translate_write_errors(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(HomeNotWritable, match=r"File too large\. Make space"), translate_write_errors(tmp_path):
        raise shutil.Error([("from", "to", "[Errno 27] File too large: 'from' -> 'to'")])  # of copytree()
    with pytest.raises(RuntimeError, match="unrelated"), translate_write_errors(tmp_path):
        raise RuntimeError("unrelated")


@pytest.mark.parametrize("name", ["who?", "50%41", "a#b", "Мой дом", "a;b"])
@pytest.mark.sqlite
def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name)
    upgrade_schema(home)
    assert home.catalogue_path.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_wrong_database_url_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="SIMILE_DATABASE_URL is no SQLAlchemy URL"):
        upgrade_schema(Home(tmp_path, "catalogue.sqlite"))
    with pytest.raises(BadSetting, match="SIMILE_DATABASE_URL needs pysqlcipher3"):
        make_engine(Home(tmp_path, "sqlite+pysqlcipher://:secret@/x.sqlite"))


@pytest.mark.sqlite
def test_a_catalogue_that_lacks_a_table_is_named(catalogue: Catalogue, home: Home) -> None:
    with sqlite3.connect(home.catalogue_path) as connection:
        connection.execute("DROP TABLE embeddings")
    with pytest.raises(HomeError, match="is damaged: no such table: embeddings"):
        catalogue.embeddings.count(VAE)


@pytest.mark.sqlite
def test_a_catalogue_that_is_no_database_is_named(home: Home) -> None:
    home.catalogue_path.write_bytes(b"overwritten" * 1000)
    for suffix in ("-wal", "-shm"):
        Path(f"{home.catalogue_path}{suffix}").unlink(missing_ok=True)
    with Catalogue(home) as catalogue, pytest.raises(HomeError, match="is damaged: file is not a database"):
        catalogue.count_changes()


@pytest.mark.sqlite
def test_acknowledged_writes_are_flushed_and_foreign_keys_hold(catalogue: Catalogue) -> None:
    with catalogue.begin_read() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys")
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    assert pragmas == ["wal", 2, 1]


def test_a_reader_sees_one_state_until_it_ends(catalogue: Catalogue) -> None:
    store(catalogue, new_image("a.png"))
    rows = catalogue.embeddings.iterate_chunks(VAE)
    ids, _, _ = next(rows)
    store(catalogue, new_image("b.png"))
    assert ids.tolist() == [1]
    assert list(rows) == []
