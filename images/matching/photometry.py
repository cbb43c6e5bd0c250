"""Give two aligned images the same sharpness, colours, tones and light, so that what differs can be seen."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.core.records import Float64Array
from simile.images.formats import Pixels
from simile.images.matching.features import Float32Array

Mask = NDArray[np.bool_]

EDGE_SIGMA = 2.0  # pixels of half the size; edges at this scale are compared to find the sharper image
EDGE_QUANTILE = 0.85  # of the gradients of an image, above which an edge is strong
MAX_SHARPNESS_RATIO = 1.2  # of the gradients at common edges; above it the sharper image is blurred
MAX_BLUR = 8.0  # standard deviation in pixels of half the size
BLUR_STEPS = 6  # halvings of the range of the blur
EQUAL_ERROR = 2.0  # levels; images that differ by less need no other tones
MIN_MODEL_GAIN = 0.75  # share of the error that a more complex model leaves
FIT_ROUNDS, FIT_SHARE = 3, 0.75  # of the colour fit, and the share of the best pixels that each round uses
IDENTITY_WEIGHT = 16.0  # squared levels
TONE_GRID = 256  # of the longer side: finer differences of tones are noise
TONE_BANDS = 64  # of the levels of an image, for the curve between the levels of two images
MIN_TONE_DEVIATION = 12.0  # levels
SATURATED_LEVELS = (3, 252)  # a level below or above may stand for any level beyond
SATURATED_QUANTILE = 0.1  # of the first image's levels where the second is saturated
MAX_SATURATED_RANGE = 48  # levels from the median of these; ink where the other image has paper is no saturation
MAX_LIGHT_DIFFERENCE = 20.0  # levels
MIN_PIXELS = 100  # of an overlap


def match_appearance(first: Float32Array, second: Float32Array, mask: Mask) -> tuple[Float32Array, Float32Array]:
    """Return both images (h, w, c), the sharper one blurred, and the second with the first's colours and light.

    Args:
        mask: (h, w), True where both images have pixels.
    """
    if mask.sum() < MIN_PIXELS:
        return first, second
    first, second = _match_sharpness(first, second, mask)
    # Take the simplest model that explains the levels: each distorts rare or covered colours.
    matched, error = second, _compute_error(first, second, mask)
    models = [second] if first.shape[2] == 1 else [second, _match_colours(first, second, mask)]
    for model in models:
        if error <= EQUAL_ERROR:
            break
        candidate = _match_levels(first, model, mask)
        candidate_error = _compute_error(first, candidate, mask)
        if candidate_error < MIN_MODEL_GAIN * error:
            matched, error = candidate, candidate_error
    return first, matched


def compute_tone_difference(first: Float32Array, second: Float32Array, mask: Mask) -> float:
    """Return how far the levels of two images (h, w, c) differ on average, coarsely, without what differs most."""
    if mask.sum() < MIN_PIXELS:
        return 0.0
    sigma = max(mask.shape) / TONE_GRID
    blurred = [keep_channels(cv2.GaussianBlur(image, (0, 0), sigma)) for image in (first, second)]
    return _compute_error(blurred[0], blurred[1], mask)


def keep_channels(image: NDArray[Any]) -> NDArray[Any]:
    """Return (h, w, c): OpenCV drops a single channel."""
    return image if image.ndim == 3 else image[:, :, None]


def to_bytes(levels: Float32Array) -> Pixels:
    """Round levels to 0 to 255."""
    rounded: Pixels = np.clip(levels + 0.5, 0, 255).astype(np.uint8)
    return rounded


def _match_levels(first: Float32Array, second: Float32Array, mask: Mask) -> Float32Array:
    """Return the second image with the tones and the light of the first in each channel."""
    channels = (
        _match_light(first[:, :, channel], _match_tones(first[:, :, channel], second[:, :, channel], mask), mask)
        for channel in range(first.shape[2])
    )
    return np.stack(list(channels), axis=2)


def _compute_error(first: Float32Array, second: Float32Array, mask: Mask) -> float:
    """Return the mean difference of levels of the pixels that differ least, FIT_SHARE of all."""
    errors = np.abs(first[::4, ::4] - second[::4, ::4]).max(2)[mask[::4, ::4]]
    return float(errors[errors <= np.quantile(errors, FIT_SHARE)].mean())


def _match_sharpness(first: Float32Array, second: Float32Array, mask: Mask) -> tuple[Float32Array, Float32Array]:
    """Blur the sharper image until the edges that both have are equally steep, measured at half the size."""
    height, width = (max(8, length // 2) for length in mask.shape)
    greys = [
        cv2.resize(
            image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        for image in (first, second)
    ]
    mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    # Common edges: strong in both at a coarse scale, in the same direction.
    coarse = [_compute_gradients(cv2.GaussianBlur(grey, (0, 0), EDGE_SIGMA)) for grey in greys]
    lengths = [np.hypot(*gradients) + 1e-6 for gradients in coarse]
    cosines = (coarse[0][0] * coarse[1][0] + coarse[0][1] * coarse[1][1]) / (lengths[0] * lengths[1])
    common = mask & (cosines > 0.9)
    for length in lengths:
        common &= length >= np.quantile(length[::4, ::4][mask[::4, ::4]], EDGE_QUANTILE)
    if common.sum() < MIN_PIXELS // 4:
        return first, second
    steepness = [_compute_steepness(grey, common) for grey in greys]
    if max(steepness) < MAX_SHARPNESS_RATIO * min(steepness):
        return first, second
    # Halve the range of blurs.
    sharper, target = int(np.argmax(steepness)), min(steepness)
    low, high = 0.0, MAX_BLUR
    for _ in range(BLUR_STEPS):
        middle = (low + high) / 2
        is_sharper = _compute_steepness(cv2.GaussianBlur(greys[sharper], (0, 0), middle), common) > target
        low, high = (middle, high) if is_sharper else (low, middle)
    blurred = [first, second]
    blurred[sharper] = keep_channels(cv2.GaussianBlur(blurred[sharper], (0, 0), 2 * high))
    return blurred[0], blurred[1]


def _compute_gradients(grey: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return the derivatives by x and y, (h, w) each."""
    return cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1)


