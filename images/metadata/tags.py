"""Read some tags of a TIFF directory, which EXIF blocks have, too.

Pillow decodes all tags, with the notes of the camera's maker: that takes twenty times as long, and values that overlap
can make gigabytes of a small block.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from simile.images.tiff import Buffer, TiffEntry, iterate_entries, read_header

MAX_NUMBERS = 16  # of one tag

_BYTE_TYPES = (1, 2, 7, 129)  # byte, ASCII, undefined, UTF-8
_NUMBER_FORMATS = {1: "B", 3: "H", 4: "I", 5: "II", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_RATIONAL_TYPES = (5, 10)
_DAMAGE = (struct.error, OverflowError)


class TagReader:
    """Reads some tags of directories. Damaged values, and values outside of the data, are left out."""

    def __init__(self, data: Buffer, tags: Collection[int], offset: int | None = None) -> None:
        """Find the tags of the directory at an offset; None: of the first one."""
        self._data, self._order = data, "<"
        self._entries: dict[int, TiffEntry] = {}
        try:
            self._order, is_big, first = read_header(data)
            for entry in iterate_entries(data, first if offset is None else offset, self._order, is_big=is_big):
                if entry.tag in tags:
                    self._entries.setdefault(entry.tag, entry)
        except _DAMAGE:
            return

    def get_bytes(self, tag: int, max_bytes: int) -> bytes | None:
        """Return the bytes of a tag; None if there is none, or it is longer."""
        entry = self._entries.get(tag)
        if entry is None or entry.kind not in _BYTE_TYPES or not 0 < entry.length <= max_bytes:
            return None
        return bytes(self._data[entry.position : entry.position + entry.length])

    def get_numbers(self, tag: int) -> tuple[float, ...]:
        """Return the numbers of a tag; empty if there are none, or one of them is divided by 0."""
        entry = self._entries.get(tag)
        if entry is None or entry.kind not in _NUMBER_FORMATS or not 0 < entry.length <= MAX_NUMBERS:
            return ()
        try:
            value_format = self._order + _NUMBER_FORMATS[entry.kind] * entry.length
            numbers: tuple[float, ...] = struct.unpack_from(value_format, self._data, entry.position)
            if entry.kind not in _RATIONAL_TYPES:
                return numbers
            return tuple(top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True))
        except (*_DAMAGE, ZeroDivisionError):
            return ()

    def get_number(self, tag: int) -> float | None:
        """Return the first number of a tag."""
        return next(iter(self.get_numbers(tag)), None)

    def read_directory(self, tag: int, tags: Collection[int]) -> TagReader:
        """Return the tags of the directory at the offset that a tag gives; empty if there is none."""
        offset = self.get_number(tag)
        return TagReader(b"", ()) if offset is None else TagReader(self._data, tags, int(offset))
