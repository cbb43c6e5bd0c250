"""Rendering of attributes: images moved along a direction, decoded, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting
from simile.explore.latent.inputs import LatentInput, LatentPoint, check_decoder, decode_latents, encode_inputs
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.search.attributes import Attribute
from simile.search.searcher import Searcher

MAX_STRENGTHS = 31  # images in a row: more don't fit on a screen


def parse_strengths(text: str) -> list[float]:
    """Parse a range, "-3..3", or a list, "-1.5,0,2". Raises BadSetting."""
    try:
        if ".." in text:
            low, high = map(int, text.split(".."))
            strengths = [float(number) for number in range(low, high + 1)]
        else:
            strengths = [float(number) for number in text.split(",")]
    except ValueError:
        strengths = []
    if not 1 <= len(strengths) <= MAX_STRENGTHS or not np.isfinite(strengths).all():
        raise BadSetting(
            f"strengths can't be {text!r}. Write -3..3, or up to {MAX_STRENGTHS} numbers such as -1.5,0,2."
        )
    return strengths


def render_attribute(
    searcher: Searcher, attribute: Attribute, point: LatentPoint, strengths: Sequence[float]
) -> Pixels:
    """Decode a point moved by each strength: images (n, h, w, 3) in its aspect ratio. Raises NoDecoder."""
    check_decoder(searcher, "an attribute can be learned and searched with, but not shown")
    latents = np.stack([attribute.shift(point.mu, strength) for strength in strengths])
    return decode_latents(searcher, latents, point.width, point.height)


def render_attribute_sheet(
    searcher: Searcher, attribute: Attribute, latent_inputs: Sequence[Path | int], strengths: Sequence[float]
) -> bytes:
    """Draw a PNG: a row for each image, first the image, then the decoded image at each strength.

    Raises NoDecoder. And as `encode_inputs`.
    """
    rows = []
    for latent_input, point in zip(latent_inputs, encode_inputs(searcher, latent_inputs), strict=True):
        tiles = _make_tiles(searcher, attribute, point, strengths)
        rows.append([SheetTile(searcher.get_query_pixels(latent_input), Path(point.name).name), *tiles])
    return draw_tile_grid(rows)


def render_attribute_strip(
    searcher: Searcher, attribute: Attribute, latent_input: LatentInput, strengths: Sequence[float]
) -> bytes:
    """Draw a PNG: the decoded image at each strength, side by side. Raises NoDecoder."""
    (point,) = encode_inputs(searcher, [latent_input])
    return draw_tile_grid([_make_tiles(searcher, attribute, point, strengths)])


def _make_tiles(
    searcher: Searcher, attribute: Attribute, point: LatentPoint, strengths: Sequence[float]
) -> list[SheetTile]:
    images = render_attribute(searcher, attribute, point, strengths)
    return [
        SheetTile(image, f"{attribute.name} {strength:+g}" if strength else "unchanged")
        for image, strength in zip(images, strengths, strict=True)
    ]
