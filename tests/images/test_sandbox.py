"""An upload that a decoder would choke on costs a worker process, and not the service."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.sandbox import DecodeSandbox
from simile.service.app import create_app

KINDS = ["TIFF", "JPEG2000", "AVIF", "HEIF"]


def image(kind: str, side: int = 48) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A TIFF that takes longer than 0.25 seconds to decode."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


@pytest.fixture(scope="module")
def prover() -> Iterator[DecodeSandbox]:
    made = DecodeSandbox(1, 20.0, Limits())
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_and_a_damaged_image_may_both_be_decoded_here(prover: DecodeSandbox, kind: str) -> None:
    prover.check(image(kind), "whole")
    prover.check(image(kind)[:200], "cut short")  # the decoder says so in its own words
    assert prover._pool is not None


def test_what_takes_too_long_is_refused_with_the_setting(slow: bytes) -> None:
    impatient = DecodeSandbox(1, 0.25, Limits())
    try:
        with pytest.raises(UnreadableImage, match=r"more than 0\.25 seconds \(SIMILE_DECODE_SECONDS\)"):
            impatient.check(slow, "slow.tif")
        impatient.check(image("TIFF", 16), "quick.tif")  # by another worker
    finally:
        impatient.close()


def test_simple_formats_need_no_process_and_many_threads_share_one() -> None:
    made = DecodeSandbox(1, 20.0, Limits())
    try:
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "ICO"):
            made.check(image(kind, 32), kind)
        made.check(b"no picture at all", "notes")
        assert made._pool is None
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: made.check(image("TIFF", 20 + n), "x"), range(24)))
        assert made._pool is not None and len(made._pool._dispatcher_threads) == 1
    finally:
        made.close()


def test_the_service_refuses_what_no_worker_survives_and_goes_on(home_with_digits: Settings, slow: bytes) -> None:
    impatient = home_with_digits.model_copy(update={"decode_seconds": 0.25})
    with TestClient(create_app(impatient)) as client:
        for path in ("/v1/search", "/v1/images", "/v1/reconstructions"):
            response = client.post(path, files={"file": ("slow.tif", slow)})
            assert response.status_code == 422 and "SIMILE_DECODE_SECONDS" in response.json()["detail"], response.text
        assert client.post("/v1/search", files={"file": ("a.png", image("PNG", 32))}).status_code == 200
        assert client.get("/v1/images").json()["total"] == 120
