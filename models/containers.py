"""How files of pictures are built: pieces with a length and a kind, one behind the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator


class NotUnderstood(Exception):
    """A container of a variant, or with damage, that can't be taken apart."""


def riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each chunk. Raises NotUnderstood where one is cut short."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise NotUnderstood
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise NotUnderstood
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def sub_blocks(data: bytes, at: int) -> int:
    """Where GIF's blocks of at most 255 bytes end that begin at `at`. Raises IndexError where they are cut short."""
    while data[at]:
        at += 1 + data[at]
    return at + 1


def boxes(data: bytes | bytearray, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, start, start of the body, end) of each box of an ISO media file. Raises NotUnderstood."""
    while at < end:
        if at + 8 > end:
            raise NotUnderstood
        length, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if length == 1:
            length, body = struct.unpack_from(">Q", data, body)[0], body + 8
        length = length or end - at  # 0: up to the end
        if length < body - at or at + length > end:
            raise NotUnderstood
        yield kind, at, body, at + length
        at += length
