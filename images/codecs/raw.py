"""Camera raw files, shown by the preview in them: the package rawpy finds it (`pip install 'simile[raw]'`).

The sensor's values are not developed: the preview is the camera's own image of them, and is read a hundred times
faster.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

RAW_FORMAT = "raw"  # as `DecodedImage.format`
# LibRaw's turns, as EXIF orientations: 180 degrees, 90 degrees counterclockwise, 90 degrees clockwise.
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}


class RawPreview(NamedTuple):
    """An image file from a raw file: JPEG, or PPM for a bitmap. `orientation`: as in EXIF, to be applied."""

    data: bytes
    orientation: int


class NoPreview(Exception):
    """A raw file without a preview that can be read; with the reason for people."""


@cache
def can_read_raw() -> bool:
    """Return whether the package that reads raw files is installed."""
    return find_spec("rawpy") is not None


def extract_preview(data: bytes) -> RawPreview:
    """Return the largest preview of a raw file. Raises NoPreview."""
    import rawpy  # noqa: PLC0415  # optional

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            thumbnail, sizes = raw.extract_thumb(), raw.sizes
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise NoPreview("a camera's raw file without a preview that can be read") from None
    except rawpy.LibRawError as error:
        message = error.args[0].decode("ascii", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise NoPreview(f"a camera's raw file that is damaged, or of an unknown camera ({message})") from None
    preview = thumbnail.data if thumbnail.format is rawpy.ThumbFormat.JPEG else _encode_ppm(thumbnail.data)
    return RawPreview(preview, _choose_orientation(preview, sizes))


def _encode_ppm(pixels: Any) -> bytes:
    """Return a bitmap (H, W, 3) or (H, W) as an image file."""
    rgb = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
    return b"P6 %d %d 255\n" % rgb.shape[1::-1] + np.ascontiguousarray(rgb, np.uint8).tobytes()


def _choose_orientation(preview: bytes, sizes: Any) -> int:
    """Return the orientation of the preview as LibRaw gives it, unless its shape shows that it is upright already."""
    with Image.open(io.BytesIO(preview), formats=("JPEG", "PPM")) as im:
        # LibRaw adds EXIF to a JPEG without any.
        orientation = im.getexif().get(ExifTags.Base.Orientation, _ORIENTATIONS.get(sizes.flip, 1))
        is_turned = (im.width < im.height) != (sizes.raw_width < sizes.raw_height)
    return orientation if orientation in (range(1, 5) if is_turned else range(1, 9)) else 1
