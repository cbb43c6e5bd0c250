"""A copy follows from the kept file only if it lost something by compression, a smaller size or a lack of colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFilter

from simile.images.formats import Limits
from simile.images.matching.derivation import can_be_made_of, read_coded_image
from tests.dedup.grouping.test_quality import PHOTO, decode, encode

ORIGINAL = encode(PHOTO, "JPEG", quality=90)
SHOWN = decode(ORIGINAL)


def is_copy(copy: bytes, source: bytes) -> bool:
    first, second = (read_coded_image(data, "file", Limits()) for data in (copy, source))
    return can_be_made_of(first, second)


def halve(image: Image.Image, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), resampling)


def enlarge(image: Image.Image, factor: float, resampling: Image.Resampling) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), resampling)


def add_grain(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).round().astype(np.uint8))


def reduce_colours(image: Image.Image) -> Image.Image:
    light, *colours = image.convert("YCbCr").split()
    colours = [plane.resize((60, 45)).resize(image.size, Image.Resampling.BICUBIC) for plane in colours]
    return Image.merge("YCbCr", (light, *colours)).convert("RGB")


def draw_line(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).line((20, 30, 440, 170), (150, 140, 130), 2)
    return image


def recompress(format: str, **options: Any) -> Image.Image:
    return decode(encode(PHOTO, format, **options))


COPIES: dict[str, Callable[[], bytes]] = {
    "worse": lambda: encode(SHOWN, "JPEG", quality=60),
    "progressive": lambda: encode(SHOWN, "JPEG", quality=70, progressive=True),
    "all colours": lambda: encode(SHOWN, "JPEG", quality=70, subsampling=0),
    "better, of the copy": lambda: encode(SHOWN, "JPEG", quality=100),
    "of the same original": lambda: encode(PHOTO, "JPEG", quality=50),
    "half": lambda: encode(halve(SHOWN), "JPEG", quality=85),
    "half by the mean": lambda: encode(halve(SHOWN, Image.Resampling.BOX), "JPEG", quality=75),
    "half PNG": lambda: encode(halve(SHOWN), "PNG"),
    "half WebP": lambda: encode(halve(SHOWN), "WEBP", quality=75),
    "half HEIC": lambda: encode(halve(SHOWN), "HEIF", quality=60),
    "0.8": lambda: encode(enlarge(SHOWN, 0.8, Image.Resampling.LANCZOS), "JPEG", quality=70),
    "grey": lambda: encode(SHOWN.convert("L"), "JPEG", quality=75),
    "grey PNG": lambda: encode(SHOWN.convert("L"), "PNG"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_that_lost_something_follows_from_its_source(kind: str) -> None:
    copy = COPIES[kind]()
    assert is_copy(copy, ORIGINAL)
    assert kind.startswith("better") or not is_copy(ORIGINAL, copy)


# Files that other measurements prefer to the JPEG, although they were made from it, or from worse copies.
WORSE: dict[str, Callable[[], bytes]] = {
    "a PNG of a bad WebP": lambda: encode(recompress("WEBP", quality=30), "PNG"),
    "a WebP of a bad WebP": lambda: encode(recompress("WEBP", quality=20), "WEBP", lossless=True),
    "a PNG of a bad HEIC": lambda: encode(recompress("HEIF", quality=30), "PNG"),
    "a good JPEG of a bad AVIF": lambda: encode(recompress("AVIF", quality=30), "JPEG", quality=97),
    "a good JPEG of a bad JPEG": lambda: encode(recompress("JPEG", quality=60), "JPEG", quality=97),
    "grain": lambda: encode(add_grain(SHOWN, 2), "PNG"),
    "more grain": lambda: encode(add_grain(SHOWN, 7), "JPEG", quality=97),
    "sharpened": lambda: encode(SHOWN.filter(ImageFilter.UnsharpMask(2, 150, 0)), "PNG"),
    "a little blurred": lambda: encode(SHOWN.filter(ImageFilter.GaussianBlur(0.5)), "JPEG", quality=100),
    "fewer colours": lambda: encode(reduce_colours(SHOWN), "PNG"),
    "brighter": lambda: encode(SHOWN.point(lambda level: min(255, level + 2)), "PNG"),
    "a faint line": lambda: encode(draw_line(SHOWN), "PNG"),
    "enlarged pixels": lambda: encode(enlarge(SHOWN, 2, Image.Resampling.NEAREST), "PNG"),
    "enlarged pixels, 1.5": lambda: encode(enlarge(SHOWN, 1.5, Image.Resampling.NEAREST), "PNG"),
    "enlarged and sharpened": lambda: encode(
        enlarge(SHOWN, 1.5, Image.Resampling.BICUBIC).filter(ImageFilter.UnsharpMask(2, 150, 0)), "JPEG", quality=95
    ),
    "cropped and enlarged": lambda: encode(SHOWN.crop((5, 4, 475, 356)).resize(SHOWN.size), "PNG"),
    "of quality 85": lambda: encode(SHOWN, "JPEG", quality=85),
}


@pytest.mark.parametrize("kind", WORSE)
def test_a_better_file_does_not_follow_from_a_worse_one(kind: str) -> None:
    assert not is_copy(ORIGINAL, WORSE[kind]())


def test_enlarged_pixels_are_no_source_of_a_lossless_image() -> None:
    original = encode(PHOTO, "PNG")
    assert not is_copy(original, encode(enlarge(PHOTO, 2, Image.Resampling.NEAREST), "PNG"))
    assert is_copy(encode(halve(PHOTO, Image.Resampling.BOX), "PNG"), original)


def test_blocks_are_compared_as_the_file_stores_them() -> None:
    turned, exif = PHOTO.crop((0, 0, 477, 355)), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    source, copy = (encode(turned, "JPEG", quality=quality, exif=exif) for quality in (95, 60))
    assert is_copy(copy, source) and not is_copy(source, copy)


def test_an_image_smaller_than_a_block_does_not_follow() -> None:
    strip = PHOTO.crop((0, 0, 40, 7))
    assert not is_copy(encode(strip, "JPEG", quality=50), encode(strip, "PNG"))
