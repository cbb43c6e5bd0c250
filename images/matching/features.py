"""What is kept of a picture to compare it with others, pixel by pixel."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 256  # pixels of the longer side that keypoints are sought in
FINE = 192  # pixels of the longer side that pictures are compared at
TINY = 72  # pixels of the longer side: below, keypoints say little, and pictures are enlarged at most fourfold
KEYPOINTS = 500
SQUARE = 32  # pixels a side

cv2.setNumThreads(1)  # pairs are compared in several processes


class Portrait:
    """What is kept of a picture (H, W, 3) uint8 to compare it with others: some 300 kB."""

    def __init__(self, pixels: Pixels) -> None:
        longer = max(pixels.shape[:2])
        self.tiny = longer < TINY
        self.scale = min(SIDE / longer, 4.0) if self.tiny else SIDE / longer
        self.detail = round(min(FINE, 2 * longer))  # pixels of the longer side, beyond which it shows nothing more
        self.colours = _scaled(pixels, self.scale)  # (h, w, 3)
        self.grey: Pixels = cv2.cvtColor(self.colours, cv2.COLOR_RGB2GRAY)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `grey`."""
        return self.grey.shape[1], self.grey.shape[0]

    @cached_property
    def keypoints(self) -> tuple[Floats, Floats]:
        """Points (n, 2) in `grey` and their descriptors (n, 128), of length 1."""
        return _keypoints(self.grey)

    @property
    def mirrored(self) -> tuple[Floats, Floats]:
        """The keypoints as the mirror image has them, at where they are in this one.

        A descriptor holds 4 rows, 4 columns and 8 directions around a keypoint, upright along its own direction: in the
        mirror the rows and the directions run the other way.
        """
        points, descriptors = self.keypoints
        turned = descriptors.reshape(-1, 4, 4, 8)[:, ::-1][..., -np.arange(8) % 8]
        return points, turned.reshape(-1, 128)

    @cached_property
    def square(self) -> Floats:
        """(SQUARE, SQUARE), of mean 0 and length 1; zeros where the picture is one plain colour."""
        small = cv2.resize(self.grey, (SQUARE, SQUARE), interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        length = float(np.linalg.norm(small))
        return small / length if length > SQUARE else np.zeros_like(small)


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    height, width = (max(8, round(side * scale)) for side in pixels.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled: Pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=way)
    return scaled


def _keypoints(grey: Pixels) -> tuple[Floats, Floats]:
    # Made each time: one finder is not safe to share between threads, and making it costs nothing.
    points, descriptors = cv2.SIFT_create(nfeatures=KEYPOINTS, contrastThreshold=0.02).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    if descriptors is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    roots = np.sqrt(descriptors / (descriptors.sum(1, keepdims=True) + 1e-7))
    return np.array([point.pt for point in points], np.float32), roots
