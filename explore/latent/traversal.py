"""Traversals along single dimensions of the latent space, and manifolds over two directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from simile.core.errors import BadSetting
from simile.core.records import FloatArray, Hit
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import (
    LatentInput,
    check_decoder,
    decode_latents,
    encode_inputs,
    find_nearest_images,
    get_content_size,
)
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_image_grid, draw_tile_grid
from simile.search.contact_sheet import make_frame_rows
from simile.search.searcher import Searcher

MAX_TRAVERSAL_IMAGES = 1000  # decoded images of one traversal are in memory together
RANGE_SAMPLE_SIZE = 10_000  # images that measure the mean and the deviation of each dimension
MANIFOLD_QUANTILES = (0.02, 0.98)  # of the normal distribution, from edge to edge of a manifold


@dataclass(frozen=True, eq=False)
class LatentRange:
    """The range of the collection in the latent space."""

    mean: FloatArray  # mean (d,) of mu
    deviation: FloatArray  # standard deviation (d,) of mu
    activity_order: list[int]  # all dimensions, the one with the largest deviation first


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentTraversal:
    """A traversal of r dimensions in s steps."""

    name: str  # of the start
    dims: list[int]  # (r)
    steps: FloatArray  # offsets (s,) from the start, in deviations of the collection
    latents: FloatArray  # latent vectors (r, s, d)
    frames: Pixels  # decoded images (r, s, h, w, 3)
    # For each dimension the indexed image nearest to each frame; [] if not requested.
    nearest_hits: list[list[Hit | None]]


@dataclass(frozen=True, eq=False)
class LatentManifold:
    """A plane of size x size decoded images, top left first."""

    axes: str  # the two directions, in words
    latents: FloatArray  # latent vectors (size², d)
    frames: Pixels  # decoded images (size², h, w, 3)
    nearest_hits: list[Hit | None]  # the indexed image nearest to each frame; [] if not requested


def measure_latent_range(searcher: Searcher, seed: int = 0) -> LatentRange:
    """Measure how much mu varies in each dimension over the collection. Raises NothingIndexed."""
    return _compute_latent_range(load_aggregate_posterior(searcher).sample(RANGE_SAMPLE_SIZE, seed).mu)


def _compute_latent_range(mu: FloatArray) -> LatentRange:
    deviation = mu.std(axis=0)
    return LatentRange(mu.mean(axis=0), deviation, np.argsort(-deviation, kind="stable").tolist())


def parse_dims(text: str, latent_range: LatentRange) -> list[int]:
    """Parse a list of dimensions, "1,5,7" or "5,", or a number of dimensions, "8": the most active ones.

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
        "1,5,7, or 5, for a single dimension."
    )


def offset_dimensions(mu: FloatArray, dims: Mapping[int, float], latent_range: LatentRange) -> FloatArray:
    """Return mu (d,) with single dimensions moved, by offsets in deviations of the collection. Raises BadSetting."""
    moved = mu.copy()
    for dim, steps in dims.items():
        if not 0 <= dim < len(mu):
            raise BadSetting(f"dimension must be 0 to {len(mu) - 1}, got {dim}.")
        moved[dim] += np.float32(steps) * latent_range.deviation[dim]
    return moved


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
    """Move one dimension at a time, and leave the others as they are.

    Args:
        latent_input: The start; None for the mean of the collection.
        dims: As `parse_dims` reads them.
        span: Largest offset to either side, in deviations of the collection.
        latent_range: The range of the collection; None to measure it.

    Raises:
        NoDecoder, BadSetting, NothingIndexed. And as `encode_inputs`.
    """
    check_decoder(searcher, "the effect of a dimension can't be shown")
    latent_range = latent_range or measure_latent_range(searcher)
    if latent_input is None:
        name, start, size = "the mean of the collection", latent_range.mean, get_content_size(searcher)
    else:
        (point,) = encode_inputs(searcher, [latent_input])
        name, start, size = point.name, point.mu, (point.width, point.height)
    chosen = parse_dims(dims, latent_range)
    if not 0 < span < np.inf or steps < 2 or steps * len(chosen) > MAX_TRAVERSAL_IMAGES:
        raise BadSetting(
            f"{len(chosen)} dimensions of {steps} steps over ±{span} can't be. Use a span above 0, at least 2 steps, "
            f"and at most {MAX_TRAVERSAL_IMAGES} images in all."
        )
    # Repeat the start for all frames, and move one dimension in each row.
    offsets = np.linspace(-span, span, steps).astype(np.float32)
    latents = np.tile(start, (len(chosen), steps, 1)).astype(np.float32)  # (r, s, d)
    for row, dim in enumerate(chosen):
        latents[row, :, dim] += offsets * latent_range.deviation[dim]
    # Decode and search all frames in one batch.
    flat = latents.reshape(-1, latents.shape[-1])
    frames = decode_latents(searcher, flat, *size)
    hits = find_nearest_images(searcher, flat) if with_nearest else []
    return LatentTraversal(
        name=name,
        dims=chosen,
        steps=offsets,
        latents=latents,
        frames=frames.reshape(*latents.shape[:2], *frames.shape[1:]),
        nearest_hits=[hits[row * steps : (row + 1) * steps] for row in range(len(chosen))],
    )


