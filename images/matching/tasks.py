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
from simile.images.decoding import Picture, decode
from simile.images.distortions import altered
from simile.images.formats import Limits
from simile.images.matching.alignment import Agreement, compare
from simile.images.matching.features import SIDE, Floats, Pixels, Portrait
from simile.images.sources.reader import read_bytes
from simile.images.transforms import Preprocessing

KEPT = 800  # portraits in each process: 250 MB
OPAQUE = ("jpeg", "bmp")  # formats without transparency
LARGEST = 512  # pixels of the shorter side that copies are planted in: larger JPEGs are decoded at a smaller scale


@dataclass(frozen=True)
class Copy:
    """A copy to be made of a file: the same seed makes the same one."""

    path: str
    kind: str
    seed: tuple[int, ...]


def pixel_digest(path: str, limits: Limits) -> str | Failure:
    """`digest_of` a file."""
    try:
        return digest_of(read_bytes(Path(path), limits), path, limits)
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, str(error))


def digest_of(data: bytes, name: str, limits: Limits) -> str:
    """SHA-256 of a whole picture as it is shown, upright, 8 bits a channel, whatever holds it. Raises UnreadableImage.

    Over white and over black, so that what is transparent counts too; with what is not shown: further frames and pages,
    and more than 8 bits.
    """
    white = decode(data, name=name, limits=limits)
    black = white if white.format in OPAQUE else decode(data, name=name, limits=limits, background="#000000")
    unseen = b"" if white.format in OPAQUE else _unseen(data, name, white.format)
    return hashlib.sha256(_digest(white.pixels) + _digest(black.pixels) + unseen).hexdigest()


def square_of(path: str, limits: Limits) -> Floats | Failure:
    """A picture's `square` (models/portraits.py), to see roughly whether others are like it."""
    try:
        return _look(path, limits).portrait.square
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, str(error))


def compare_files(paths: tuple[str, str], limits: Limits) -> Agreement | Failure:
    """Whether one of two files shows a copy of the other. A file that can't be read any more is a Failure."""
    try:
        first, second = (_look(path, limits) for path in paths)
    except UnreadableImage as error:
        return Failure(paths[0] if str(error).startswith(paths[0]) else paths[1], error.reason)
    except MemoryError:
        return Failure(paths[0], "there is not enough memory to compare it")
    return first.compared(second)


@dataclass(frozen=True)
class Look:
    """What is kept of a file to compare it. has_more: it has frames or pages beyond the first, which is compared."""

    portrait: Portrait
    has_more: bool

    def compared(self, other: Look) -> Agreement:
        """As alignment.compare; pictures with further frames are no copies because of their first ones."""
        found = replace(compare(self.portrait, other.portrait), features=None)
        if found.same and (self.has_more or other.has_more):
            return replace(found, same=False, reason="only the first of several frames is the same view")
        return found


def look_at(data: bytes, name: str, limits: Limits) -> Look:
    """What is kept of a picture to compare it. Raises UnreadableImage."""
    picture = decode(data, name=name, limits=limits, min_side=SIDE)
    return Look(Portrait(picture.pixels), picture.format not in OPAQUE and _frames(data, picture.format) > 1)


def planted(copies: Sequence[Copy], limits: Limits, preprocessing: Preprocessing) -> Pixels | Failure:
    """Copies of one file as the network takes them, (n, S, S, C)."""
    try:
        picture = _reduced(copies[0].path, limits, preprocessing.background)
    except (UnreadableImage, MemoryError) as error:
        return Failure(copies[0].path, str(error))
    return np.stack([preprocessing.to_array(_made(picture, copy)) for copy in copies])


def compare_planted(asked: tuple[Copy, Sequence[str]], limits: Limits) -> list[Agreement | None] | Failure:
    """How a planted copy agrees with its original, and with each of the other files (None: can't be read)."""
    copy, others = asked
    try:
        made = Portrait(_made(_reduced(copy.path, limits), copy).pixels)
        found: list[Agreement | None] = [replace(compare(_look(copy.path, limits).portrait, made), features=None)]
    except (UnreadableImage, MemoryError) as error:
        return Failure(copy.path, str(error))
    for other in others:
        try:
            found.append(replace(compare(_look(other, limits).portrait, made), features=None))
        except (UnreadableImage, MemoryError):
            found.append(None)
    return found


@lru_cache(maxsize=KEPT)
def _look(path: str, limits: Limits) -> Look:
    return look_at(read_bytes(Path(path), limits), path, limits)


def _reduced(path: str, limits: Limits, background: str = "#ffffff") -> Picture:
    data = read_bytes(Path(path), limits)
    return decode(data, name=path, limits=limits, background=background, min_side=LARGEST)


def _made(picture: Picture, copy: Copy) -> Picture:
    pixels = altered(picture.pixels, copy.kind, np.random.default_rng(copy.seed))
    return replace(picture, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def _frames(data: bytes, format: str) -> int:
    """How many frames or pages a file has; 1 where that can't be told."""
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as im:
            return int(getattr(im, "n_frames", 1))
    except Exception:  # noqa: BLE001  # parsers raise anything, and the first frame was decoded
        return 1


def _unseen(data: bytes, name: str, format: str) -> bytes:
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


def _digest(pixels: Pixels) -> bytes:
    shape = np.array(pixels.shape, "<i8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()
