"""Parse the containers of image files: RIFF chunks, JPEG markers, GIF sub-blocks, ISO media boxes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

# Except markers without a length and stuffed bytes. Not \xff+, which is quadratic in the length of a run.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")


class UnsupportedContainer(Exception):
    """The container is damaged or of a variant that cannot be parsed."""


def iterate_riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, body) of each RIFF chunk. Raises UnsupportedContainer if a chunk is cut off."""
    offset = 0
    while offset < len(data):
        if offset + 8 > len(data):
            raise UnsupportedContainer
        kind, length = struct.unpack_from("<4sI", data, offset)
        if offset + 8 + length > len(data):
            raise UnsupportedContainer
        yield kind, data[offset + 8 : offset + 8 + length]
        offset += 8 + length + length % 2


def has_more_scans(data: bytes, max_scans: int) -> bool:
    """Return whether a JPEG has more than `max_scans` scans before it ends, counted as libjpeg reads it.

    A scan needs about thirty bytes of file, but decoding it touches every pixel: with thousands of scans a small file
    takes hours (https://bugzilla.redhat.com/show_bug.cgi?id=1344214).
    """
    # A quick upper bound: it also counts the scans of a preview and of data after the end of the image.
    if data.count(b"\xff\xda") <= max_scans:
        return False
    scan_count, marker = 0, _JPEG_MARKER.search(data, 2)
    while marker and marker[1] != b"\xd9" and scan_count <= max_scans:
        scan_count += marker[1] == b"\xda"
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        marker = _JPEG_MARKER.search(data, marker.end() + max(length, 2))
    return scan_count > max_scans


def get_colour_table_size(flags: int) -> int:
    """Return the bytes of the colour table that the flags of a GIF announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def find_sub_blocks_end(data: bytes, offset: int) -> int:
    """Return the offset after the GIF sub-blocks (of at most 255 bytes) that start at `offset`.

    Raises:
        IndexError: The sub-blocks are cut off.
    """
    while data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def iterate_boxes(data: bytes | bytearray, offset: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (kind, start, start of the body, end) of each box of an ISO media file between `offset` and `end`.

    Raises:
        UnsupportedContainer: A box is cut off or has an impossible length.
    """
    while offset < end:
        if offset + 8 > end:
            raise UnsupportedContainer
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = offset + 8
        if length == 1:  # a 64-bit length follows
            length, body = struct.unpack_from(">Q", data, body)[0], body + 8
        length = length or end - offset  # 0 means: up to the end
        if length < body - offset or offset + length > end:
            raise UnsupportedContainer
        yield kind, offset, body, offset + length
        offset += length
