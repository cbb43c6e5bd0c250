"""A JPEG that goes through its pixels thousands of times: small, legal, and the work of hours."""

from __future__ import annotations

import io
import os
import re
import time

import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.images.containers import has_more_scans
from simile.images.decoding import MAX_JPEG_SCANS, decode_image
from simile.service.app import create_app

LAST_SCAN = re.compile(rb".*(\xff\xda.+?)(?=\xff\xd9$)", re.DOTALL)


def jpeg(side: int = 64, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", **options)
    return file.getvalue()


def with_scans(more: int, side: int = 64, between: bytes = b"") -> bytes:
    """A progressive one whose last scan comes so many times more."""
    plain = jpeg(side, progressive=True)
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


def test_scans_without_any_data_count_too() -> None:
    plain = jpeg()
    start = plain.index(b"\xff\xda")
    header = plain[start : start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big")]
    with pytest.raises(UnreadableImage, match="scans"):
        decode_image(plain[:-2] + header * 200 + b"\xff\xd9", name="x.jpg")


def test_what_only_looks_like_scans_costs_no_image() -> None:
    usual = with_scans(MAX_JPEG_SCANS - 20)
    assert decode_image(usual, name="x.jpg").width == 64
    looks = b"\xff\xda\0\x02" * 500
    film = jpeg() + looks + os.urandom(1000)  # behind the end
    comment = jpeg()[:2] + b"\xff\xfe" + (len(looks) + 2).to_bytes(2, "big") + looks + jpeg()[2:]
    assert decode_image(film, name="x.jpg").width == decode_image(comment, name="x.jpg").width == 64
    assert has_more_scans(usual, 10) and not has_more_scans(usual, MAX_JPEG_SCANS)


def test_uploaded_it_is_a_4xx_with_its_reason(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        response = client.post("/v1/search", files={"file": ("bomb.jpg", with_scans(5000, side=2000))})
        assert response.status_code == 422 and "scans" in response.json()["detail"]
