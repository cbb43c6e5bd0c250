"""Files that Pillow does not write: DNG as cameras write it, and documents of Photoshop."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

Tags = dict[int, tuple[int, Any]]  # type and values, or bytes, by tag
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
_LETTERS = {_BYTE: "B", _ASCII: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "I", _SIGNED_RATIONAL: "i"}


def make_dng(preview: bytes | Image.Image | None, *, size: tuple[int, int] = (64, 48), orientation: int = 1) -> bytes:
    """A DNG: a preview in the first directory (a JPEG, or an image to store as a bitmap), then the sensor's values."""
    width, height = size
    sensor = np.random.default_rng(0).integers(0, 4096, (height, width)).astype("<u2").tobytes()
    pixels = b"" if preview is None else preview if isinstance(preview, bytes) else preview.tobytes()
    pixels += b"\0" * (len(pixels) % 2)
    sensor_at, preview_at, first_at = 8, 8 + len(sensor), 8 + len(sensor) + len(pixels)
    raw: Tags = {
        254: (_LONG, [0]), 256: (_LONG, [width]), 257: (_LONG, [height]), 258: (_SHORT, [16]), 259: (_SHORT, [1]),
        262: (_SHORT, [32803]), 273: (_LONG, [sensor_at]), 277: (_SHORT, [1]), 278: (_LONG, [height]),
        279: (_LONG, [len(sensor)]),
        33421: (_SHORT, [2, 2]), 33422: (_BYTE, bytes([0, 1, 1, 2])), 50717: (_LONG, [4095]),
    }  # fmt: skip
    camera: Tags = {
        271: (_ASCII, b"Simile\0"), 272: (_ASCII, b"Test 1\0"), 274: (_SHORT, [orientation]),
        50706: (_BYTE, bytes([1, 4, 0, 0])), 50707: (_BYTE, bytes([1, 1, 0, 0])), 50708: (_ASCII, b"Simile Test 1\0"),
        50721: (_SIGNED_RATIONAL, [number for cell in range(9) for number in (10_000 * (cell % 4 == 0), 10_000)]),
        50728: (_RATIONAL, [1] * 6), 50778: (_SHORT, [21]),
    }  # fmt: skip
    if preview is None:
        return b"II*\0" + struct.pack("<I", first_at) + sensor + _pack_directory(raw | camera, first_at)
    shown = Image.open(io.BytesIO(preview)) if isinstance(preview, bytes) else preview
    is_jpeg = isinstance(preview, bytes)
    first: Tags = camera | {
        254: (_LONG, [1]), 256: (_LONG, [shown.width]), 257: (_LONG, [shown.height]), 258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7 if is_jpeg else 1]), 262: (_SHORT, [6 if is_jpeg else 2]), 273: (_LONG, [preview_at]),
        277: (_SHORT, [3]), 278: (_LONG, [shown.height]), 279: (_LONG, [len(pixels)]), 330: (_LONG, [0]),
    }  # fmt: skip
    raw_at = first_at + len(_pack_directory(first, first_at))
    first[330] = (_LONG, [raw_at])
    head = b"II*\0" + struct.pack("<I", first_at)
    return head + sensor + pixels + _pack_directory(first, first_at) + _pack_directory(raw, raw_at)


def _pack_directory(tags: Tags, at: int) -> bytes:
    entries, rest = b"", b""
    end = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        letter = _LETTERS[kind]
        packed = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{letter}", *values)
        count = len(packed) // struct.calcsize(letter) // (2 if kind in (_RATIONAL, _SIGNED_RATIONAL) else 1)
        entries += struct.pack("<HHI", tag, kind, count)
        if len(packed) > 4:
            entries += struct.pack("<I", end + len(rest))
            rest += packed + b"\0" * (len(packed) % 2)
        else:
            entries += packed.ljust(4, b"\0")
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + rest


def make_resource(number: int, data: bytes) -> bytes:
    """A resource of Photoshop."""
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)


def make_psd(image: Image.Image, resources: bytes = b"", *, has_composite: bool = True) -> bytes:
    """A document of Photoshop without layers: grey, RGB, RGB with a fourth channel, or CMYK, not compressed."""
    modes = {"L": 1, "RGB": 3, "RGBA": 3, "CMYK": 4}
    planes = [np.asarray(band) for band in image.split()]
    if image.mode == "CMYK":
        planes = [255 - plane for plane in planes]
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, len(planes), image.height, image.width, 8, modes[image.mode])
    versions = struct.pack(">IBII", 1, has_composite, 0, 0)
    resources += make_resource(0x0421, versions)
    sections = struct.pack(">II", 0, len(resources)) + resources + struct.pack(">I", 0)
    return header + sections + struct.pack(">H", 0) + b"".join(plane.tobytes() for plane in planes)
