"""Find out what a TIFF holds besides its first image: a camera's raw data, or a larger image behind a preview.

Camera files (NEF, DNG, ARW, CR2, PEF and others) are TIFFs; their first directory often describes a small preview.
A decoder that opens the first directory would take the preview for the image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_DIRECTORIES = 5_000  # of one file
MAX_TAGS = 200_000  # of all directories, which may overlap: each takes a step
RAW_REASON = (
    "a camera's raw file: simile reads only the preview in it, so it is set aside. Index a JPEG or TIFF made of it"
)
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
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # by type: byte, short, long, IFD and their 64-bit forms


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
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    pending: list[tuple[int, bool]] = []
    seen: set[int] = set()
    try:
        pending.append((struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)[0], False))
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


def _read_directory(data: bytes, offset: int, order: str, is_big: bool) -> tuple[TiffDirectory, int]:
    """Return the directory at an offset, and the offset of the one that follows. Raises struct.error."""
    count_format, entry_format, size = (f"{order}Q", f"{order}HHQ", 8) if is_big else (f"{order}H", f"{order}HHI", 4)
    (count,) = struct.unpack_from(count_format, data, offset)
    position, entry_size = offset + struct.calcsize(count_format), 4 + 2 * size
    values: dict[int, tuple[int, ...]] = {}
    tags = set()
    for start in range(position, min(position + min(count, MAX_TAGS) * entry_size, len(data)), entry_size):
        tag, kind, number = struct.unpack_from(entry_format, data, start)
        tags.add(tag)
        if tag not in _READ_TAGS or kind not in _FORMATS or number > MAX_DIRECTORIES:
            continue
        value_format = f"{order}{number}{_FORMATS[kind]}"
        value_position = start + 4 + size
        if struct.calcsize(value_format) > size:  # the numbers are elsewhere
            (value_position,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, value_position)
        values[tag] = struct.unpack_from(value_format, data, value_position)
    end = position + count * entry_size
    (following,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, end)
    return TiffDirectory(values, frozenset(tags), count), following


_READ_TAGS = frozenset({_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SUB_DIRECTORIES})
