"""Tasks of worker processes for deduplication: pixel digests, synthetic copies, comparisons of two files."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from PIL import Image

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.codecs.raw import RAW_FORMAT
from simile.images.decoding import DecodedImage, decode_image
from simile.images.distortions import distort
from simile.images.formats import Limits, Pixels
from simile.images.matching.alignment import AlignmentResult, align_images
from simile.images.matching.changes import NO_CHANGES, ImageChanges, find_changes
from simile.images.matching.derivation import can_be_made_of, read_coded_image
from simile.images.matching.features import KEYPOINT_SIDE, Float32Array, ImageFeatures
from simile.images.measurement import (
    ImageMeasurement,
    describe_colours,
    find_appended_media,
    measure_image,
    read_deep_pixels,
    read_depth,
)
from simile.images.sources.paths import CHANGED_REASON
from simile.images.sources.reader import make_failure, read_bytes
from simile.images.transforms import Preprocessing

FEATURE_CACHE_SIZE = 800  # images in each process: 250 MB
MIN_FREE_DISK = 4 << 30  # bytes; with less, features are not stored in files
FINE_CACHE_SIZE = 8  # images in each process: at most 100 MB
MIN_FINE_SIDE = 1024  # shorter side, in pixels, at which a larger JPEG may be decoded to find changes
MAX_FINE_SIDE = 2048  # longer side, in pixels, at which changes are searched
OPAQUE_FORMATS = ("jpeg", "bmp")  # formats without transparency
PARTLY_DECODED_FORMATS = (RAW_FORMAT, "psd")  # with the values of a sensor, or with layers, which are no frames
MAX_COPY_SIDE = 512  # shorter side, in pixels, from which copies are made: larger JPEGs are decoded at a smaller scale


HashedPath = tuple[str, str]  # the path of a file, and the SHA-256 of the bytes that were indexed there


@dataclass(frozen=True)
class CopySpec:
    """A distorted copy to make of a file; the same seed makes the same copy."""

    path: str
    kind: str
    seed: tuple[int, ...]


def compute_file_digest(path: str, limits: Limits) -> str | Failure:
    """Return `compute_pixel_digest` of a file."""
    try:
        return compute_pixel_digest(read_bytes(path, limits), path, limits)
    except (UnreadableImage, MemoryError) as error:
        return make_failure(path, error)


def compute_pixel_digest(data: bytes, name: str, limits: Limits) -> str:
    """Return the SHA-256 of an image as it is shown: upright, 8 bits per channel, whatever the container.

    The image is decoded over white and over black, so that transparency counts. What changes the look or is not shown
    counts too: the colour profile by its meaning, further frames, pages and images, and more than 8 bits. Raises
    UnreadableImage.
    """
    white = decode_image(data, name=name, limits=limits)
    black = white
    if white.format not in OPAQUE_FORMATS:
        black = decode_image(data, name=name, limits=limits, background="#000000")
    hidden = _hash_hidden_content(data, name, white.format)
    return hashlib.sha256(_hash_pixels(white.pixels) + _hash_pixels(black.pixels) + hidden).hexdigest()


def measure_file(file: HashedPath, limits: Limits) -> ImageMeasurement | Failure:
    """Return the measurement of a file; a Failure if it was changed or cannot be read."""
    path, _ = file
    try:
        return measure_image(_read_indexed(file, limits), path, limits)
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, error.reason if isinstance(error, UnreadableImage) else "there is not enough memory")


def compute_thumbnail_descriptor(path: str, limits: Limits) -> Float32Array | Failure:
    """Return the thumbnail descriptor of a file (matching/features.py), for a rough comparison."""
    try:
        return _load_comparable_image(path, limits).features.thumbnail_descriptor
    except (UnreadableImage, MemoryError) as error:
        return make_failure(path, error)


def compare_files(
    paths: tuple[str, str], limits: Limits, feature_folder: str | None = None
) -> AlignmentResult | Failure:
    """Return whether one of two files is a copy of the other; a Failure if one cannot be read any more.

    The matrix of the result is from the unit square of the second image to that of the first.

    Args:
        feature_folder: An existing folder for the features of the files, which must not change while it exists.
    """
    try:
        first, second = (_load_comparable_image(path, limits, feature_folder) for path in paths)
    except UnreadableImage as error:
        return Failure(error.name, error.reason)
    except MemoryError as error:
        return make_failure(paths[0], error)
    result = first.compare(second)
    if result.matrix is None:
        return result
    to_pixels = [np.diag([*map(float, image.features.pixel_size), 1.0]) for image in (first, second)]
    return replace(result, matrix=np.linalg.inv(to_pixels[0]) @ result.matrix @ to_pixels[1])


def find_file_changes(
    files: tuple[HashedPath, HashedPath], limits: Limits, feature_folder: str | None = None
) -> ImageChanges | Failure:
    """Return what one of two near copies has and the other lacks; a Failure if one was changed or cannot be read.

    `feature_folder`: as in `compare_files`.
    """
    try:
        first, second = (_load_comparable_image(path, limits, feature_folder) for path, _ in files)
        fine = [_load_fine_pixels(file, limits) for file in files]
        found = find_copy_changes(first.compare(second), (first, second), (fine[0], fine[1]))
        return _find_derivation(found, files, limits)
    except UnreadableImage as error:
        return Failure(error.name, error.reason)
    except MemoryError as error:
        return make_failure(files[0][0], error)


def _find_derivation(changes: ImageChanges, files: tuple[HashedPath, HashedPath], limits: Limits) -> ImageChanges:
    """Add which of two files may have more than the other; both if they differ in another way anyway."""
    may_have_more = [True, True]
    if replace(changes, area_ratio=1.0) == NO_CHANGES:
        first, second = (read_coded_image(_read_indexed(file, limits), file[0], limits) for file in files)
        may_have_more = [not can_be_made_of(first, second), not can_be_made_of(second, first)]
    return replace(changes, first_may_have_more=may_have_more[0], second_may_have_more=may_have_more[1])


def find_copy_changes(
    result: AlignmentResult, images: tuple[ComparableImage, ComparableImage], fine: tuple[Pixels, Pixels]
) -> ImageChanges:
    """Return what one of two images that were compared has and the other lacks.

    Args:
        result: Of the comparison.
        fine: Both images as `make_fine_pixels` returns them.
    """
    if result.matrix is None:
        return NO_CHANGES
    # The matrix is between the pixels from which the features come, which may have been decoded at a smaller scale.
    first, second = (
        np.diag([pixels.shape[1] / image.features.pixel_size[0], pixels.shape[0] / image.features.pixel_size[1], 1.0])
        for pixels, image in zip(fine, images, strict=True)
    )
    return find_changes(*fine, first @ result.matrix @ np.linalg.inv(second))


def make_fine_pixels(data: bytes, name: str, limits: Limits) -> Pixels:
    """Decode an image for `find_copy_changes`, (h, w, 3) uint8, at most MAX_FINE_SIDE high and wide.

    Raises UnreadableImage.
    """
    pixels = decode_image(data, name=name, limits=limits, min_side=MIN_FINE_SIDE // 2).pixels
    scale = MAX_FINE_SIDE / max(pixels.shape)
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return pixels


@dataclass(frozen=True)
class ComparableImage:
    """The features of an image, for comparisons. Only the first frame or page is compared."""

    features: ImageFeatures
    has_more_frames: bool

    def compare(self, other: ComparableImage) -> AlignmentResult:
        """Align two images; images with several frames are no copies just because their first frames are."""
        result = replace(align_images(self.features, other.features), features=None)
        if result.is_copy and (self.has_more_frames or other.has_more_frames):
            return replace(result, is_copy=False, reason="only the first of several frames is the same view")
        return result


def make_comparable_image(data: bytes, name: str, limits: Limits) -> ComparableImage:
    """Decode an image and compute its features. Raises UnreadableImage."""
    image = decode_image(data, name=name, limits=limits, min_side=KEYPOINT_SIDE)
    has_frames = image.format not in (*OPAQUE_FORMATS, *PARTLY_DECODED_FORMATS)
    has_more_frames = has_frames and _count_frames(data, image.format) > 1
    return ComparableImage(ImageFeatures(image.pixels), has_more_frames)


def extract_features(data: bytes, name: str, limits: Limits) -> ComparableImage:
    """Return `make_comparable_image` with its keypoints, which are otherwise computed when they are first compared.

    Raises UnreadableImage.
    """
    image = make_comparable_image(data, name, limits)
    if not image.features.is_tiny:
        _ = image.features.keypoints
    return image


def compare_features(_data: bytes, _name: str, first: ComparableImage, second: ComparableImage) -> AlignmentResult:
    """Compare two images that are decoded; for a worker process that decodes files (DecodeFunction)."""
    return first.compare(second)


def make_copies(copies: Sequence[CopySpec], limits: Limits, preprocessing: Preprocessing) -> Pixels | Failure:
    """Make copies of one file as the network's input, (n, S, S, C) uint8."""
    try:
        image = _decode_reduced(copies[0].path, limits, preprocessing.background)
    except (UnreadableImage, MemoryError) as error:
        return make_failure(copies[0].path, error)
    return np.stack([preprocessing.to_array(_make_copy(image, copy)) for copy in copies])


