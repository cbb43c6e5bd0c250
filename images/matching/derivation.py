"""Decide whether one of two near copies can have been made from the other, so that nothing is lost without it.

Measurements of the single files (measurement.py) can be misled: added grain looks like detail, and a lossless file of
a bad WebP like a good one. Here the two files are compared directly, in blocks of 8 × 8 DCT coefficients. A copy that
was made of a source by compression has no coefficient that exceeds that of the source by more than the rounding of its
codec, half a quantisation step for JPEG. If the source was made of the copy instead, its coefficients lie near the
multiples of the copy's steps (as in the history of one file), or the smoothing by another codec shows as
coefficients that are too small. An enlarged image has no detail that a linear filter of the smaller one can't predict.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin

from simile.core.errors import UnreadableImage
from simile.images.decoding import decode_image
from simile.images.formats import Limits, Pixels
from simile.images.matching.features import Float32Array
from simile.images.measurement import compute_dct, read_codec

LOSSLESS_STEP, RESIZED_STEP, LOSSY_STEP = 2.0, 6.0, 32.0  # levels; WebP of quality 60 stays within the last one
ROUNDING = 1.0  # of pixels and of the conversion between colour spaces
MEAN_ROUNDING = 3.0  # eight times the mean level of a block
HALF_CHROMA_FACTOR = 1.5  # times the steps of chroma that was enlarged when it was decoded
MAX_EXCESS = 0.003  # share of the coefficients; copies of photos and scans reached 0.0008, other files 0.01 to 0.7
MAX_RESIZED_EXCESS = 0.01  # the same at another size, because the filter is not known; copies reached 0.007
MAX_CHROMA_EXCESS = 0.02  # copies reached 0.013, less chroma 0.05 to 0.9
MAX_PERIODICITY = 0.2  # mean cosine of the coefficients over the steps of the copy; of copies with coarser steps ±0.18
MAX_FOLLOWING_SHARE = 0.85  # of the coefficients of a source; of copies with coarser steps up to 0.82
FINER_STEPS = 1.25  # times
MIN_PERIODIC_STEP = 3.0  # finer steps look like rounding
MIN_COEFFICIENTS = 50  # to say anything
MIN_ENLARGEMENT = 1.02  # times as wide
MAX_PREDICTED_SHARE = 0.65  # of the finest detail; of real detail up to 0.6, of nearest pixels at least 0.87
FILTER_REACH = 2  # pixels
MIN_PREDICTED_SIDE, PREDICTED_SIDE = 24, 768  # pixels; of a larger image the middle part is predicted
STRIP_ROWS = 512  # that are transformed at a time
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)

_RESIZING_FILTERS = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)
UNDO_ORIENTATION = {  # transposition from an upright image to the rows that its file stores, by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
Steps = NDArray[np.float32]  # (8, 8)


@dataclass(frozen=True, kw_only=True)
class CodedImage:
    """An image with what its codec may have changed."""

    pixels: Pixels  # upright
    orientation: int  # of EXIF
    codec: str
    tables: tuple[Steps, ...]  # quantisation steps of luma and chroma of a JPEG
    has_half_chroma: bool  # of a JPEG

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def turn_back(self, pixels: Pixels) -> Pixels:
        """Turn an upright image as this one's file stores it."""
        turned = UNDO_ORIENTATION.get(self.orientation)
        return pixels if turned is None else np.asarray(Image.fromarray(pixels).transpose(turned))

    def get_steps(self, channel: int, *, is_resized: bool) -> Steps:
        """Return the largest steps to which the coefficients may have been rounded; channel 0 is luma."""
        if self.tables:
            return self.tables[min(channel, 1, len(self.tables) - 1)]
        step = LOSSY_STEP if self.codec != "lossless" else RESIZED_STEP if is_resized else LOSSLESS_STEP
        return np.full((8, 8), step, np.float32)


