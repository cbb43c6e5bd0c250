"""Encode pixel arrays as PNG or JPEG."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

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


def encode_object(image: object) -> bytes:
    """Encode a Pillow image, upright, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 as PNG, without loss.

    Raises ValueError with the reason for anything else.
    """
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            raise ValueError(f"its mode is {upright.mode}; convert it with image.convert('RGB')")
        upright = upright if upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else upright.convert("RGB")
        return _encode_image(upright, "PNG", compress_level=1)
    array = np.asarray(image)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or array.dtype != np.uint8 or not array.size:
        found = f"an array {array.shape} of {array.dtype}"
        raise ValueError(f"it is {found}; make it uint8 with the shape (H, W), (H, W, 3) or (H, W, 4)")
    return _encode_image(array, "PNG", compress_level=1)
