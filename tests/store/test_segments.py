"""Segments under running queries: built, opened in the background and switched."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from simile.core.errors import EncoderMismatch, IndexDamaged, NoSuchEncoder
from simile.store.backup.verify import find_problems
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.embeddings import make_vectors_query
from simile.store.catalogue.records import NewImage, SegmentRecord
from simile.store.database.tables import DeletionRow
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.segments import open_segment
from tests.support.catalogue import make_new_image
from tests.support.servers.postgresql import copy_home

FIRST, SECOND = "a" * 64, "b" * 64
ROWS = 1500


@pytest.fixture(scope="module")
def _filled(tmp_path_factory: pytest.TempPathFactory, _empty_home: Path) -> Path:
    home = Home(copy_home(_empty_home, tmp_path_factory.mktemp("filled") / "home"))
    with Catalogue(home) as catalogue:
        for fingerprint in (FIRST, SECOND):
            catalogue.encoders.register(fingerprint, fingerprint[0], "vae", dimensions=2)
            (home.encoders / fingerprint).mkdir()
        catalogue.encoders.activate(FIRST)
        catalogue.images.add_batch([new_image(n) for n in range(ROWS)], FIRST, "eager")
        catalogue.images.add_batch([new_image(n, -1) for n in range(ROWS)], SECOND, "eager")
    return home.root


@pytest.fixture(scope="module")
def _published(tmp_path_factory: pytest.TempPathFactory, _filled: Path) -> Path:
    root = copy_home(_filled, tmp_path_factory.mktemp("published") / "home")
    with Catalogue(Home(root)) as catalogue:
        Index(catalogue).publish(kind="ivf")
    return root


@pytest.fixture
def home(tmp_path: Path, _filled: Path) -> Home:
    """1,500 images in clusters on a plane, by two encoders; the second mirrors each vector at 0."""
    return Home(copy_home(_filled, tmp_path / "home"))


@pytest.fixture
def published(tmp_path: Path, _published: Path) -> Home:
    """The same home with a segment of inverted lists."""
    return Home(copy_home(_published, tmp_path / "home"))


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    with Catalogue(home) as catalogue:
        yield catalogue


def new_image(n: int, sign: int = 1) -> NewImage:
    at = np.array([n // 10 + n % 10 / 100, n % 7], np.float32) * sign
    return make_new_image(n, at)


def current(catalogue: Catalogue) -> SegmentRecord:
    segment = catalogue.segments.find(catalogue.get_state().segment_id or 0)
    assert segment is not None
    return segment


def nearest(index: Index, n: int, sign: int = 1, k: int = 5) -> list[int]:
    return [image_id for image_id, _ in index.search(new_image(n, sign).mu[None], k)[0]]


def test_options_and_measurements_are_stored_with_the_segment(catalogue: Catalogue, home: Home) -> None:
    Index(catalogue).publish(kind="ivf", recall=0.9)
    segment, details = current(catalogue), current(catalogue).details
    assert segment.kind == details["kind"] == "ivf"
    assert 0.9 <= details["recall"] <= 1 and details["recall_target"] == 0.9
    assert 1 <= details["nprobe"] <= details["nlist"] and details["sample"]["queries"] == 1000
    assert details["memory_bytes"] > ROWS * 2 and details["build_seconds"] > 0
    assert details["disk_bytes"] == sum(path.stat().st_size for path in home.segments.iterdir())
    names = {path.name for path in home.segments.iterdir()}
    assert set(segment.file_hashes) == names == catalogue.segments.get_file_names()
    Index(catalogue).rebuild(kind="exact")
    assert current(catalogue).kind == current(catalogue).details["kind"] == "exact"
    assert current(catalogue).details["recall"] == 1.0


def test_the_first_homes_segments_are_still_read(catalogue: Catalogue, home: Home) -> None:
    Index(catalogue).publish()
    made = current(catalogue)
    old = SegmentRecord(**{**vars(made), "kind": "flat", "details": {}})
    assert len(open_segment(home, old)) == ROWS
    with pytest.raises(IndexDamaged, match="kind 'graph'"):
        open_segment(home, SegmentRecord(**{**vars(made), "kind": "graph"}))


def test_inverted_lists_serve_with_newer_and_deleted_rows(catalogue: Catalogue) -> None:
    index = Index(catalogue)
    index.publish(kind="ivf")
    assert nearest(index, 700)[0] == 701  # ids begin at 1
    catalogue.images.delete(701)
    catalogue.images.add_batch([new_image(ROWS)], FIRST, "eager")
    assert 701 not in nearest(index, 700) and nearest(index, ROWS)[0] == ROWS + 1
    assert sorted(nearest(index, 0, k=10_000)) == [n for n in range(1, ROWS + 2) if n != 701]
    index.publish(kind="ivf")
    assert (index.count_pending(), len(index)) == (0, ROWS)
    assert sorted(nearest(index, 0, k=10_000)) == [n for n in range(1, ROWS + 2) if n != 701]


def test_a_large_segment_is_not_rebuilt_for_a_few_changes(catalogue: Catalogue) -> None:
    index = Index(catalogue)
    index.large_segment_rows = 1000
    index.publish()
    before = current(catalogue)
    catalogue.images.delete(1)
    index.publish(if_large=True)
    assert current(catalogue) == before and index.count_pending() == 1
    for image_id in range(2, 100):
        catalogue.images.delete(image_id)
    index.publish(if_large=True)
    assert current(catalogue).rows == ROWS - 99 and index.count_pending() == 0
    catalogue.images.delete(100)
    index.publish()
    assert index.count_pending() == 0


def test_a_large_segment_gives_its_lists_to_the_next_one(catalogue: Catalogue, home: Home) -> None:
    """Also over several segments, unless they are damaged; a rebuild makes new ones."""
    index = Index(catalogue)
    index.publish(kind="ivf")
    catalogue.images.add_batch([new_image(n) for n in range(ROWS, ROWS + 5)], FIRST, "eager")
    index.publish(kind="ivf")
    assert current(catalogue).details["trained_rows"] == ROWS + 5  # it was small
    index.min_reuse_rows = 1000
    for count in (10, 20):
        catalogue.images.add_batch([new_image(n) for n in range(ROWS, ROWS + count)], FIRST, "eager")
        catalogue.images.delete(count)
        index.publish(kind="ivf")
        assert current(catalogue).details["trained_rows"] == ROWS + 5
        assert nearest(index, ROWS + count - 1)[0] == ROWS + count
        assert sorted(nearest(index, 0, k=10_000)) == [
            n for n in range(1, ROWS + count + 1) if n not in range(10, count + 1, 10)
        ]
    index.rebuild(kind="ivf")
    assert current(catalogue).details["trained_rows"] == ROWS + 18
    (home.segments / current(catalogue).file).unlink()
    catalogue.images.delete(1)
    index.publish(kind="ivf")
    assert current(catalogue).details["trained_rows"] == ROWS + 17
    assert nearest(index, 700)[0] == 701


def test_a_switch_changes_encoder_and_segment_in_one_transaction(catalogue: Catalogue, home: Home) -> None:
    index, other = Index(catalogue), Index(catalogue)
    index.publish()
    assert nearest(other, 3)[0] == 4
    changes = catalogue.count_changes()
    index.switch_encoder(SECOND, kind="ivf")
    assert catalogue.count_changes() == changes + 1
    assert catalogue.get_state().active_encoder == current(catalogue).encoder == SECOND
    for viewer in (index, other, Index(catalogue)):
        assert nearest(viewer, 3, sign=-1)[0] == 4
        assert viewer.count_pending() == 0
        with pytest.raises(EncoderMismatch, match="Search again"):
            viewer.search(new_image(3).mu[None], 1, FIRST)
    index.switch_encoder(FIRST)
    assert nearest(other, 3)[0] == nearest(Index(catalogue), 3)[0] == 4
    assert find_problems(home) == []


def test_a_switch_includes_rows_that_were_added_meanwhile(catalogue: Catalogue) -> None:
    index = Index(catalogue)
    index.publish()
    with pytest.raises(NoSuchEncoder):
        index.switch_encoder("c" * 64)
    assert catalogue.get_state().active_encoder == FIRST
    catalogue.images.delete(7)
    index.switch_encoder(SECOND)
    assert (len(index), index.count_pending(), 7 in nearest(index, 6, -1, 2000)) == (ROWS - 1, 0, False)


def test_queries_go_on_while_a_new_segment_is_opened(catalogue: Catalogue) -> None:
    """While the thread that opens it is blocked, searches use the old segment and miss nothing."""
    index, writer = Index(catalogue), Index(catalogue)
    writer.publish(kind="ivf")
    assert len(index) == ROWS
    held, really = threading.Event(), index._open_snapshot
    index._open_snapshot = lambda **options: (held.wait(30), really(**options))[1]  # type: ignore[method-assign]
    base = index.get_snapshot().base_segment_id
    for n in range(3):
        catalogue.images.delete(10 + n)
        catalogue.images.add_batch([new_image(ROWS + n)], FIRST, "eager")
        if n == 1:
            writer.publish(kind="ivf")
        found = nearest(index, 0, k=10_000)
        assert len(found) == len(index) == ROWS and 10 + n not in found and ROWS + n + 1 in found
        assert index.get_snapshot().base_segment_id == base
    assert [thread.name for thread in threading.enumerate()].count("open-segment") == 1
    held.set()
    index.close()
    assert index.get_snapshot().base_segment_id == catalogue.get_state().segment_id != base
    assert index.count_pending() == 2
    assert sorted(nearest(index, 0, k=10_000)) == sorted(nearest(Index(catalogue), 0, k=10_000))


def test_a_snapshot_older_than_two_segments_is_opened_again(catalogue: Catalogue) -> None:
    index, writer = Index(catalogue), Index(catalogue)
    writer.publish()
    assert len(index) == ROWS
    for image_id in (1, 2, 3):
        catalogue.images.delete(image_id)
        writer.publish()
        with catalogue.begin_read() as connection:  # those that the segment before does not cover
            assert list(connection.scalars(select(DeletionRow.image_id))) == [image_id]
    assert not {1, 2, 3} & set(nearest(index, 0, k=10_000))
    assert len(index) == ROWS - 3


def test_threads_always_find_commits_while_segments_change(catalogue: Catalogue) -> None:
    index = Index(catalogue)
    index.publish(kind="ivf")
    committed, gone, wrong = [1], {0}, []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.002):
            there, deleted = set(committed), set(gone)
            found = {image_id for image_id, _ in index.search(np.zeros((1, 2), np.float32), 10_000)[0]}
            if not there <= found or deleted & found:
                wrong.append((there - found, deleted & found))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(12):
        committed += catalogue.images.add_batch([new_image(ROWS + n)], FIRST, "eager")
        catalogue.images.delete(100 + n)
        gone.add(100 + n)
        if n % 4 == 3:
            Index(catalogue).publish(kind="ivf" if n % 8 == 3 else "exact")
    stop.set()
    for thread in threads:
        thread.join()
    index.close()
    assert wrong == []
    assert len(index) == ROWS


@pytest.mark.parametrize("suffix", [".faiss", ".vectors"])
@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_search_survives_damage_to_any_file(
    published: Home, suffix: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = published
    (path,) = home.segments.glob(f"*{suffix}")
    whole = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if harm == "altered" else whole[: len(whole) // 2])
    (problem,) = find_problems(home)
    assert problem.kind == "segment" and "simile rebuild" in problem.next_step
    with Catalogue(home) as catalogue:
        with caplog.at_level(logging.WARNING):
            assert nearest(Index(catalogue), 3)[0] == 4
        assert "simile rebuild" in caplog.text
        Index(catalogue).rebuild(kind="ivf")
    assert find_problems(home) == []


def test_only_verify_hashes_large_files(published: Home) -> None:
    (path,) = published.segments.glob("*.vectors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Catalogue(published) as catalogue:
        segment = current(catalogue)
    assert len(open_segment(published, segment, max_hashed_bytes=1000)) == ROWS
    for hashed in (None, len(whole)):
        with pytest.raises(IndexDamaged, match="altered"):
            open_segment(published, segment, max_hashed_bytes=hashed)


def test_a_rebuilt_segment_gives_the_same_results(published: Home) -> None:
    before = {path.name: path.read_bytes() for path in published.segments.iterdir()}
    with Catalogue(published) as catalogue:
        catalogue.encoders.activate(FIRST)  # a change that changes nothing
        Index(catalogue).rebuild(kind="ivf")
    contents = set(before.values())
    assert {path.read_bytes() for path in published.segments.iterdir()} == contents
    assert len(list(published.segments.iterdir())) == 4


def test_a_full_disk_while_building_leaves_the_old_segment(published: Home) -> None:
    home = published
    before = {path.name for path in home.segments.iterdir()}
    code = """if True:
        import resource, signal, sys; from pathlib import Path
        from simile.core.errors import HomeNotWritable
        from simile.store.catalogue.catalogue import Catalogue
        from simile.store.home import Home
        from simile.store.index.index import Index
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Catalogue(Home(Path(sys.argv[1]))) as catalogue:
            index = Index(catalogue)
            len(index)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
            try:
                index.rebuild(kind="ivf")
            except HomeNotWritable as error:
                print("refused:", error)
    """
    for limit in (1000, 10_000, 20_000):  # within the header, the vectors, the lists
        command = [sys.executable, "-W", "error", "-c", code, str(home.root), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
        assert done.stdout.startswith("refused: Can't write"), done.stdout + done.stderr
        assert {path.name for path in home.segments.iterdir()} == before
    assert find_problems(home) == []


@pytest.mark.sqlite
def test_reading_all_rows_needs_no_sort_and_reading_new_rows_uses_an_index(catalogue: Catalogue) -> None:
    def plan(change: int) -> str:
        query = make_vectors_query(FIRST, change).compile(
            dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
        )
        with catalogue.begin_read() as connection:
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())

    assert "TEMP B-TREE" not in plan(0)
    assert "ix_embeddings_change" in plan(7)
