"""Raw files with the name of a JPEG, and films of Live Photos, are one image with it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.images.sources.partners import find_partners, select_partners
from simile.images.sources.sources import walk_sources
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from tests.conftest import app_client
from tests.images.formats.camera_files import make_dng
from tests.support.commands import run_simile
from tests.support.images import noise

FILM = b"\0\0\0\x14ftypqt  " + bytes(100)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A raw file with a JPEG, one without, a Live Photo, and a film without an image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("IMG_1.JPG", "IMG_3.HEIC")):
        (folder / name).write_bytes(noise(number, "JPEG"))
    for number, name in enumerate(("IMG_1.DNG", "IMG_2.DNG", "other.dng"), 10):
        (folder / name).write_bytes(make_dng(Image.open(io.BytesIO(noise(number)))))
    for name in ("IMG_3.MOV", "IMG_4.MOV"):
        (folder / name).write_bytes(FILM)
    return folder


def _names(paths: object) -> list[str]:
    return sorted(Path(str(path)).name for path in paths)  # type: ignore[attr-defined]


def test_partners_have_the_name_of_their_image_up_to_the_suffix() -> None:
    paths = ["/a/1.jpg", "/a/2.png", "/a/3.HEIC", "/b/4.JPEG"]
    others = ["/a/1.CR2", "/a/1.x.cr2", "/a/2.nef", "/a/3.mov", "/a/4.arw", "/b/4.arw"]
    assert select_partners(paths, others) == {"/a/1.CR2", "/a/3.mov", "/b/4.arw"}


def test_a_walk_leaves_partners_out_and_counts_them(photos: Path) -> None:
    result = walk_sources([photos])
    assert _names(file.path for file in result.files) == ["IMG_1.JPG", "IMG_2.DNG", "IMG_3.HEIC", "other.dng"]
    assert _names(result.partners) == ["IMG_1.DNG", "IMG_3.MOV"]
    assert result.ignored_kinds == {"mov": 1}
    named = walk_sources([photos / "IMG_1.DNG", photos / "IMG_1.JPG"])
    assert len(named.files) == 2 and not named.partners  # what a person names is indexed


def test_partners_in_an_archive_are_left_out(photos: Path) -> None:
    with tarfile.open(photos.parent / "photos.tar", "w") as archive:
        archive.add(photos, "photos")
    result = walk_sources([photos.parent / "photos.tar"])
    assert _names(file.path for file in result.files) == ["IMG_1.JPG", "IMG_2.DNG", "IMG_3.HEIC", "other.dng"]


@pytest.fixture
def client(trained_home: Settings, photos: Path) -> Iterator[TestClient]:
    index(trained_home, [photos], IndexRequest())
    with app_client(trained_home) as client:
        yield client


def test_an_image_lists_its_partners(client: TestClient, photos: Path) -> None:
    images = client.get("/v1/images").json()["images"]
    partners = {
        Path(image["path"]).name: client.get(f"/v1/images/{image['image_id']}").json()["partners"] for image in images
    }
    expected = {"IMG_1.JPG": ["IMG_1.DNG"], "IMG_3.HEIC": ["IMG_3.MOV"], "IMG_2.DNG": [], "other.dng": []}
    assert {name: _names(paths) for name, paths in partners.items()} == expected
    assert find_partners(str(photos / "IMG_1.JPG")) == [str(photos / "IMG_1.DNG")]
    (image,) = [image for image in images if image["path"].endswith("IMG_1.JPG")]
    assert "IMG_1.DNG</dd>" in client.get(f"/pictures/{image['image_id']}").text


def test_a_raw_file_gives_way_to_a_jpeg_that_comes_later(trained_home: Settings, photos: Path) -> None:
    (photos / "IMG_1.JPG").rename(photos / "later.JPG")
    assert index(trained_home, [photos], IndexRequest()).new == 5
    (photos / "later.JPG").rename(photos / "IMG_1.JPG")
    shown = run_simile("index", photos, "--home", trained_home.home).stdout
    assert "moved 1" in shown and "2 files belong to an image of the same name" in shown
    with Searcher(trained_home) as searcher:
        assert searcher.count_images() == 4
    (photos / "IMG_1.JPG").unlink()
    assert index(trained_home, [photos], IndexRequest(prune=True)).new == 1
