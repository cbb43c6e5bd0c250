"""Check how many pieces an image file has, before any pixel is decoded, and whether it is whole.

A decoder takes a step for each piece (segment, chunk, block, page), often in Python. A file of 50 MB can hold millions
of pieces, and one piece can be inflated or copied many times. Normal files are far below all limits here; a file over
a limit is refused with the reason. Everything that is checked here runs in time that the limits bound.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from simile.core.errors import UnreadableImage
from simile.images.codecs.psd import iterate_resources, read_resources
from simile.images.containers import (
    UnsupportedContainer,
    get_colour_table_size,
    has_more_scans,
    iterate_boxes,
    iterate_riff_chunks,
)

MAX_JPEG_SCANS = 100  # progressive JPEGs have about ten scans; libtiff has the same limit
MAX_JPEG_SEGMENTS = 2_000  # before the pixels; the depth maps of some phones need some hundred
MAX_EXIF_BLOCKS = 16  # each is appended to a copy of all blocks before it
MAX_PHOTOSHOP_SEGMENTS = 100  # each may hold 5,000 resources
MAX_TABLE_BYTES = 256 * 1024  # of Huffman and quantisation tables before the pixels
MAX_PADDING = 64 * 1024  # bytes between JPEG segments, or in the header of a PPM file
MAX_PNG_CHUNKS = 20_000  # a PNG of 50 MB has 12,000 chunks of pixels of 4 KiB
MAX_PNG_OTHER_CHUNKS = 2_000  # besides those of pixels
MAX_PNG_PROFILES = 4  # each is inflated; a valid file has one
MAX_GIF_BLOCKS = 20_000  # of at most 255 bytes before the first frame
MAX_FRAMES = 5_000  # pages of a TIFF, frames of a WebP
MAX_TIFF_TAGS = 200_000  # of all pages
MAX_TIFF_STRIPS = 100_000  # strips or tiles of one page; Pillow takes a step for each
MAX_ICON_IMAGES = 256
MAX_PSD_SIDE = 30_000  # of the format; Pillow takes a step for each row
MAX_RESOURCES = 5_000  # of a Photoshop document; each path, slice and guide may be one
MAX_BOXES = 2_000  # on each level of a HEIF, AVIF or JPEG 2000 file
MAX_HEIF_ITEMS = 4_096  # an image of 200 megapixels has 800 tiles
MAX_CODESTREAM_SEGMENTS = 2_000  # before the first tile of a JPEG 2000 image

_SEGMENT_START = re.compile(rb"\xff([^\x00\xff])")  # not \xff+, which is quadratic in the length of a run
_PPM_COMMENT = re.compile(rb"#[^\r\n]*")
_TIFF_STRIP_TAGS = (273, 324)  # StripOffsets, TileOffsets


class _TooManyPieces(Exception):
    """The file is over a limit; with the reason for people."""


def check_structure(data: bytes, name: str | Path) -> None:
    """Raise UnreadableImage if the file has more pieces than any normal file. Damage is left to the decoder."""
    for signature, check in _CHECKS:
        if signature.match(data):
            try:
                check(data)
            except _TooManyPieces as error:
                raise UnreadableImage(name, f"it has {error}; no normal image has so many") from None
            except (IndexError, ValueError, struct.error, UnsupportedContainer):  # cut off: the decoder says so
                return


def is_cut_off(data: bytes) -> bool | None:
    """Return whether the file ends before the end that its format marks or states; None if the format does neither."""
    check = next((check for signature, check in _END_CHECKS if signature.match(data)), None)
    try:
        return None if check is None else check(data)
    except (IndexError, ValueError, struct.error, UnsupportedContainer):
        return True


def _limit(count: int, maximum: int, pieces: str) -> None:
    """Raise _TooManyPieces if the count is over the maximum."""
    if count > maximum:
        raise _TooManyPieces(f"more than {maximum:,} {pieces}")


def _check_jpeg(data: bytes) -> None:
    """Check the segments before the pixels, as Pillow reads them, and the scans."""
    position, segments, padding, tables, exif_blocks, photoshop_segments = 2, 0, 0, 0, 0, 0
    while position < len(data):
        match = _SEGMENT_START.search(data, position, position + MAX_PADDING + 3)
        padding += match.end() - position - 2 if match else len(data) - position
        _limit(padding, MAX_PADDING, "bytes between its segments")
        if match is None:
            break
        marker, position = match[1][0], match.end()
        if marker == 0xDA:  # the pixels
            break
        segments += 1
        _limit(segments, MAX_JPEG_SEGMENTS, "segments")
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # without a length
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if marker in (0xC4, 0xDB):
            tables += length
            _limit(tables, MAX_TABLE_BYTES, "bytes of tables")
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", position + 2):
            exif_blocks += 1
            _limit(exif_blocks, MAX_EXIF_BLOCKS, "Exif blocks")
        elif marker == 0xED:
            photoshop_segments += 1
            _limit(photoshop_segments, MAX_PHOTOSHOP_SEGMENTS, "Photoshop segments")
        position += max(length, 2)
    if has_more_scans(data, MAX_JPEG_SCANS):
        raise _TooManyPieces(f"more than {MAX_JPEG_SCANS} scans")


def _check_png(data: bytes) -> None:
    """Check the number of chunks, and of those that are inflated."""
    position, chunks, others, profiles = 8, 0, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks += 1
        _limit(chunks, MAX_PNG_CHUNKS, "chunks")
        if kind not in (b"IDAT", b"fdAT"):
            others += 1
            profiles += kind == b"iCCP"
            _limit(others, MAX_PNG_OTHER_CHUNKS, "chunks besides its pixels")
            _limit(profiles, MAX_PNG_PROFILES, "colour profiles")
        if kind == b"IEND":
            return
        position += 12 + length


def _check_gif(data: bytes) -> None:
    """Check the blocks before the first frame; only this frame is decoded."""
    position, blocks = 13 + get_colour_table_size(data[10]), 0
    while position < len(data) and data[position] != 0x2C:
        blocks += 1
        _limit(blocks, MAX_GIF_BLOCKS, "blocks before its first frame")
        if data[position] != 0x21:  # not an extension: Pillow skips a byte
            position += 1
            continue
        position += 2
        while data[position]:
            blocks += 1
            _limit(blocks, MAX_GIF_BLOCKS, "blocks before its first frame")
            position += 1 + data[position]
        position += 1


def _check_webp(data: bytes) -> None:
    """Check the number of chunks, and so of frames."""
    for count, _ in enumerate(iterate_riff_chunks(data[12:])):
        _limit(count, MAX_FRAMES, "chunks")


def _check_tiff(data: bytes) -> None:
    """Check the pages, their tags and strips. Pages may overlap, and the last may point to the first."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    count_format, size = (f"{order}Q", 8) if is_big else (f"{order}H", 4)
    offset_format = f"{order}{'Q' if is_big else 'I'}"
    entry = np.dtype({"names": ["tag", "count"], "formats": [f"{order}u2", f"{order}u{size}"], "offsets": [0, 4],
                      "itemsize": 4 + 2 * size})  # fmt: skip
    (position,) = struct.unpack_from(offset_format, data, 8 if is_big else 4)
    seen: set[int] = set()
    all_tags = 0
    while position and position not in seen:
        seen.add(position)
        _limit(len(seen), MAX_FRAMES, "pages")
        (tag_count,) = struct.unpack_from(count_format, data, position)
        all_tags += tag_count
        _limit(all_tags, MAX_TIFF_TAGS, "tags")
        position += struct.calcsize(count_format)
        tags = np.frombuffer(data, entry, tag_count, position)
        strips = tags["count"][np.isin(tags["tag"], _TIFF_STRIP_TAGS)]
        _limit(int(strips.max(initial=0)), MAX_TIFF_STRIPS, "strips or tiles")
        (position,) = struct.unpack_from(offset_format, data, position + tag_count * entry.itemsize)


