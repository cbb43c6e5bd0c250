"""Measure how good the pixels of an image are: sharpness, brightness, contrast, clipped shadows and highlights.

All images are measured at one size, so that their values can be compared, and so that it takes little of the time of
decoding.
"""

from __future__ import annotations

import cv2
import numpy as np

from simile.core.records import ImageQuality
from simile.images.formats import Pixels
from simile.images.quality.detail import measure_sharpness

QUALITY_SIDE = 128  # shorter side in pixels that larger images are reduced to; indexing decodes at least so many
MAX_LONG_SIDE = 2048  # of an image with an extreme aspect


def measure_quality(pixels: Pixels, profile: str = "") -> ImageQuality:
    """Measure an image (H, W, 3), which may be reduced, but not to less than QUALITY_SIDE.

    `profile`: as `DecodedImage.profile`.
    """
    small = _reduce(pixels)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    shares = np.cumsum(counts, dtype=np.float64) / grey.size  # of the pixels that are at most so bright
    _, deviations = cv2.meanStdDev(small)
    sharpness = measure_sharpness(grey)
    return ImageQuality(
        sharpness=None if sharpness is None else round(sharpness, 4),
        brightness=round(cv2.mean(grey)[0] / 255, 4),
        brightness_p5=round(int(np.searchsorted(shares, 0.05)) / 255, 4),
        brightness_p99=round(int(np.searchsorted(shares, 0.99)) / 255, 4),
        contrast=round(float(deviations.max()) / 255, 4),  # red on green of one brightness is contrast, too
        shadows=round(float(shares[1]), 4),
        highlights=round(float(1 - shares[253]), 4),
        profile=profile,
    )


def _reduce(pixels: Pixels) -> Pixels:
    """Return pixels (H, W, 3) with a shorter side of at most QUALITY_SIDE.

    Halving is fast at any size. The last factor is below 2, where linear interpolation is as good as the mean of an
    area, and five times as fast.
    """
    height, width = pixels.shape[:2]
    while min(height, width) >= 2 * QUALITY_SIDE or max(height, width) >= 2 * MAX_LONG_SIDE:
        height, width = max(1, height // 2), max(1, width // 2)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    scale = min(1.0, QUALITY_SIDE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return reduced
