"""Image files that are small to send and slow to decode, one maker for each kind.

A maker gets the wanted size in bytes. `TOO_MANY_PIECES` are refused by the number of their pieces, `SLOW_DECODERS` need
decoders that are not loops of Python, and `LARGE_IMAGES` are normal files of many pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pillow_heif
from PIL import Image

from simile.images.containers import get_colour_table_size

SIDE = 14_000  # close to the limit of 200 megapixels
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MakeFile = Callable[[int], bytes]


def save(kind: str, side: int, mode: str = "RGB", **options: object) -> bytes:
    """Return a square image of one colour."""
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.new(mode, (side, side), 128).save(file, kind, **options)
    return file.getvalue()


def save_square(kind: str, side: int, size: int) -> bytes:
    """Return an image that a camera could make."""
    return save(kind, side)


def insert(data: bytes, position: int, more: bytes) -> bytes:
    """Return the data with other bytes at a position."""
    return data[:position] + more + data[position:]


def repeat(piece: bytes, size: int) -> bytes:
    """Return the piece repeated up to about `size` bytes."""
    return piece * (size // len(piece))


def make_jpeg(more: bytes) -> bytes:
    """Return a small JPEG with more bytes before its first segment."""
    return insert(save("JPEG", 64), 2, more)


def make_segment(marker: int, body: bytes) -> bytes:
    """Return a segment of a JPEG or of a JPEG 2000 codestream."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(more: bytes, side: int = 64, bits: int = 8, colour: int = 2, *, after_pixels: bool = False) -> bytes:
    """Return a black PNG with more chunks before or after its pixels."""
    row = bytes(1 + side * bits * {0: 1, 2: 3, 4: 2, 6: 4}[colour] // 8)
    packer = zlib.compressobj(9)
    pixels = make_chunk(b"IDAT", b"".join(packer.compress(row) for _ in range(side)) + packer.flush())
    body = pixels + more if after_pixels else more + pixels
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    return PNG_SIGNATURE + header + body + make_chunk(b"IEND", b"")


def make_gif(blocks: bytes) -> bytes:
    """Return a small GIF with more bytes before its first frame."""
    data = save("GIF", 64, "L")
    return insert(data, 13 + get_colour_table_size(data[10]), blocks)


def make_tiff(tags: list[tuple[int, int, int, int]], more: bytes = b"") -> bytes:
    """Return a TIFF of one page with these tags (tag, type, count, value) and bytes after it."""
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + more


def make_tiff_of_pages(size: int) -> bytes:
    """Return a TIFF of empty pages after the first."""
    first = save("TIFF", 16)
    (start,) = struct.unpack_from("<I", first, 4)
    end = start + 2 + 12 * struct.unpack_from("<H", first, start)[0]
    offsets = range(len(first), len(first) + size, 6)
    pages = b"".join(struct.pack("<HI", 0, offset + 6) for offset in offsets[:-1])
    return first[:end] + struct.pack("<I", len(first)) + first[end + 4 :] + pages + bytes(6)


def make_tiff_of_strips(size: int) -> bytes:
    """Return an uncompressed grey TIFF that names the same row again and again."""
    rows = size // 4
    fields = {256: 64, 257: rows, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    offset = 8 + 2 + 12 * (len(fields) + 1) + 4
    tags = [(tag, 4, 1, value) for tag, value in fields.items()] + [(273, 4, rows, offset + 64)]
    return make_tiff(tags, bytes(64) + struct.pack("<I", offset) * rows)


def make_bitmap(bits: int, compression: int, coded: bytes, side: int = SIDE) -> bytes:
    """Return a run-length encoded bitmap."""
    palette = b"".join(bytes((value, value, value, 0)) for value in range(1 << bits))
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, bits, compression, len(coded), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start) + head + palette + coded


def make_box(kind: bytes, body: bytes) -> bytes:
    """Return a box of an ISO media file."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def make_heif_of_items(size: int) -> bytes:
    """Return a HEIF file that lists items without data."""
    count = min(65_000, size // 21)
    items = b"".join(
        make_box(b"infe", struct.pack(">IHH4s", 2 << 24, number, 0, b"hvc1") + b"\0") for number in range(count)
    )
    handler = make_box(b"hdlr", bytes(8) + b"pict" + bytes(13))
    meta = bytes(4) + handler + make_box(b"pitm", bytes(6)) + make_box(b"iinf", struct.pack(">IH", 0, count) + items)
    return make_box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + make_box(b"meta", meta)


def make_jpeg2000(boxes: bytes) -> bytes:
    """Return a JPEG 2000 file with more boxes before its header."""
    data = save("JPEG2000", 32)
    return insert(data, data.index(b"jp2h") - 4, boxes)


def make_codestream(segments: bytes) -> bytes:
    """Return a JPEG 2000 codestream with more segments after its size."""
    data = save("JPEG2000", 32, no_jp2=True)
    return insert(data, 4 + struct.unpack_from(">H", data, 4)[0], segments)


def make_jpeg_of_scans(size: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    data = save("JPEG", 4000, "L", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + repeat(scan, size) + data[-2:]


def make_webp_of_frames(size: int) -> bytes:
    """Return an animation that repeats a tiny frame."""
    still = save("WEBP", 4, lossless=True)
    frame = struct.pack("<4sI", b"ANMF", 16 + len(still) - 12) + bytes(6) + b"\3\0\0\3\0\0" + bytes(4) + still[12:]
    body = struct.pack("<4sI", b"VP8X", 10) + b"\2\0\0\0\3\0\0\3\0\0" + struct.pack("<4sI", b"ANIM", 6) + bytes(6)
    body += repeat(frame, size)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


# Refused for the number of their pieces. The text is a part of the reason.
TOO_MANY_PIECES: dict[str, tuple[MakeFile, str]] = {
    "JPEG of Exif blocks": (lambda size: make_jpeg(repeat(make_segment(0xE1, b"Exif\0\0" + bytes(8)), size)), "Exif"),
    "JPEG of comments": (lambda size: make_jpeg(repeat(make_segment(0xFE, b""), size)), "segments"),
    "JPEG of restart markers": (lambda size: make_jpeg(repeat(b"\xff\xd0", size)), "segments"),
    "JPEG of fill bytes": (lambda size: make_jpeg(repeat(b"\xff", size)), "bytes between"),
    "JPEG of junk": (lambda size: insert(save("JPEG", 64), 20, repeat(b"\1", size)), "bytes between"),
    "JPEG of tables": (lambda size: make_jpeg(repeat(make_segment(0xDB, bytes(65) * 900), size)), "bytes of tables"),
    "JPEG of Photoshop resources": (
        lambda size: make_jpeg(repeat(make_segment(0xED, b"Photoshop 3.0\0" + (b"8BIM" + bytes(8)) * 200), size)),
        "Photoshop",
    ),
    "JPEG of scans": (make_jpeg_of_scans, "scans"),
    "PNG of empty chunks": (lambda size: make_png(repeat(make_chunk(b"aaAa", b""), size)), "chunks besides"),
    "PNG of chunks after the pixels": (
        lambda size: make_png(repeat(make_chunk(b"teXt", b"k\0"), size), after_pixels=True),
        "chunks besides",
    ),
    "PNG of empty pixel chunks": (lambda size: make_png(repeat(make_chunk(b"IDAT", b""), size)), "chunks"),
    "PNG of profiles": (
        lambda size: make_png(repeat(make_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(30_000_000))), size)),
        "profiles",
    ),
    "GIF of comments": (lambda size: make_gif(b"!\xfe" + repeat(b"\1x", size) + b"\0"), "blocks"),
    "GIF of empty extensions": (lambda size: make_gif(repeat(b"!\1\0", size)), "blocks"),
    "GIF of junk": (lambda size: make_gif(repeat(b"\0", size)), "blocks"),
    "WebP of frames": (make_webp_of_frames, "chunks"),
    "TIFF of pages": (make_tiff_of_pages, "pages"),
    "TIFF of strips": (make_tiff_of_strips, "strips"),
    "PPM with a long comment": (lambda size: b"P6 #" + bytes(size) + b"\n8 8 255\n" + bytes(192), "header"),
    "PPM of spaces": (lambda size: b"P6 " + repeat(b" ", size) + b"\n8 8 255\n" + bytes(192), "header"),
    "ICO of images": (lambda _: b"\0\0\1\0" + struct.pack("<H", 9_000) + bytes(16 * 9_000), "images"),
    "HEIF of items": (make_heif_of_items, "items"),
    "HEIF of boxes": (lambda size: save("HEIF", 64) + repeat(make_box(b"free", b""), size), "boxes"),
    "AVIF of boxes": (lambda size: save("AVIF", 64) + repeat(make_box(b"free", b""), size), "boxes"),
    "JPEG 2000 of boxes": (lambda size: make_jpeg2000(repeat(make_box(b"free", b""), size)), "boxes"),
    "JPEG 2000 of segments": (lambda size: make_codestream(repeat(make_segment(0x55, b""), size)), "segments"),
}

# Formats that Pillow decodes in loops of Python; simile replaces the loops.
SLOW_DECODERS: dict[str, MakeFile] = {
    "BMP of ends of lines": lambda _: make_bitmap(8, 1, b"\x01\x07\0\0" * SIDE + b"\0\1"),
    "BMP of runs": lambda _: make_bitmap(4, 2, (b"\xff\x12" * (SIDE // 255 + 1) + b"\0\0") * SIDE + b"\0\1"),
    "BMP of steps": lambda size: make_bitmap(8, 1, repeat(b"\0\2\0\0", size)),
    "QOI of differences": lambda size: b"qoif" + struct.pack(">IIBB", SIDE, SIDE, 3, 0) + b"\x6a" * size,
    "PPM with an odd maximum": lambda size: b"P6\n%d %d\n254\n" % (2 * (_side(size, 3),)) + bytes(size),
    "PGM with an odd maximum of two bytes": lambda size: b"P5\n%d %d\n999\n" % (2 * (_side(size, 2),)) + bytes(size),
    "PPM as text": lambda size: b"P3\n%d %d\n255\n" % (2 * (_side(size, 6),)) + b"7 " * (size // 2),
    "PBM as text": lambda size: b"P1\n%d %d\n" % (2 * (_side(size, 2),)) + b"1 " * (size // 2),
}

# Normal files of many pixels.
LARGE_IMAGES: dict[str, MakeFile] = {
    **{
        f"{kind}, 25 megapixels": partial(save_square, kind, 5000)
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "JPEG2000")
    },
    **{f"{kind}, 16 megapixels": partial(save_square, kind, 4000) for kind in ("BMP", "TIFF", "PPM")},
    "JPEG, 196 megapixels": lambda _: save("JPEG", SIDE),
    "JPEG of noise, 25 megapixels": lambda _: make_noise(5000),
    "PNG, 196 megapixels": lambda _: make_png(b"", SIDE),
    "PNG, 196 megapixels with alpha": lambda _: make_png(b"", SIDE, colour=6),
    "PNG, 196 megapixels of 16 bits": lambda _: make_png(b"", SIDE, bits=16, colour=0),
    "PNG, 25 megapixels with alpha": lambda _: save("PNG", 5000, "RGBA"),
    "GIF of empty frames": lambda size: save("GIF", 64)[:-1] + repeat(b"!\xf9\4\0\0\0\0\0", size) + b";",
    "WebP, 100 megapixels": lambda _: save("WEBP", 10_000),
}


def make_noise(side: int) -> bytes:
    """Return a JPEG of noise in best quality."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, progressive=True)
    return file.getvalue()


def _side(size: int, pixel_bytes: int) -> int:
    """Return the side of a square image of `size` bytes."""
    return max(1, int((size / pixel_bytes) ** 0.5))


HOSTILE_FILES: dict[str, MakeFile] = {
    **{name: make for name, (make, _) in TOO_MANY_PIECES.items()},
    **SLOW_DECODERS,
    **LARGE_IMAGES,
}
