"""Read the size of an image from its header, for formats with pixels that Pillow decodes when it opens the file."""

from __future__ import annotations

import re
import struct

from simile.images.codecs.jxl import is_jxl, read_jxl_size

DESCRIPTION_BYTES = 64 * 1024
_SPATIAL_EXTENT = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)
_CODESTREAM_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{16})", re.DOTALL)

Size = tuple[int, int]  # width and height


def read_stated_sizes(data: bytes) -> list[Size]:
    """Return (width, height) of the images of an icon, a WebP, a JPEG XL or a PSD; empty for other formats."""
    if data.startswith(b"\0\0\1\0"):
        return _read_icon_sizes(data)
    if data.startswith(b"RIFF"):
        return _read_webp_sizes(data)
    if is_jxl(data):
        return read_jxl_size(data)
    if data.startswith(b"8BPS") and len(data) >= 26:
        height, width = struct.unpack_from(">2I", data, 14)
        return [(width, height)]
    return []


def read_described_sizes(data: bytes) -> list[Size]:
    """Return the sizes that the header states, also of the images near the start of a HEIF, AVIF or JPEG 2000 file."""
    head = data[:DESCRIPTION_BYTES]
    sizes: list[Size] = [struct.unpack(">2I", size) for size in _SPATIAL_EXTENT.findall(head)]
    for corners in _CODESTREAM_SIZE.findall(head):
        right, bottom, left, top = struct.unpack(">4I", corners)
        sizes.append((right - left, bottom - top))
    return read_stated_sizes(data) or sizes


def _read_icon_sizes(data: bytes) -> list[Size]:
    """Return (width, height) of each image in an icon file, from the image's own header.

    The header of the icon cannot state more than 256, and Pillow decodes the images when it opens the file.
    """
    sizes = []
    for entry in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
        offset = int.from_bytes(data[entry + 12 : entry + 16], "little")
        head = data[offset : offset + 24]
        if len(head) < 24:  # cut off: the decoder reports it
            continue
        if head.startswith(b"\x89PNG"):
            sizes.append((int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")))
        else:  # a bitmap: the image and its mask, one above the other
            width, height = (int.from_bytes(head[start : start + 4], "little", signed=True) for start in (4, 8))
            sizes.append((abs(width), abs(height) // 2))
    return sizes


def _read_webp_sizes(data: bytes) -> list[Size]:
    """Return (width, height) of a WebP from the header of its first chunk; nothing if it is cut off."""
    kind, header = data[12:16], data[20:30]
    if len(header) < 10:
        return []
    if kind == b"VP8X":  # animated, or with metadata
        return [(int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1)]
    if kind == b"VP8L":  # lossless: two fields of 14 bits
        bits = int.from_bytes(header[1:5], "little")
        return [((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)]
    if kind == b"VP8 ":
        return [(int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF)]
    return []
