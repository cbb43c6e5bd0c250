"""Remove metadata from HEIF and AVIF. ISO/IEC 23008-12 and 14496-12.

Offsets in such a file count from its beginning, so nothing is moved: everything that is no image becomes zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from simile.images.containers import UnsupportedContainer, iterate_boxes

Extents = dict[int, list[tuple[int, int]]]  # item id: (start, end) in the file of each part

# Types of items that are images, or that combine images. EXIF, XMP and so on are items of other types.
_IMAGE_ITEM_TYPES = frozenset(
    (b"hvc1", b"hev1", b"lhv1", b"av01", b"avc1", b"vvc1", b"grid", b"iden", b"iovl", b"tmap")
)
_SAFE_META_BOXES = frozenset((b"hdlr", b"pitm", b"iloc", b"iinf", b"iref", b"iprp", b"idat", b"dinf", b"grpl"))
# Codec settings, sizes, colours, rotations. Others can contain texts, times and the position of the camera.
_SAFE_PROPERTIES = frozenset(
    b"hvcC lhvC av1C avcC vvcC ispe pixi colr pasp clap irot imir auxC a1op a1lx lsel rloc clli mdcv cclv"
    b" oinf tols".split()
)


def strip_heif(data: bytes) -> bytes:
    """Return the same file with zeros instead of metadata.

    Raises:
        UnsupportedContainer, struct.error, IndexError: The file cannot be parsed, or is a sequence.
    """
    out = bytearray(data)
    boxes = list(iterate_boxes(data, 0, len(data)))
    metas = [(body, end) for kind, _, body, end in boxes if kind == b"meta"]
    if len(metas) != 1:
        raise UnsupportedContainer
    extents = _strip_meta(data, out, *metas[0])
    for kind, start, body, end in boxes:
        if kind == b"mdat":
            _blank_between(out, body, end, extents)
        elif kind == b"moov":  # a sequence
            raise UnsupportedContainer
        elif kind not in (b"ftyp", b"meta"):
            _blank_box(out, start, body, end)
    return bytes(out)


def _strip_meta(data: bytes, out: bytearray, body: int, end: int) -> list[tuple[int, int]]:
    """Blank everything in the meta box that is no image; return (start, end) in the file of the images' parts."""
    # Blank unknown boxes; find the bodies of the others.
    bodies: dict[bytes, tuple[int, int]] = {}
    for kind, start, box_body, stop in iterate_boxes(data, body + 4, end):
        if kind not in _SAFE_META_BOXES or kind in bodies:
            _blank_box(out, start, box_body, stop)
        bodies.setdefault(kind, (box_body, stop))
    # Find the parts of all items.
    types = dict(_strip_items(data, out, *bodies[b"iinf"])) if b"iinf" in bodies else {}
    idat = bodies.get(b"idat", (0, 0))
    extents = _read_extents(data, *bodies[b"iloc"], idat) if b"iloc" in bodies else {}
    if any(stop > len(data) for parts in extents.values() for _, stop in parts):
        raise UnsupportedContainer
    image_parts = [part for item, parts in extents.items() if types.get(item) in _IMAGE_ITEM_TYPES for part in parts]
    if not image_parts:
        raise UnsupportedContainer
    # Blank the other parts and the unknown properties.
    _blank_between(out, *idat, image_parts)
    if b"iprp" in bodies:
        _strip_properties(data, out, *bodies[b"iprp"])
    return image_parts


def _strip_items(data: bytes, out: bytearray, body: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (item id, type) of each item; blank its name, and the type if it is no image."""
    for kind, _, box_body, stop in iterate_boxes(data, body + (6 if data[body] == 0 else 8), end):
        version = data[box_body]
        if kind != b"infe" or version not in (2, 3):
            raise UnsupportedContainer
        id_end = box_body + 4 + (2 if version == 2 else 4)
        item = int.from_bytes(data[box_body + 4 : id_end], "big")
        item_type = data[id_end + 2 : id_end + 6]
        out[id_end + 6 : stop] = bytes(stop - id_end - 6)  # its name
        if item_type not in _IMAGE_ITEM_TYPES:
            out[id_end + 2 : id_end + 6] = b"skip"
        yield item, item_type


def _read_extents(data: bytes, body: int, end: int, idat: tuple[int, int]) -> Extents:
    """Return the parts of each item from the iloc box; `idat` is the body of the idat box."""
    version, sizes = data[body], struct.unpack_from(">H", data, body + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    position, id_size = body + 6, 4 if version == 2 else 2
    if version > 2:
        raise UnsupportedContainer

    def read_number(size: int) -> int:
        nonlocal position
        position += size
        if position > end:
            raise UnsupportedContainer
        return int.from_bytes(data[position - size : position], "big")

    extents: Extents = {}
    for _ in range(read_number(id_size)):
        item = read_number(id_size)
        method = read_number(2) & 15 if version else 0  # 0: in the file, 1: in idat
        read_number(2)  # data reference: 0 is this file
        base = read_number(base_size) + (idat[0] if method == 1 else 0)
        if method > 1:
            raise UnsupportedContainer
        for _ in range(read_number(2)):
            read_number(index_size if version else 0)
            start, length = base + read_number(offset_size), read_number(length_size)
            stop = start + length if length else (idat[1] if method == 1 else len(data))
            extents.setdefault(item, []).append((start, stop))
    return extents


def _strip_properties(data: bytes, out: bytearray, body: int, end: int) -> None:
    """Blank the unknown properties and boxes in the iprp box."""
    for kind, start, box_body, stop in iterate_boxes(data, body, end):
        if kind == b"ipco":
            for property_kind, first, inner, last in iterate_boxes(data, box_body, stop):
                if property_kind not in _SAFE_PROPERTIES:
                    _blank_box(out, first, inner, last)
        elif kind != b"ipma":
            _blank_box(out, start, box_body, stop)


def _blank_box(out: bytearray, start: int, body: int, end: int) -> None:
    """Make a box a free box of zeros. It keeps its position, because properties are referenced by index."""
    out[start + 4 : start + 8] = b"free"
    out[body:end] = bytes(end - body)


def _blank_between(out: bytearray, start: int, end: int, keep_ranges: list[tuple[int, int]]) -> None:
    """Write zeros from start to end, except in the ranges to keep."""
    position = start
    for first, last in sorted(keep_ranges):
        if position < first:
            out[position : min(first, end)] = bytes(max(0, min(first, end) - position))
        position = max(position, last)
    if position < end:
        out[position:end] = bytes(end - position)
