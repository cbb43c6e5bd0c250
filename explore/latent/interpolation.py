"""Morphs: the way from one picture to the next through the latent space, decoded step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_output
from simile.core.errors import BadSetting
from simile.core.records import FloatArray, Hit
from simile.explore.latent.inputs import Part, check_decoder, decoded, nearest_to, places_of
from simile.images.rendering.sheets import Tile, animation, tile_grid
from simile.images.transforms import Pixels
from simile.search.contact_sheet import hit_tile
from simile.search.searcher import Searcher

Doubles = NDArray[np.float64]
How = Literal["linear", "spherical"]
SUFFIXES = (".gif", ".png", ".webp")
MOST = 1000  # frames: each is decoded, and all are in memory


@dataclass(frozen=True, eq=False)
class Morph:
    """n frames. latents: (n, d); frames: (n, h, w, 3) uint8; changes: (n - 1,), how much the picture changes from each
    frame to the next, as the root mean square over values in [0, 1]. stops: rows at which the named pictures stand.
    """

    how: How
    names: list[str]
    stops: list[int]
    latents: FloatArray
    frames: Pixels
    changes: FloatArray
    nearest: list[Hit | None]


def morph(searcher: Searcher, parts: Sequence[Part], steps: int = 16, how: How = "linear") -> Morph:
    """The way through all the parts; `steps` frames from each to the next, both of them included.

    Frames are in the first picture's aspect; those at the stops are reconstructions. Raises NoDecoder, BadSetting.
    """
    if how not in get_args(How):
        raise BadSetting(f"how can't be {how!r}. Use linear or spherical.")
    if len(parts) < 2:
        raise BadSetting("A morph leads from one picture to another: name at least two.")
    count = (len(parts) - 1) * (steps - 1) + 1
    if steps < 2 or count > MOST:
        raise BadSetting(f"{steps} steps for each of {len(parts) - 1} can't be: 2 at least, {MOST} frames in all.")
    check_decoder(searcher, "it can search, but not show what lies between pictures")
    places = places_of(searcher, parts)
    latents = path_through(np.stack([place.mu for place in places]), steps, how)
    frames = decoded(searcher, latents, places[0].width, places[0].height)
    stops = list(range(0, count, steps - 1))
    names = [place.name for place in places]
    return Morph(how, names, stops, latents, frames, _changes(frames), nearest_to(searcher, latents))


def path_through(places: FloatArray, steps: int, how: How) -> FloatArray:
    """The latents (n, d) on the way through places (m, d), `steps` from each to the next, ends included."""
    shares = np.linspace(0, 1, steps)[:, None]  # (steps, 1)
    wide = places.astype(np.float64)
    legs = [between(one, other, shares, how)[1:] for one, other in pairwise(wide)]
    return np.concatenate([wide[:1], *legs]).astype(np.float32)


def between(one: Doubles, other: Doubles, shares: Doubles, how: How) -> Doubles:
    """The places (n, d) that are so far, shares (n, 1) from 0 to 1, on the way from one (d,) to the other."""
    return (_spherical if how == "spherical" else _linear)(one, other, shares)


def _linear(one: Doubles, other: Doubles, shares: Doubles) -> Doubles:
    found: Doubles = (1 - shares) * one + shares * other
    return found


def _spherical(one: Doubles, other: Doubles, shares: Doubles) -> Doubles:
    """The direction turns evenly (Shoemake 1985), the length grows evenly: what lies between does not shrink to the
    middle, as on a straight line. Straight where the directions agree, are opposite, or are none.
    """
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if not all(lengths):
        return _linear(one, other, shares)
    a, b = one / lengths[0], other / lengths[1]
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if np.sin(angle) < 1e-6:
        return _linear(one, other, shares)
    direction = (np.sin((1 - shares) * angle) * a + np.sin(shares * angle) * b) / np.sin(angle)
    found: Doubles = ((1 - shares) * lengths[0] + shares * lengths[1]) * direction
    return found


def write_morph(searcher: Searcher, made: Morph, output: Path) -> None:
    """.gif and .webp: the frames, over and over. .png: a strip, the nearest real picture below each frame."""
    write_output(output, draw_morph(searcher, made, output.suffix.lower().removeprefix(".")))


def draw_morph(searcher: Searcher, made: Morph, format: str) -> bytes:
    """The same as bytes; format: gif, webp or png."""
    if format == "png":
        return tile_grid([row for leg in range(len(made.stops) - 1) for row in _strip(searcher, made, leg)])
    return animation(made.frames, format.upper(), made.stops)


def _strip(searcher: Searcher, made: Morph, leg: int) -> list[list[Tile]]:
    """Frames of one leg, and what is nearest to each."""
    first, last = made.stops[leg], made.stops[leg + 1]
    captions = {first: Path(made.names[leg]).name, last: Path(made.names[leg + 1]).name}
    rows = range(first, last + 1)
    frames = [Tile(made.frames[row], captions.get(row, f"{(row - first) / (last - first):.0%}")) for row in rows]
    return [frames, [_nearest_tile(searcher, made.nearest[row]) for row in rows]]


def _nearest_tile(searcher: Searcher, hit: Hit | None) -> Tile:
    if hit is None:
        return Tile(np.full((64, 64, 3), 255, np.uint8), "nothing is indexed")
    return hit_tile(searcher, hit, "nearest: ")


def _changes(frames: Pixels) -> FloatArray:
    steps = np.diff(frames.astype(np.float32) / 255, axis=0)
    changes: FloatArray = np.sqrt(np.square(steps).mean(axis=(1, 2, 3)))
    return changes
