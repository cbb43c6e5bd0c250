"""Colour profiles count: in what people look at, and in whether two images are the same."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from simile.images.colour import describe_profile
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.loading.loader import decode_reduced
from simile.images.matching.tasks import compute_pixel_digest
from simile.images.rendering.sheets import render_thumbnail

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED = Image.new("RGB", (64, 48), (200, 30, 30))


def exchange_red_and_green(profile: bytes) -> bytes:
    """Return a profile that shows red as green: its tags rXYZ and gXYZ are exchanged."""
    return profile.replace(b"rXYZ", b"temp", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"temp", b"gXYZ", 1)


def with_text(profile: bytes) -> bytes:
    """Return the same profile with another creation date."""
    return profile[:24] + struct.pack(">6H", 1999, 1, 2, 3, 4, 5) + profile[36:]


SWAPPED = exchange_red_and_green(SRGB)


def save(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_what_people_look_at_is_converted(format: str, mode: str) -> None:
    if mode != "RGB" and (format, mode) not in {("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGBA"), ("TIFF", "RGBA")}:
        pytest.skip("the format has no such mode")
    data = save(RED.convert(mode), format, icc_profile=SWAPPED)
    red, green, _ = decode_reduced(data, "red", Limits(), 16).pixels[9, 9]
    assert green > red + 100
    with Image.open(io.BytesIO(render_thumbnail(data, "red", Limits(), 32)[0])) as thumbnail:
        red, green, _ = thumbnail.convert("RGB").getpixel((5, 5))
    assert green > red + 100
    assert decode_image(data, name="red").pixels[9, 9, 0] > 190, "what encoders compare stays as it is stored"


def test_transparency_is_kept_by_the_conversion() -> None:
    image = Image.new("RGBA", (64, 48), (200, 30, 30, 0))
    data = save(image, icc_profile=SWAPPED)
    assert decode_image(data, name="clear", to_srgb=True).pixels[9, 9].tolist() == [255, 255, 255]


@pytest.mark.parametrize("profile", [b"", b"no profile at all", SWAPPED[:200], SRGB])
def test_profiles_that_are_broken_or_change_nothing_are_ignored(profile: bytes) -> None:
    data = save(RED, icc_profile=profile or None)
    assert decode_image(data, name="red", to_srgb=True).pixels[9, 9].tolist() == [200, 30, 30]
    assert describe_profile(profile) == ""


def test_equal_numbers_in_other_colours_are_not_the_same_pixels() -> None:
    plain, swapped = save(RED, "BMP"), save(RED, icc_profile=SWAPPED)
    digests = {compute_pixel_digest(data, "red", Limits()) for data in (plain, swapped)}
    assert len(digests) == 2
    same = (plain, save(RED, icc_profile=SRGB), save(RED, icc_profile=with_text(SRGB)), save(RED, "TIFF"))
    assert len({compute_pixel_digest(data, "red", Limits()) for data in same}) == 1
    twice = (swapped, save(RED, "TIFF", icc_profile=with_text(SWAPPED)))
    assert len({compute_pixel_digest(data, "red", Limits()) for data in twice}) == 1


def test_a_grey_profile_counts() -> None:
    grey = Image.fromarray(np.full((40, 40), 128, np.uint8))
    gamma = make_grey_profile(1.0)
    assert decode_image(save(grey, icc_profile=gamma), name="grey", to_srgb=True).pixels[0, 0, 0] > 170
    digests = {compute_pixel_digest(save(grey, icc_profile=profile), "grey", Limits()) for profile in (None, gamma)}
    assert len(digests) == 2


def make_grey_profile(gamma: float) -> bytes:
    """Return an ICC profile of one grey channel with this gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"wtpt", white), (b"kTRC", curve)]
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
