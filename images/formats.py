"""Image formats, size limits and the detection of a format from the first bytes of a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import ImageTooLarge

if TYPE_CHECKING:  # worker processes load this module without pydantic
    from simile.core.settings import Settings

Pixels = NDArray[np.uint8]

# Pillow's name: media type, file suffixes. MPO (two JPEGs in one file, from phones) is opened as JPEG. AVIF comes
# before HEIF: both use the brand "mif1", and Pillow's AVIF reader rejects files that are not AVIF.
FORMATS = {
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
    "PSD": ("image/vnd.adobe.photoshop", ".psd"),
}
PILLOW_FORMATS = tuple(FORMATS)
# Formats of optional packages: simile[jxl] and simile[raw]. Without them a file is named with its package.
FORMATS |= {
    "JXL": ("image/jxl", ".jxl"),
    "RAW": (
        "image/x-dcraw",
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 "
        ".srf .srw .x3f",
    ),
}
RAW_SUFFIXES = frozenset(FORMATS["RAW"][1].split())
IMAGE_SUFFIXES = frozenset(suffix for _, suffixes in FORMATS.values() for suffix in suffixes.split())

_MAGIC_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s+[#\d]|Pf\s|qoif"
    rb"|\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n|\0\0\x01\0[^\0]\0.{3}\0"
    rb"|.{4}ftyp(?:avi[fs]|hei[csmx]|hev[cmsx]|mif1|msf1|crx )|8BPS\0\x01|\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"
    rb"|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR"  # raw formats that are no TIFF
    rb"|BM.{12}[\x0c(48@l|]\0{3}|[(48@l|]\0{3}.{8}\x01\0",  # "(48@l|": the sizes of the header, 40 to 124 bytes
    re.DOTALL,
)

# The name of a format with a header that is odd or damaged. Text may begin so, too.
_FORMAT_NAMES = re.compile(rb"BM.{4}\0{4}|P[1-6f]\s+[-+]?\d", re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """Limits on images from files and uploads, and where uploads are that several hosts share."""

    max_pixels: int = 200_000_000  # width x height of an image
    max_bytes: int = 50_000_000  # of a file or an upload
    seconds: float = 60.0  # that a worker process may decode one image
    objects: str | None = None  # URL of the object store; None if the home holds its uploads

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Return the limits of the settings. All code that has settings gets its limits here."""
        return cls(settings.max_pixels, settings.max_bytes, settings.decode_seconds, settings.objects)


DEFAULT_LIMITS = Limits()


def has_image_signature(head: bytes) -> bool:
    """Return whether the first 32 bytes of a file look like a format that simile decodes."""
    return _MAGIC_BYTES.match(head) is not None


def has_format_name(head: bytes) -> bool:
    """Return whether a file begins like an image, perhaps a damaged one or of a variant that simile does not decode."""
    return has_image_signature(head) or _FORMAT_NAMES.match(head) is not None


def get_media_type(format: str) -> str:
    """Return the media type of a `DecodedImage.format`."""
    return FORMATS[format.upper()][0] if format.upper() in FORMATS else "application/octet-stream"


def check_byte_count(size: int, name: str | Path, limits: Limits) -> None:
    """Raise ImageTooLarge if a file of `size` bytes is over the limit. `name` is used in the error."""
    if size > limits.max_bytes:
        reason = f"{size:,} bytes are more than the limit of {limits.max_bytes:,} (SIMILE_MAX_BYTES)"
        raise ImageTooLarge(name, reason)
