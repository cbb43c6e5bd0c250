"""Image formats, size limits and the detection of a format from the first bytes of a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# Pillow loads the formats below on its own only after all of its plugins: naming them keeps the others out.
from PIL import (
    IcoImagePlugin,  # noqa: F401
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from simile.core.errors import ImageTooLarge

if TYPE_CHECKING:  # worker processes load this module, and no pydantic
    from simile.core.settings import Settings


Pixels = NDArray[np.uint8]

# Pillow's name, media type, suffixes. MPO (two JPEGs in one file, from phones) is opened as JPEG. AVIF stands before
# HEIF: both use the brand "mif1", and Pillow's AVIF reader steps back from what is not its own.
_FORMATS = {
    "JPEG": ("image/jpeg", ".jpg .jpeg .jpe .jfif .mpo"),
    "PNG": ("image/png", ".png .apng"),
    "WEBP": ("image/webp", ".webp"),
    "GIF": ("image/gif", ".gif"),
    "BMP": ("image/bmp", ".bmp"),
    "DIB": ("image/bmp", ".dib"),
    "TIFF": ("image/tiff", ".tif .tiff"),
    "PPM": ("image/x-portable-anymap", ".ppm .pgm .pbm .pnm .pfm"),
    "AVIF": ("image/avif", ".avif .avifs"),
    "HEIF": ("image/heif", ".heic .heics .heif .heifs .hif"),
    "JPEG2000": ("image/jp2", ".jp2 .j2k .jpc .jpf .jpx .j2c"),
    "ICO": ("image/x-icon", ".ico"),
    "QOI": ("image/qoi", ".qoi"),
}
IMAGE_SUFFIXES = frozenset(suffix for _, suffixes in _FORMATS.values() for suffix in suffixes.split())

_MAGIC_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s+[#\d]|Pf\s|qoif"
    rb"|\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n|\0\0\x01\0[^\0]\0.{3}\0"
    rb"|.{4}ftyp(?:avi[fs]|hei[csmx]|hev[cmsx]|mif1|msf1)"
    rb"|BM.{12}[\x0c(48@l|]\0{3}|[(48@l|]\0{3}.{8}\x01\0",  # "(48@l|": the sizes of the header, 40 to 124 bytes
    re.DOTALL,
)


@dataclass(frozen=True)
class Limits:
    """What is refused: a picture of more pixels (width x height), a file or an upload of more bytes.

    `seconds`: how long worker processes may decode one picture.
    """

    max_pixels: int = 200_000_000
    max_bytes: int = 50_000_000
    seconds: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Return the limits that the settings ask for. Nothing else in the product makes Limits from settings."""
        return cls(settings.max_pixels, settings.max_bytes, settings.decode_seconds)


_DEFAULT_LIMITS = Limits()


def has_image_signature(head: bytes) -> bool:
    """Whether these first 32 bytes look like a picture of a format that `decode` reads."""
    return _MAGIC_BYTES.match(head) is not None


def get_media_type(format: str) -> str:
    """The media type of a `Picture.format`."""
    return _FORMATS[format.upper()][0] if format.upper() in _FORMATS else "application/octet-stream"


def check_byte_count(size: int, name: str | Path, limits: Limits) -> None:
    """Raises ImageTooLarge where a file has more bytes than allowed."""
    if size > limits.max_bytes:
        reason = f"{size:,} bytes are more than the limit of {limits.max_bytes:,} (SIMILE_MAX_BYTES)"
        raise ImageTooLarge(name, reason)
