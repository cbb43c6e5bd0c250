"""What worker processes do with files for deduplication: pixel digests, planted copies, comparisons of two files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.decoding import DecodedImage, decode_image
from simile.images.distortions import distort
from simile.images.formats import Limits
from simile.images.matching.alignment import AlignmentResult, align_images
from simile.images.matching.features import KEYPOINT_SIDE, Float32Array, ImageFeatures, Pixels
from simile.images.sources.reader import read_bytes
from simile.images.transforms import Preprocessing

FEATURE_CACHE_SIZE = 800  # portraits in each process: 250 MB
OPAQUE_FORMATS = ("jpeg", "bmp")  # formats without transparency
MAX_COPY_SIDE = (
    512  # pixels of the shorter side that copies are planted in: larger JPEGs are decoded at a smaller scale
)


@dataclass(frozen=True)
class CopySpec:
    """A copy to be made of a file: the same seed makes the same one."""

    path: str
    kind: str
    seed: tuple[int, ...]


def compute_file_digest(path: str, limits: Limits) -> str | Failure:
    """`digest_of` a file."""
    try:
        return compute_pixel_digest(read_bytes(Path(path), limits), path, limits)
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, str(error))


def compute_pixel_digest(data: bytes, name: str, limits: Limits) -> str:
    """SHA-256 of a whole picture as it is shown, upright, 8 bits a channel, whatever holds it. Raises UnreadableImage.

    Over white and over black, so that what is transparent counts too; with what is not shown: further frames and pages,
    and more than 8 bits.
    """
    white = decode_image(data, name=name, limits=limits)
    black = (
        white if white.format in OPAQUE_FORMATS else decode_image(data, name=name, limits=limits, background="#000000")
    )
    unseen = b"" if white.format in OPAQUE_FORMATS else _hash_hidden_content(data, name, white.format)
    return hashlib.sha256(_hash_pixels(white.pixels) + _hash_pixels(black.pixels) + unseen).hexdigest()


def compute_thumbnail_descriptor(path: str, limits: Limits) -> Float32Array | Failure:
    """A picture's `square` (models/portraits.py), to see roughly whether others are like it."""
    try:
        return _load_comparable_image(path, limits).features.thumbnail_descriptor
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, str(error))


def compare_files(paths: tuple[str, str], limits: Limits) -> AlignmentResult | Failure:
    """Whether one of two files shows a copy of the other. A file that can't be read any more is a Failure."""
    try:
        first, second = (_load_comparable_image(path, limits) for path in paths)
    except UnreadableImage as error:
        return Failure(paths[0] if str(error).startswith(paths[0]) else paths[1], error.reason)
    except MemoryError:
        return Failure(paths[0], "there is not enough memory to compare it")
    return first.compare(second)


@dataclass(frozen=True)
class ComparableImage:
    """What is kept of a file to compare it. has_more: it has frames or pages beyond the first, which is compared."""

    features: ImageFeatures
    has_more_frames: bool

    def compare(self, other: ComparableImage) -> AlignmentResult:
        """As alignment.compare; pictures with further frames are no copies because of their first ones."""
        found = replace(align_images(self.features, other.features), features=None)
        if found.is_copy and (self.has_more_frames or other.has_more_frames):
            return replace(found, is_copy=False, reason="only the first of several frames is the same view")
        return found


def make_comparable_image(data: bytes, name: str, limits: Limits) -> ComparableImage:
    """What is kept of a picture to compare it. Raises UnreadableImage."""
    picture = decode_image(data, name=name, limits=limits, min_side=KEYPOINT_SIDE)
    return ComparableImage(
        ImageFeatures(picture.pixels), picture.format not in OPAQUE_FORMATS and _count_frames(data, picture.format) > 1
    )


def make_copies(copies: Sequence[CopySpec], limits: Limits, preprocessing: Preprocessing) -> Pixels | Failure:
    """Copies of one file as the network takes them, (n, S, S, C)."""
    try:
        picture = _decode_reduced(copies[0].path, limits, preprocessing.background)
    except (UnreadableImage, MemoryError) as error:
        return Failure(copies[0].path, str(error))
    return np.stack([preprocessing.to_array(_make_copy(picture, copy)) for copy in copies])


def compare_copy(
    copy_and_others: tuple[CopySpec, Sequence[str]], limits: Limits
) -> list[AlignmentResult | None] | Failure:
    """How a planted copy agrees with its original, and with each of the other files (None: can't be read)."""
    copy, others = copy_and_others
    try:
        made = ImageFeatures(_make_copy(_decode_reduced(copy.path, limits), copy).pixels)
        found: list[AlignmentResult | None] = [
            replace(align_images(_load_comparable_image(copy.path, limits).features, made), features=None)
        ]
    except (UnreadableImage, MemoryError) as error:
        return Failure(copy.path, str(error))
    for other in others:
        try:
            found.append(replace(align_images(_load_comparable_image(other, limits).features, made), features=None))
        except (UnreadableImage, MemoryError):
            found.append(None)
    return found


@lru_cache(maxsize=FEATURE_CACHE_SIZE)
def _load_comparable_image(path: str, limits: Limits) -> ComparableImage:
    return make_comparable_image(read_bytes(Path(path), limits), path, limits)


def _decode_reduced(path: str, limits: Limits, background: str = "#ffffff") -> DecodedImage:
    data = read_bytes(Path(path), limits)
    return decode_image(data, name=path, limits=limits, background=background, min_side=MAX_COPY_SIDE)


def _make_copy(image: DecodedImage, copy: CopySpec) -> DecodedImage:
    pixels = distort(image.pixels, copy.kind, np.random.default_rng(copy.seed))
    return replace(image, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def _count_frames(data: bytes, format: str) -> int:
    """How many frames or pages a file has; 1 where that can't be told."""
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as im:
            return int(getattr(im, "n_frames", 1))
    except Exception:  # parsers raise anything, and the first frame was decoded  # noqa: BLE001
        return 1


def _hash_hidden_content(data: bytes, name: str, format: str) -> bytes:
    """A hash of what `decode` does not show, b"" where it shows all. Raises UnreadableImage."""
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as im:
            frames, deep = getattr(im, "n_frames", 1), im.mode in ("I", "F") or im.mode.startswith("I;16")
            if frames == 1 and not deep:
                return b""
            digest = hashlib.sha256()
            for frame in range(frames):
                im.seek(frame)
                values = np.asarray(im if deep else im.convert("RGBA"))
                digest.update(f"{values.dtype.name} {values.shape} ".encode())
                digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
            return digest.digest()
    except Exception as error:  # as in `decode`: parsers raise anything on a damaged file
        raise UnreadableImage(name, "a further frame or page of it can't be decoded") from error


def _hash_pixels(pixels: Pixels) -> bytes:
    shape = np.array(pixels.shape, "<i8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()
