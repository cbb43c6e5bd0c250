"""Measure how good the pixels of an image are: sharpness, brightness, contrast, clipped shadows and highlights.

All images are measured at one size, so that their values can be compared, and so that it takes little of the time of
decoding.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.core.records import ImageQuality
from simile.images.formats import Pixels
from simile.images.quality.detail import measure_sharpness

QUALITY_SIDE = 128  # shorter side in pixels that larger images are reduced to; indexing decodes at least so many
MAX_LONG_SIDE = 2048  # of an image with an extreme aspect


def measure_quality(pixels: Pixels, profile: str = "") -> ImageQuality:
    """Measure an image (H, W, 3), which may be reduced, but not to less than QUALITY_SIDE.

    `profile`: as `DecodedImage.profile`.
    """
    grey = _reduce(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    shares = np.cumsum(counts, dtype=np.float64) / grey.size  # of the pixels that are at most so bright
    mean, deviation = cv2.meanStdDev(grey)
    sharpness = measure_sharpness(grey)
    return ImageQuality(
        sharpness=None if sharpness is None else round(sharpness, 4),
        brightness=round(float(mean[0, 0]) / 255, 4),
        brightness_p5=round(int(np.searchsorted(shares, 0.05)) / 255, 4),
        brightness_p99=round(int(np.searchsorted(shares, 0.99)) / 255, 4),
        contrast=round(float(deviation[0, 0]) / 255, 4),
        shadows=round(float(shares[1]), 4),
        highlights=round(float(1 - shares[253]), 4),
        profile=profile,
    )


def _reduce(grey: Pixels) -> NDArray[Any]:
    """Return brightness (H, W) with a shorter side of at most QUALITY_SIDE.

    Halving is fast at any size. The last factor is below 2, where linear interpolation is as good as the mean of an
    area, and five times as fast.
    """
    while min(grey.shape) >= 2 * QUALITY_SIDE or max(grey.shape) >= 2 * MAX_LONG_SIDE:
        halves = tuple(max(1, length // 2) for length in grey.shape[::-1])
        grey = cv2.resize(grey, halves, interpolation=cv2.INTER_AREA)
    scale = min(1.0, QUALITY_SIDE / min(grey.shape))
    size = tuple(max(1, round(length * scale)) for length in grey.shape[::-1])
    reduced: NDArray[Any] = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    return reduced
