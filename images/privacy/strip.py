"""Pictures without what they say of people: EXIF (GPS), XMP, IPTC, comments and whatever else is packed beside them.

The container is taken apart, and only what shows the picture is put together again: the coded pixels bit for bit, the
ICC profile, and the orientation, in an EXIF block that holds nothing else. All else is left out by not being copied:
what nobody has heard of yet, too. Other formats, and variants that are not understood in full, are decoded and come
back as PNG.

JPEG: ITU-T T.81, annex B. PNG: W3C, third edition. WebP: RFC 9649. GIF: GIF89a. TIFF and HEIF have files of their own.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import ExifTags, Image

from simile.images.containers import UnsupportedContainer, find_sub_blocks_end, iterate_riff_chunks
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.privacy.heif import strip_heif
from simile.images.privacy.tiff import strip_tiff

_SEGMENT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data: FF00 is a byte, FFD0 to FFD7 restart it
_ORIENTATION_HINT = re.compile(rb"[eE][xX][iI][fF]|XML:com\.adobe\.xmp|ns\.adobe\.com/xap|XMP ")
_SAFE_PNG_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB bKGD pHYs acTL fcTL fdAT cICP mDCV cLLI".split()
)
_SAFE_WEBP_CHUNKS = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ICCP"))
_SAFE_GIF_APPLICATIONS = frozenset((b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"))


def strip_metadata(data: bytes, name: str | Path, limits: Limits) -> tuple[bytes, str]:
    """The picture alone, and its media type. Raises UnreadableImage, ImageTooLarge where it must be decoded."""
    for head, media_type, taken in _STRIPPERS:
        if head.match(data):
            try:
                return taken(data), media_type
            except (UnsupportedContainer, struct.error, IndexError):
                break
    pixels = decode_image(data, name=name, limits=limits).pixels
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)  # quick: somebody waits for it
    return file.getvalue(), "image/png"


def _strip_jpeg(data: bytes) -> bytes:
    kept, coded = [data[:2]], []
    for marker, segment in _iterate_jpeg_segments(data):
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            kept.append(b"\xff\xe0\0\x10" + segment[4:16].ljust(12, b"\0") + b"\0\0")  # without its thumbnail
        elif marker == 0xE2 and segment[4:16] == b"ICC_PROFILE\0":
            kept.append(segment)
        elif marker == 0xEE and segment[4:9] == b"Adobe":
            kept.append(b"\xff\xee\0\x0e" + segment[4:16].ljust(12, b"\0"))  # says how colours are coded
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:  # an APPn, a comment
            coded.append(segment)
    turned = _make_orientation_block(data)
    if turned:
        kept.append(b"\xff\xe1" + struct.pack(">H", len(turned) + 8) + b"Exif\0\0" + turned)
    return b"".join(kept + coded)


def _iterate_jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, bytes from its FF on) until the end of the picture; coded data stand with the scan that they follow."""
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            raise UnsupportedContainer
        marker = data[at + 1]
        if marker == 0xFF:  # fills
            at += 1
            continue
        if marker == 0xD9:
            yield marker, b"\xff\xd9"
            return  # behind it: other pictures, films, whole archives
        end = at + 2 if marker == 0x01 or 0xD0 <= marker <= 0xD7 else at + 2 + _read_u16(data, at + 2)
        if marker == 0xDA:
            found = _SEGMENT_MARKER.search(data, end)
            end = found.start() if found else len(data)
        if end > len(data):
            raise UnsupportedContainer
        yield marker, data[at:end]
        at = end


def _strip_png(data: bytes) -> bytes:
    turned, kept, at = _make_orientation_block(data), [data[:8]], 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or (
            kind not in _SAFE_PNG_CHUNKS and kind[:1].isupper()
        ):  # a picture that needs what is unknown
            raise UnsupportedContainer
        if kind == b"IDAT" and turned:
            crc = zlib.crc32(b"eXIf" + turned)
            kept.append(struct.pack(">I", len(turned)) + b"eXIf" + turned + struct.pack(">I", crc))
            turned = b""
        if kind in _SAFE_PNG_CHUNKS:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end


def _strip_webp(data: bytes) -> bytes:
    turned, kept = _make_orientation_block(data), []
    for kind, body in iterate_riff_chunks(data[12 : 8 + struct.unpack_from("<I", data, 4)[0]]):
        if kind == b"VP8X":
            flags = body[0] & ~0x0C | (0x08 if turned else 0)  # 8: there is EXIF, 4: there is XMP
            kept.append((kind, bytes([flags]) + body[1:10]))
        elif kind == b"ANMF":
            frame = b"".join(
                _make_riff_chunk(*one) for one in iterate_riff_chunks(body[16:]) if one[0] in _SAFE_WEBP_CHUNKS
            )
            kept.append((kind, body[:16] + frame))
        elif kind in _SAFE_WEBP_CHUNKS:
            kept.append((kind, body))
    if turned:
        if not kept or kept[0][0] != b"VP8X":
            raise UnsupportedContainer
        kept.append((b"EXIF", turned))
    chunks = b"WEBP" + b"".join(_make_riff_chunk(*one) for one in kept)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _make_riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _strip_gif(data: bytes) -> bytes:
    at = 13 + _get_colour_table_size(data[10])
    kept = [data[:at]]
    while at < len(data) and data[at] != 0x3B:
        start = at
        if data[at] == 0x21:
            at = find_sub_blocks_end(data, at + 2)
            application = data[start + 3 : start + 14]
            if data[start + 1] == 0xF9 or (data[start + 1] == 0xFF and application in _SAFE_GIF_APPLICATIONS):
                kept.append(data[start:at])
        elif data[at] == 0x2C:
            at = find_sub_blocks_end(data, at + 11 + _get_colour_table_size(data[at + 9]))
            kept.append(data[start:at])
        else:
            raise UnsupportedContainer
    return b"".join([*kept, b";"])


def _get_colour_table_size(flags: int) -> int:
    """Bytes of the table of colours that GIF's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _make_orientation_block(data: bytes) -> bytes:
    """A TIFF block that says how the picture is to be turned, and nothing else; empty where it stands upright."""
    if not _ORIENTATION_HINT.search(data):  # else Pillow decodes all of a PNG, in case there is something behind
        return b""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as im:
            turned = im.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a malformed block raises anything; the decoder takes the picture as upright then  # noqa: BLE001
        return b""
    if turned not in range(2, 9):
        return b""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", ExifTags.Base.Orientation, 3, 1, turned, 0, 0)


def _read_u16(data: bytes, offset: int) -> int:
    return int(struct.unpack_from(">H", data, offset)[0])


_STRIPPERS: list[tuple[re.Pattern[bytes], str, Callable[[bytes], bytes]]] = [
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _strip_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _strip_png),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", _strip_webp),
    (re.compile(rb"GIF8[79]a"), "image/gif", _strip_gif),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff", strip_tiff),
    (re.compile(rb".{4}ftypavi", re.DOTALL), "image/avif", strip_heif),
    (re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "image/heif", strip_heif),
]
