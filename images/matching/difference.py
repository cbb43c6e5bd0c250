"""What differs between two pictures, to look at."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.matching.alignment import align_images
from simile.images.matching.features import Float32Array, ImageFeatures, Pixels
from simile.images.matching.homography import Matrix


def warp_onto(first: Pixels, second: Pixels) -> Pixels | None:
    """The second picture as it lies on the first, (H, W, 3) of the first's size; None where it can't be laid there."""
    matrix = align_images(ImageFeatures(first), ImageFeatures(second)).matrix
    return None if matrix is None else _warp_pixels(second, matrix, first.shape)


def draw_difference(first: Pixels, second: Pixels) -> Pixels:
    """The first picture in pale grey, in red what the second shows otherwise, hatched where it shows nothing.

    Pixels (H, W, 3) in and out, of the first's size. Light and contrast are evened out before. Pictures that can't be
    laid on each other are stretched.
    """
    matrix = align_images(ImageFeatures(first), ImageFeatures(second)).matrix
    if matrix is None:
        matrix = np.diag([first.shape[1] / second.shape[1], first.shape[0] / second.shape[0], 1.0])
    over = _warp_pixels(second, matrix, first.shape)
    shown = _warp_pixels(np.full_like(second, 255), matrix, first.shape, cv2.BORDER_CONSTANT)[:, :, 0] > 127
    differs = _compute_difference(first.astype(np.float32), over.astype(np.float32), shown)[:, :, None]
    pale = 255 - 0.45 * (255 - cv2.cvtColor(first, cv2.COLOR_RGB2GRAY).astype(np.float32))
    mixed = pale[:, :, None] * (1 - differs) + np.array([214, 40, 57], np.float32) * differs
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    step = max(6, max(first.shape) // 48)
    mixed[~shown & ((x + y) % step < step / 3)] = 190
    found: Pixels = np.clip(mixed, 0, 255).astype(np.uint8)
    return found


def _compute_difference(first: Float32Array, second: Float32Array, overlap_mask: NDArray[np.bool_]) -> Float32Array:
    """How much two pictures (H, W, 3) differ beyond light and contrast where both show something, (H, W), 0 to 1."""
    blur = max(1.0, max(first.shape) / 128)
    first, second = (cv2.GaussianBlur(picture, (0, 0), blur) for picture in (first, second))
    if overlap_mask.any():
        for channel in range(3):
            ours, theirs = first[..., channel][overlap_mask], second[..., channel][overlap_mask]
            gain = np.clip((ours.std() + 1) / (theirs.std() + 1), 0.5, 2)
            second[..., channel] = (second[..., channel] - np.median(theirs)) * gain + np.median(ours)
    differs: Float32Array = np.clip((np.abs(first - second).max(2) - 20) / 60, 0, 1) * overlap_mask
    return differs


def _warp_pixels(pixels: Pixels, matrix: Matrix, shape: tuple[int, ...], border: int = cv2.BORDER_REPLICATE) -> Pixels:
    warped: Pixels = cv2.warpPerspective(pixels, matrix, (shape[1], shape[0]), borderMode=border)
    return warped
