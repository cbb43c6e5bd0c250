"""Find the EXIF, XMP and IPTC blocks in the bytes of an image file, without its pixels."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from simile.images.codecs.jxl import is_jxl, register_jxl
from simile.images.codecs.psd import iterate_resources, read_resources
from simile.images.containers import (
    UnsupportedContainer,
    iterate_boxes,
    iterate_jpeg_segments,
    iterate_png_chunks,
    iterate_riff_chunks,
)
from simile.images.decoding import ignore_decoder_warnings
from simile.images.metadata.iptc import find_iptc
from simile.images.metadata.tags import TagReader
from simile.images.metadata.xmp import MAX_XMP_BYTES
from simile.images.tiff import Buffer

MAX_SEGMENTS = 2_000  # of a JPEG, before its pixels
MAX_CHUNKS = 20_000  # of a PNG
MAX_RESOURCE_BYTES = 8 << 20  # of Photoshop: paths and previews come with the IPTC block

_EXIF_HEADER, _XMP_HEADER, _PHOTOSHOP_HEADER = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_PNG_XMP_HEADER = b"XML:com.adobe.xmp\0"
_TIFF_HEADER = re.compile(rb"II\*\0|MM\0\*")
_PSD_RESOURCES = {0x0404: "iptc", 0x0422: "exif", 0x0424: "xmp"}
_RAF_PREVIEW = 84  # where its offset and length are
_TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP = 700, 33723, 34377
_DAMAGE = (UnsupportedContainer, struct.error, IndexError, ValueError, zlib.error)


@dataclass
class MetadataBlocks:
    """The first block of each kind in a file."""

    exif: Buffer | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None


def find_metadata_blocks(data: Buffer) -> MetadataBlocks:
    """Return the blocks of a file. Of a damaged file, those before the damage."""
    blocks = MetadataBlocks()
    find = next((find for signature, find in _FINDERS if signature.match(data)), None)
    if find is not None:
        with suppress(*_DAMAGE):
            for name, block in find(data):
                if getattr(blocks, name) is None:
                    setattr(blocks, name, block)
    return blocks


NamedBlock = tuple[str, Buffer | None]  # a field of MetadataBlocks and its value


def _find_in_jpeg(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of a JPEG, which are before its pixels."""
    resources = b""
    for marker, start, end in islice(iterate_jpeg_segments(data), MAX_SEGMENTS):
        if marker == 0xE1:
            segment = data[start + 4 : end]
            if segment.startswith(_EXIF_HEADER):
                yield "exif", segment[len(_EXIF_HEADER) :]
            elif segment.startswith(_XMP_HEADER):
                yield "xmp", segment[len(_XMP_HEADER) :]
        elif marker == 0xED and data[start + 4 : start + 18] == _PHOTOSHOP_HEADER:
            if len(resources) < MAX_RESOURCE_BYTES:  # they may continue in the next segment
                resources += data[start + 18 : end]
        elif marker == 0xDA:
            break
    yield "iptc", find_iptc(resources)


def _find_in_png(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of a PNG; they may follow its pixels."""
    for kind, start, end in islice(iterate_png_chunks(data), MAX_CHUNKS):
        if kind == b"eXIf":
            yield "exif", data[start + 8 : end - 4]
        elif kind == b"iTXt" and data[start + 8 : start + 8 + len(_PNG_XMP_HEADER)] == _PNG_XMP_HEADER:
            yield "xmp", _read_png_text(data[start + 8 + len(_PNG_XMP_HEADER) : end - 4])


def _read_png_text(body: bytes) -> bytes:
    """Return the text of an iTXt chunk after its keyword: compression flag and method, language, keyword, text."""
    text = body[2:].split(b"\0", 2)[2]
    return zlib.decompressobj().decompress(text, MAX_XMP_BYTES + 1) if body[0] else text


def _find_in_webp(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of a WebP; they follow its pixels."""
    for kind, body in islice(iterate_riff_chunks(data[12:]), MAX_CHUNKS):
        if kind == b"EXIF":
            yield "exif", body.removeprefix(_EXIF_HEADER)
        elif kind == b"XMP ":
            yield "xmp", body


def _find_in_tiff(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the file itself, which has the tags of EXIF, and the blocks in other tags of its first image."""
    tags = TagReader(data, (_TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP))
    yield "exif", data
    yield "xmp", tags.get_bytes(_TIFF_XMP, MAX_XMP_BYTES)
    yield "iptc", tags.get_bytes(_TIFF_IPTC, MAX_RESOURCE_BYTES)
    yield "iptc", find_iptc(tags.get_bytes(_TIFF_PHOTOSHOP, MAX_RESOURCE_BYTES) or b"")


def _find_by_pillow(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of a file that Pillow and its plug-ins parse: HEIF, AVIF; XMP of GIF; compressed ones of JXL."""
    ignore_decoder_warnings()
    formats = ("JXL",) if is_jxl(bytes(data[:12])) else ("AVIF", "HEIF", "GIF")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as im:
            exif, xmp = im.info.get("exif"), im.info.get("xmp")
    except Exception:  # noqa: BLE001 - parsers in C raise anything on a damaged file
        return
    yield "exif", exif.removeprefix(_EXIF_HEADER) if isinstance(exif, bytes) else None
    yield "xmp", xmp if isinstance(xmp, bytes) else None


def _find_in_psd(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks in the resources of a Photoshop document."""
    for number, body in islice(iterate_resources(read_resources(bytes(data))), MAX_CHUNKS):
        if number in _PSD_RESOURCES:
            yield _PSD_RESOURCES[number], body


def _find_in_jxl(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of a JPEG XL image. Compressed ones are left to its decoder, which gives EXIF only."""
    for kind, _, body, end in islice(iterate_boxes(bytes(data), 0, len(data)), MAX_CHUNKS):
        if kind == b"brob" and register_jxl():
            yield from _find_by_pillow(data)
        elif kind == b"Exif":  # should begin with an offset, which some programs leave out
            header = _TIFF_HEADER.search(data, body, end)
            yield "exif", data[header.start() : end] if header else None
        elif kind == b"xml ":
            yield "xmp", data[body:end]


def _find_in_raf(data: Buffer) -> Iterator[NamedBlock]:
    """Yield the blocks of the preview in a raw file of Fujifilm, which is a JPEG."""
    start, length = struct.unpack_from(">2I", data, _RAF_PREVIEW)
    yield from _find_in_jpeg(data[start : start + length])


_FINDERS: list[tuple[re.Pattern[bytes], Callable[[Buffer], Iterator[NamedBlock]]]] = [
    (re.compile(rb"\xff\xd8\xff"), _find_in_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _find_in_png),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _find_in_webp),
    (re.compile(rb"II(?:[*+U]\0|R[OS])|MM(?:\0[*+]|OR)"), _find_in_tiff),  # with the raw files of most cameras
    (re.compile(rb"FUJIFILMCCD-RAW"), _find_in_raf),
    (re.compile(rb"8BPS\0\x01"), _find_in_psd),
    (re.compile(rb"\0\0\0\x0cJXL "), _find_in_jxl),
    (re.compile(rb".{4}ftyp|GIF8[79]a", re.DOTALL), _find_by_pillow),
]
