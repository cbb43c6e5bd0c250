"""`simile index s3://bucket/folder/`: images in an S3 store."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from simile.core.errors import BadSetting, NoSuchPath, ObjectsUnavailable
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.dedup.cleanup.plan import plan_of
from simile.dedup.detection.job import DedupRequest, find_duplicates
from simile.dedup.grouping.findings import load_findings
from simile.dedup.grouping.groups import make_groups
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import ImageSources, walk_sources
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import app_client
from tests.support.commands import run_json
from tests.support.images import noise
from tests.support.object_store import KEY_ID, SECRET, ObjectServer

# In the order of bytes: "-" and "." come before "/", and every letter before "é".
NAMES = ("a-b/1.png", "a.png", "a/b/1.png", "a/b/2.PNG", "a/c.png", "a0.png", "é/1.png")


@pytest.fixture
def bucket(object_server: ObjectServer) -> str:
    """The URL of a folder of images, with objects of other kinds among them."""
    for number, name in enumerate(NAMES):
        object_server.write(f"photos/{name}", noise(number))
    for name in ("a/.hidden.png", ".trash/1.png", "a/notes.txt", "readme"):
        object_server.write(f"photos/{name}", b"text")
    object_server.write("photos/a/image without suffix", noise(50))
    object_server.write("photos-of-others/1.png", noise(60))
    return f"{object_server.url}/photos"


def list_names(settings: Settings, bucket: str) -> list[str]:
    with Catalogue(Home.from_settings(settings)) as catalogue:
        return [path[len(bucket) + 1 :] for path in catalogue.files.find_under([bucket])]


def run(settings: Settings, bucket: str, *, prune: bool = False) -> IndexSummary:
    return index(settings, [bucket], IndexRequest(prune=prune))


def test_a_folder_of_a_bucket_is_listed_in_the_order_of_paths(bucket: str) -> None:
    sources = ImageSources([Path(f"{bucket}/")])  # a Path has lost one of the two slashes
    parts = list(sources.iterate_parts())
    assert {part.root for part in parts} == {bucket}
    listed = [sorted(path[len(bucket) + 1 :] for path, *_ in part.files) for part in parts]
    names = list(chain.from_iterable(listed))
    assert names == sorted([*NAMES, "a/image without suffix"])
    assert dict(sources.result.ignored_kinds) == {"txt": 1, "other": 1}
    only = walk_sources([bucket], patterns=PathPatterns(include=("a/",), exclude=("a/b/",)))
    assert [file.path for file in only.files] == [f"{bucket}/a/c.png", f"{bucket}/a/image without suffix"]
    assert [file.path for file in walk_sources([f"{bucket}/a/c.png"]).files] == [f"{bucket}/a/c.png"]


def test_images_of_a_bucket_are_indexed_shown_changed_and_pruned(
    trained_home: Settings, bucket: str, object_server: ObjectServer
) -> None:
    first = run(trained_home, bucket)
    assert (first.new, first.failures, first.ignored) == (8, [], 2)
    assert list_names(trained_home, bucket) == sorted([*NAMES, "a/image without suffix"])
    second = run(trained_home, bucket)
    assert (second.new, second.unchanged, second.missing) == (0, 8, 0)
    with app_client(trained_home) as client:
        hit = client.post("/v1/search", files={"file": ("a.png", noise(6))}).json()["hits"][0]
        assert hit["path"] == f"{bucket}/é/1.png"
        assert client.get(f"/v1/images/{hit['image_id']}/file?metadata=keep").content == noise(6)
        assert client.get(f"/v1/images/{hit['image_id']}/thumbnail").status_code == 200
        inside = client.post("/v1/search", json={"image_id": hit["image_id"], "under": f"{bucket}/a"}).json()["hits"]
        assert {Path(found["path"]).name for found in inside} == {"1.png", "2.PNG", "c.png", "image without suffix"}
    assert verify_home(trained_home, files=True) == []
    object_server.write("photos/a.png", noise(100, size=(40, 40)))
    object_server.remove("photos/a/c.png")
    object_server.write("photos/z/c.png", noise(4))
    third = run(trained_home, bucket)
    assert (third.changed, third.moved, third.missing, third.unchanged) == (1, 1, 0, 6)
    object_server.remove("photos/a/b/1.png")
    assert run(trained_home, bucket).missing == 1
    assert run(trained_home, bucket, prune=True).removed == 1
    assert list_names(trained_home, bucket) == sorted(
        {*NAMES, "a/image without suffix", "z/c.png"} - {"a/b/1.png", "a/c.png"}
    )


def test_a_list_may_name_objects(trained_home: Settings, bucket: str, tmp_path: Path) -> None:
    manifest = tmp_path / "images.csv"
    manifest.write_text(f"path,year\n{bucket}/a.png,1999\n{bucket}/missing.png,2000\n")
    summary = index(trained_home, [manifest], IndexRequest())
    assert (summary.new, [failure.reason for failure in summary.failures]) == (1, ["there is no such file"])
    with Catalogue(Home.from_settings(trained_home)) as catalogue:
        (found,) = catalogue.files.find_under([f"{bucket}/a.png"]).values()
        assert catalogue.metadata.get_for_images([found.image_id]) == {found.image_id: {"year": "1999"}}


def test_unreadable_objects_are_failures(trained_home: Settings, bucket: str, object_server: ObjectServer) -> None:
    object_server.write("photos/broken.png", b"no image")
    object_server.write("photos/empty.png", b"")
    summary = run(trained_home, bucket)
    assert summary.new == 8
    assert [failure.path for failure in summary.failures] == [f"{bucket}/broken.png", f"{bucket}/empty.png"]
    assert summary.failures[1].reason == "the file is empty"


def test_a_bucket_that_is_empty_or_unreachable_loses_nothing(
    trained_home: Settings, bucket: str, object_server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    run(trained_home, bucket)
    with pytest.raises(NoSuchPath, match="photos-that-are-not-there"):
        run(trained_home, f"{object_server.url}/photos-that-are-not-there")
    for name in object_server.names("photos"):
        object_server.remove(name)
    object_server.write("photos/readme", b"text")
    with pytest.raises(BadSetting, match=f"simile index {object_server.url} --prune"):
        run(trained_home, bucket, prune=True)
    object_server.stop()
    with pytest.raises(ObjectsUnavailable, match="NETWORK_CONNECTION") as unreachable:
        run(trained_home, bucket, prune=True)
    assert len(list_names(trained_home, bucket)) == 8
    assert KEY_ID not in f"{unreachable.value} {caplog.text}" and SECRET not in f"{unreachable.value} {caplog.text}"


def test_a_store_that_stops_in_the_middle_ends_the_run_and_marks_no_file(
    trained_home: Settings, bucket: str, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simile.images.loading import loader

    read = loader.read_remote

    def stop_at_the_third(path: str, *options: object) -> bytes:
        if path.endswith("a/b/1.png"):
            raise ObjectsUnavailable("the store stopped")
        return read(path, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "read_remote", stop_at_the_third)
    settings = trained_home.model_copy(update={"batch_size": 1})
    with pytest.raises(ObjectsUnavailable):
        run(settings, bucket)
    monkeypatch.setattr(loader, "read_remote", read)
    with Catalogue(Home.from_settings(settings)) as catalogue:
        assert catalogue.runs.get_latest(1)[0].status == "failed"
    again = run(settings, bucket)
    assert (again.failures, again.new + again.unchanged) == ([], 8)


def test_plans_never_touch_an_object(
    trained_home: Settings, bucket: str, object_server: ObjectServer, tmp_path: Path
) -> None:
    object_server.write("photos/again.png", noise(0))
    (tmp_path / "photos").mkdir()
    for name in ("first.png", "second.png"):
        (tmp_path / "photos" / name).write_bytes(noise(0))
    index(trained_home, [bucket, tmp_path / "photos"], IndexRequest())
    find_duplicates(trained_home, DedupRequest(tiers=("bytes", "pixels")))
    with Catalogue(Home.from_settings(trained_home)) as catalogue:
        findings = load_findings(catalogue)
        (group,) = make_groups(findings)
        (removal,) = plan_of(findings, [group]).removals
    assert len(group.files) == 4
    assert {Path(removal.path).name, Path(removal.keep_path).name} == {"first.png", "second.png"}


def test_the_command_takes_the_url_of_a_bucket(trained_home: Settings, bucket: str) -> None:
    summary = run_json("index", f"{bucket}/", "--home", trained_home.home, "--json")
    assert (summary["new"], summary["failures"]) == (8, [])
