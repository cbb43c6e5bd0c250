"""Remove metadata from TIFF (6.0): write a new file with the pixels and the tags that describe them."""

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
_DATA_TAG_PAIRS = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
# None, Huffman, fax, LZW, deflate, PackBits, LZMA, zstd. Others (JPEG, WebP) can contain metadata themselves.
_SAFE_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000))
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MAX_TIFF_PAGES = 1000


@dataclass(frozen=True)
class _TiffPage:
    """A page: its safe tags, its strips or tiles, and the tag for their offsets."""

    tags: Tags
    strips: list[bytes]
    offsets_tag: int


def strip_tiff(data: bytes) -> bytes:
    """Return all pages, rewritten without metadata.

    Raises:
        UnsupportedContainer, struct.error, IndexError: The file cannot be parsed.
    """
    order = "<" if data[:2] == b"II" else ">"
    out, pointer_offset, copied = bytearray(data[:4] + bytes(4)), 4, 0
    for page in _iterate_pages(data, order):
        copied += sum(map(len, page.strips))
        if copied > len(data):  # overlapping strips would make the file grow without limit
            raise UnsupportedContainer
        pointer_offset = _write_page(out, page, order, pointer_offset)
    return bytes(out)


def _iterate_pages(data: bytes, order: str) -> Iterator[_TiffPage]:
    """Yield the pages; `order` is the byte order of struct, "<" or ">"."""
    offset, seen = struct.unpack_from(f"{order}I", data, 4)[0], set[int]()
    while offset:
        if offset in seen or len(seen) >= _MAX_TIFF_PAGES:
            raise UnsupportedContainer
        seen.add(offset)
        tags, offset = _read_directory(data, order, offset)
        yield _make_page(data, order, tags)


def _read_directory(data: bytes, order: str, offset: int) -> tuple[Tags, int]:
    """Return the safe tags of the page at `offset`, and the offset of the next page (0: none)."""
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    tags: Tags = {}
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
        if tag not in _SAFE_TAGS and not any(tag in pair for pair in _DATA_TAG_PAIRS):
            continue
        size = _TYPE_SIZES[kind] * length if kind in _TYPE_SIZES else len(data) + 1
        start = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        if start + size > len(data):
            raise UnsupportedContainer
        tags[tag] = kind, length, data[start : start + size]
    return tags, struct.unpack_from(f"{order}I", data, offset + 2 + 12 * count)[0]


def _make_page(data: bytes, order: str, tags: Tags) -> _TiffPage:
    """Return a page with its strips or tiles."""
    pair = next((pair for pair in _DATA_TAG_PAIRS if pair[0] in tags and pair[1] in tags), None)
    compression = _unpack_integers(tags[259], order)[0] if 259 in tags else 1
    if pair is None or compression not in _SAFE_COMPRESSIONS:
        raise UnsupportedContainer
    starts, lengths = _unpack_integers(tags.pop(pair[0]), order), _unpack_integers(tags[pair[1]], order)
    if len(starts) != len(lengths):
        raise UnsupportedContainer
    extents = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    if any(end > len(data) for _, end in extents):
        raise UnsupportedContainer
    page_tags = {tag: value for tag, value in tags.items() if tag in _SAFE_TAGS or tag == pair[1]}
    return _TiffPage(page_tags, [data[start:end] for start, end in extents], pair[0])


def _unpack_integers(value: tuple[int, int, bytes], order: str) -> list[int]:
    """Return the values of a tag of 16-bit or 32-bit integers."""
    kind, length, raw = value
    if kind not in (3, 4) or not length:
        raise UnsupportedContainer
    return list(struct.unpack(f"{order}{length}{'H' if kind == 3 else 'I'}", raw))


def _write_page(out: bytearray, page: _TiffPage, order: str, pointer_offset: int) -> int:
    """Append the page and write its offset at `pointer_offset`; return where the offset of the next page belongs."""
    starts = [_append_aligned(out, strip) for strip in page.strips]
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
    """Append the data at an even offset, as the standard requires; return the offset."""
    out += b"\0" * (len(out) % 2)
    offset = len(out)
    out += data
    return offset
