"""Thumbnails and files of indexed images: made once, and always those that were indexed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import NoSuchImage, UnreadableImage
from simile.core.settings import Settings
from simile.images.sources import archives
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import delete_image
from simile.search import library
from simile.search.searcher import Searcher
from tests.support.images import noise


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A large and a tiny image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "large.jpg").write_bytes(noise(1, "JPEG", (1200, 900)))
    (folder / "tiny.png").write_bytes(noise(2, size=(20, 10)))
    return folder


@pytest.fixture
def searcher(trained_home: Settings, photos: Path) -> Iterator[Searcher]:
    index(trained_home, [photos], IndexRequest())
    with Searcher(trained_home) as searcher:
        yield searcher


def find_id(searcher: Searcher, path: Path) -> int:
    return searcher.catalogue.files.get_many([str(path)])[str(path)].image_id


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_thumbnail_is_made_once_for_all_sides_that_are_shown(searcher: Searcher, photos: Path) -> None:
    image_id = find_id(searcher, photos / "large.jpg")
    first = {side: searcher.get_thumbnail(image_id, side) for side in library.THUMBNAIL_SIDES}
    (photos / "large.jpg").unlink()  # neither read nor decoded again
    assert {side: searcher.get_thumbnail(image_id, side) for side in first} == first
    assert [open_image(data).size for data, _ in first.values()] == [(96, 72), (256, 192), (1024, 768), (1200, 900)]
    for side in (32, 100, 300, 1500):
        data, media_type = searcher.get_thumbnail(image_id, side)
        assert max(open_image(data).size) == min(side, 1200) and media_type == "image/jpeg"
    assert searcher.find_pixels(image_id, 48).shape == (72, 96, 3)  # type: ignore[union-attr]
    with pytest.raises(NoSuchImage):
        searcher.read_file(image_id)


def test_requests_for_one_new_thumbnail_decode_the_image_once(
    trained_home: Settings, searcher: Searcher, photos: Path
) -> None:
    image_id = find_id(searcher, photos / "large.jpg")
    begun, may_decode = threading.Semaphore(0), threading.Event()
    calls: list[int] = []

    def decode(function: Any, data: bytes, name: str, pixel_count: int) -> Any:
        calls.append(pixel_count)
        may_decode.wait()
        return function(data, name)

    def request() -> bytes:
        begun.release()
        return busy.get_thumbnail(image_id)[0]

    with Searcher(trained_home, decode_indexed=decode) as busy, ThreadPoolExecutor(8) as threads:
        found = [threads.submit(request) for _ in range(8)]
        for _ in found:
            begun.acquire()
        may_decode.set()
        assert len({call.result() for call in found}) == 1
    assert calls == [1200 * 900]


def test_a_tiny_image_is_enlarged_by_whole_factors_at_every_side(searcher: Searcher, photos: Path) -> None:
    image_id = find_id(searcher, photos / "tiny.png")
    with Image.open(photos / "tiny.png") as image:
        original = np.asarray(image)
    for side in (40, 96, 100, 300):
        data, media_type = searcher.get_thumbnail(image_id, side)
        factor = side // 20
        assert media_type == "image/png"
        assert np.array_equal(np.asarray(open_image(data)), original.repeat(factor, 0).repeat(factor, 1))
    assert np.array_equal(searcher.find_pixels(image_id, 48), original)  # type: ignore[arg-type]


def test_a_stored_thumbnail_is_the_indexed_image_whatever_the_file_holds_now(searcher: Searcher, photos: Path) -> None:
    image_id = find_id(searcher, photos / "large.jpg")
    first = searcher.get_thumbnail(image_id)
    shutil.copyfile(photos / "tiny.png", photos / "large.jpg")
    assert searcher.get_thumbnail(image_id) == first
    for path in (searcher.home.cache).rglob("*-thumbnail-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(UnreadableImage, match="has changed"):
        searcher.get_thumbnail(image_id)


def test_the_thumbnail_of_a_deleted_image_is_not_served_and_not_kept(searcher: Searcher, photos: Path) -> None:
    image_id, other = (find_id(searcher, photos / name) for name in ("large.jpg", "tiny.png"))
    searcher.get_thumbnail(image_id)
    searcher.get_thumbnail(other)
    delete_image(searcher, image_id)
    with pytest.raises(NoSuchImage):
        searcher.get_thumbnail(image_id)
    assert len(list(searcher.home.cache.rglob("*-thumbnail-*"))) == 1
    # An image that left the catalogue in another way: the row decides, not the cache.
    searcher.catalogue.images.delete(other)
    with pytest.raises(NoSuchImage):
        searcher.get_thumbnail(other)


def test_without_room_for_a_cache_thumbnails_are_made_each_time(
    trained_home: Settings, searcher: Searcher, photos: Path
) -> None:
    searcher.home.cache.write_bytes(b"not a folder")
    image_id = find_id(searcher, photos / "large.jpg")
    assert searcher.get_thumbnail(image_id) == searcher.get_thumbnail(image_id)
    with Searcher(trained_home.model_copy(update={"cache_bytes": 0})) as other:
        assert other.get_thumbnail(image_id) == searcher.get_thumbnail(image_id)


# Files


def replace_by_fifo(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_larger_file(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def replace_by_device(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def replace_folder(path: Path, other: Path) -> None:
    """A folder on the way becomes a link to a folder with files of the same names."""
    path.parent.rename(other)
    (other / path.name).write_bytes(b"secret" * 1000)
    path.parent.symlink_to(other)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", [replace_by_fifo, replace_by_larger_file, replace_by_device, replace_folder])
def test_a_path_that_holds_something_else_now_is_not_read(
    searcher: Searcher, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[..., None]
) -> None:
    image_id = find_id(searcher, photos / "large.jpg")
    replace(photos / "large.jpg", tmp_path / "other")
    hashed: list[bytes] = []
    monkeypatch.setattr(library.hashlib, "sha256", lambda data: hashed.append(data) or hashlib.new("sha256", data))
    with pytest.raises((UnreadableImage, NoSuchImage)):
        searcher.read_file(image_id)
    assert hashed == []


def test_an_image_behind_a_link_is_served_while_it_is_the_indexed_one(
    trained_home: Settings, photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(photos)
    index(trained_home, [root], IndexRequest())
    data = (photos / "tiny.png").read_bytes()
    with Searcher(trained_home) as searcher:
        image_id = find_id(searcher, root / "linked" / "tiny.png")
        assert searcher.read_file(image_id)[0] == data
        (photos / "tiny.png").write_bytes(data[:-1] + b"?")  # of the same size
        with pytest.raises(UnreadableImage, match="has changed"):
            searcher.read_file(image_id)


# Compressed archives


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were opened to be inflated."""
    opened: list[str] = []
    original = archives._open_stream
    monkeypatch.setattr(archives, "_open_stream", lambda archive: opened.append(archive) or original(archive))
    return opened


