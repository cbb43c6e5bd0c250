"""Copies of a picture that are exact, and some that nearly are: what dedup_exact.py plants.

Each function takes a file's suffix and content and a random generator, and gives suffix and content of the files made.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

Random = np.random.Generator
Made = list[tuple[str, bytes]]

# What an EXIF orientation does is undone by:
UNDONE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def the_same(suffix: str, content: bytes, _: Random) -> Made:
    return [(suffix, content)]


def rewrapped_jpeg(suffix: str, content: bytes, random: Random) -> Made:
    """Segments before the others; a comment alone where there is EXIF that may turn the picture."""
    comment = f"comment {random.integers(1 << 30)}".encode()
    segments = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    if not opened(content).getexif():
        segments = exif_segment({0x010E: "another text"}) + segments
    return [(suffix, content[:2] + segments + content[2:])]


def turned_jpeg(suffix: str, content: bytes, random: Random) -> Made:
    """Turned by EXIF alone, and its PNG: these two are the same, the picture that they were made of is another."""
    turned = content[:2] + exif_segment({0x0112: int(random.integers(2, 9))}) + content[2:]
    return [(suffix, turned), *decoded_jpeg(suffix, turned, random)]


def decoded_jpeg(_: str, content: bytes, __: Random) -> Made:
    return [(".png", as_png(ImageOps.exif_transpose(opened(content)).convert("RGB")))]


def repacked_png(_: str, content: bytes, random: Random) -> Made:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", f"number {random.integers(1 << 30)}")
    return [(".png", saved(opened(content), "PNG", compress_level=int(random.integers(0, 4)), pnginfo=text))]


def opaque_png(_: str, content: bytes, __: Random) -> Made:
    return [(".png", saved(opened(content).convert("RGBA"), "PNG"))]


def lossless_webp(_: str, content: bytes, __: Random) -> Made:
    return [(".webp", saved(opened(content), "WEBP", lossless=True, exact=True))]


def as_tiff(_: str, content: bytes, __: Random) -> Made:
    return [(".tiff", saved(opened(content), "TIFF", compression="tiff_lzw"))]


def as_bmp(_: str, content: bytes, __: Random) -> Made:
    return [(".bmp", saved(opened(content), "BMP"))]


def turned_by_exif(_: str, content: bytes, random: Random) -> Made:
    orientation = int(random.integers(2, 9))
    turned, exif = opened(content).transpose(UNDONE[orientation]), Image.Exif()
    exif[0x0112] = orientation
    format, suffix = (("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp"))[int(random.integers(3))]
    return [(suffix, saved(turned, format, exif=exif, **({"lossless": True} if format == "WEBP" else {})))]


def one_value(_: str, content: bytes, random: Random) -> Made:
    pixels = np.array(opened(content).convert("RGB"))
    at = tuple(int(random.integers(side)) for side in pixels.shape)
    pixels[at] = pixels[at] + 1 if pixels[at] < 255 else 254
    return [(".png", as_png(Image.fromarray(pixels)))]


def half_transparent(_: str, content: bytes, __: Random) -> Made:
    pixels = np.array(opened(content).convert("RGBA"))
    pixels[: len(pixels) // 2, :, 3] = 128
    return [(".png", as_png(Image.fromarray(pixels)))]


def as_jpeg(_: str, content: bytes, __: Random) -> Made:
    return [(".jpg", saved(opened(content).convert("RGB"), "JPEG", quality=95))]


def exif_segment(tags: dict[int, Any]) -> bytes:
    exif = Image.Exif()
    exif.update(tags)
    body = exif.tobytes()
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def as_png(image: Image.Image) -> bytes:
    return saved(image, "PNG")


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


ANY, JPEG, PNG = {".jpg", ".png"}, {".jpg"}, {".png"}
MAKE: dict[str, Callable[[str, bytes, Random], Made]] = {
    "byte copies": the_same,
    "renamed": the_same,
    "JPEGs with other metadata": rewrapped_jpeg,
    "JPEGs turned by EXIF, and PNGs of them": turned_jpeg,
    "PNGs of JPEGs": decoded_jpeg,
    "PNGs packed otherwise": repacked_png,
    "PNGs with opaque alpha": opaque_png,
    "lossless WebP": lossless_webp,
    "TIFF": as_tiff,
    "BMP": as_bmp,
    "turned by EXIF": turned_by_exif,
    "one value changed": one_value,
    "half transparent": half_transparent,
    "JPEGs of PNGs": as_jpeg,
}
KINDS = dict(zip(MAKE, (ANY, ANY, JPEG, JPEG, JPEG, PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG), strict=True))