def read_coded_image(data: bytes, name: str | Path, limits: Limits) -> CodedImage:
    """Decode an image at full size, and read how it was compressed. Raises UnreadableImage."""
    image = decode_image(data, name=name, limits=limits)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", image.format.upper())) as im:
            tables = [list(table) for _, table in sorted((getattr(im, "quantization", None) or {}).items())]
            orientation = int(im.getexif().get(ExifTags.Base.Orientation, 1)) if tables else 1
            codec = read_codec(im, data)
            has_half_chroma = bool(tables) and JpegImagePlugin.get_sampling(im) not in (-1, 0)
    except Exception as error:  # as in `decode_image`: parsers raise anything on a damaged file
        raise UnreadableImage(name, "its properties can't be read") from error
    steps = tuple(np.array(table, np.float32).reshape(8, 8) for table in tables if len(table) == 64)
    return CodedImage(
        pixels=image.pixels, orientation=orientation, codec=codec, tables=steps, has_half_chroma=has_half_chroma
    )


def can_be_made_of(copy: CodedImage, source: CodedImage) -> bool:
    """Return whether an image of the same frame is a compressed, reduced or grey copy of another one.

    False means that it is not known, or that the source may as well be made of the copy.
    """
    scale = source.size[0] / copy.size[0]
    sides = zip(source.size, copy.size, strict=True)
    # Other codecs have no steps in these blocks, and an image smaller than a block has none.
    is_comparable = (scale > 1 or copy.codec in ("lossless", "jpeg")) and min(copy.size) >= 8
    if not is_comparable or scale < 1 or any(abs(side - scale * other) > max(1.0, scale) for side, other in sides):
        return False
    resized = _iterate_resized(source.pixels, copy.size)
    if not any(compare_blocks(copy, source, pixels).is_loss(is_resized=scale > 1) for pixels in resized):
        return False
    return scale < MIN_ENLARGEMENT or predict_detail(source.pixels, copy.pixels) <= MAX_PREDICTED_SHARE


class BlockComparison(NamedTuple):
    """How the DCT coefficients of a copy and of its source, at the copy's size, differ.

    Attributes:
        luma, chroma: The share of the copy's coefficients that exceed those of the source.
        mean: The share of the blocks with another mean brightness.
        inverse: The share of the source's coefficients that follow from those of the copy, or how near they are to
            multiples of the copy's steps.
    """

    luma: float
    chroma: float
    mean: float
    inverse: float

    def is_loss(self, *, is_resized: bool) -> bool:
        """Return whether the copy only lost something."""
        limit = MAX_RESIZED_EXCESS if is_resized else MAX_EXCESS
        return max(self.luma, self.mean) <= limit and self.chroma <= MAX_CHROMA_EXCESS and self.inverse <= 1


