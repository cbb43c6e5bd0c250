"""Encode pixel arrays as PNG or JPEG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

# Pillow loads the formats below on its own only after all of its plugins: naming them keeps the others out.
from PIL import (
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

if TYPE_CHECKING:  # worker processes load this module, and no pydantic
    pass
from simile.images.formats import Pixels


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 3) or (H, W) uint8 as a PNG."""
    return _encode_image(pixels, "PNG", optimize=True)


def encode_jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """(H, W, 3) or (H, W) uint8 as a JPEG; `quality` 1 to 95."""
    return _encode_image(pixels, "JPEG", quality=quality)


def _encode_image(pixels: Pixels, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format, **options)
    return file.getvalue()
