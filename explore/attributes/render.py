"""What an attribute does to pictures: pushed along its direction, decoded, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.explore.latent.inputs import Part, Place, check_decoder, decoded, places_of
from simile.images.rendering.sheets import Tile, tile_grid
from simile.images.transforms import Pixels
from simile.search.attributes import Attribute
from simile.search.searcher import Searcher

MOST = 31  # strengths in a sheet
NOT_SHOWN = "an attribute can be learned and searched with, not shown"  # what is lacking without a decoder


def read_strengths(text: str) -> list[float]:
    """[-3, -2 … 3] of "-3..3", or the numbers of "-1.5,0,2". Raises BadSetting."""
    try:
        if ".." in text:
            low, high = map(int, text.split(".."))
            found = [float(number) for number in range(low, high + 1)]
        else:
            found = [float(number) for number in text.split(",")]
    except ValueError:
        found = []
    if not 1 <= len(found) <= MOST or not np.isfinite(found).all():
        raise BadSetting(f"strengths can't be {text!r}. Write -3..3, or up to {MOST} numbers such as -1.5,0,2.")
    return found


def paint(searcher: Searcher, attribute: Attribute, mu: FloatArray, strengths: Sequence[float], place: Place) -> Pixels:
    """One mu (d,) at each strength, (n, h, w, 3) uint8 in the picture's aspect. Raises NoDecoder."""
    check_decoder(searcher, NOT_SHOWN)
    latents = np.stack([attribute.pushed(mu, strength) for strength in strengths])
    return decoded(searcher, latents, place.width, place.height)


def sheet(searcher: Searcher, attribute: Attribute, parts: Sequence[Path | int], strengths: Sequence[float]) -> bytes:
    """PNG: a row for each picture: itself, then what the model sees at each strength. Raises NoDecoder."""
    check_decoder(searcher, NOT_SHOWN)
    rows = []
    for part, place in zip(parts, places_of(searcher, parts), strict=True):
        itself = Tile(searcher.picture_of(part), Path(place.name).name)
        rows.append([itself, *_tiles(searcher, attribute, place, strengths)])
    return tile_grid(rows)


def strip(searcher: Searcher, attribute: Attribute, part: Part, strengths: Sequence[float]) -> bytes:
    """PNG: what the model sees at each strength, side by side. Raises NoDecoder."""
    (place,) = places_of(searcher, [part])
    return tile_grid([_tiles(searcher, attribute, place, strengths)])


def _tiles(searcher: Searcher, attribute: Attribute, place: Place, strengths: Sequence[float]) -> list[Tile]:
    return [
        Tile(pixels, f"{attribute.name} {strength:+g}" if strength else "as it is")
        for pixels, strength in zip(paint(searcher, attribute, place.mu, strengths, place), strengths, strict=True)
    ]
