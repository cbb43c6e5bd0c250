"""Exact copies of an image, and near misses, for the benchmark `exact`.

Each function takes suffix and content of a file and a random generator, and returns suffix and content of new files.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from simile.images.matching.derivation import UNDO_ORIENTATION

Random = np.random.Generator
Files = list[tuple[str, bytes]]  # suffix and content


def copy_bytes(suffix: str, content: bytes, _: Random) -> Files:
    """Copy the file."""
    return [(suffix, content)]


def change_metadata(suffix: str, content: bytes, random: Random) -> Files:
    """Add segments in front: a comment, and EXIF if there is none yet (it may rotate the image)."""
    comment = f"comment {random.integers(1 << 30)}".encode()
    segments = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    if not open_image(content).getexif():
        segments = make_exif_segment({0x010E: "another text"}) + segments
    return [(suffix, content[:2] + segments + content[2:])]


def rotate_jpeg_by_exif(suffix: str, content: bytes, random: Random) -> Files:
    """Rotate by EXIF alone, and decode to PNG: the two results are copies of each other, not of the original."""
    rotated = content[:2] + make_exif_segment({0x0112: int(random.integers(2, 9))}) + content[2:]
    return [(suffix, rotated), *decode_jpeg(suffix, rotated, random)]


def decode_jpeg(_: str, content: bytes, __: Random) -> Files:
    """Store the decoded pixels as PNG."""
    return [(".png", encode_as_png(ImageOps.exif_transpose(open_image(content)).convert("RGB")))]


def recompress_png(_: str, content: bytes, random: Random) -> Files:
    """Store with another compression and a comment."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", f"number {random.integers(1 << 30)}")
    return [(".png", encode(open_image(content), "PNG", compress_level=int(random.integers(0, 4)), pnginfo=text))]


def add_opaque_alpha(_: str, content: bytes, __: Random) -> Files:
    """Add an opaque alpha channel."""
    return [(".png", encode(open_image(content).convert("RGBA"), "PNG"))]


def to_lossless_webp(_: str, content: bytes, __: Random) -> Files:
    """Store as lossless WebP."""
    return [(".webp", encode(open_image(content), "WEBP", lossless=True, exact=True))]


def to_tiff(_: str, content: bytes, __: Random) -> Files:
    """Store as TIFF."""
    return [(".tiff", encode(open_image(content), "TIFF", compression="tiff_lzw"))]


def to_bmp(_: str, content: bytes, __: Random) -> Files:
    """Store as BMP."""
    return [(".bmp", encode(open_image(content), "BMP"))]


def rotate_and_tag(_: str, content: bytes, random: Random) -> Files:
    """Rotate the pixels, with an EXIF tag that undoes it."""
    orientation = int(random.integers(2, 9))
    rotated, exif = open_image(content).transpose(UNDO_ORIENTATION[orientation]), Image.Exif()
    exif[0x0112] = orientation
    format, suffix = (("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp"))[int(random.integers(3))]
    return [(suffix, encode(rotated, format, exif=exif, **({"lossless": True} if format == "WEBP" else {})))]


def change_one_value(_: str, content: bytes, random: Random) -> Files:
    """Change one value of one pixel by 1."""
    pixels = np.array(open_image(content).convert("RGB"))
    position = tuple(int(random.integers(side)) for side in pixels.shape)
    pixels[position] = pixels[position] + 1 if pixels[position] < 255 else 254
    return [(".png", encode_as_png(Image.fromarray(pixels)))]


def make_half_transparent(_: str, content: bytes, __: Random) -> Files:
    """Make the upper half transparent by half."""
    pixels = np.array(open_image(content).convert("RGBA"))
    pixels[: len(pixels) // 2, :, 3] = 128
    return [(".png", encode_as_png(Image.fromarray(pixels)))]


def to_jpeg(_: str, content: bytes, __: Random) -> Files:
    """Store as JPEG, with a loss."""
    return [(".jpg", encode(open_image(content).convert("RGB"), "JPEG", quality=95))]


def make_exif_segment(tags: dict[int, Any]) -> bytes:
    """Return a JPEG segment with these EXIF tags."""
    exif = Image.Exif()
    exif.update(tags)
    body = exif.tobytes()
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def open_image(content: bytes) -> Image.Image:
    """Open an encoded image."""
    return Image.open(io.BytesIO(content))


def encode_as_png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    return encode(image, "PNG")


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Encode in a format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


ANY, JPEG, PNG = {".jpg", ".png"}, {".jpg"}, {".png"}
MAKE: dict[str, Callable[[str, bytes, Random], Files]] = {
    "byte copies": copy_bytes,
    "renamed": copy_bytes,
    "JPEGs with other metadata": change_metadata,
    "JPEGs rotated by EXIF, and PNGs of them": rotate_jpeg_by_exif,
    "PNGs of JPEGs": decode_jpeg,
    "PNGs with other compression": recompress_png,
    "PNGs with opaque alpha": add_opaque_alpha,
    "lossless WebP": to_lossless_webp,
    "TIFF": to_tiff,
    "BMP": to_bmp,
    "rotated, with EXIF": rotate_and_tag,
    "one value changed": change_one_value,
    "half transparent": make_half_transparent,
    "JPEGs of PNGs": to_jpeg,
}
KINDS = dict(zip(MAKE, (ANY, ANY, JPEG, JPEG, JPEG, PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG), strict=True))
