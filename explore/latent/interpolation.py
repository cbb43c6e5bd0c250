"""Morphs: the way from one picture to the next through the latent space, decoded step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_output_file
from simile.core.errors import BadSetting
from simile.core.records import FloatArray, Hit
from simile.explore.latent.inputs import LatentInput, check_decoder, decode_latents, encode_inputs, find_nearest_images
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid, encode_animation
from simile.search.contact_sheet import make_hit_tile
from simile.search.searcher import Searcher

Float64Array = NDArray[np.float64]
InterpolationMethod = Literal["linear", "spherical"]
MORPH_SUFFIXES = (".gif", ".png", ".webp")
MAX_MORPH_FRAMES = 1000  # frames: each is decoded, and all are in memory


@dataclass(frozen=True, eq=False)
class LatentMorph:
    """n frames. latents: (n, d); frames: (n, h, w, 3) uint8; changes: (n - 1,), how much the picture changes from each
    frame to the next, as the root mean square over values in [0, 1]. stops: rows at which the named pictures stand.
    """

    interpolation: InterpolationMethod
    input_names: list[str]
    input_rows: list[int]
    latents: FloatArray
    frames: Pixels
    changes: FloatArray
    nearest_hits: list[Hit | None]


def make_morph(
    searcher: Searcher,
    latent_inputs: Sequence[LatentInput],
    steps: int = 16,
    interpolation: InterpolationMethod = "linear",
) -> LatentMorph:
    """The way through all the parts; `steps` frames from each to the next, both of them included.

    Frames are in the first picture's aspect; those at the stops are reconstructions. Raises NoDecoder, BadSetting.
    """
    if interpolation not in get_args(InterpolationMethod):
        raise BadSetting(f"how can't be {interpolation!r}. Use linear or spherical.")
    if len(latent_inputs) < 2:
        raise BadSetting("A morph leads from one picture to another: name at least two.")
    count = (len(latent_inputs) - 1) * (steps - 1) + 1
    if steps < 2 or count > MAX_MORPH_FRAMES:
        raise BadSetting(
            f"{steps} steps for each of {len(latent_inputs) - 1} can't be: 2 at least, {MAX_MORPH_FRAMES} frames in all."
        )
    check_decoder(searcher, "it can search, but not show what lies between pictures")
    places = encode_inputs(searcher, latent_inputs)
    latents = interpolate_path(np.stack([place.mu for place in places]), steps, interpolation)
    frames = decode_latents(searcher, latents, places[0].width, places[0].height)
    stops = list(range(0, count, steps - 1))
    names = [place.name for place in places]
    return LatentMorph(
        interpolation, names, stops, latents, frames, _compute_changes(frames), find_nearest_images(searcher, latents)
    )


def interpolate_path(latents: FloatArray, steps: int, interpolation: InterpolationMethod) -> FloatArray:
    """The latents (n, d) on the way through places (m, d), `steps` from each to the next, ends included."""
    shares = np.linspace(0, 1, steps)[:, None]  # (steps, 1)
    wide = latents.astype(np.float64)
    legs = [interpolate(one, other, shares, interpolation)[1:] for one, other in pairwise(wide)]
    return np.concatenate([wide[:1], *legs]).astype(np.float32)


def interpolate(
    start: Float64Array, end: Float64Array, fractions: Float64Array, interpolation: InterpolationMethod
) -> Float64Array:
    """The places (n, d) that are so far, shares (n, 1) from 0 to 1, on the way from one (d,) to the other."""
    return (_interpolate_spherical if interpolation == "spherical" else _interpolate_linear)(start, end, fractions)


def _interpolate_linear(start: Float64Array, end: Float64Array, fractions: Float64Array) -> Float64Array:
    found: Float64Array = (1 - fractions) * start + fractions * end
    return found


def _interpolate_spherical(start: Float64Array, end: Float64Array, fractions: Float64Array) -> Float64Array:
    """The direction turns evenly (Shoemake 1985), the length grows evenly: what lies between does not shrink to the
    middle, as on a straight line. Straight where the directions agree, are opposite, or are none.
    """
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if not all(lengths):
        return _interpolate_linear(start, end, fractions)
    a, b = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if np.sin(angle) < 1e-6:
        return _interpolate_linear(start, end, fractions)
    direction = (np.sin((1 - fractions) * angle) * a + np.sin(fractions * angle) * b) / np.sin(angle)
    found: Float64Array = ((1 - fractions) * lengths[0] + fractions * lengths[1]) * direction
    return found


def write_morph(searcher: Searcher, latent_morph: LatentMorph, output: Path) -> None:
    """.gif and .webp: the frames, over and over. .png: a strip, the nearest real picture below each frame."""
    write_output_file(output, draw_morph(searcher, latent_morph, output.suffix.lower().removeprefix(".")))


def draw_morph(searcher: Searcher, latent_morph: LatentMorph, format: str) -> bytes:
    """The same as bytes; format: gif, webp or png."""
    if format == "png":
        return draw_tile_grid(
            [
                row
                for leg in range(len(latent_morph.input_rows) - 1)
                for row in _make_strip_rows(searcher, latent_morph, leg)
            ]
        )
    return encode_animation(latent_morph.frames, format.upper(), latent_morph.input_rows)


def _make_strip_rows(searcher: Searcher, latent_morph: LatentMorph, leg: int) -> list[list[SheetTile]]:
    """Frames of one leg, and what is nearest to each."""
    first, last = latent_morph.input_rows[leg], latent_morph.input_rows[leg + 1]
    captions = {first: Path(latent_morph.input_names[leg]).name, last: Path(latent_morph.input_names[leg + 1]).name}
    rows = range(first, last + 1)
    frames = [
        SheetTile(latent_morph.frames[row], captions.get(row, f"{(row - first) / (last - first):.0%}")) for row in rows
    ]
    return [frames, [_make_nearest_tile(searcher, latent_morph.nearest_hits[row]) for row in rows]]


def _make_nearest_tile(searcher: Searcher, hit: Hit | None) -> SheetTile:
    if hit is None:
        return SheetTile(np.full((64, 64, 3), 255, np.uint8), "nothing is indexed")
    return make_hit_tile(searcher, hit, "nearest: ")


def _compute_changes(frames: Pixels) -> FloatArray:
    steps = np.diff(frames.astype(np.float32) / 255, axis=0)
    changes: FloatArray = np.sqrt(np.square(steps).mean(axis=(1, 2, 3)))
    return changes
