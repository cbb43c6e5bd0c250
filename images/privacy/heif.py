"""HEIF and AVIF without what they say of people. ISO/IEC 23008-12 and 14496-12.

Offsets in such a file count from its beginning, so nothing is moved: what does not show the picture becomes zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from simile.images.containers import UnsupportedContainer, iterate_boxes

Extents = dict[int, list[tuple[int, int]]]  # item: (start, end) in the file of each of its pieces

# Kinds of items that are pictures, or say how pictures are put together. EXIF, XMP and the like are items too.
_IMAGE_ITEM_TYPES = frozenset(
    (b"hvc1", b"hev1", b"lhv1", b"av01", b"avc1", b"vvc1", b"grid", b"iden", b"iovl", b"tmap")
)
_SAFE_META_BOXES = frozenset((b"hdlr", b"pitm", b"iloc", b"iinf", b"iref", b"iprp", b"idat", b"dinf", b"grpl"))
# Codec settings, sizes, colours, turns. Others may hold texts, times, the camera's place.
_SAFE_PROPERTIES = frozenset(
    b"hvcC lhvC av1C avcC vvcC ispe pixi colr pasp clap irot imir auxC a1op a1lx lsel rloc clli mdcv cclv"
    b" oinf tols".split()
)


def strip_heif(data: bytes) -> bytes:
    """The same file with zeros in it. Raises NotUnderstood (also for sequences), struct.error, IndexError."""
    out = bytearray(data)
    top = list(iterate_boxes(data, 0, len(data)))
    metas = [(body, end) for kind, _, body, end in top if kind == b"meta"]
    if len(metas) != 1:
        raise UnsupportedContainer
    extents = _strip_meta(data, out, *metas[0])
    for kind, start, body, end in top:
        if kind == b"mdat":
            _blank_between(out, body, end, extents)
        elif kind == b"moov":
            raise UnsupportedContainer
        elif kind not in (b"ftyp", b"meta"):
            _blank_box(out, start, body, end)
    return bytes(out)


def _strip_meta(data: bytes, out: bytearray, body: int, end: int) -> list[tuple[int, int]]:
    """Blanks what is no picture; gives where the pictures lie in the file."""
    inside: dict[bytes, tuple[int, int]] = {}
    for kind, start, at, stop in iterate_boxes(data, body + 4, end):
        if kind not in _SAFE_META_BOXES or kind in inside:
            _blank_box(out, start, at, stop)
        inside.setdefault(kind, (at, stop))
    kinds = dict(_iterate_items(data, out, *inside[b"iinf"])) if b"iinf" in inside else {}
    idat = inside.get(b"idat", (0, 0))
    extents = _read_extents(data, *inside[b"iloc"], idat) if b"iloc" in inside else {}
    if any(stop > len(data) for pieces in extents.values() for _, stop in pieces):
        raise UnsupportedContainer
    kept = [piece for item, pieces in extents.items() if kinds.get(item) in _IMAGE_ITEM_TYPES for piece in pieces]
    if not kept:
        raise UnsupportedContainer
    _blank_between(out, *idat, kept)
    if b"iprp" in inside:
        _strip_properties(data, out, *inside[b"iprp"])
    return kept


def _iterate_items(data: bytes, out: bytearray, body: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(item, its kind). Of what is no picture not even the kind stays."""
    for kind, _, at, stop in iterate_boxes(data, body + (6 if data[body] == 0 else 8), end):
        version = data[at]
        if kind != b"infe" or version not in (2, 3):
            raise UnsupportedContainer
        place = at + 4 + (2 if version == 2 else 4)
        item = int.from_bytes(data[at + 4 : place], "big")
        what = data[place + 2 : place + 6]
        out[place + 6 : stop] = bytes(stop - place - 6)  # its name
        if what not in _IMAGE_ITEM_TYPES:
            out[place + 2 : place + 6] = b"skip"
        yield item, what


def _read_extents(data: bytes, body: int, end: int, idat: tuple[int, int]) -> Extents:
    version, sizes = data[body], struct.unpack_from(">H", data, body + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    at, wide = body + 6, 4 if version == 2 else 2
    if version > 2:
        raise UnsupportedContainer

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > end:
            raise UnsupportedContainer
        return int.from_bytes(data[at - size : at], "big")

    found: Extents = {}
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)  # another file to look in: 0, this one
        base = number(base_size) + (idat[0] if method == 1 else 0)
        if method > 1:
            raise UnsupportedContainer
        for _ in range(number(2)):
            number(index_size if version else 0)
            start, length = base + number(offset_size), number(length_size)
            stop = start + length if length else (idat[1] if method == 1 else len(data))
            found.setdefault(item, []).append((start, stop))
    return found


def _strip_properties(data: bytes, out: bytearray, body: int, end: int) -> None:
    for kind, start, at, stop in iterate_boxes(data, body, end):
        if kind == b"ipco":
            for what, first, inner, last in iterate_boxes(data, at, stop):
                if what not in _SAFE_PROPERTIES:
                    _blank_box(out, first, inner, last)
        elif kind != b"ipma":
            _blank_box(out, start, at, stop)


def _blank_box(out: bytearray, start: int, body: int, end: int) -> None:
    """A box of zeros, of the kind that means nothing. Its place in a list of properties stays taken."""
    out[start + 4 : start + 8] = b"free"
    out[body:end] = bytes(end - body)


def _blank_between(out: bytearray, start: int, end: int, keep_ranges: list[tuple[int, int]]) -> None:
    """Zeros from start to end, where nothing is kept."""
    at = start
    for first, last in sorted(keep_ranges):
        if at < first:
            out[at : min(first, end)] = bytes(max(0, min(first, end) - at))
        at = max(at, last)
    if at < end:
        out[at:end] = bytes(end - at)
