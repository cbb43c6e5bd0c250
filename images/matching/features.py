"""Features of one image for the pixel-by-pixel comparison: keypoints, a small copy, a thumbnail descriptor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.formats import Pixels

Float32Array = NDArray[np.float32]

KEYPOINT_SIDE = 256  # longer side, in pixels, of the image in which keypoints are detected
MAX_DETAIL_SIDE = 192  # longer side, in pixels, at which images are compared
MIN_KEYPOINT_SIDE = 72  # longer side in pixels: below it keypoints say little, and images are enlarged at most fourfold
MAX_KEYPOINTS = 500
DESCRIPTOR_SIDE = 32  # side of the thumbnail descriptor in pixels

cv2.setNumThreads(1)  # pairs are compared in several processes


class ImageFeatures:
    """The features of an image (H, W, 3) uint8, about 300 kB."""

    def __init__(self, pixels: Pixels, pixel_size: tuple[int, int] | None = None) -> None:
        """Reduce an image.

        Args:
            pixels: The image; or, with `pixel_size`, the `rgb` of stored features.
            pixel_size: Width and height of the image.
        """
        self.pixel_size = (pixels.shape[1], pixels.shape[0]) if pixel_size is None else pixel_size
        longer = max(self.pixel_size)
        self.is_tiny = longer < MIN_KEYPOINT_SIDE  # too small for keypoints
        # The scale from the image to `rgb` (h, w, 3) and `grey` (h, w), whose longer side is about KEYPOINT_SIDE.
        self.scale = min(KEYPOINT_SIDE / longer, 4.0) if self.is_tiny else KEYPOINT_SIDE / longer
        self.detail_side = round(min(MAX_DETAIL_SIDE, 2 * longer))  # above this longer side it has no more detail
        self.rgb: Pixels = pixels
        if pixel_size is None:
            width, height = (max(8, round(side * self.scale)) for side in self.pixel_size)
            interpolation = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
            self.rgb = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=interpolation)
        self.grey: Pixels = cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `grey`."""
        return self.grey.shape[1], self.grey.shape[0]

    @cached_property
    def sift_keypoints(self) -> tuple[Float32Array, Float32Array]:
        """Points (n, 2) in `grey` and their SIFT descriptors (n, 128), integers from 0 to 255."""
        # A new detector each time: it is cheap to make and not safe to share between threads.
        detector = cv2.SIFT_create(nfeatures=MAX_KEYPOINTS, contrastThreshold=0.02)  # type: ignore[attr-defined]
        points, descriptors = detector.detectAndCompute(self.grey, None)
        if descriptors is None:
            return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
        return np.array([point.pt for point in points], np.float32), descriptors

    @cached_property
    def keypoints(self) -> tuple[Float32Array, Float32Array]:
        """Points (n, 2) in `grey` and their descriptors (n, 128), of length 1."""
        points, descriptors = self.sift_keypoints
        return points, np.sqrt(descriptors / (descriptors.sum(1, keepdims=True) + 1e-7))

    def save(self, path: Path, **other: NDArray[np.generic]) -> None:
        """Write the features and other arrays, in one step: another process may write the same file."""
        arrays = {"rgb": self.rgb, "pixel_size": np.array(self.pixel_size), **other}
        if not self.is_tiny:
            points, descriptors = self.sift_keypoints
            arrays |= {"points": points, "descriptors": descriptors.astype(np.uint8)}
        temporary = path.with_suffix(f".{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ImageFeatures:
        """Return features that were saved."""
        width, height = arrays["pixel_size"].tolist()
        features = cls(arrays["rgb"].astype(np.uint8, copy=False), (width, height))
        if not features.is_tiny:
            points, descriptors = (arrays[name].astype(np.float32, copy=False) for name in ("points", "descriptors"))
            features.sift_keypoints = points, descriptors
        return features

    @property
    def mirrored_keypoints(self) -> tuple[Float32Array, Float32Array]:
        """The points of `keypoints`, with the descriptors that the mirror image has there.

        A descriptor has 4 rows, 4 columns and 8 directions around a keypoint, aligned with the keypoint's direction: in
        the mirror image the rows and the directions are reversed.
        """
        points, descriptors = self.keypoints
        mirrored = descriptors.reshape(-1, 4, 4, 8)[:, ::-1][..., -np.arange(8) % 8]
        return points, mirrored.reshape(-1, 128)

    @cached_property
    def thumbnail_descriptor(self) -> Float32Array:
        """(DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), of mean 0 and length 1; zeros if the image has one plain colour."""
        side = DESCRIPTOR_SIDE
        small = cv2.resize(self.grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        length = float(np.linalg.norm(small))
        return small / length if length > side else np.zeros_like(small)
