"""Encoders, compacting, status; homes that can't be written, disks that are full, and two writers at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, EncoderMismatch, HomeBusy, NoSuchEncoder
from simile.core.records import Failure
from simile.core.settings import Settings, load_settings
from simile.indexer.maintenance.encoders import activate_encoder, list_encoders, remove_encoder
from simile.indexer.maintenance.export import export_embeddings
from simile.indexer.maintenance.rebuild import compact_index, rebuild_index
from simile.indexer.maintenance.status import read_status
from simile.search.encoder_registry import find_encoder
from simile.store.backup.verify import find_leftovers, find_problems
from simile.store.catalogue import encoders as store_encoders
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.home import Home
from simile.store.index.index import Index
from tests.support.catalogue import make_new_image
from tests.support.commands import run_json, run_simile

ROOT = Path(__file__).parents[2]
OLD, NEW, THIRD = "a" * 16, "ab" * 8, "c" * 16


def image(number: int, x: float, length: int = 2) -> NewImage:
    return make_new_image(number, [x, *[0] * (length - 1)])


@pytest.fixture
def settings(home: Home) -> Settings:
    """Ten images at 1 … 10 by OLD, in a segment; eight of them at -1 … -8, in three dimensions, by NEW."""
    with Catalogue(home) as catalogue:
        for fingerprint, dimensions in ((OLD, 2), (NEW, 3), (THIRD, 2)):
            catalogue.encoders.register(fingerprint, "vae", "vae", dimensions=dimensions)
            (home.encoders / fingerprint).mkdir()
            (home.encoders / fingerprint / "encoder.json").write_bytes(b"1234567890")
        catalogue.encoders.activate(OLD)
        catalogue.images.add_batch([image(n, n) for n in range(1, 11)], OLD, "eager")
        Index(catalogue).publish()
        catalogue.images.add_batch([image(n, -n, 3) for n in range(1, 9)], NEW, "eager")
    return load_settings(home=home.root)


@pytest.fixture
def catalogue(settings: Settings) -> Iterator[Catalogue]:
    with Catalogue(Home(settings.home)) as catalogue:
        yield catalogue


def nearest(catalogue: Catalogue, *at: float) -> list[int]:
    return [image_id for image_id, _ in Index(catalogue).search(np.array([at], np.float32), 100)[0]]


# Encoders


def test_encoders_are_listed_with_what_they_have_seen(settings: Settings) -> None:
    (Path(settings.home) / "encoders" / ("d" * 16)).mkdir()  # trained, and killed before it was registered
    listed = {one["fingerprint"]: one for one in list_encoders(settings)}
    assert list(listed) == [OLD, NEW, THIRD, "d" * 16]
    assert [one["vectors"] for one in listed.values()] == [10, 8, 0, 0]
    assert [one["active"] for one in listed.values()] == [True, False, False, False]
    assert listed[NEW]["bytes"] == 10
    text = run_simile("encoders", "--home", settings.home).stdout.splitlines()
    assert text[0].startswith(f"* {OLD}  vae  μ of 2, l2  10 of 10 images  10 bytes")
    assert text[3].endswith("an unused folder")
    assert len(run_json("encoders", "--home", settings.home)["encoders"]) == 4


def test_every_command_says_the_same_of_a_fingerprint_that_is_cut_too_short_or_unknown(
    settings: Settings, tmp_path: Path
) -> None:
    home = Home(settings.home)
    several = "'a' is the start of several encoders: .*Give more of the fingerprint"
    for reference, words in (("a", several), ("f", "This home has no encoder 'f' .it has: ")):
        for find in (
            lambda: find_encoder(home, reference, "cpu"),  # noqa: B023
            lambda: export_embeddings(settings, tmp_path / "all.csv", encoder=reference),  # noqa: B023
            lambda: activate_encoder(settings, reference),  # noqa: B023
            lambda: remove_encoder(settings, reference),  # noqa: B023
        ):
            with pytest.raises(NoSuchEncoder, match=words):
                find()


def test_another_encoder_is_put_in_use_with_its_index_at_once(settings: Settings, catalogue: Catalogue) -> None:
    index = Index(catalogue)
    assert len(index) == 10
    assert activate_encoder(settings, "ab") == {"fingerprint": NEW, "vectors": 8, "lacking": 2}
    state = catalogue.get_state()
    segment = catalogue.segments.find(state.segment_id or 0)
    assert (state.active_encoder, segment and segment.encoder, segment and segment.rows) == (NEW, NEW, 8)
    assert (len(index), index.count_pending()) == (8, 0)
    assert nearest(catalogue, 0, 0, 0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [problem.description for problem in find_problems(catalogue.home)] == [
        f"Image {n} has no vector by the active encoder." for n in (9, 10)
    ]
    activate_encoder(settings, OLD)
    assert len(nearest(catalogue, 0, 0)) == 10
    assert find_problems(catalogue.home) == []


def test_no_query_ever_sees_two_encoders(settings: Settings, catalogue: Catalogue) -> None:
    """Switching back and forth under a running reader: it finds all of one encoder's, or is told of the other one."""
    done = threading.Event()
    seen: set[tuple[str, tuple[int, ...]]] = set()
    queries = {OLD: np.zeros((1, 2), np.float32), NEW: np.zeros((1, 3), np.float32)}

    def read() -> None:
        with Catalogue(catalogue.home) as other:
            index = Index(other)
            while not done.is_set():
                active = other.encoders.find_active()
                assert active is not None
                try:
                    hits = index.search(queries[active.fingerprint], 100, active.fingerprint)[0]
                except EncoderMismatch:  # another one was put in use between the two lines
                    seen.add(("told", ()))
                else:
                    seen.add((active.fingerprint, tuple(image_id for image_id, _ in hits)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for fingerprint in (NEW, OLD) * 5:
            activate_encoder(settings, fingerprint)
    finally:
        done.set()
        reader.join()
    assert seen <= {(OLD, tuple(range(1, 11))), (NEW, tuple(range(1, 9))), ("told", ())}


def test_an_encoder_that_has_seen_nothing_is_not_put_in_use(settings: Settings) -> None:
    with pytest.raises(BadSetting, match=rf"none of the 10 images\. Run `simile index PHOTOS --encoder {THIRD}`"):
        activate_encoder(settings, THIRD)
    with pytest.raises(NoSuchEncoder, match="the start of several encoders"):
        activate_encoder(settings, "a")
    for reference in ("x", ""):
        with pytest.raises(NoSuchEncoder, match="`simile encoders` lists them"):
            activate_encoder(settings, reference)


def test_removing_an_encoder_takes_its_vectors_segment_and_folder(
    settings: Settings, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_encoders, "VECTOR_DELETE_ROWS", 3)
    home = catalogue.home
    with pytest.raises(BadSetting, match="is active"):
        remove_encoder(settings, OLD)
    activate_encoder(settings, NEW)
    assert remove_encoder(settings, OLD) == {"fingerprint": OLD, "vectors": 10}
    assert [record.fingerprint for record in catalogue.encoders.get_all()] == [NEW, THIRD]
    assert not (home.encoders / OLD).exists()
    assert {path.name for path in home.segments.iterdir()} == catalogue.segments.get_file_names()
    assert catalogue.encoders.count_embeddings() == {NEW: 8}
    assert nearest(catalogue, 0, 0, 0) == [1, 2, 3, 4, 5, 6, 7, 8]
    (home.encoders / ("d" * 16)).mkdir()
    assert "simile encoders remove dddd" in find_leftovers(home)[0].next_step
    assert remove_encoder(settings, "d" * 16)["vectors"] == 0
    assert find_leftovers(home) == []


def test_the_segment_of_an_encoder_that_is_removed_gives_way_to_one_that_is_used(
    settings: Settings, catalogue: Catalogue
) -> None:
    catalogue.encoders.activate(NEW)  # as `simile train` does, which makes no segment
    remove_encoder(settings, OLD)
    segment = catalogue.segments.find(catalogue.get_state().segment_id or 0)
    assert segment is not None and (segment.encoder, segment.rows) == (NEW, 8)
    assert nearest(catalogue, 0, 0, 0) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_commands_take_the_home_before_and_after(settings: Settings) -> None:
    done = run_simile("encoders", "--home", settings.home, "activate", NEW)
    assert done.stdout == f"encoder {NEW} is active, with 8 vectors\n"
    assert "2 images have no vector of it" in done.stderr
    assert run_json("encoders", "remove", OLD, "--home", settings.home) == {"fingerprint": OLD, "vectors": 10}


# Compact, status


def test_compact_folds_in_what_is_new_and_what_is_gone(settings: Settings, catalogue: Catalogue) -> None:
    assert compact_index(settings) == {"folded": 0, "rows": 10}
    catalogue.images.add_batch([image(11, 11)], OLD, "eager")
    catalogue.images.delete(2)
    (catalogue.home.segments / "left.tmp").touch()
    assert read_status(settings)["pending"] == 2
    assert "2 changes merged: a new segment with 10 vectors" in run_simile("compact", "--home", settings.home).stdout
    assert read_status(settings)["pending"] == 0
    assert "no changes to merge" in run_simile("compact", "--home", settings.home).stdout
    assert nearest(catalogue, 0, 0) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert find_problems(catalogue.home) == find_leftovers(catalogue.home) == []


def test_rebuild_takes_the_kind_of_index_that_is_asked_for(settings: Settings, catalogue: Catalogue) -> None:
    catalogue.images.add_batch([image(n, n % 97) for n in range(11, 600)], OLD, "eager")
    rebuild_index(settings)
    assert read_status(settings)["segment"]["details"]["kind"] == "exact"
    assert run_simile("rebuild", "--index", "ivf", "--home", settings.home).exit_code == 0
    details = read_status(settings)["segment"]["details"]
    assert (details["kind"], details["recall"] >= 0.98, details["nprobe"] >= 1) == ("ivf", True, True)
    text = run_simile("status", "--home", settings.home).stdout
    assert "lists" in text and "recall" in text and "in memory" in text
    assert find_problems(catalogue.home) == []


def test_status_shows_runs_failures_and_the_second_set(settings: Settings, catalogue: Catalogue) -> None:
    for _ in range(7):
        run = catalogue.runs.start("index", {"encoder": NEW})
    catalogue.runs.add_failures(run, [Failure(f"/bad/{n}.jpg", "not an image") for n in range(25)])
    catalogue.runs.finish(run, "interrupted", {"new": 3})
    found = read_status(settings, runs=2)
    assert [len(run["failures"]) for run in found["runs"]] == [25, 0]
    assert found["others"] == [{"fingerprint": NEW, "vectors": 8, "in_the_making": True}]
    text = run_simile("status", "--home", settings.home, "--runs", "1").stdout
    assert text.count("\nrun ") == 1 and "run    7   index  interrupted" in text
    assert "in progress: 8 of 10 images embedded" in text
    assert text.count("/bad/") == 10 and "and 15 more" in text


# Homes that can't be written


# Drops CAP_DAC_OVERRIDE (1) from what is effective and what is permitted: permissions count for root too.
DROP = """
import ctypes, struct, sys
known, held = struct.pack("Ii", 0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capget(known, held) == 0
held[0] &= ~(1 << 1)
held[1] &= ~(1 << 1)
assert ctypes.CDLL(None).capset(known, held) == 0
"""


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `code` where permissions count, with the names of this file at hand."""
    start = f"{DROP}sys.path.insert(0, {str(ROOT)!r}); from tests.indexer.test_maintenance import *\n"
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def closed(settings: Settings) -> Iterator[Settings]:
    """The home with everything in it made read-only."""
    changed = [settings.home, *settings.home.rglob("*")]
    modes = [path.stat().st_mode for path in changed]
    for path in changed:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield settings
    for path, mode in zip(changed, modes, strict=True):
        path.chmod(mode)


LOOK = """
settings = load_settings(home=Path(sys.argv[1]))
with Catalogue(Home(settings.home)) as catalogue:
    print(nearest(catalogue, 1, 0)[:4])
    print(find_problems(catalogue.home), read_status(settings)["images"])
try:
    open(settings.home / "probe", "w")
except PermissionError:
    print("closed")
"""

SEARCH = """
from simile.search.searcher import Searcher
with Searcher(load_settings(home=Path(sys.argv[1]))) as searcher:
    print([hit.image_id for hit in searcher.by_id(1, limit=3).hits])
"""


def test_a_home_that_cannot_be_written_is_searched_as_it_stands(closed: Settings) -> None:
    done = in_another_process(LOOK, closed.home)
    assert (done.stdout, done.stderr) == ("[1, 2, 3, 4]\n[] 10\nclosed\n", "")
    done = in_another_process(SEARCH, closed.home)
    assert (done.stdout, done.stderr) == ("[2, 3, 4]\n", "")


def test_a_reader_without_permission_sees_what_a_writer_commits(settings: Settings, catalogue: Catalogue) -> None:
    """The writer keeps its log open: a reader who took the file for the whole would miss what is only in the log."""
    catalogue.images.add_batch([image(11, 1.5)], OLD, "eager")
    settings.home.chmod(0o555)
    done = in_another_process(LOOK, settings.home)
    settings.home.chmod(0o755)
    assert done.stdout.startswith("[1, 11, 2, 3]\n[] 11\n"), done.stderr


DIE = """
import os
with Catalogue(Home(Path(sys.argv[1]))) as catalogue:
    catalogue.images.add_batch([image(11, 1.5)], OLD, "eager")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.sqlite
def test_what_a_writer_that_died_left_in_its_log_is_read_without_permission(settings: Settings) -> None:
    in_another_process(DIE, settings.home)
    settings.home.chmod(0o555)
    done = in_another_process(LOOK, settings.home)
    settings.home.chmod(0o755)
    (settings.home / "catalogue.sqlite-shm").unlink()
    settings.home.chmod(0o555)
    refused = in_another_process(LOOK, settings.home)
    settings.home.chmod(0o755)
    assert done.stdout.startswith("[1, 11, 2, 3]\n[] 11\n"), done.stderr
    # Without SQLite's index of the log nobody can tell what is in it, and none may be made here.
    assert "simile.core.errors.HomeNotWritable: Can't use" in refused.stderr


WRITE = """
from simile.core.errors import HomeNotWritable
settings = load_settings(home=Path(sys.argv[1]))
home = Home(settings.home)
for verb in (
    lambda: compact_index(settings),
    lambda: rebuild_index(settings),
    lambda: activate_encoder(settings, NEW),
    lambda: Catalogue(home).images.add_batch([image(20, 20)], OLD, "eager"),
    lambda: Catalogue(home).images.delete(1),
):
    try:
        verb()
    except HomeNotWritable as error:
        print(str(error).split(".")[-2])
"""


@pytest.mark.sqlite
def test_writers_of_a_closed_home_say_so_and_change_nothing(closed: Settings) -> None:
    before = (closed.home / "catalogue.sqlite").read_bytes()
    done = in_another_process(WRITE, closed.home)
    assert len(done.stdout.splitlines()) == 5, done.stderr
    assert done.stderr == ""
    assert (closed.home / "catalogue.sqlite").read_bytes() == before


@pytest.mark.sqlite
def test_a_closed_home_is_backed_up(closed: Settings, tmp_path: Path) -> None:
    code = (
        "from simile.store.backup.create import create_backup; "
        "print(create_backup(Home(Path(sys.argv[1])), Path(sys.argv[2])).images)"
    )
    done = in_another_process(code, closed.home, tmp_path / "backup.tar")
    assert (done.stdout, done.stderr) == ("10\n", "")


# A disk that is full

FILL = """
import resource
from simile.core.errors import HomeNotWritable
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
settings = load_settings(home=Path(sys.argv[1]))
home = Home(settings.home)
with Catalogue(home) as catalogue:
    try:
        for number in range(100, 1000, 20):
            ids = catalogue.images.add_batch([image(n, n) for n in range(number, number + 20)], OLD, "eager")
            print(*ids, flush=True)
            if number % 100 == 0:
                compact_index(settings)
                print("compacted", file=sys.stderr)
    except HomeNotWritable as error:
        print("full", flush=True)
"""


@pytest.mark.parametrize("limit", [34_000, 70_000, 130_000])
@pytest.mark.sqlite
def test_on_a_full_disk_what_was_acknowledged_stays(settings: Settings, catalogue: Catalogue, limit: int) -> None:
    """No file may grow beyond the limit: SQLite's log and tables, segments, whatever reaches it first."""
    done = in_another_process(FILL, settings.home, limit)
    *batches, last = done.stdout.splitlines()
    assert last == "full", done.stderr
    stored = {int(number) for line in batches for number in line.split()}
    assert find_problems(catalogue.home) == []
    assert stored <= set(nearest(catalogue, 0, 0))
    catalogue.images.add_batch([image(2000, 2000)], OLD, "eager")  # there is space again
    compact_index(settings)
    assert find_problems(catalogue.home) == find_leftovers(catalogue.home) == []


# Two processes


def test_the_second_writer_is_told_who_holds_the_home(settings: Settings, catalogue: Catalogue) -> None:
    with Home(settings.home).lock("simile index"):
        switch, remove = partial(activate_encoder, reference=NEW), partial(remove_encoder, reference=NEW)
        for verb in (compact_index, rebuild_index, switch, remove):
            with pytest.raises(HomeBusy, match=rf"process {os.getpid()}, `simile index`"):
                verb(settings)
    assert compact_index(settings)["rows"] == 10


ADD = """
home, first = Home(Path(sys.argv[1])), int(sys.argv[2])
with Catalogue(home) as catalogue:
    for number in range(first, first + 30):
        (image_id,) = catalogue.images.add_batch([image(number, number)], OLD, "eager")
        print(image_id, number, flush=True)
"""


def test_two_processes_that_add_lose_and_double_nothing(settings: Settings, catalogue: Catalogue) -> None:
    def add(first: int) -> None:
        printed.append(in_another_process(ADD, settings.home, first).stdout)

    printed: list[str] = []
    threads = [threading.Thread(target=add, args=(first,)) for first in (100, 115)]  # half of them are the same
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        compact_index(settings)
    for thread in threads:
        thread.join()
    pairs = {tuple(map(int, line.split())) for text in printed for line in text.splitlines()}
    assert {number for _, number in pairs} == set(range(100, 145))
    assert len({image_id for image_id, _ in pairs}) == len(pairs) == 45
    assert len(nearest(catalogue, 0, 0)) == 55
    compact_index(settings)
    assert find_problems(catalogue.home) == []


def test_a_run_that_was_killed_is_not_shown_as_running(settings: Settings, catalogue: Catalogue) -> None:
    catalogue.runs.start("index", {})
    with Home(settings.home).lock("a test"):
        assert read_status(settings)["runs"][0]["status"] == "running"
    assert read_status(settings)["runs"][0]["status"] == "interrupted"
