"""Encoded images: noise, bombs, and photos with metadata as cameras and programs write them."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, PngImagePlugin

pillow_heif.register_heif_opener()

PNG = b"\x89PNG\r\n\x1a\n"


def noise(seed: int, format: str = "PNG", size: tuple[int, int] = (32, 32), **options: Any) -> bytes:
    """Random pixels: an image that is in no home."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@functools.cache
def bomb(side: int = 30_000) -> bytes:
    """A PNG of side x side black pixels, 1 bit each: 100 kB that would be 2.7 GB of colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(100 * (1 + side // 8))) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


CAMERA = {
    ExifTags.Base.Make: "NIKON CORPORATION",
    ExifTags.Base.Model: "NIKON D850",
    ExifTags.Base.Copyright: "Ada",
    ExifTags.Base.ImageDescription: "exif description",
}
SHOT: dict[int, Any] = {
    ExifTags.Base.DateTimeOriginal: "2024:05:06 07:08:09",
    ExifTags.Base.SubsecTimeOriginal: "25",
    ExifTags.Base.OffsetTimeOriginal: "+02:00",
    ExifTags.Base.ExposureTime: 0.01,
    ExifTags.Base.FNumber: 2.8,
    ExifTags.Base.ISOSpeedRatings: 400,
    ExifTags.Base.FocalLength: 50.0,
    ExifTags.Base.LensModel: "50mm f/1.8",
}
BERLIN: dict[int, Any] = {1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}


def make_exif(
    camera: dict[int, Any] = CAMERA, shot: dict[int, Any] = SHOT, gps: dict[int, Any] | None = BERLIN
) -> bytes:
    """An EXIF block, written by Pillow."""
    block = Image.Exif()
    block.update(camera)
    block.get_ifd(ExifTags.IFD.Exif).update(shot)
    block.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    return block.tobytes()


def make_xmp(attributes: str = 'xmp:Rating="4"', elements: str = "") -> bytes:
    """An XMP packet."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/" '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f"{attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>\n{' ' * 100}<?xpacket end='w'?>"
    ).encode()


def make_bag(name: str, *items: str) -> str:
    """A property with several texts."""
    return f"<{name}><rdf:Bag>{''.join(f'<rdf:li>{item}</rdf:li>' for item in items)}</rdf:Bag></{name}>"


def make_iptc(*datasets: tuple[int, bytes]) -> bytes:
    """An IPTC block."""
    return b"".join(struct.pack(">BBBH", 0x1C, 2, number, len(data)) + data for number, data in datasets)


def make_photoshop_segment(iptc: bytes) -> bytes:
    """A segment of a JPEG with an IPTC block, after another resource of Photoshop."""
    resources = b"8BIM\x03\xed\0\0" + struct.pack(">I", 3) + b"xyz\0"
    resources += b"8BIM\x04\x04\x04name\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", 2 + 14 + len(resources)) + b"Photoshop 3.0\0" + resources


def make_photo(
    format: str = "JPEG",
    seed: int = 0,
    *,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
) -> bytes:
    """An image file with these blocks; IPTC only in a JPEG or a TIFF."""
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8))
    options: dict[str, Any] = {} if exif is None else {"exif": exif}
    if xmp is not None and format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    elif format == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(exif or b"")
        options["exif"].update({tag: data for tag, data in ((700, xmp), (33723, iptc)) if data is not None})
    elif xmp is not None:
        options["xmp"] = xmp
    file = io.BytesIO()
    image.save(file, format, **options)
    data = file.getvalue()
    return data[:2] + make_photoshop_segment(iptc) + data[2:] if iptc is not None and format == "JPEG" else data
