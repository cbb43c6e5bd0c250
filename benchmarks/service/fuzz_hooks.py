"""Hooks of schemathesis: images as files of forms, and a check of answers with status 503."""

from __future__ import annotations

import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def make_image(format: str, colour: tuple[int, int, int]) -> bytes:
    """Return a small encoded image of one colour with a bar in it."""
    image = Image.new("RGB", (32, 32), colour)
    image.paste((255 - colour[0], 255, 0), (8, 0, 14, 32))
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


IMAGES = [make_image(format, colour) for format in ("PNG", "JPEG", "WEBP") for colour in ((0, 0, 0), (200, 30, 90))]

# Most files are images, so that requests pass the decoding; the others are random bytes.
schemathesis.openapi.format(
    "binary", st.one_of(st.sampled_from(IMAGES), st.sampled_from(IMAGES), st.binary(max_size=64))
)

# Types of the only 5xx of a healthy service: it is busy with work that ends.
TEMPORARY = ("home-busy", "being-computed")


@schemathesis.check
def unavailable_for_a_moment(_ctx: Any, response: Any, _case: Any) -> None:
    """Require that a 503 has a known type and says when to repeat the request."""
    if response.status_code == 503:
        kind = response.json()["type"].rpartition(":")[2]
        assert kind in TEMPORARY, f"a 503 of type {kind}"
        assert response.headers.get("retry-after"), "a 503 without Retry-After"