def draw_traversal(searcher: Searcher, traversal: LatentTraversal) -> bytes:
    """Draw a PNG: a row for each dimension, with the nearest indexed images below it."""
    rows: list[list[SheetTile]] = []
    for dim, frames, hits in zip(traversal.dims, traversal.frames, traversal.nearest_hits, strict=True):
        captions = [f"dimension {dim}\n{step:+.1f}" for step in traversal.steps]
        rows += make_frame_rows(searcher, frames, captions, hits)
    return draw_tile_grid(rows)


def make_manifold(
    searcher: Searcher, *, axes: str = "principal", size: int = 12, seed: int = 0, with_nearest: bool = False
) -> LatentManifold:
    """Decode size x size points of a plane through the mean of the collection.

    The points are at even quantiles of the normal distribution with the collection's deviation (Kingma and Welling,
    arXiv 1312.6114, figure 4). For an encoder of two dimensions the plane is the whole space. `axes` is `principal`,
    the two directions in which mu varies most, or two dimensions, "3,7". Raises NoDecoder, BadSetting, NothingIndexed.
    """
    check_decoder(searcher, "its space can't be shown")
    if not 2 <= size <= 30:
        raise BadSetting(f"size can't be {size}. Use 2 to 30 images a side.")
    mu = load_aggregate_posterior(searcher).sample(RANGE_SAMPLE_SIZE, seed).mu
    latent_range = _compute_latent_range(mu)
    across, down, axes_text = _make_plane(mu, latent_range, axes)
    quantiles = norm.ppf(np.linspace(*MANIFOLD_QUANTILES, size)).astype(np.float32)
    right, below = np.meshgrid(quantiles, quantiles)
    latents = latent_range.mean + right.reshape(-1, 1) * across + below.reshape(-1, 1) * down
    hits = find_nearest_images(searcher, latents) if with_nearest else []
    return LatentManifold(axes_text, latents, decode_latents(searcher, latents, *get_content_size(searcher)), hits)


def draw_manifold(searcher: Searcher, latent_manifold: LatentManifold) -> bytes:
    """Draw a PNG: the images edge to edge; with nearest images, these are below each row."""
    frames, hits = latent_manifold.frames, latent_manifold.nearest_hits
    size = round(len(frames) ** 0.5)
    if not hits:
        return draw_image_grid(frames, size)
    rows: list[list[SheetTile]] = []
    for start in range(0, len(frames), size):
        row = slice(start, start + size)
        rows += make_frame_rows(searcher, frames[row], [""] * size, hits[row])
    return draw_tile_grid(rows)


def _make_plane(mu: FloatArray, latent_range: LatentRange, axes: str) -> tuple[FloatArray, FloatArray, str]:
    """Return two directions (d,), each as long as the collection's deviation along it, and their description."""
    if axes != "principal":
        dims = parse_dims(axes if "," in axes else f"{axes},", latent_range)
        if len(dims) != 2:
            raise BadSetting(f"axes can't be {axes!r}. Use principal, or two dimensions such as 3,7.")
        across, down = np.diag(latent_range.deviation)[dims]
        return across, down, f"dimensions {dims[0]} and {dims[1]}"
    if mu.shape[1] < 2:
        raise BadSetting("An encoder of one dimension has no plane. Use `simile traverse`.")
    # Principal components: eigenvectors of the covariance; eigh sorts them by ascending variance.
    centred = mu.astype(np.float64) - mu.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    scaled = (directions * np.sqrt(np.maximum(variances, 0))).astype(np.float32)
    return scaled[:, -1], scaled[:, -2], "the two directions of most variance"
