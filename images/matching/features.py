"""What is kept of a picture to compare it with others, pixel by pixel."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

KEYPOINT_SIDE = 256  # pixels of the longer side that keypoints are sought in
MAX_DETAIL_SIDE = 192  # pixels of the longer side that pictures are compared at
MIN_KEYPOINT_SIDE = (
    72  # pixels of the longer side: below, keypoints say little, and pictures are enlarged at most fourfold
)
MAX_KEYPOINTS = 500
DESCRIPTOR_SIDE = 32  # pixels a side

cv2.setNumThreads(1)  # pairs are compared in several processes


class ImageFeatures:
    """What is kept of a picture (H, W, 3) uint8 to compare it with others: some 300 kB."""

    def __init__(self, pixels: Pixels) -> None:
        longer = max(pixels.shape[:2])
        self.is_tiny = longer < MIN_KEYPOINT_SIDE
        self.scale = min(KEYPOINT_SIDE / longer, 4.0) if self.is_tiny else KEYPOINT_SIDE / longer
        self.detail_side = round(
            min(MAX_DETAIL_SIDE, 2 * longer)
        )  # pixels of the longer side, beyond which it shows nothing more
        self.rgb = _resize_pixels(pixels, self.scale)  # (h, w, 3)
        self.grey: Pixels = cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `grey`."""
        return self.grey.shape[1], self.grey.shape[0]

    @cached_property
    def keypoints(self) -> tuple[Float32Array, Float32Array]:
        """Points (n, 2) in `grey` and their descriptors (n, 128), of length 1."""
        return _detect_keypoints(self.grey)

    @property
    def mirrored_keypoints(self) -> tuple[Float32Array, Float32Array]:
        """The keypoints as the mirror image has them, at where they are in this one.

        A descriptor holds 4 rows, 4 columns and 8 directions around a keypoint, upright along its own direction: in the
        mirror the rows and the directions run the other way.
        """
        points, descriptors = self.keypoints
        turned = descriptors.reshape(-1, 4, 4, 8)[:, ::-1][..., -np.arange(8) % 8]
        return points, turned.reshape(-1, 128)

    @cached_property
    def thumbnail_descriptor(self) -> Float32Array:
        """(SQUARE, SQUARE), of mean 0 and length 1; zeros where the picture is one plain colour."""
        small = cv2.resize(self.grey, (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
        small -= small.mean()
        length = float(np.linalg.norm(small))
        return small / length if length > DESCRIPTOR_SIDE else np.zeros_like(small)


def _resize_pixels(pixels: Pixels, scale: float) -> Pixels:
    height, width = (max(8, round(side * scale)) for side in pixels.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled: Pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=way)
    return scaled


def _detect_keypoints(grey: Pixels) -> tuple[Float32Array, Float32Array]:
    # Made each time: one finder is not safe to share between threads, and making it costs nothing.
    points, descriptors = cv2.SIFT_create(nfeatures=MAX_KEYPOINTS, contrastThreshold=0.02).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    if descriptors is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    roots = np.sqrt(descriptors / (descriptors.sum(1, keepdims=True) + 1e-7))
    return np.array([point.pt for point in points], np.float32), roots
