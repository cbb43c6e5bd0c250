"""Encode pixel arrays as PNG or JPEG."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from simile.images.formats import Pixels


def encode_png(pixels: Pixels | Image.Image) -> bytes:
    """Encode an image, or (H, W, 3) or (H, W) uint8 pixels, as PNG."""
    return _encode_image(pixels, "PNG", optimize=True)


def encode_jpeg(pixels: Pixels | Image.Image, quality: int = 85) -> bytes:
    """Encode an image, or (H, W, 3) or (H, W) uint8 pixels, as JPEG; `quality` is 1 to 95."""
    return _encode_image(pixels, "JPEG", quality=quality)


def make_data_url(data: bytes, format: str) -> str:
    """Return a PNG or JPEG file as a data URL."""
    return f"data:image/{format};base64,{base64.b64encode(data).decode()}"


def _encode_image(pixels: Pixels | Image.Image, format: str, **options: Any) -> bytes:
    """Encode with Pillow; `options` go to `Image.save`."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
