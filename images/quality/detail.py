"""Measure the detail of an image by octaves: each octave is what a reduction to half the size loses."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DETAIL_SIDES = (1024, 512, 256, 128)  # longer sides, in pixels, at which the detail of two images is compared
MIN_SHARPNESS_SIDE = 16  # an image with a shorter side has too few pixels in the second octave
MIN_SHARPNESS_CONTRAST = 8.0  # levels of standard deviation; with less, rounding hides the finest details
ROUNDING_NOISE = 8.0  # squared levels; far above the 0.25 that rounding adds to each octave of a smooth image

Grey = NDArray[np.float32]


def measure_detail(grey: Grey) -> tuple[float, ...]:
    """Return the contrast of the finest octave at the own size, then at each of DETAIL_SIDES that is not larger.

    It is relative to the contrast of the whole image.
    """
    side = max(grey.shape)
    sides = [smaller for smaller in DETAIL_SIDES if smaller <= side]
    contrast = max(1.0, float(grey.std()))
    energies = (_measure_octave(_resize(grey, other / side)) for other in (side, *sides))
    return tuple(round(float(np.sqrt(energy)) / contrast, 4) for energy in energies)


def measure_sharpness(grey: NDArray[Any]) -> float | None:
    """Return the amplitude of the finest octave relative to the next one; None without detail to judge.

    The octaves of a sharp photo have about equal amplitudes, whatever it shows and however it is exposed, because the
    amplitude spectrum of natural images falls as 1 / frequency (Field 1987). Blur reduces the finest octave most. A
    sharp object before a blurred background counts as sharp, because edges hold most of the energy.

    Args:
        grey: Brightness (H, W), 0 to 255; uint8 is fastest. Values of images of one size can be compared.
    """
    if min(grey.shape) < MIN_SHARPNESS_SIDE or cv2.meanStdDev(grey)[1][0, 0] < MIN_SHARPNESS_CONTRAST:
        return None
    fine, coarse = _measure_octave(grey), _measure_octave(_resize(grey, 0.5))
    return float(np.sqrt(fine / (coarse + ROUNDING_NOISE)))


def _measure_octave(grey: NDArray[Any]) -> float:
    """Return the mean square of what a reduction to half the size loses."""
    half = _resize(grey, 0.5)
    back = cv2.resize(half, grey.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.norm(grey, back, cv2.NORM_L2SQR) / grey.size


def _resize(grey: NDArray[Any], scale: float) -> NDArray[Any]:
    if scale == 1:
        return grey
    size = tuple(max(1, round(length * scale)) for length in grey.shape[::-1])
    resized: NDArray[Any] = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return resized