def _check_ppm(data: bytes) -> None:
    """Check that the header ends soon: Pillow reads it byte by byte."""
    field_count = 3 if data[1:2] in b"14" else 4
    header = _PPM_COMMENT.sub(b"", data[:MAX_PADDING])
    if len(header.split(None, field_count - 1)) < field_count and len(data) > MAX_PADDING:
        raise _TooManyPieces(f"a header of more than {MAX_PADDING:,} bytes")


def _check_icon(data: bytes) -> None:
    """Check the number of images."""
    _limit(int.from_bytes(data[4:6], "little"), MAX_ICON_IMAGES, "images")


def _check_boxes(data: bytes) -> None:
    """Check the number of boxes of a HEIF, AVIF or JPEG 2000 file, and of the items of an image."""
    for kind, _, body, end in _list_boxes(data, 0, len(data)):
        if kind == b"meta":
            for inner, _, start, _ in _list_boxes(data, body + 4, end):
                if inner == b"iinf":  # version and flags, then the number of items
                    count_end = start + (8 if data[start] else 6)
                    _limit(int.from_bytes(data[start + 4 : count_end], "big"), MAX_HEIF_ITEMS, "items")
        elif kind == b"jp2h":
            _list_boxes(data, body, end)
        elif kind == b"jp2c":
            _check_codestream(data, body)


