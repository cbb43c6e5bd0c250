"""How files of pictures are built: pieces with a length and a kind, one behind the other."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator


class UnsupportedContainer(Exception):
    """A container of a variant, or with damage, that can't be taken apart."""


def iterate_riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each chunk. Raises NotUnderstood where one is cut short."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise UnsupportedContainer
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise UnsupportedContainer
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")  # but for those without a length, and stuffed bytes


def has_more_scans(data: bytes, max_scans: int) -> bool:
    """Whether a JPEG goes through its pixels more than `most` times before it ends, as libjpeg reads it.

    A scan takes some thirty bytes and as long as all pixels: thousands of them make a small file work for hours
    (https://bugzilla.redhat.com/show_bug.cgi?id=1344214).
    """
    if (
        data.count(b"\xff\xda") <= max_scans
    ):  # what else may look like one (a preview, a film behind the picture) included
        return False
    scans, found = 0, _JPEG_MARKER.search(data, 2)
    while found and found[1] != b"\xd9" and scans <= max_scans:
        scans += found[1] == b"\xda"
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        found = _JPEG_MARKER.search(data, found.end() + max(length, 2))
    return scans > max_scans


def find_sub_blocks_end(data: bytes, offset: int) -> int:
    """Where GIF's blocks of at most 255 bytes end that begin at `at`. Raises IndexError where they are cut short."""
    while data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def iterate_boxes(data: bytes | bytearray, offset: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, start, start of the body, end) of each box of an ISO media file. Raises NotUnderstood."""
    while offset < end:
        if offset + 8 > end:
            raise UnsupportedContainer
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = offset + 8
        if length == 1:
            length, body = struct.unpack_from(">Q", data, body)[0], body + 8
        length = length or end - offset  # 0: up to the end
        if length < body - offset or offset + length > end:
            raise UnsupportedContainer
        yield kind, offset, body, offset + length
        offset += length
