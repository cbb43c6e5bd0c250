"""What worker processes do with files for deduplication: pixel digests, planted copies, comparisons of two files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.errors import UnreadableImage
from core.records import Failure
from models.alignment import Agreement, compare
from models.alterations import altered
from models.images import Limits, Picture, decode, read_bytes
from models.portraits import SIDE, Floats, Pixels, Portrait
from models.preprocessing import Preprocessing

KEPT = 300  # portraits in each process: 250 MB at most
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

    Over white and over black, so that what is transparent counts too.
    """
    white = decode(data, name=name, limits=limits)
    black = white if white.format in OPAQUE else decode(data, name=name, limits=limits, background="#000000")
    return hashlib.sha256(_digest(white.pixels) + _digest(black.pixels)).hexdigest()


def square_of(path: str, limits: Limits) -> Floats | Failure:
    """A picture's `square` (models/portraits.py), to see roughly whether others are like it."""
    try:
        return _portrait(path, limits).square
    except (UnreadableImage, MemoryError) as error:
        return Failure(path, str(error))


def compare_files(paths: tuple[str, str], limits: Limits) -> Agreement | Failure:
    """Whether one of two files shows a copy of the other. A file that can't be read any more is a Failure."""
    try:
        found = compare(*(_portrait(path, limits) for path in paths))
    except UnreadableImage as error:
        return Failure(paths[0], str(error))
    except MemoryError:
        return Failure(paths[0], "there is not enough memory to compare it")
    return replace(found, features=None)


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
        found: list[Agreement | None] = [replace(compare(_portrait(copy.path, limits), made), features=None)]
    except (UnreadableImage, MemoryError) as error:
        return Failure(copy.path, str(error))
    for other in others:
        try:
            found.append(replace(compare(_portrait(other, limits), made), features=None))
        except (UnreadableImage, MemoryError):
            found.append(None)
    return found


def portrait_of(data: bytes, name: str, limits: Limits) -> Portrait:
    """What is kept of a picture to compare it. Raises UnreadableImage."""
    return Portrait(decode(data, name=name, limits=limits, min_side=SIDE).pixels)


@lru_cache(maxsize=KEPT)
def _portrait(path: str, limits: Limits) -> Portrait:
    return portrait_of(read_bytes(Path(path), limits), path, limits)


def _reduced(path: str, limits: Limits, background: str = "#ffffff") -> Picture:
    data = read_bytes(Path(path), limits)
    return decode(data, name=path, limits=limits, background=background, min_side=LARGEST)


def _made(picture: Picture, copy: Copy) -> Picture:
    pixels = altered(picture.pixels, copy.kind, np.random.default_rng(copy.seed))
    return replace(picture, pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])


def _digest(pixels: Pixels) -> bytes:
    shape = np.array(pixels.shape, "<i8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()