def _list_boxes(data: bytes, start: int, end: int) -> list[tuple[bytes, int, int, int]]:
    """Return the boxes as `iterate_boxes`, if they are not too many."""
    boxes = list(islice(iterate_boxes(data, start, end), MAX_BOXES + 1))
    _limit(len(boxes), MAX_BOXES, "boxes")
    return boxes


def _check_codestream(data: bytes, start: int = 0) -> None:
    """Check the number of segments before the first tile or comment of a JPEG 2000 image, where Pillow stops."""
    position, segments = start + 2, 0
    while data[position + 1] not in (0x64, 0x90, 0xD9):
        segments += 1
        _limit(segments, MAX_CODESTREAM_SEGMENTS, "segments")
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _check_psd(data: bytes) -> None:
    """Check the sides and the number of resources of a Photoshop document."""
    _limit(max(struct.unpack_from(">2I", data, 14)), MAX_PSD_SIDE, "rows or columns")
    for count, _ in enumerate(iterate_resources(read_resources(data))):
        _limit(count, MAX_RESOURCES, "resources")


_CHECKS: list[tuple[re.Pattern[bytes], Callable[[bytes], None]]] = [
    (re.compile(rb"\xff\xd8\xff"), _check_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _check_png),
    (re.compile(rb"GIF8[79]a"), _check_gif),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _check_webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _check_tiff),
    (re.compile(rb"P[1-6f]"), _check_ppm),
    (re.compile(rb"\0\0\x01\0"), _check_icon),
    (re.compile(rb".{4}ftyp|\0\0\0\x0c(?:jP  |JXL )", re.DOTALL), _check_boxes),
    (re.compile(rb"8BPS\0\x01"), _check_psd),
    (re.compile(rb"\xff\x4f\xff\x51"), _check_codestream),
]


def _is_jpeg_cut_off(data: bytes) -> bool:
    """Look for the end of the image after the start of its pixels; a preview before them has an end of its own."""
    position = 2
    while match := _SEGMENT_START.search(data, position):
        if match[1] == b"\xda":
            return data.find(b"\xff\xd9", match.end()) < 0
        length = 0 if match[1] == b"\x01" or b"\xd0" <= match[1] <= b"\xd9" else 2
        if length:
            length = max(int.from_bytes(data[match.end() : match.end() + 2], "big"), 2)
        position = match.end() + length
    return True


def _is_box_file_cut_off(data: bytes) -> bool:
    """Look for a box that ends after the file, and for the end of a JPEG 2000 image."""
    return any(
        _is_codestream_cut_off(data[body:end])
        for kind, _, body, end in iterate_boxes(data, 0, len(data))
        if kind == b"jp2c"
    )


def _is_codestream_cut_off(data: bytes) -> bool:
    """Look for the marker of the end after the last marker of pixels; pixels never hold either of them."""
    return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\x93")


def _is_tiff_cut_off(data: bytes) -> bool | None:
    """Look for the first directory. The pixels may be anywhere: then only the decoder knows."""
    (position,) = struct.unpack_from("<I" if data.startswith(b"II") else ">I", data, 4)
    return True if position > len(data) else None


_END_CHECKS: list[tuple[re.Pattern[bytes], Callable[[bytes], bool | None]]] = [
    (re.compile(rb"\xff\xd8\xff"), _is_jpeg_cut_off),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), lambda data: b"IEND" not in data),
    (re.compile(rb"GIF8[79]a"), lambda data: not data.rstrip(b"\0").endswith(b";")),
    (re.compile(rb"RIFF"), lambda data: len(data) < 8 + struct.unpack_from("<I", data, 4)[0]),
    (re.compile(rb"BM"), lambda data: True if len(data) < struct.unpack_from("<I", data, 2)[0] else None),
    (re.compile(rb"II\*\0|MM\0\*"), _is_tiff_cut_off),
    (re.compile(rb".{4}ftyp|\0\0\0\x0c(?:jP  |JXL )", re.DOTALL), _is_box_file_cut_off),
    (re.compile(rb"\xff\x4f\xff\x51"), _is_codestream_cut_off),
]