def _compute_steepness(grey: Float32Array, common: Mask) -> float:
    """Return the median of the strongest gradient near each common edge."""
    lengths = np.hypot(*_compute_gradients(grey))
    return float(np.median(cv2.dilate(lengths, np.ones((5, 5), np.uint8))[common])) + 1e-6


def _match_colours(first: Float32Array, second: Float32Array, mask: Mask) -> Float32Array:
    """Return the second image under the affine map of its colours that fits the first best; robust to changes."""
    sampled = np.zeros_like(mask)
    sampled[::8, ::8] = mask[::8, ::8]
    colours, targets = second[sampled], first[sampled]
    homogeneous = np.concatenate([colours, np.ones((len(colours), 1), np.float32)], axis=1).astype(np.float64)
    fitted = np.ones(len(colours), bool)
    transform = np.vstack([np.eye(3), np.zeros((1, 3))])
    for _ in range(FIT_ROUNDS):
        # Some weight on the identity: an overlap of few colours does not determine the map.
        weight = IDENTITY_WEIGHT * fitted.sum()
        normal = homogeneous[fitted].T @ homogeneous[fitted] + weight * np.eye(4)
        identity = np.vstack([np.eye(3), np.zeros((1, 3))])
        transform = np.linalg.solve(normal, homogeneous[fitted].T @ targets[fitted] + weight * identity)
        errors = np.abs(homogeneous @ transform - targets).max(1)
        fitted = errors <= np.quantile(errors, FIT_SHARE)
    return np.asarray(second @ transform[:3].astype(np.float32) + transform[3].astype(np.float32), np.float32)


