"""What an attribute does to pictures: pushed along its direction, decoded, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.explore.latent.inputs import LatentInput, LatentPoint, check_decoder, decode_latents, encode_inputs
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.search.attributes import Attribute
from simile.search.searcher import Searcher

MAX_STRENGTHS = 31  # strengths in a sheet
NO_DECODER_LIMITATION = "an attribute can be learned and searched with, not shown"  # what is lacking without a decoder


def parse_strengths(text: str) -> list[float]:
    """[-3, -2 … 3] of "-3..3", or the numbers of "-1.5,0,2". Raises BadSetting."""
    try:
        if ".." in text:
            low, high = map(int, text.split(".."))
            found = [float(number) for number in range(low, high + 1)]
        else:
            found = [float(number) for number in text.split(",")]
    except ValueError:
        found = []
    if not 1 <= len(found) <= MAX_STRENGTHS or not np.isfinite(found).all():
        raise BadSetting(
            f"strengths can't be {text!r}. Write -3..3, or up to {MAX_STRENGTHS} numbers such as -1.5,0,2."
        )
    return found


def render_attribute(
    searcher: Searcher, attribute: Attribute, mu: FloatArray, strengths: Sequence[float], latent_point: LatentPoint
) -> Pixels:
    """One mu (d,) at each strength, (n, h, w, 3) uint8 in the picture's aspect. Raises NoDecoder."""
    check_decoder(searcher, NO_DECODER_LIMITATION)
    latents = np.stack([attribute.shift(mu, strength) for strength in strengths])
    return decode_latents(searcher, latents, latent_point.width, latent_point.height)


def render_attribute_sheet(
    searcher: Searcher, attribute: Attribute, latent_inputs: Sequence[Path | int], strengths: Sequence[float]
) -> bytes:
    """PNG: a row for each picture: itself, then what the model sees at each strength. Raises NoDecoder."""
    check_decoder(searcher, NO_DECODER_LIMITATION)
    rows = []
    for part, place in zip(latent_inputs, encode_inputs(searcher, latent_inputs), strict=True):
        itself = SheetTile(searcher.get_query_pixels(part), Path(place.name).name)
        rows.append([itself, *_make_tiles(searcher, attribute, place, strengths)])
    return draw_tile_grid(rows)


def render_attribute_strip(
    searcher: Searcher, attribute: Attribute, latent_input: LatentInput, strengths: Sequence[float]
) -> bytes:
    """PNG: what the model sees at each strength, side by side. Raises NoDecoder."""
    (place,) = encode_inputs(searcher, [latent_input])
    return draw_tile_grid([_make_tiles(searcher, attribute, place, strengths)])


def _make_tiles(
    searcher: Searcher, attribute: Attribute, latent_point: LatentPoint, strengths: Sequence[float]
) -> list[SheetTile]:
    return [
        SheetTile(pixels, f"{attribute.name} {strength:+g}" if strength else "as it is")
        for pixels, strength in zip(
            render_attribute(searcher, attribute, latent_point.mu, strengths, latent_point), strengths, strict=True
        )
    ]
