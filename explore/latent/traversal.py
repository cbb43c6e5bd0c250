"""Walks along single dimensions of the latent space, and grids over two of them: what each number stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from simile.core.errors import BadSetting
from simile.core.records import FloatArray, Hit
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import (
    LatentInput,
    LatentPoint,
    check_decoder,
    decode_latents,
    encode_inputs,
    find_nearest_images,
    get_content_size,
)
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_image_grid, draw_tile_grid
from simile.search.contact_sheet import make_hit_tile
from simile.search.searcher import Searcher

MAX_TRAVERSAL_IMAGES = 1000  # pictures of one walk or grid
RANGE_SAMPLE_SIZE = 10_000  # pictures that tell how far a dimension reaches
MANIFOLD_QUANTILES = (0.02, 0.98)  # of the normal distribution, from edge to edge of a manifold


@dataclass(frozen=True, eq=False)
class LatentRange:
    """Where the collection lies: centre, deviation (d,) of mu; order (d,): dimensions, the most active first."""

    mean: FloatArray
    deviation: FloatArray
    activity_order: list[int]


@dataclass(frozen=True, eq=False)
class LatentTraversal:
    """A row for each dimension, a column for each step. steps: (s,), in deviations from where the walk starts.

    latents: (r, s, d); frames: (r, s, h, w, 3) uint8; nearest: the real picture nearest to each, row by row.
    """

    name: str
    dims: list[int]
    steps: FloatArray
    latents: FloatArray
    frames: Pixels
    nearest_hits: list[list[Hit | None]]


@dataclass(frozen=True, eq=False)
class LatentManifold:
    """size x size pictures of a plane, top left first. latents: (size², d); frames: (size², h, w, 3) uint8.

    nearest: the real picture nearest to each; [] where that was not asked for.
    """

    axes: str
    latents: FloatArray
    frames: Pixels
    nearest_hits: list[Hit | None]


def measure_latent_range(searcher: Searcher, seed: int = 0) -> LatentRange:
    """By how much mu varies in each dimension: one that the encoder doesn't use stays where it is.

    Raises NothingIndexed.
    """
    return _compute_latent_range(load_aggregate_posterior(searcher).sample(RANGE_SAMPLE_SIZE, seed).mu)


def _compute_latent_range(mu: FloatArray) -> LatentRange:
    deviation = mu.std(axis=0)
    return LatentRange(mu.mean(axis=0), deviation, np.argsort(-deviation, kind="stable").tolist())


def parse_dims(text: str, latent_range: LatentRange) -> list[int]:
    """The dimensions of "1,5,7" ("5," for one alone), or for a bare number the so many most active ones.

    Raises BadSetting.
    """
    count = len(latent_range.activity_order)
    try:
        numbers = [int(number) for number in text.removesuffix(",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and "," not in text:
        if numbers[0] >= 1:
            return latent_range.activity_order[: numbers[0]]
    elif numbers and len(set(numbers)) == len(numbers) and all(0 <= number < count for number in numbers):
        return numbers
    raise BadSetting(
        f"dims can't be {text!r}. Give how many (the most active ones), or different numbers from 0 to {count - 1}: "
        "1,5,7, or 5, for one alone."
    )


def traverse_latents(
    searcher: Searcher,
    latent_input: LatentInput | None = None,
    *,
    dims: str = "8",
    span: float = 3.0,
    steps: int = 9,
    latent_range: LatentRange | None = None,
    with_nearest: bool = True,
) -> LatentTraversal:
    """From a picture, or from the mean of the collection, along each dimension: `span` deviations to either side.

    A deviation is that of the dimension over the collection; `reach`: where it is known already.
    Raises NoDecoder, BadSetting, NothingIndexed.
    """
    check_decoder(searcher, "what a dimension stands for can't be shown")
    place: LatentPoint | None = None if latent_input is None else encode_inputs(searcher, [latent_input])[0]
    name = "the mean of the collection" if place is None else place.name
    latent_range = latent_range or measure_latent_range(searcher)
    chosen = parse_dims(dims, latent_range)
    if not 0 < span < np.inf or steps < 2 or steps * len(chosen) > MAX_TRAVERSAL_IMAGES:
        raise BadSetting(
            f"{len(chosen)} dimensions of {steps} steps over ±{span} can't be: 2 steps at least, {MAX_TRAVERSAL_IMAGES} pictures in "
            "all, and a span above 0."
        )
    start = latent_range.mean if place is None else place.mu
    size = get_content_size(searcher) if place is None else (place.width, place.height)
    offsets = np.linspace(-span, span, steps).astype(np.float32)
    latents = np.tile(start, (len(chosen), steps, 1)).astype(np.float32)
    for row, dim in enumerate(chosen):
        latents[row, :, dim] += offsets * latent_range.deviation[dim]
    flat = latents.reshape(-1, latents.shape[-1])
    frames = decode_latents(searcher, flat, *size)
    hits = find_nearest_images(searcher, flat) if with_nearest else []
    rows = [hits[row * steps : (row + 1) * steps] for row in range(len(chosen))]
    return LatentTraversal(name, chosen, offsets, latents, frames.reshape(*latents.shape[:2], *frames.shape[1:]), rows)


def draw_traversal(searcher: Searcher, traversal: LatentTraversal) -> bytes:
    """PNG: a line for each dimension, below it the nearest real pictures."""
    lines = []
    for dim, frames, hits in zip(traversal.dims, traversal.frames, traversal.nearest_hits, strict=True):
        captions = [f"dimension {dim}\n{step:+.1f}" for step in traversal.steps]
        lines.append([SheetTile(frame, caption) for frame, caption in zip(frames, captions, strict=True)])
        lines.append([make_hit_tile(searcher, hit, "nearest: ") for hit in hits if hit is not None])
    return draw_tile_grid([line for line in lines if line])


def make_manifold(
    searcher: Searcher, *, axes: str = "principal", size: int = 12, seed: int = 0, with_nearest: bool = False
) -> LatentManifold:
    """size x size pictures of a plane through the mean of the collection, evenly by its normal distribution there.

    axes: `principal`, the two directions in which mu varies most, whatever they mix; or two dimensions, "3,7". An
    encoder of two dimensions has the whole of its space in it (Kingma and Welling, arXiv 1312.6114, figure 4).
    Raises NoDecoder, BadSetting, NothingIndexed.
    """
    check_decoder(searcher, "its space can't be shown")
    if not 2 <= size <= 30:
        raise BadSetting(f"size can't be {size}. Use 2 to 30 pictures a side.")
    mu = load_aggregate_posterior(searcher).sample(RANGE_SAMPLE_SIZE, seed).mu
    reach = _compute_latent_range(mu)
    across, down, named = _make_plane(mu, reach, axes)
    places = norm.ppf(np.linspace(*MANIFOLD_QUANTILES, size)).astype(np.float32)
    right, below = np.meshgrid(places, places)
    latents = reach.mean + right.reshape(-1, 1) * across + below.reshape(-1, 1) * down
    hits = find_nearest_images(searcher, latents) if with_nearest else []
    return LatentManifold(named, latents, decode_latents(searcher, latents, *get_content_size(searcher)), hits)


def draw_manifold(searcher: Searcher, latent_manifold: LatentManifold) -> bytes:
    """PNG: the pictures edge to edge, or where these are known, each row above the real pictures nearest to it."""
    size = round(len(latent_manifold.frames) ** 0.5)
    if not latent_manifold.nearest_hits:
        return draw_image_grid(latent_manifold.frames, size)
    lines = []
    for start in range(0, len(latent_manifold.frames), size):
        lines.append([SheetTile(frame, "") for frame in latent_manifold.frames[start : start + size]])
        found = latent_manifold.nearest_hits[start : start + size]
        lines.append([make_hit_tile(searcher, hit, "nearest: ") for hit in found if hit is not None])
    return draw_tile_grid([line for line in lines if line])


def _make_plane(mu: FloatArray, latent_range: LatentRange, axes: str) -> tuple[FloatArray, FloatArray, str]:
    """Two directions (d,), each as long as the collection's deviation along it, and what they are called."""
    if axes != "principal":
        dims = parse_dims(axes if "," in axes else f"{axes},", latent_range)
        if len(dims) != 2:
            raise BadSetting(f"axes can't be {axes!r}. Use principal, or two dimensions such as 3,7.")
        one, other = (
            np.eye(len(latent_range.mean), dtype=np.float32)[dim] * latent_range.deviation[dim] for dim in dims
        )
        return one, other, f"dimensions {dims[0]} and {dims[1]}"
    if mu.shape[1] < 2:
        raise BadSetting("An encoder of one dimension has no plane. Use `simile traverse`.")
    wide = mu.astype(np.float64) - mu.mean(axis=0)
    values, vectors = np.linalg.eigh(wide.T @ wide / len(wide))
    one, other = (vectors[:, -at] * np.sqrt(max(values[-at], 0.0)) for at in (1, 2))
    return one.astype(np.float32), other.astype(np.float32), "the two directions of most variance"