def _match_tones(first: Float32Array, second: Float32Array, mask: Mask) -> Float32Array:
    """Return the second image with the levels of the first, (h, w) each, by a monotone curve.

    The curve goes through the medians of bands of levels. A band with scattered levels in the first image shows
    something else there, as the letters of another caption, and does not count.
    """
    # Count pairs of levels, (256, 256): of the second image, then of the first.
    pairs = 256 * to_bytes(second[mask]).astype(np.int64) + to_bytes(first[mask])
    counts = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    sources, targets = _fit_tone_curve(counts)
    if not len(sources):
        return second
    # Beyond the outer points the curve continues with slope 1. All its points are whole levels, so that a table of the
    # levels holds it.
    grid = np.arange(-256, 513)
    sources = np.concatenate([[sources[0] - 255], sources, [sources[-1] + 255]])
    targets = np.concatenate([[targets[0] - 255], targets, [targets[-1] + 255]])
    table = np.interp(grid, sources, targets).astype(np.float32)
    positions = np.clip(second, grid[0], grid[-2]) - np.float32(grid[0])
    rows = positions.astype(np.int32)
    matched = table[rows] + (positions - rows) * np.diff(table)[rows]
    # A saturated level of the second image may stand for any level beyond.
    low, high = SATURATED_LEVELS
    dark, bright = counts[: low + 1].sum(0), counts[high:].sum(0)
    if dark.sum() >= MIN_PIXELS:
        bound = min(_find_quantile(dark, 1 - SATURATED_QUANTILE), _find_quantile(dark, 0.5) + MAX_SATURATED_RANGE)
        matched = np.where(second <= low, np.minimum(first, bound), matched)
    if bright.sum() >= MIN_PIXELS:
        bound = max(_find_quantile(bright, SATURATED_QUANTILE), _find_quantile(bright, 0.5) - MAX_SATURATED_RANGE)
        matched = np.where(second >= high, np.maximum(first, bound), matched)
    return np.asarray(matched, np.float32)


def _fit_tone_curve(counts: NDArray[np.int64]) -> tuple[Float64Array, Float64Array]:
    """Return the points of the curve: levels of the second image, and the medians of the first there.

    Args:
        counts: (256, 256), how often pairs of levels occur.
    """
    # Bands of the second image's levels with about as many pixels each.
    cumulated = counts.sum(1).cumsum()
    bands = np.minimum((cumulated - 1) * TONE_BANDS // cumulated[-1], TONE_BANDS - 1)
    starts = np.flatnonzero((bands >= 0) & (bands != np.concatenate([[-1], bands[:-1]])))
    before = np.concatenate([[0], cumulated])[starts]
    totals = np.diff(np.concatenate([before, cumulated[-1:]]))
    is_large = totals >= MIN_PIXELS // 2
    if not is_large.any():
        return np.empty(0), np.empty(0)
    # Per band: the median of both images, and the median distance of the first image's levels from theirs.
    levels = np.add.reduceat(counts, starts, axis=0)[is_large].cumsum(1)  # (n, 256), cumulated
    before, totals = before[is_large], totals[is_large]
    sources = np.searchsorted(cumulated, before + totals * 0.5).astype(np.float64)
    medians = (levels >= totals[:, None] * 0.5).argmax(1)
    distances, rows = np.arange(256)[None], np.arange(len(medians))[:, None]
    above, below = medians[:, None] + distances, medians[:, None] - distances - 1
    inside = levels[rows, np.minimum(above, 255)] - np.where(below < 0, 0, levels[rows, np.maximum(below, 0)])
    deviations = (inside >= totals[:, None] * 0.5).argmax(1)
    reliable = deviations <= max(MIN_TONE_DEVIATION, 2 * float(np.median(deviations)))
    return sources[reliable], np.maximum.accumulate(medians[reliable]).astype(np.float64)


def _match_light(first: Float32Array, second: Float32Array, mask: Mask) -> Float32Array:
    """Return the second image (h, w) under the light of the first, where it differs on large parts of the image."""
    sigma = max(first.shape) / 16
    step = max(1, round(sigma / 8))  # a blur of so many pixels needs no finer grid
    residual = ((first - second) * mask).clip(-MAX_LIGHT_DIFFERENCE, MAX_LIGHT_DIFFERENCE)
    height, width = (max(1, length // step) for length in first.shape)
    small, weight = (
        cv2.GaussianBlur(
            cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA), (0, 0), sigma / step
        )
        for values in (residual, mask)
    )
    return np.asarray(second + cv2.resize(small / (weight + 1e-3), first.shape[::-1]), np.float32)


def _find_quantile(counts: NDArray[np.int64] | Float64Array, share: float) -> int:
    """Return a quantile of levels, given how often each occurs."""
    return int(np.searchsorted(counts.cumsum(), counts.sum() * share))
