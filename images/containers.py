"""Parse the containers of image files: RIFF chunks, JPEG markers, GIF sub-blocks, ISO media boxes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from simile.images.tiff import Buffer

CODED_DATA = 0  # in place of a marker
_SEGMENT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data FF00 is a byte, FFD0 to FFD7 are restarts
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


def iterate_jpeg_segments(data: Buffer) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG, from its FF on, until the end of the image.

    The coded data of a scan follow its header, with CODED_DATA as marker. Raises UnsupportedContainer if the image is
    damaged, IndexError or struct.error if it is cut off.
    """
    offset = 2
    while offset < len(data):
        if data[offset] != 0xFF:
            raise UnsupportedContainer
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if marker == 0xD9:
            yield marker, offset, offset + 2
            return  # other images, videos or archives can follow
        has_length = marker != 0x01 and not 0xD0 <= marker <= 0xD7
        end = offset + 2 + (struct.unpack_from(">H", data, offset + 2)[0] if has_length else 0)
        if end > len(data):
            raise UnsupportedContainer
        yield marker, offset, end
        offset = end
        if marker == 0xDA:
            next_marker = _SEGMENT_MARKER.search(data, end)
            offset = next_marker.start() if next_marker else len(data)
            yield CODED_DATA, end, offset


def iterate_png_chunks(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk of a PNG, with its length and checksum.

    Raises UnsupportedContainer or struct.error if the file is cut off.
    """
    offset = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise UnsupportedContainer
        yield kind, offset, end
        if kind == b"IEND":
            return
        offset = end


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
