"""Find out what a TIFF holds besides its first image: a camera's raw data, or a larger image behind a preview.

Camera files (NEF, DNG, ARW, CR2, PEF and others) are TIFFs; their first directory often describes a small preview.
A decoder that opens the first directory would take the preview for the image.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as count_from
from typing import NamedTuple

MAX_DIRECTORIES = 5_000  # of one file
MAX_TAGS = 200_000  # of all directories, which may overlap: each takes a step
RAW_REASON = "a camera's raw file: install the package that reads its preview with `pip install 'simile[raw]'`"
PREVIEW_REASON = (
    "its first image is a preview of a larger one that simile does not read, so it is set aside. Save the larger "
    "image as a file of its own"
)

_SIGNATURE = re.compile(rb"II[*+]\0|MM\0[*+]")
# Raw formats that are no plain TIFF: Olympus, Panasonic, Fujifilm, Sigma, Minolta, Canon CRW and CR3.
_RAW_SIGNATURES = re.compile(
    rb"IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR|.{4}ftypcrx |(?:II[*+]\0|MM\0[*+]).{4}CR",
    re.DOTALL,
)
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _MAKE = 254, 255, 256, 257, 262, 271
_SUB_DIRECTORIES, _CFA_PATTERNS, _DNG_VERSION, _CR2_SLICES = 330, (33421, 33422), 50706, 50752
_CAMERA_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # by type: byte, short, long, IFD and their 64-bit forms

Buffer = bytes | mmap.mmap  # of a whole file, or of a block that is built like one


class TiffEntry(NamedTuple):
    """An entry of a directory: `length` values of a type, which start at a position in the file."""

    tag: int
    kind: int
    length: int
    position: int


@dataclass
class TiffDirectory:
    """The numbers of one directory that describe its image, by tag."""

    values: dict[int, tuple[int, ...]] = field(default_factory=dict)
    tags: frozenset[int] = frozenset()
    entry_count: int = 0

    def get(self, tag: int, default: int = 0) -> int:
        """Return the first number of a tag."""
        return next(iter(self.values.get(tag, ())), default)

    @property
    def pixel_count(self) -> int:
        """Width times height, 0 if one of them is not given."""
        return self.get(_WIDTH) * self.get(_HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Whether the directory calls itself a reduced version of another image."""
        return bool(self.get(_NEW_SUBFILE_TYPE) & 1) or self.get(_SUBFILE_TYPE) == 2

    @property
    def is_raw(self) -> bool:
        """Whether the directory describes the values of a camera's sensor, or belongs to a DNG or CR2 file."""
        is_sensor = self.get(_PHOTOMETRIC) in _CAMERA_PHOTOMETRICS or not self.tags.isdisjoint(_CFA_PATTERNS)
        return is_sensor or _DNG_VERSION in self.tags or _CR2_SLICES in self.tags


def find_unread_image(data: bytes) -> str | None:
    """Return why the image that a decoder would show is not what the file holds; None for an ordinary file."""
    if _RAW_SIGNATURES.match(data):
        return RAW_REASON
    if not _SIGNATURE.match(data):
        return None
    directories = list(iterate_directories(data))
    if not directories:
        return None
    (first, is_sub), others = directories[0], directories[1:]
    assert not is_sub
    if any(directory.is_raw for directory, _ in directories) or (first.is_reduced and _MAKE in first.tags):
        return RAW_REASON
    hides_larger = any(
        directory.pixel_count > first.pixel_count and (is_sub or (first.is_reduced and not directory.is_reduced))
        for directory, is_sub in others
    )
    return PREVIEW_REASON if hides_larger else None


def iterate_directories(data: bytes) -> Iterator[tuple[TiffDirectory, bool]]:
    """Yield each directory of a TIFF, with whether it is a sub-directory; stops where the file is damaged."""
    pending: list[tuple[int, bool]] = []
    seen: set[int] = set()
    try:
        order, is_big, first = read_header(data)
        pending.append((first, False))
        tag_count = 0
        while pending and len(seen) < MAX_DIRECTORIES and tag_count < MAX_TAGS:
            offset, is_sub = pending.pop()
            if not offset or offset in seen:
                continue
            seen.add(offset)
            directory, following = _read_directory(data, offset, order, is_big)
            tag_count += directory.entry_count
            yield directory, is_sub
            pending.append((following, is_sub))
            pending += [(sub, True) for sub in directory.values.get(_SUB_DIRECTORIES, ())]
    except (struct.error, OverflowError):
        return


def read_header(data: Buffer) -> tuple[str, bool, int]:
    """Return the byte order of struct, whether it is a BigTIFF, and the offset of the first directory.

    Raises struct.error.
    """
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    return order, is_big, struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)[0]


def iterate_entries(data: Buffer, offset: int, order: str, *, is_big: bool) -> Iterator[TiffEntry]:
    """Yield the entries of the directory at an offset that are not cut off. Raises struct.error."""
    position, count, size = _find_entries(data, offset, order, is_big)
    entry_size = 4 + 2 * size
    count = min(count, MAX_TAGS, max(0, len(data) - position) // entry_size)
    entries = struct.iter_unpack(f"{order}HH{'QQ' if is_big else 'II'}", data[position : position + count * entry_size])
    for value_position, (tag, kind, length, value_offset) in zip(count_from(position + 4 + size, entry_size), entries):
        is_elsewhere = _TYPE_SIZES.get(kind, 1) * length > size
        yield TiffEntry(tag, kind, length, value_offset if is_elsewhere else value_position)


def _find_entries(data: Buffer, offset: int, order: str, is_big: bool) -> tuple[int, int, int]:
    """Return where the entries of a directory start, their number, and the bytes of an offset."""
    count_format = f"{order}Q" if is_big else f"{order}H"
    (count,) = struct.unpack_from(count_format, data, offset)
    return offset + struct.calcsize(count_format), count, 8 if is_big else 4


def _read_directory(data: bytes, offset: int, order: str, is_big: bool) -> tuple[TiffDirectory, int]:
    """Return the directory at an offset, and the offset of the one that follows. Raises struct.error."""
    values: dict[int, tuple[int, ...]] = {}
    tags = set()
    for entry in iterate_entries(data, offset, order, is_big=is_big):
        tags.add(entry.tag)
        if entry.tag in _READ_TAGS and entry.kind in _FORMATS and entry.length <= MAX_DIRECTORIES:
            value_format = f"{order}{entry.length}{_FORMATS[entry.kind]}"
            values[entry.tag] = struct.unpack_from(value_format, data, entry.position)
    position, count, size = _find_entries(data, offset, order, is_big)
    (following,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, position + count * (4 + 2 * size))
    return TiffDirectory(values, frozenset(tags), count), following


_READ_TAGS = frozenset({_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SUB_DIRECTORIES})