def compare_blocks(copy: CodedImage, source: CodedImage, resized: Pixels) -> BlockComparison:
    """Compare the coefficients of a copy with those of its source.

    Args:
        resized: The source at the copy's size.
    """
    is_resized = copy.size != source.size
    ratio = copy.size[0] / source.size[0]
    exceeding, seen = np.zeros(2), np.zeros(2)
    means, inverse, counts = 0, 0.0, np.zeros(2)
    stored = [copy.turn_back(pixels) for pixels in (copy.pixels, resized)]
    for top in range(0, stored[0].shape[0] // 8 * 8, STRIP_ROWS):
        strips = [pixels[top : top + STRIP_ROWS].astype(np.float32) for pixels in stored]
        for channel, weights in enumerate((LUMA, *CHROMA)):
            steps = copy.get_steps(channel, is_resized=is_resized)
            planes = [strip @ weights - (0 if channel else 128) for strip in strips]
            if channel and copy.has_half_chroma:
                planes, steps = [_halve(plane) for plane in planes], HALF_CHROMA_FACTOR * steps
            own, original = (compute_dct(plane) for plane in planes)
            tolerance = ROUNDING + steps / 2
            source_steps = source.get_steps(channel, is_resized=False)
            if source.tables:  # another copy, with finer steps, of the source's original is as good
                tolerance = tolerance + np.where(FINER_STEPS * source_steps < steps, ratio * source_steps / 2, 0)
            if not channel:
                if copy.tables:
                    own = np.round(own / steps) * steps
                means += int(np.count_nonzero(np.abs(own - original)[:, 0, 0] > tolerance[0, 0] + MEAN_ROUNDING))
                counts[0] += len(own)
            is_seen = np.abs(own) >= 0.99 * steps
            is_seen[:, 0, 0] = False
            exceeding[min(channel, 1)] += np.count_nonzero((np.sign(own) * (own - original) > tolerance) & is_seen)
            seen[min(channel, 1)] += np.count_nonzero(is_seen)
            if copy.tables and not channel:
                is_seen &= steps >= MIN_PERIODIC_STEP
                if source.tables and not is_resized:
                    is_near = np.abs(original - np.round(own / source_steps) * source_steps) <= ROUNDING
                    inverse += np.count_nonzero(is_near & is_seen) / MAX_FOLLOWING_SHARE
                else:
                    inverse += float(np.cos(2 * np.pi * (original / steps)[is_seen]).sum()) / MAX_PERIODICITY
                counts[1] += np.count_nonzero(is_seen)
    shares = exceeding / np.maximum(seen, MIN_COEFFICIENTS)
    if source.tables and copy.tables and source.tables[0].mean() > FINER_STEPS * copy.tables[0].mean():
        inverse = 0.0  # a copy with finer steps; that of a better source would exceed it
    return BlockComparison(
        luma=float(shares[0]),
        chroma=float(shares[1]),
        mean=means / max(counts[0], 1.0),
        inverse=inverse / max(counts[1], MIN_COEFFICIENTS),
    )


def predict_detail(source: Pixels, copy: Pixels) -> float:
    """Return the share of the finest detail that a linear filter of a smaller copy predicts; 1 for a tiny image."""
    large, small = _to_grey(source), _to_grey(copy)
    if min(large.shape) < MIN_PREDICTED_SIDE:
        return 1.0
    size = large.shape[::-1]
    reduced = cv2.resize(large, small.shape[::-1], interpolation=cv2.INTER_AREA)
    detail = large - cv2.resize(reduced, size, interpolation=cv2.INTER_CUBIC)
    top, left = (max(8, (length - PREDICTED_SIDE) // 2) for length in large.shape)
    bottom, right = (length - start for length, start in zip(large.shape, (top, left), strict=True))
    reach = range(-FILTER_REACH, FILTER_REACH + 1)
    shifts = [
        enlarged[top + y : bottom + y : 3, left + x : right + x : 3].ravel()
        for enlarged in (
            cv2.resize(small, size, interpolation=interpolation)
            for interpolation in (cv2.INTER_NEAREST_EXACT, cv2.INTER_CUBIC, cv2.INTER_LINEAR)
        )
        for y in reach
        for x in reach
    ]
    detail = detail[top:bottom:3, left:right:3]
    values, target = np.stack(shifts, 1).astype(np.float64), detail.ravel().astype(np.float64)
    values -= values.mean(0)
    weights = np.linalg.solve(values.T @ values + 1e-3 * len(target) * np.eye(values.shape[1]), values.T @ target)
    energy = float((target**2).sum())
    return 1 - float(((target - values @ weights) ** 2).sum()) / energy if energy else 1.0


def _iterate_resized(pixels: Pixels, size: tuple[int, int]) -> Iterator[Pixels]:
    """Yield an image at another size, by each of the usual filters."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        yield pixels
        return
    image = Image.fromarray(pixels)
    for resampling in _RESIZING_FILTERS:
        yield np.asarray(image.resize(size, resampling))
    yield np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _halve(plane: Float32Array) -> Float32Array:
    height, width = (max(1, length // 2) for length in plane.shape)
    halved: Float32Array = cv2.resize(plane[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return halved


def _to_grey(pixels: Pixels) -> Float32Array:
    grey: Float32Array = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey
