"""The index: every commit of every process is found, and nothing that was deleted."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import EncoderMismatch, NothingIndexed
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import WrittenSegment
from simile.store.home import Home
from simile.store.index.index import ImageDistances, Index
from tests.support.catalogue import make_new_image

VAE, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "first", "vae", dimensions=2)
        catalogue.encoders.activate(VAE)
        yield catalogue


@pytest.fixture
def index(catalogue: Catalogue) -> Index:
    return Index(catalogue)


def add(catalogue: Catalogue, *at: float, encoder: str = VAE) -> list[int]:
    """Store one image for each position on a line, (x, 0)."""
    images = [make_new_image(x, [x, 0]) for x in at]
    return catalogue.images.add_batch(images, encoder, "eager")


def at(index: Index, x: float, k: int = 3) -> ImageDistances:
    return index.search(np.array([[x, 0]], np.float32), k)[0]


def test_an_empty_home_says_what_to_do(home: Home, catalogue: Catalogue, index: Index) -> None:
    with pytest.raises(NothingIndexed, match="simile index"):
        at(index, 0)
    assert (len(index), index.count_pending()) == (0, 0)


def test_a_home_without_an_encoder_says_what_to_do(home: Home) -> None:
    with Catalogue(home) as catalogue:
        for verb in (Index(catalogue).publish, Index(catalogue).rebuild, Index(catalogue).count_pending):
            with pytest.raises(NothingIndexed, match="no active encoder"):
                verb()
        assert len(Index(catalogue)) == 0


def test_a_commit_is_found_by_the_next_query(catalogue: Catalogue, index: Index) -> None:
    (first,) = add(catalogue, 0)
    assert at(index, 1) == [(first, 1.0)]
    (second,) = add(catalogue, 5)
    assert at(index, 1) == [(first, 1.0), (second, 4.0)]
    catalogue.images.delete(first)
    assert at(index, 1) == [(second, 4.0)]


@pytest.mark.parametrize("publish_after", [{0}, {3}, {1, 4}, {0, 1, 2, 3, 4, 5}, set()])
def test_results_do_not_depend_on_what_is_published(
    catalogue: Catalogue, index: Index, publish_after: set[int]
) -> None:
    observer = Index(catalogue)
    steps = [
        lambda: add(catalogue, *range(10)),
        lambda: catalogue.images.delete(4),
        lambda: add(catalogue, 20, 5),  # 5 is stored again
        lambda: catalogue.files.delete(["/photos/20.png", "/photos/0.png"]),
        lambda: add(catalogue, 30),
        lambda: catalogue.images.delete(12),
    ]
    expected = [{*range(1, 11)}, {4}, {11}, {11, 1}, {12}, {12}]
    alive: set[int] = set()
    for number, (step, changed) in enumerate(zip(steps, expected, strict=True)):
        step()
        alive ^= changed
        for viewer in (index, observer, Index(catalogue)):
            assert {image_id for image_id, _ in at(viewer, 0, k=100)} == alive
            assert len(viewer) == len(alive)
        if number in publish_after:
            index.publish()
            assert (index.count_pending(), Index(catalogue).count_pending()) == (0, 0)


def test_a_changed_vector_is_found_at_its_new_position_only(catalogue: Catalogue, index: Index) -> None:
    (image_id,) = add(catalogue, 1)
    index.publish()
    catalogue.images.add_batch([make_new_image(1, [9, 0])], VAE, "eager")
    assert at(index, 1) == [(image_id, 8.0)]
    assert index.range(np.array([[1, 0]], np.float32), 7)[0] == []
    assert index.count_pending() == 2  # one row to leave out, one to take in


def test_many_small_commits_are_found_together(catalogue: Catalogue, index: Index) -> None:
    add(catalogue, *range(100))
    index.publish()
    for x in range(100, 140):
        add(catalogue, x)
        assert at(index, 1000, k=1) == [(x + 1, 1000.0 - x)]
    catalogue.images.delete(120)
    assert [image_id for image_id, _ in at(index, 1000, k=200)] == [i for i in range(140, 0, -1) if i != 120]
    assert index.count_pending() == 39


def test_the_results_of_a_batch_come_in_the_order_of_its_queries(catalogue: Catalogue, index: Index) -> None:
    add(catalogue, 0, 10)
    index.publish()
    add(catalogue, 20)
    queries = np.array([[21, 0], [1, 0], [9, 0]], np.float32)
    assert index.search(queries, 1) == [[(3, 1.0)], [(1, 1.0)], [(2, 1.0)]]
    assert index.range(queries, 9) == [[(3, 1.0)], [(1, 1.0), (2, 9.0)], [(2, 1.0), (1, 9.0)]]
    with pytest.raises(EncoderMismatch, match="3 numbers"):
        index.search(np.zeros((1, 3), np.float32), 1)


def test_only_vectors_of_the_active_encoder_are_compared(catalogue: Catalogue, index: Index) -> None:
    add(catalogue, 0, 3)
    index.publish()
    catalogue.encoders.register(OTHER, "second", "vae", dimensions=2, index_dims=1, metric="cosine")
    add(catalogue, 3, encoder=OTHER)
    assert at(index, 0) == [(1, 0.0), (2, 3.0)]
    catalogue.encoders.activate(OTHER)
    query = np.array([[1]], np.float32)
    assert index.search(query, 5) == [[(2, 0.0)]]
    index.publish()
    assert Index(catalogue).search(query, 5) == [[(2, 0.0)]]
    catalogue.encoders.activate(VAE)
    assert at(index, 0) == at(Index(catalogue), 0) == [(1, 0.0), (2, 3.0)]


def test_a_commit_in_another_process_is_seen_by_the_next_query(catalogue: Catalogue, index: Index, home: Home) -> None:
    code = """if True:
        import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from tests.store.test_index import *
        with Catalogue(Home(Path(sys.argv[1]))) as catalogue:
            for line in sys.stdin:
                print(eval(line), flush=True)
    """
    add(catalogue, 0)
    index.publish()
    command = [sys.executable, "-W", "error", "-c", code, str(home.root), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def there(expression: str) -> str:
            assert other.stdin is not None
            assert other.stdout is not None
            print(expression, file=other.stdin, flush=True)
            return other.stdout.readline().strip()

        assert there("add(catalogue, 5)") == "[2]"
        assert at(index, 0) == [(1, 0.0), (2, 5.0)]
        assert there("Index(catalogue).publish()") == "None"
        assert at(index, 0) == [(1, 0.0), (2, 5.0)]
        assert index.count_pending() == 0
        assert there("catalogue.images.delete(1)") == "None"
        assert at(index, 0) == [(2, 5.0)]
        other.communicate()


def test_threads_always_find_earlier_commits(catalogue: Catalogue, index: Index) -> None:
    committed, wrong = [add(catalogue, 0)[0]], []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            before = set(committed)
            found = {image_id for image_id, _ in at(index, 0, k=1000)}
            if not before <= found:
                wrong.append(before - found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for x in range(1, 60):
        committed += add(catalogue, x)
        if x % 20 == 0:
            index.publish()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(index) == 60


@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_search_survives_a_damaged_segment(
    catalogue: Catalogue, index: Index, home: Home, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(catalogue, 0, 5)
    index.publish()
    (path,) = home.segments.iterdir()
    whole = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(whole[:-1] + b"?" if harm == "altered" else whole[:20])
    fresh = Index(catalogue)
    with caplog.at_level(logging.WARNING):
        assert at(fresh, 1) == [(1, 1.0), (2, 4.0)]
        add(catalogue, 6)
        assert len(at(fresh, 1)) == 3
    assert len(caplog.records) == 1
    assert path.name in caplog.text
    assert "simile rebuild" in caplog.text
    fresh.rebuild()
    caplog.clear()
    assert len(at(Index(catalogue), 1)) == 3
    assert caplog.records == []


def test_a_rebuilt_segment_is_the_same_file(catalogue: Catalogue, index: Index, home: Home) -> None:
    add(catalogue, 0, 5)
    index.publish()
    (path,) = home.segments.iterdir()
    whole = path.read_bytes()
    add(catalogue, 6)
    catalogue.images.delete(3)
    index.rebuild()
    assert {p.read_bytes() for p in home.segments.iterdir()} == {whole}


def test_publishing_keeps_two_segments_and_clears_the_rest(catalogue: Catalogue, index: Index, home: Home) -> None:
    (home.segments / "left-by-a-crash.tmp").write_text("half a segment")
    names = []
    for x in range(4):
        add(catalogue, x)
        index.publish()
        segment = catalogue.segments.find(catalogue.get_state().segment_id or 0)
        assert segment is not None
        names.append(segment.file)
        assert (segment.encoder, segment.kind, segment.rows) == (VAE, "exact", x + 1)
    assert sorted(path.name for path in home.segments.iterdir()) == names[-2:]
    index.publish()  # nothing is pending
    assert sorted(path.name for path in home.segments.iterdir()) == names[-2:]


def test_publishing_deletes_the_files_of_a_killed_writer(catalogue: Catalogue, index: Index, home: Home) -> None:
    add(catalogue, 0)
    index.publish()
    in_use = {path.name for path in home.segments.iterdir()}
    (home.segments / "000000000001-old.faiss").touch()  # killed after the pointer moved, before clearing
    index.publish()
    assert {path.name for path in home.segments.iterdir()} == in_use


def test_a_segment_that_covers_less_never_replaces_a_newer_one(catalogue: Catalogue, index: Index) -> None:
    add(catalogue, 0, 5)
    index.publish()
    old = catalogue.segments.find(catalogue.get_state().segment_id or 0)
    assert old is not None
    catalogue.images.delete(1)
    index.publish()
    before = catalogue.get_state().segment_id
    catalogue.segments.publish(
        VAE, WrittenSegment(kind=old.kind, file=old.file, rows=old.rows, sha256=old.sha256, details={}), old.change
    )
    assert catalogue.get_state().segment_id == before
    assert at(index, 0) == at(Index(catalogue), 0) == [(2, 5.0)]
