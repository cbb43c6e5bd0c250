"""TIFF without what it says of people: made anew from its pixels and the tags that explain them. TIFF 6.0."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from simile.images.containers import UnsupportedContainer

Tags = dict[int, tuple[int, int, bytes]]  # tag: (type, count, value)

# Size and shape, compression, colours, samples, strips and tiles, resolution, orientation, ICC profile.
_SAFE_TAGS = frozenset(
    tag
    for first, last in (
        *((254, 259), (262, 262), (266, 266), (274, 274), (277, 278), (280, 284), (290, 293), (296, 297), (301, 301)),
        *((317, 323), (332, 332), (334, 334), (338, 342), (529, 532), (34675, 34675)),
    )
    for tag in range(first, last + 1)
)
_DATA_TAG_PAIRS = ((273, 279), (324, 325))  # where strips, or tiles, lie and how long they are
# None, Huffman, fax, LZW, deflate, PackBits, LZMA, zstd. Others (JPEG, WebP) may hold a container of their own.
_SAFE_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000))
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MAX_TIFF_PAGES = 1000


@dataclass(frozen=True)
class _TiffPage:
    tags: Tags
    strips: list[bytes]
    offsets_tag: int


def strip_tiff(data: bytes) -> bytes:
    """All pages, rewritten. Raises NotUnderstood, struct.error, IndexError."""
    order = "<" if data[:2] == b"II" else ">"
    out, at_pointer, copied = bytearray(data[:4] + bytes(4)), 4, 0
    for page in _iterate_pages(data, order):
        copied += sum(map(len, page.strips))
        if copied > len(data):  # strips that lie on each other would make it grow without end
            raise UnsupportedContainer
        at_pointer = _write_page(out, page, order, at_pointer)
    return bytes(out)


def _iterate_pages(data: bytes, order: str) -> Iterator[_TiffPage]:
    at, seen = struct.unpack_from(f"{order}I", data, 4)[0], set[int]()
    while at:
        if at in seen or len(seen) >= _MAX_TIFF_PAGES:
            raise UnsupportedContainer
        seen.add(at)
        tags, at = _read_directory(data, order, at)
        yield _make_page(data, order, tags)


def _read_directory(data: bytes, order: str, offset: int) -> tuple[Tags, int]:
    """The tags of the page at `at`, and where the next one is."""
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    tags: Tags = {}
    for place in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
        if tag not in _SAFE_TAGS and not any(tag in pair for pair in _DATA_TAG_PAIRS):
            continue
        size = _TYPE_SIZES[kind] * length if kind in _TYPE_SIZES else len(data) + 1
        start = place + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, place + 8)[0]
        if start + size > len(data):
            raise UnsupportedContainer
        tags[tag] = kind, length, data[start : start + size]
    return tags, struct.unpack_from(f"{order}I", data, offset + 2 + 12 * count)[0]


def _make_page(data: bytes, order: str, tags: Tags) -> _TiffPage:
    pair = next((pair for pair in _DATA_TAG_PAIRS if pair[0] in tags and pair[1] in tags), None)
    compression = _unpack_integers(tags[259], order)[0] if 259 in tags else 1
    if pair is None or compression not in _SAFE_COMPRESSIONS:
        raise UnsupportedContainer
    starts, lengths = _unpack_integers(tags.pop(pair[0]), order), _unpack_integers(tags[pair[1]], order)
    if len(starts) != len(lengths) or any(one + size > len(data) for one, size in zip(starts, lengths, strict=True)):
        raise UnsupportedContainer
    kept = {tag: value for tag, value in tags.items() if tag in _SAFE_TAGS or tag == pair[1]}
    return _TiffPage(kept, [data[one : one + size] for one, size in zip(starts, lengths, strict=True)], pair[0])


def _unpack_integers(value: tuple[int, int, bytes], order: str) -> list[int]:
    kind, length, raw = value
    if kind not in (3, 4) or not length:
        raise UnsupportedContainer
    return list(struct.unpack(f"{order}{length}{'H' if kind == 3 else 'I'}", raw))


def _write_page(out: bytearray, page: _TiffPage, order: str, pointer_offset: int) -> int:
    """Appends the page, and has the pointer lead to it; gives where the pointer to the next page stands."""
    starts = [_append_aligned(out, part) for part in page.strips]
    tags = page.tags | {page.offsets_tag: (4, len(starts), struct.pack(f"{order}{len(starts)}I", *starts))}
    entries = [
        struct.pack(f"{order}HHI", tag, kind, length)
        + (raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", _append_aligned(out, raw)))
        for tag, (kind, length, raw) in sorted(tags.items())
    ]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries)
    struct.pack_into(f"{order}I", out, pointer_offset, _append_aligned(out, directory + bytes(4)))
    return len(out) - 4


def _append_aligned(out: bytearray, data: bytes) -> int:
    """At an even place, as the standard wants it; gives the place."""
    out += b"\0" * (len(out) % 2)
    at = len(out)
    out += data
    return at
