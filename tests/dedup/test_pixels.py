"""Which files hold the same pixels: all that is in them counts, not only what is shown first."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.images.formats import Limits
from simile.images.matching.tasks import compare_files, compute_pixel_digest
from tests.support.synthetic_images import scene

COVER, OTHER, THIRD = (
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)) for seed in range(3)
)


def digest(picture: Image.Image, format: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return compute_pixel_digest(file.getvalue(), "picture", Limits())


def test_the_container_does_not_count() -> None:
    digests = [digest(COVER, format) for format in ("PNG", "BMP", "TIFF", "PPM")]
    digests += [digest(COVER, "WEBP", lossless=True), digest(COVER.convert("RGBA"), "PNG")]
    assert len(set(digests)) == 1


@pytest.mark.parametrize("format", ["TIFF", "PNG", "WEBP"])
def test_further_pages_and_frames_count(format: str) -> None:
    lossless = {"lossless": True} if format == "WEBP" else {}
    one, other = (digest(COVER, format, save_all=True, append_images=[last], **lossless) for last in (OTHER, THIRD))
    again = digest(COVER, format, save_all=True, append_images=[OTHER], **lossless)
    assert one == again
    assert len({one, other, digest(COVER, "PNG")}) == 3


def test_more_than_eight_bits_count() -> None:
    eight = np.random.default_rng(0).integers(0, 255, (40, 48))
    deep, deeper = (Image.fromarray((eight * 257 + more).astype(np.uint16)) for more in (0, 100))
    assert digest(deep, "PNG") == digest(deep, "TIFF")
    assert (
        len({digest(deep, "PNG"), digest(deeper, "PNG"), digest(Image.fromarray(eight.astype(np.uint8)), "PNG")}) == 3
    )


def test_animations_that_begin_alike_are_no_near_copies(tmp_path):
    first, still = Image.fromarray(scene(1)), tmp_path / "still.png"
    for name, then in (("a.webp", 2), ("b.webp", 3)):
        first.save(tmp_path / name, save_all=True, append_images=[Image.fromarray(scene(then))], quality=90)
    first.save(still)
    found = compare_files((str(tmp_path / "a.webp"), str(tmp_path / "b.webp")), Limits())
    assert not found.is_copy
    assert found.reason == "only the first of several frames is the same view"
    assert not compare_files((str(still), str(tmp_path / "a.webp")), Limits()).is_copy