def compare_copy(
    copy_and_others: tuple[CopySpec, Sequence[str]], limits: Limits, feature_folder: str | None = None
) -> list[AlignmentResult | None] | Failure:
    """Compare a synthetic copy with its original and with other files.

    Return one result for the original, then one for each other file (None if it can't be read); a Failure if the
    original cannot be read, or has several frames: then no file is a near copy of it. `feature_folder`: as in
    `compare_files`.
    """
    copy, others = copy_and_others
    try:
        original = _load_comparable_image(copy.path, limits, feature_folder)
        if original.has_more_frames:
            return Failure(copy.path, "an image with several frames is not compared as a near copy")
        pixels = _make_copy(_decode_reduced(copy.path, limits), copy).pixels
        made = ComparableImage(ImageFeatures(pixels), has_more_frames=False)
    except (UnreadableImage, MemoryError) as error:
        return make_failure(copy.path, error)
    results: list[AlignmentResult | None] = [original.compare(made)]
    for path in others:
        try:
            results.append(_load_comparable_image(path, limits, feature_folder).compare(made))
        except (UnreadableImage, MemoryError):
            results.append(None)
    return results


@lru_cache(maxsize=FEATURE_CACHE_SIZE)
def _load_comparable_image(path: str, limits: Limits, folder: str | None = None) -> ComparableImage:
    """Return the features of a file: from the folder if it has them, otherwise computed and stored there."""
    if folder is None:
        return make_comparable_image(read_bytes(path, limits), path, limits)
    stored = Path(folder, f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.npz")
    try:
        with stored.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return ComparableImage(ImageFeatures.from_arrays(arrays), bool(arrays["has_more_frames"]))
    except (OSError, ValueError, KeyError, BadZipFile):  # not stored, or damaged
        image = make_comparable_image(read_bytes(path, limits), path, limits)
    with suppress(OSError):  # they are computed again
        if shutil.disk_usage(folder).free > MIN_FREE_DISK:
            image.features.save(stored, has_more_frames=np.array(image.has_more_frames))
    return image


@lru_cache(maxsize=FINE_CACHE_SIZE)
def _load_fine_pixels(file: HashedPath, limits: Limits) -> Pixels:
    """Read a file and decode it for `find_copy_changes`. Raises UnreadableImage."""
    return make_fine_pixels(_read_indexed(file, limits), file[0], limits)


def _read_indexed(file: HashedPath, limits: Limits) -> bytes:
    """Read a file. Raises UnreadableImage, also if its bytes are not those that were indexed."""
    path, sha256 = file
    data = read_bytes(path, limits)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UnreadableImage(path, CHANGED_REASON)
    return data


def _decode_reduced(path: str, limits: Limits, background: str = "#ffffff") -> DecodedImage:
    """Read and decode a file; a large JPEG at a smaller scale."""
    data = read_bytes(path, limits)
    return decode_image(data, name=path, limits=limits, background=background, min_side=MAX_COPY_SIDE)


def _make_copy(image: DecodedImage, copy: CopySpec) -> DecodedImage:
    """Return the distorted copy of a decoded image."""
    pixels = distort(image.pixels, copy.kind, np.random.default_rng(copy.seed))
    return replace(image, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def _count_frames(data: bytes, format: str) -> int:
    """Return the number of frames or pages of a file; 1 if it is not known."""
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as im:
            return int(getattr(im, "n_frames", 1))
    except Exception:  # parsers raise anything, and the first frame was decoded  # noqa: BLE001
        return 1


def _hash_hidden_content(data: bytes, name: str, format: str) -> bytes:
    """Return a hash of the content that `decode_image` does not show; b"" if it shows all. Raises UnreadableImage."""
    if format in PARTLY_DECODED_FORMATS:
        return hashlib.sha256(data).digest()
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as im:
            colours, depth, appended = describe_colours(im), read_depth(im, data), find_appended_media(data)
            # Pillow reads grey of more than 8 bits; of coloured images it keeps 8.
            frames, is_deep = getattr(im, "n_frames", 1), im.mode in ("I", "F") or im.mode.startswith("I;16")
            frames = 1 if format == "jpeg" else frames
            digest = hashlib.sha256(f"{colours} ".encode() if colours else b"")
            digest.update(hashlib.sha256(appended).digest() if appended else b"")
            if depth > 8 and not is_deep:
                deep = read_deep_pixels(data)
                digest.update(data if deep is None else f"{deep.dtype.name} {deep.shape} ".encode() + deep.tobytes())
            if frames > 1 or is_deep:
                for frame in range(frames):
                    im.seek(frame)
                    values = np.asarray(im if is_deep else im.convert("RGBA"))
                    digest.update(f"{values.dtype.name} {values.shape} ".encode())
                    digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
            elif not colours and not appended and depth <= 8:
                return b""
            return digest.digest()
    except Exception as error:  # as in `decode_image`: parsers raise anything on a damaged file
        raise UnreadableImage(name, "one of its further frames or pages can't be decoded") from error


def _hash_pixels(pixels: Pixels) -> bytes:
    """Return the SHA-256 of the shape and the pixels."""
    shape = np.array(pixels.shape, "<i8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()
