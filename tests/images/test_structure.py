"""Files of many pieces are refused before they are decoded; normal files of many pieces are not."""

from __future__ import annotations

import io
import os
import re
import struct
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.images.containers import has_more_scans
from simile.images.decoding import decode_image
from simile.images.structure import MAX_JPEG_SCANS, MAX_JPEG_SEGMENTS, check_structure
from simile.service.app import create_app
from tests.attacks.hostile_files import TOO_MANY_PIECES, insert, make_chunk, make_png, make_segment, repeat, save

SIZE = 1_000_000
LAST_SCAN = re.compile(rb".*(\xff\xda.+?)(?=\xff\xd9$)", re.DOTALL)


@pytest.mark.parametrize("kind", TOO_MANY_PIECES)
def test_a_file_of_too_many_pieces_is_refused_before_it_is_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, reason = TOO_MANY_PIECES[kind]
    data = make(SIZE)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the decoder was called")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadableImage, match=f"hostile: it has .*{reason}"):
        decode_image(data, name="hostile")


def jpeg_with_metadata() -> bytes:
    """A photo with Exif, a long XMP block as phones write it, and a profile in 200 segments."""
    profile = [make_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 200]) + bytes(60_000)) for number in range(1, 201)]
    depth_map = make_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 300
    resources = make_segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)) * 5
    exif = make_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    return insert(save("JPEG", 64), 2, exif * 2 + b"".join(profile) + depth_map + resources)


def png_with_metadata() -> bytes:
    """A PNG with text as drawing programs write it."""
    text = PngImagePlugin.PngInfo()
    for number in range(500):
        text.add_itxt(f"key {number}", "x" * 1000, zip=True)
    return save("PNG", 64, pnginfo=text)


def png_of_small_pixel_chunks() -> bytes:
    """A PNG that has its pixels in 10,000 chunks."""
    whole = make_png(b"", 300)
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, start)
    coded = whole[start + 8 : start + 8 + length]
    empty = repeat(make_chunk(b"IDAT", b""), 12 * 10_000)
    return whole[:start] + make_chunk(b"IDAT", coded) + empty + make_chunk(b"IEND", b"")


def tiff_of_pages() -> bytes:
    file = io.BytesIO()
    pages = [Image.new("1", (8, 8), 1)] * 300
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()


def tiff_that_repeats_its_page() -> bytes:
    data = bytearray(save("TIFF", 16))
    (start,) = struct.unpack_from("<I", data, 4)
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, end, start)
    return bytes(data)


def animation(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in range(0, 240, 2)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with_metadata(),
        png_with_metadata(),
        png_of_small_pixel_chunks(),
        tiff_of_pages(),
        tiff_that_repeats_its_page(),
        animation("GIF"),
        animation("WEBP"),
        animation("PNG"),
        b"P6 # " + b"x" * 5000 + b"\n8 8\n# y\n255\n" + bytes(192),
        b"P4\n8 8\n" + bytes(8),
    ],
    ids=["jpeg", "png-text", "png-chunks", "tiff-pages", "tiff-cycle", "gif", "webp", "apng", "ppm", "pbm"],
)
def test_a_normal_file_of_many_pieces_is_decoded(data: bytes) -> None:
    assert decode_image(data, name="normal").width >= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "HEIF", "JPEG2000", "ICO"])
def test_damage_is_left_to_the_decoder(kind: str) -> None:
    data = save(kind, 32)
    for length in range(0, len(data), max(1, len(data) // 60)):
        check_structure(data[:length], "cut")


def test_the_reason_names_the_limit() -> None:
    data = insert(save("JPEG", 64), 2, make_segment(0xFE, b"") * (MAX_JPEG_SEGMENTS + 1))
    with pytest.raises(UnreadableImage, match="more than 2,000 segments; no normal image has so many"):
        check_structure(data, "x.jpg")


def with_scans(more: int, side: int = 64, between: bytes = b"") -> bytes:
    """A progressive JPEG with copies of its last scan."""
    plain = save("JPEG", side, "L", progressive=True)
    found = LAST_SCAN.match(plain)
    assert found is not None
    return plain[:-2] + (between + found[1]) * more + b"\xff\xd9"


@pytest.mark.parametrize("between", [b"", b"garbage", b"\xff\xff\xff", b"\xff\xd3", b"\xff\xfe\0\x06\xff\xd9!!"])
def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(between: bytes) -> None:
    bomb = with_scans(20_000, side=4000, between=between)
    assert len(bomb) < 2_000_000
    started = time.monotonic()
    with pytest.raises(UnreadableImage, match=f"more than {MAX_JPEG_SCANS} scans"):
        decode_image(bomb, name="bomb.jpg", min_side=64)
    assert time.monotonic() - started < 5  # of which decoding would take half a minute


@pytest.mark.parametrize("run", [b"\xff", b"\xff\x00", b"\xff\xd0"])
def test_long_runs_of_markers_take_linear_time(run: bytes) -> None:
    scans = with_scans(200)[:-2]  # so that the scans are counted one by one
    for data in (save("JPEG", 64)[:2] + run * 8_000_000, scans + run * 8_000_000):
        with pytest.raises(UnreadableImage, match="no normal image has so many"):
            check_structure(data, "run.jpg")  # in quadratic time it would take days


def test_scans_without_any_data_count_too() -> None:
    plain = save("JPEG", 64, "L")
    start = plain.index(b"\xff\xda")
    header = plain[start : start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big")]
    with pytest.raises(UnreadableImage, match="scans"):
        decode_image(plain[:-2] + header * 200 + b"\xff\xd9", name="x.jpg")


def test_what_only_looks_like_scans_costs_no_image() -> None:
    usual = with_scans(MAX_JPEG_SCANS - 20)
    assert decode_image(usual, name="x.jpg").width == 64
    looks = b"\xff\xda\0\x02" * 500
    film = save("JPEG", 64, "L") + looks + os.urandom(1000)  # behind the end
    comment = insert(save("JPEG", 64, "L"), 2, make_segment(0xFE, looks))
    assert decode_image(film, name="x.jpg").width == decode_image(comment, name="x.jpg").width == 64
    assert has_more_scans(usual, 10) and not has_more_scans(usual, MAX_JPEG_SCANS)


def test_uploaded_it_is_a_4xx_with_its_reason(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        response = client.post("/v1/search", files={"file": ("bomb.jpg", with_scans(5000, side=2000))})
        assert response.status_code == 422 and "scans" in response.json()["detail"]
