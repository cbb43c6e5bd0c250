"""Draw the difference between two images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.formats import Pixels
from simile.images.matching.alignment import align_images
from simile.images.matching.changes import ChangedRegion, find_changes
from simile.images.matching.features import Float32Array, ImageFeatures
from simile.images.matching.homography import Matrix

FRAME_COLOUR = (30, 80, 200)


def warp_onto(first: Pixels, second: Pixels) -> Pixels | None:
    """Return the second image aligned to the first, (H, W, 3) of the first's size; None if it can't be aligned."""
    matrix = align_images(ImageFeatures(first), ImageFeatures(second)).matrix
    return None if matrix is None else _warp_pixels(second, matrix, first.shape)


def draw_difference(first: Pixels, second: Pixels, changes: Sequence[ChangedRegion] | None = None) -> Pixels:
    """Draw the first image in pale grey, differences of the second in red, and a hatch where the second ends.

    Brightness and contrast are equalised first. Images that cannot be aligned are stretched onto each other.

    Args:
        changes: Regions that get a frame; None: those that `find_changes` finds.
    """
    # Align the second image to the first.
    matrix = align_images(ImageFeatures(first), ImageFeatures(second)).matrix
    if matrix is None:
        matrix = np.diag([first.shape[1] / second.shape[1], first.shape[0] / second.shape[0], 1.0])
    aligned = _warp_pixels(second, matrix, first.shape)
    overlap = _warp_pixels(np.full_like(second, 255), matrix, first.shape, cv2.BORDER_CONSTANT)[:, :, 0] > 127
    # Blend pale grey with red by how much each pixel differs.
    difference = _compute_difference(first.astype(np.float32), aligned.astype(np.float32), overlap)[:, :, None]
    pale = 255 - 0.45 * (255 - cv2.cvtColor(first, cv2.COLOR_RGB2GRAY).astype(np.float32))
    blended = pale[:, :, None] * (1 - difference) + np.array([214, 40, 57], np.float32) * difference
    # Hatch the part outside the overlap.
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    step = max(6, max(first.shape) // 48)
    blended[~overlap & ((x + y) % step < step / 3)] = 190
    # Frame what each has and the other lacks.
    if changes is None:
        changes = find_changes(first, second, matrix).regions
    height, width = first.shape[:2]
    line = max(1, max(first.shape) // 240)
    for (left, top, right, bottom), _ in changes:
        corners = [
            (left * width - 2 * line, top * height - 2 * line),
            (right * width + 2 * line, bottom * height + 2 * line),
        ]
        start, end = ((round(x), round(y)) for x, y in corners)
        cv2.rectangle(blended, start, end, FRAME_COLOUR, line)
    drawn: Pixels = np.clip(blended, 0, 255).astype(np.uint8)
    return drawn


def _compute_difference(first: Float32Array, second: Float32Array, overlap_mask: NDArray[np.bool_]) -> Float32Array:
    """Return how much two images (H, W, 3) differ beyond brightness and contrast: (H, W), 0 to 1, 0 outside."""
    blur = max(1.0, max(first.shape) / 128)
    first, second = (cv2.GaussianBlur(image, (0, 0), blur) for image in (first, second))
    if overlap_mask.any():
        for channel in range(3):
            values, other = first[..., channel][overlap_mask], second[..., channel][overlap_mask]
            gain = np.clip((values.std() + 1) / (other.std() + 1), 0.5, 2)
            second[..., channel] = (second[..., channel] - np.median(other)) * gain + np.median(values)
    # Differences below 20 of 255 are noise, from 80 on full red.
    difference: Float32Array = np.clip((np.abs(first - second).max(2) - 20) / 60, 0, 1) * overlap_mask
    return difference


def _warp_pixels(pixels: Pixels, matrix: Matrix, shape: tuple[int, ...], border: int = cv2.BORDER_REPLICATE) -> Pixels:
    """Return the pixels under a homography, in an image of this (height, width, …)."""
    warped: Pixels = cv2.warpPerspective(pixels, matrix, (shape[1], shape[0]), borderMode=border)
    return warped
