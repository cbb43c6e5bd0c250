"""JPEG XL, decoded by the package pillow-jxl-plugin (`pip install 'simile[jxl]'`).

The plug-in decodes a file when it opens it, so its size is read here before: ISO/IEC 18181-1, section D.2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import cache
from itertools import islice

from simile.images.containers import UnsupportedContainer, iterate_boxes

JXL_REASON = "a JPEG XL image: install the package that reads it with `pip install 'simile[jxl]'`"
MAX_BOXES = 2_000
_SIGNATURE = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")
_CODESTREAM = b"\xff\x0a"
_SIDE_BITS = (9, 13, 18, 30)  # that a side is stored in
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
_HEADER_BYTES = 12


def is_jxl(data: bytes) -> bool:
    """Return whether a file begins like a JPEG XL image."""
    return _SIGNATURE.match(data) is not None


@cache
def register_jxl() -> bool:
    """Register the format with Pillow; return whether the package is installed."""
    try:
        from pillow_jxl import JpegXLImagePlugin  # noqa: PLC0415  # optional
    except ImportError:
        return False
    JpegXLImagePlugin.DECODE_THREADS = 0  # callers decode with one thread or process per core
    return True


def read_jxl_size(data: bytes) -> list[tuple[int, int]]:
    """Return (width, height) as the header states them; empty if it is cut off."""
    try:
        start = _find_codestream(data)
        if data[start : start + 2] != _CODESTREAM or len(data) < start + 2 + _HEADER_BYTES:
            return []
        return [_read_size_header(_make_bit_reader(data[start + 2 : start + 2 + _HEADER_BYTES]))]
    except (UnsupportedContainer, struct.error, StopIteration):
        return []


def _find_codestream(data: bytes) -> int:
    """Return where the codestream starts: in the first box for it, whole or in parts."""
    if data.startswith(_CODESTREAM):
        return 0
    boxes = islice(iterate_boxes(data, 0, len(data)), MAX_BOXES)
    kind, body = next((kind, body) for kind, _, body, _ in boxes if kind in (b"jxlc", b"jxlp"))
    return body + (4 if kind == b"jxlp" else 0)  # a part begins with its number


def _make_bit_reader(data: bytes) -> Callable[[int], int]:
    """Return a function that reads the next bits, the lowest bit of a byte first."""
    bits = int.from_bytes(data, "little")

    def read(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    return read


def _read_size_header(read: Callable[[int], int]) -> tuple[int, int]:
    is_small = read(1)

    def read_side() -> int:
        return 8 * (read(5) + 1) if is_small else read(_SIDE_BITS[read(2)]) + 1

    height = read_side()
    ratio = read(3)
    if ratio == 0:
        return read_side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height
