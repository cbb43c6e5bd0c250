"""What schemathesis can't know of this service: that a file in a form is a picture, and what a 503 may mean."""

from __future__ import annotations

import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def picture(kind: str, colour: tuple[int, int, int]) -> bytes:
    """A small picture of one colour with a bar in it."""
    image = Image.new("RGB", (32, 32), colour)
    image.paste((255 - colour[0], 255, 0), (8, 0, 14, 32))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


PICTURES = [picture(kind, colour) for kind in ("PNG", "JPEG", "WEBP") for colour in ((0, 0, 0), (200, 30, 90))]

# Mostly pictures, so that what follows the decoding is reached; the rest is noise and cut-off pictures.
schemathesis.openapi.format(
    "binary", st.one_of(st.sampled_from(PICTURES), st.sampled_from(PICTURES), st.binary(max_size=64))
)

# The one kind of 5xx that a service in good health answers with: it is busy with something that ends.
PASSING = ("home-busy", "being-computed")


@schemathesis.check
def unavailable_for_a_moment(_ctx: Any, response: Any, _case: Any) -> None:
    """A 503 says why, and when to ask again."""
    if response.status_code == 503:
        kind = response.json()["type"].rpartition(":")[2]
        assert kind in PASSING, f"a 503 of type {kind}"
        assert response.headers.get("retry-after"), "a 503 without Retry-After"
