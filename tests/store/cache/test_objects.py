"""Objects that several hosts share: segments and encoders are fetched, checked, and fetched again when damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, HomeNotWritable, ObjectsUnavailable
from simile.core.settings import load_settings
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.objects import BucketObjects, FolderObjects, ObjectStore, open_object_store
from tests.support.catalogue import make_new_image
from tests.support.object_store import KEY_ID, SECRET, ObjectServer

ENCODER = "a" * 64

Host = Callable[[str], tuple[Catalogue, Index]]


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderObjects(tmp_path / "home")
    server: ObjectServer = request.getfixturevalue("object_server")
    (tmp_path / "home").mkdir()
    return open_object_store(tmp_path / "home", f"{server.url}/prefix")


@pytest.fixture
def host(object_server: ObjectServer, tmp_path: Path) -> Iterator[Host]:
    """Makes a host: a home of its own, on a catalogue and a store of objects that all share."""
    url = f"sqlite:///{tmp_path}/catalogue.sqlite"
    with ExitStack() as stack:

        def make(name: str) -> tuple[Catalogue, Index]:
            home = Home(tmp_path / name, url, object_server.url).create()
            schema.upgrade_schema(home)
            catalogue = stack.enter_context(Catalogue(home))
            if catalogue.encoders.find_active() is None:
                catalogue.encoders.register(ENCODER, "first", "vae", dimensions=2)
                catalogue.encoders.activate(ENCODER)
            return catalogue, Index(catalogue)

        yield make


def add(catalogue: Catalogue, *at: float) -> None:
    catalogue.images.add_batch([make_new_image(x, [x, 0]) for x in at], ENCODER, "eager")


def count_in_segment(index: Index) -> int:
    """How many vectors searches take from the segment; the others come from the catalogue."""
    return len(index.get_snapshot().segments[0].index)


def nearest(index: Index, x: float) -> float:
    return index.search(np.array([[x, 0]], np.float32), 1)[0][0][1]


def test_objects_are_stored_listed_and_removed(objects: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    for name in ("uploads/ab/b.png", "uploads/aa/a.png", "segments/s"):
        objects.put(name, file)
        objects.put(name, file)  # which changes nothing
    assert objects.fetch("segments/s").read_bytes() == b"content"
    with objects.open("uploads/aa/a.png") as stream:
        assert stream.read() == b"content"
    listed = list(objects.names("uploads/"))
    assert [(stored.name, stored.size) for stored in listed] == [("uploads/aa/a.png", 7), ("uploads/ab/b.png", 7)]
    assert abs(listed[0].modified.timestamp() - file.stat().st_mtime) < 60
    objects.remove("uploads/aa/a.png")
    objects.remove("uploads/aa/a.png")
    assert (objects.exists("uploads/aa/a.png"), objects.exists("uploads/ab/b.png")) == (False, True)
    assert list(objects.names("attributes/")) == []
    for read in (objects.open, objects.fetch):
        with pytest.raises(FileNotFoundError):
            read("uploads/aa/a.png")


def test_an_altered_object_is_not_kept(object_server: ObjectServer, tmp_path: Path) -> None:
    objects = BucketObjects(tmp_path, object_server.url)
    object_server.write("segments/s", b"altered")
    with pytest.raises(ObjectsUnavailable, match=r"/segments/s has been altered"):
        objects.fetch("segments/s", "0" * 64)
    assert list(tmp_path.rglob("*s")) == [tmp_path / "segments"]
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_full_disk_is_named(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    object_server.write("segments/s", b"content")
    objects = BucketObjects(tmp_path, object_server.url)

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects, "_download", fail)
    with pytest.raises(HomeNotWritable, match="No space left"):
        objects.fetch("segments/s")


def test_no_message_contains_a_credential(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = BucketObjects(tmp_path, f"{object_server.url}-other/prefix")
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(ObjectsUnavailable, match="NO_SUCH_BUCKET") as missing:
        objects.put("segments/s", tmp_path / "file")
    object_server.stop()
    with pytest.raises(ObjectsUnavailable, match="NETWORK_CONNECTION") as unreachable:
        objects.exists("segments/s")
    with pytest.raises(BadSetting, match="this URL") as refused:
        load_settings(objects=f"s3://{KEY_ID}:{SECRET}@bucket")
    for text in (str(missing.value), str(unreachable.value), str(refused.value), repr(objects), repr(objects.__dict__)):
        assert SECRET not in text and KEY_ID not in text


@pytest.mark.parametrize("url", ["bucket", "s3://", "s3://b", "s3://bucket/../other", "s3://bucket?region=x", "/data"])
def test_only_urls_of_buckets_are_taken(url: str) -> None:
    with pytest.raises(BadSetting, match=r"objects \(SIMILE_OBJECTS\)"):
        load_settings(objects=url)
    assert load_settings(objects="s3://bucket/a/b/").objects == "s3://bucket/a/b"


def test_a_segment_of_one_host_is_opened_by_the_other(host: Host, object_server: ObjectServer) -> None:
    (catalogue, first), (_, second) = host("one"), host("two")
    add(catalogue, *range(300))
    first.publish(kind="ivf")
    assert object_server.names("segments/") == sorted(
        f"segments/{name}" for name in catalogue.segments.get_file_names()
    )
    assert (len(second), count_in_segment(second), nearest(second, 250)) == (300, 300, 0)
    add(catalogue, 1000)
    first.publish(kind="ivf")
    assert nearest(second, 1000) == 0  # before the new segment is there
    second.close()
    assert (count_in_segment(second), second.count_pending()) == (301, 0)


def test_a_damaged_segment_in_the_home_is_fetched_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    (catalogue, first), (other, second) = host("one"), host("two")
    add(catalogue, 1, 2, 3)
    first.publish()
    assert count_in_segment(second) == 3
    (file,) = other.home.segments.iterdir()
    intact = file.read_bytes()
    file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert count_in_segment(Index(other)) == 3
    assert file.read_bytes() == intact
    assert "has been altered" in caplog.text and "Fetching it again" in caplog.text


def test_without_its_segment_a_host_reads_the_catalogue(
    host: Host, object_server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    (catalogue, first), (_, second) = host("one"), host("two")
    add(catalogue, 1, 2, 3)
    first.publish()
    object_server.remove(object_server.names("segments/")[0])
    assert (len(second), count_in_segment(second), nearest(second, 2)) == (3, 0, 0)
    assert "The object store has no segment file" in caplog.text and "simile rebuild" in caplog.text


def test_without_the_store_searches_go_on_with_the_segment_that_is_there(
    host: Host, object_server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    (catalogue, first), (other, second) = host("one"), host("two")
    add(catalogue, 1, 2, 3)
    first.publish()
    assert count_in_segment(second) == 3
    object_server.stop()
    add(catalogue, 4)
    assert nearest(second, 4) == 0
    with pytest.raises(ObjectsUnavailable):
        first.publish()
    assert catalogue.segments.find(2) is None  # no row without its objects
    object_server.start()
    first.publish()
    object_server.stop()
    with caplog.at_level(logging.WARNING):
        add(catalogue, 5)
        assert nearest(second, 5) == 0
        second.close()
    assert (count_in_segment(second), nearest(second, 4)) == (3, 0)
    assert "The new segment could not be opened" in caplog.text
    later = Index(other)
    assert (nearest(later, 5), count_in_segment(later)) == (0, 0)  # a process that starts now reads the catalogue
    later.close()
    object_server.start()
    add(catalogue, 6)
    assert nearest(later, 6) == 0
    later.close()
    assert (nearest(later, 6), count_in_segment(later)) == (0, 4)  # until the store is there again
    assert SECRET not in caplog.text and KEY_ID not in caplog.text


def test_a_host_that_only_searches_deletes_old_segments(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (catalogue, first), (other, second) = host("one"), host("two")
    monkeypatch.setattr("simile.store.index.segments.UNUSED_SECONDS", -1)
    for x in range(4):
        add(catalogue, x)
        first.publish()
        len(second)
        second.close()
    second.get_snapshot()
    assert {path.name for path in other.home.segments.iterdir()} <= catalogue.segments.get_file_names()
