"""Interpolation between latent vectors: weighted means, and morphs decoded step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from simile.core.atomic_write import write_output_file
from simile.core.errors import BadSetting
from simile.core.records import Float64Array, FloatArray, Hit
from simile.explore.latent.inputs import (
    LatentInput,
    LatentPoint,
    check_decoder,
    decode_latents,
    encode_inputs,
    find_nearest_images,
)
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid, encode_animation
from simile.search.contact_sheet import make_frame_rows
from simile.search.searcher import Searcher

InterpolationMethod = Literal["linear", "spherical"]
MORPH_SUFFIXES = (".gif", ".png", ".webp")
MAX_MORPH_FRAMES = 1000  # all decoded frames are in memory together


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentMorph:
    """A morph of n frames."""

    interpolation: InterpolationMethod
    input_names: list[str]
    input_rows: list[int]  # frame of each input image
    latents: FloatArray  # latent vectors (n, d)
    frames: Pixels  # decoded images (n, h, w, 3)
    changes: FloatArray  # root mean square change (n - 1,) from each frame to the next, for values in [0, 1]
    nearest_hits: list[Hit | None]  # the indexed image nearest to each frame; None in an empty home


def mix_latents(
    searcher: Searcher,
    latent_inputs: Sequence[LatentInput],
    weights: Sequence[float] | None = None,
    interpolation: InterpolationMethod = "linear",
) -> LatentPoint:
    """Return the weighted mean of the inputs, with the size of the first one; sigma only for a single input.

    Args:
        weights: One weight for each input; None for equal weights.
        interpolation: `spherical` interpolates the direction of exactly two inputs.

    Raises:
        BadSetting: Unusable weights, or `spherical` for other than two inputs. And as `encode_inputs`.
    """
    points = encode_inputs(searcher, latent_inputs)
    fractions = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    if (
        len(fractions) != len(points)
        or not np.isfinite(fractions).all()
        or (fractions < 0).any()
        or fractions.sum() <= 0
    ):
        raise BadSetting("The weights can't be used: give one weight of at least 0 for each part, and not only zeros.")
    fractions /= fractions.sum()
    first = points[0]
    if len(points) == 1:
        return first
    mus = np.stack([point.mu for point in points]).astype(np.float64)
    if interpolation == "spherical":
        if len(points) != 2:
            raise BadSetting("spherical interpolates between two images: use linear for more of them.")
        mu = interpolate(mus[0], mus[1], np.array([[fractions[1]]]), interpolation)[0]
    else:
        mu = fractions @ mus
    name = " + ".join(point.name for point in points)
    return LatentPoint(name, mu.astype(np.float32), None, first.width, first.height)


def make_morph(
    searcher: Searcher,
    latent_inputs: Sequence[LatentInput],
    steps: int = 16,
    interpolation: InterpolationMethod = "linear",
) -> LatentMorph:
    """Interpolate through all inputs, with `steps` frames from each to the next, both included.

    The frames of the inputs are reconstructions, not the original images; all have the aspect ratio of the first image.
    Raises NoDecoder, BadSetting, and as `encode_inputs`.
    """
    check_interpolation_method(interpolation)
    if len(latent_inputs) < 2:
        raise BadSetting("A morph goes from one image to the next: name at least two.")
    legs = len(latent_inputs) - 1
    count = legs * (steps - 1) + 1
    if steps < 2 or count > MAX_MORPH_FRAMES:
        raise BadSetting(
            f"steps can't be {steps} for {legs + 1} images. Use at least 2 steps, and {MAX_MORPH_FRAMES} frames in all."
        )
    check_decoder(searcher, "it can search, but not show images between two others")
    points = encode_inputs(searcher, latent_inputs)
    latents = interpolate_path(np.stack([point.mu for point in points]), steps, interpolation)
    frames = decode_latents(searcher, latents, points[0].width, points[0].height)
    differences = np.diff(frames.astype(np.float32) / 255, axis=0)
    return LatentMorph(
        interpolation=interpolation,
        input_names=[point.name for point in points],
        input_rows=list(range(0, count, steps - 1)),
        latents=latents,
        frames=frames,
        changes=np.sqrt(np.square(differences).mean(axis=(1, 2, 3))),
        nearest_hits=find_nearest_images(searcher, latents),
    )


def check_interpolation_method(name: str) -> None:
    """Raise BadSetting for an unknown interpolation method."""
    if name not in get_args(InterpolationMethod):
        raise BadSetting(f"how can't be {name!r}. Use linear or spherical.")


def interpolate_path(latents: FloatArray, steps: int, interpolation: InterpolationMethod) -> FloatArray:
    """Return the latents (n, d) of a path through latents (m, d): `steps` from each to the next, both included."""
    fractions = np.linspace(0, 1, steps)[:, None]  # (steps, 1)
    latents64 = latents.astype(np.float64)
    # The first vector of each leg is the last one of the leg before.
    legs = [interpolate(start, end, fractions, interpolation)[1:] for start, end in pairwise(latents64)]
    return np.concatenate([latents64[:1], *legs]).astype(np.float32)


def interpolate(
    start: Float64Array, end: Float64Array, fractions: Float64Array, interpolation: InterpolationMethod
) -> Float64Array:
    """Interpolate between two latent vectors (d,) at fractions (n, 1) from 0 (start) to 1 (end): (n, d).

    Spherical interpolation (Shoemake 1985) turns the direction evenly and changes the length evenly, so the vectors in
    between are not shorter, as they are on a straight line. It is linear where the two directions agree, are opposite,
    or one of the vectors is 0.
    """
    straight: Float64Array = (1 - fractions) * start + fractions * end
    if interpolation == "linear":
        return straight
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if not all(lengths):
        return straight
    start_direction, end_direction = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(start_direction @ end_direction, -1, 1))
    if np.sin(angle) < 1e-6:  # the directions agree or are opposite: the division below is undefined
        return straight
    turned = np.sin((1 - fractions) * angle) * start_direction + np.sin(fractions * angle) * end_direction
    points: Float64Array = ((1 - fractions) * lengths[0] + fractions * lengths[1]) * turned / np.sin(angle)
    return points


def write_morph(searcher: Searcher, latent_morph: LatentMorph, output: Path) -> None:
    """Write a morph as a looping animation (.gif, .webp) or as a strip with the nearest images (.png)."""
    write_output_file(output, draw_morph(searcher, latent_morph, output.suffix.lower().removeprefix(".")))


def draw_morph(searcher: Searcher, latent_morph: LatentMorph, format: str) -> bytes:
    """Encode a morph as a looping animation (`gif`, `webp`), or as a strip above the nearest images (`png`)."""
    if format != "png":
        return encode_animation(latent_morph.frames, format.upper(), latent_morph.input_rows)
    inputs = zip(latent_morph.input_rows, latent_morph.input_names, strict=True)
    rows: list[list[SheetTile]] = []
    for (first, first_name), (last, last_name) in pairwise(inputs):
        fractions = [f"{step / (last - first):.0%}" for step in range(1, last - first)]
        captions = [Path(first_name).name, *fractions, Path(last_name).name]
        leg = slice(first, last + 1)
        rows += make_frame_rows(searcher, latent_morph.frames[leg], captions, latent_morph.nearest_hits[leg])
    return draw_tile_grid(rows)