def write_archive(path: Path, compression: str, count: int = 5) -> Path:
    with tarfile.open(path, f"w:{compression}") as tar:  # type: ignore[call-overload]
        for number in range(count):
            data = noise(number)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_inflated_once_for_all_of_its_images(
    trained_home: Settings, tmp_path: Path, inflated: list[str], compression: str
) -> None:
    archive = write_archive(tmp_path / f"photos.tar.{compression}", compression)
    index(trained_home, [archive], IndexRequest())
    with Searcher(trained_home) as searcher:
        ids = [find_id(searcher, archive / f"{number}.png") for number in range(5)]
        archives._read_contents_cached.cache_clear()
        inflated.clear()
        for number in (1, 3, 2, 4, 0, 1, 3):
            assert searcher.read_file(ids[number])[0] == noise(number)
        assert len(inflated) == 2  # for the list of its members, and for the members
    archives._read_contents_cached.cache_clear()
    inflated.clear()
    with Searcher(trained_home) as searcher:  # also in another process
        assert searcher.read_file(ids[3])[0] == noise(3) and searcher.get_thumbnail(ids[4])
        for path in searcher.home.cache.rglob("*-file"):
            path.write_bytes(path.read_bytes()[:-1])
        assert inflated == [] and searcher.read_file(ids[0])[0] == noise(0) and inflated
        archive.unlink()
        with pytest.raises(NoSuchImage):
            searcher.read_file(ids[0])


def test_an_archive_that_is_replaced_while_it_is_open_is_read_anew(trained_home: Settings, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "photos.tar.gz", "gz")
    index(trained_home, [archive], IndexRequest())
    with Searcher(trained_home.model_copy(update={"cache_bytes": 0})) as searcher:
        ids = [find_id(searcher, archive / f"{number}.png") for number in range(5)]
        assert searcher.read_file(ids[1])[0] == noise(1)
        write_archive(tmp_path / "new.tar.xz", "xz", 3).replace(archive)
        assert searcher.read_file(ids[2])[0] == noise(2)
        with pytest.raises(NoSuchImage):
            searcher.read_file(ids[4])


def test_the_images_on_the_way_are_not_stored_if_the_archive_exceeds_its_share(
    trained_home: Settings, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "photos.tar.gz", "gz", 30)
    index(trained_home, [archive], IndexRequest())
    with Searcher(trained_home.model_copy(update={"cache_bytes": 16 * 20_000})) as searcher:
        assert searcher.read_file(find_id(searcher, archive / "29.png"))[0] == noise(29)
        assert [path.name for path in searcher.home.cache.rglob("*-file")] == [
            f"{hashlib.sha256(noise(29)).hexdigest()}-file"
        ]


def test_a_plain_file_is_read_rather_than_the_same_image_in_an_archive(
    trained_home: Settings, tmp_path: Path, inflated: list[str]
) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", "gz", 1)
    (tmp_path / "z.png").write_bytes(noise(0))
    index(trained_home, [archive, tmp_path / "z.png"], IndexRequest())
    with Searcher(trained_home) as searcher:
        inflated.clear()
        data, record = searcher.read_file(find_id(searcher, archive / "0.png"))
        assert data == noise(0) and record.paths == (str(tmp_path / "z.png"), str(archive / "0.png"))
        assert inflated == []
