"""Remove personal metadata from images: EXIF (GPS), XMP, IPTC, comments and everything else beside the pixels.

The container is parsed, and only the parts that show the image are copied: the coded pixels bit for bit, the ICC
profile, and the orientation in an EXIF block that has nothing else. Everything else is left out, known or not. Other
formats, and variants that cannot be parsed completely, are decoded and encoded as PNG.

JPEG: ITU-T T.81, annex B. PNG: W3C, third edition. WebP: RFC 9649. GIF: GIF89a. TIFF and HEIF: tiff.py, heif.py.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image

from simile.images.containers import (
    UnsupportedContainer,
    find_sub_blocks_end,
    get_colour_table_size,
    iterate_jpeg_segments,
    iterate_png_chunks,
    iterate_riff_chunks,
)
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.privacy.heif import strip_heif
from simile.images.privacy.tiff import strip_tiff
from simile.images.tiff import find_unread_image

_ORIENTATION_HINT = re.compile(rb"[eE][xX][iI][fF]|XML:com\.adobe\.xmp|ns\.adobe\.com/xap|XMP ")
_SAFE_PNG_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB bKGD pHYs acTL fcTL fdAT cICP mDCV cLLI".split()
)
_SAFE_WEBP_CHUNKS = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ICCP"))
_SAFE_GIF_APPLICATIONS = frozenset((b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"))


def strip_metadata(data: bytes, name: str | Path, limits: Limits) -> tuple[bytes, str]:
    """Return the image without metadata, and its media type. `name` is for errors only.

    Raises UnreadableImage or ImageTooLarge if the image had to be decoded, and that failed.
    """
    for signature, media_type, strip in _STRIPPERS:
        if signature.match(data) and find_unread_image(data) is None:
            try:
                return strip(data), media_type
            except (UnsupportedContainer, struct.error, IndexError):
                break
    pixels = decode_image(data, name=name, limits=limits, to_srgb=True).pixels
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)  # fast, because a request waits
    return file.getvalue(), "image/png"


def _strip_jpeg(data: bytes) -> bytes:
    """Copy the JFIF header, ICC profile, Adobe segment and coded data of a JPEG."""
    header, coded = [data[:2]], []
    for marker, start, end in iterate_jpeg_segments(data):
        segment = data[start:end]
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            header.append(b"\xff\xe0\0\x10" + segment[4:16].ljust(12, b"\0") + b"\0\0")  # without its thumbnail
        elif marker == 0xE2 and segment[4:16] == b"ICC_PROFILE\0":
            header.append(segment)
        elif marker == 0xEE and segment[4:9] == b"Adobe":
            header.append(b"\xff\xee\0\x0e" + segment[4:16].ljust(12, b"\0"))  # the colour transform
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:  # neither APPn nor a comment
            coded.append(segment)
    orientation = _make_orientation_block(data)
    if orientation:
        header.append(b"\xff\xe1" + struct.pack(">H", len(orientation) + 8) + b"Exif\0\0" + orientation)
    return b"".join(header + coded)


def _strip_png(data: bytes) -> bytes:
    """Copy the safe chunks of a PNG, with an eXIf chunk for the orientation."""
    orientation, chunks = _make_orientation_block(data), [data[:8]]
    for kind, start, end in iterate_png_chunks(data):
        is_critical = kind[:1].isupper()  # the image cannot be shown without this chunk
        if kind not in _SAFE_PNG_CHUNKS and is_critical:
            raise UnsupportedContainer
        if kind == b"IDAT" and orientation:
            crc = struct.pack(">I", zlib.crc32(b"eXIf" + orientation))
            chunks.append(struct.pack(">I", len(orientation)) + b"eXIf" + orientation + crc)
            orientation = b""
        if kind in _SAFE_PNG_CHUNKS:
            chunks.append(data[start:end])
    return b"".join(chunks)


def _strip_webp(data: bytes) -> bytes:
    """Copy the safe chunks of a WebP, also inside frames, with an EXIF chunk for the orientation."""
    orientation, chunks = _make_orientation_block(data), []
    for kind, body in iterate_riff_chunks(data[12 : 8 + struct.unpack_from("<I", data, 4)[0]]):
        if kind == b"VP8X":
            flags = body[0] & ~0x0C | (0x08 if orientation else 0)  # 8: there is EXIF, 4: there is XMP
            chunks.append((kind, bytes([flags]) + body[1:10]))
        elif kind == b"ANMF":
            frame_chunks = [chunk for chunk in iterate_riff_chunks(body[16:]) if chunk[0] in _SAFE_WEBP_CHUNKS]
            chunks.append((kind, body[:16] + b"".join(_make_riff_chunk(*chunk) for chunk in frame_chunks)))
        elif kind in _SAFE_WEBP_CHUNKS:
            chunks.append((kind, body))
    if orientation:
        if not chunks or chunks[0][0] != b"VP8X":
            raise UnsupportedContainer
        chunks.append((b"EXIF", orientation))
    content = b"WEBP" + b"".join(_make_riff_chunk(*chunk) for chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _make_riff_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a RIFF chunk, padded to an even length."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _strip_gif(data: bytes) -> bytes:
    """Copy the header, images, graphic controls and safe application blocks of a GIF."""
    offset = 13 + get_colour_table_size(data[10])
    blocks = [data[:offset]]
    while offset < len(data) and data[offset] != 0x3B:
        start = offset
        if data[start] == 0x21:  # an extension
            offset = find_sub_blocks_end(data, start + 2)
            application = data[start + 3 : start + 14]
            if data[start + 1] == 0xF9 or (data[start + 1] == 0xFF and application in _SAFE_GIF_APPLICATIONS):
                blocks.append(data[start:offset])
        elif data[start] == 0x2C:  # an image
            offset = find_sub_blocks_end(data, start + 11 + get_colour_table_size(data[start + 9]))
            blocks.append(data[start:offset])
        else:
            raise UnsupportedContainer
    return b"".join([*blocks, b";"])


def _make_orientation_block(data: bytes) -> bytes:
    """Return a TIFF block that has the EXIF orientation and nothing else; empty if the image is upright."""
    if not _ORIENTATION_HINT.search(data):  # Pillow would decode a whole PNG to look for EXIF after the pixels
        return b""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as im:
            orientation = im.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a malformed block raises anything; the decoder shows the image upright then  # noqa: BLE001
        return b""
    if orientation not in range(2, 9):
        return b""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", ExifTags.Base.Orientation, 3, 1, orientation, 0, 0)


_STRIPPERS: list[tuple[re.Pattern[bytes], str, Callable[[bytes], bytes]]] = [
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _strip_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _strip_png),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", _strip_webp),
    (re.compile(rb"GIF8[79]a"), "image/gif", _strip_gif),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff", strip_tiff),
    (re.compile(rb".{4}ftypavi", re.DOTALL), "image/avif", strip_heif),
    (re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "image/heif", strip_heif),
]
