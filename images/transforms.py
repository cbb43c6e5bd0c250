"""From a decoded picture to what the network sees, and back: a spec that travels with the encoder, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.images.decoding import DecodedImage

FitMode = Literal["stretch", "letterbox", "crop", "pad"]
Pixels = NDArray[np.uint8]

STANDARD_SIZES = (32, 64, 128)
MAX_DEFAULT_SIZE = 64  # larger inputs cost four times the time and are asked for by hand
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 256
MAX_DECODED_SIDE = (
    4096  # pixels of a decoded picture's longer side: a 1 x 60,000 picture must not become 64 x 3,840,000
)


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an (S, S, C) array.

    stretch: the whole picture, its aspect changed. letterbox: the whole picture between bars of `background`.
    crop: the central square. pad: brought to `content` (height, width), then edges repeated up to S x S; for
    collections of small pictures of one size, whose pixels stay as they are.
    """

    image_size: int
    channels: int
    fit: FitMode = "stretch"
    content: tuple[int, int] | None = None
    background: str = "#ffffff"

    def to_array(self, decoded_image: DecodedImage) -> Pixels:
        """(S, S, C) uint8 of one picture."""
        image = Image.fromarray(decoded_image.pixels)
        size = self.image_size
        if self.fit == "letterbox":
            array = self._resize_letterbox(image, decoded_image)
        elif self.fit == "crop":
            array = _resize_array(image, size, size, _compute_central_square(image))
        elif self.fit == "pad":
            height, width = self._get_content_size()
            top, left, _, _ = self.content_box()
            bottom, right = size - height - top, size - width - left
            array = np.pad(_resize_array(image, width, height), ((top, bottom), (left, right), (0, 0)), mode="edge")
        else:
            array = _resize_array(image, size, size)
        return array if self.channels == 3 else _convert_to_grey(array)

    def content_box(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of what counts as picture in every S x S input."""
        if self.fit != "pad":
            return 0, 0, self.image_size, self.image_size
        height, width = self._get_content_size()
        return (self.image_size - height) // 2, (self.image_size - width) // 2, height, width

    def to_pixels(self, decoded: NDArray[np.float32], width: int, height: int) -> Pixels:
        """A decoder's (C, S, S) mean in [0, 1] as (h, w, 3) uint8, in the aspect of a width x height picture."""
        array = np.rint(np.clip(decoded, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)  # (S, S, C)
        array = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
        if self.fit == "crop":
            return array
        if self.fit == "letterbox":
            top, left, inner_height, inner_width = self._compute_letterbox(width, height)
            return np.ascontiguousarray(array[top : top + inner_height, left : left + inner_width])
        top, left, inner_height, inner_width = self.content_box()
        array = np.ascontiguousarray(array[top : top + inner_height, left : left + inner_width])
        return _restore_aspect(array, width, height)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises CheckpointDamaged for values that this version does not know."""
        try:
            content = tuple(values["content"]) if values["content"] is not None else None
            spec = cls(**{**values, "content": content})
        except (TypeError, KeyError) as error:
            raise CheckpointDamaged(
                f"encoder.json has unusable preprocessing {values!r} ({error}). Train again."
            ) from None
        known = (
            spec.fit in get_args(FitMode)
            and spec.channels in (1, 3)
            and spec.image_size in range(1, MAX_IMAGE_SIZE + 1)
        )
        if not known or (spec.fit == "pad") != (content is not None):
            raise CheckpointDamaged(f"encoder.json has preprocessing {values!r}, which this version does not know.")
        return spec

    def _get_content_size(self) -> tuple[int, int]:
        if self.content is None:
            raise CheckpointDamaged("encoder.json pads pictures but has no content size. Train again.")
        return self.content

    def _compute_letterbox(self, width: int, height: int) -> tuple[int, int, int, int]:
        scale = self.image_size / max(width, height)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
        return (self.image_size - inner_height) // 2, (self.image_size - inner_width) // 2, inner_height, inner_width

    def _resize_letterbox(self, image: Image.Image, decoded_image: DecodedImage) -> Pixels:
        # By the original's size, not the reduced one's: `to_pixels` must find the same bars.
        top, left, height, width = self._compute_letterbox(decoded_image.width, decoded_image.height)
        colour = tuple(bytes.fromhex(self.background[1:]))
        canvas = np.full((self.image_size, self.image_size, 3), colour, dtype=np.uint8)
        canvas[top : top + height, left : left + width] = _resize_array(image, width, height)
        return canvas


def scale_to_unit(batch: Pixels) -> NDArray[np.float32]:
    """(n, S, S, C) uint8 to (n, C, S, S) float32 in [0, 1]."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def choose_preprocessing(
    sample: Sequence[DecodedImage], *, image_size: int | None, fit: FitMode | None = None, background: str = "#ffffff"
) -> Preprocessing:
    """The spec for a collection, from a sample of it; `image_size` and `fit` win where they are given."""
    if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise BadSetting(f"image_size can't be {image_size}. Use {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels.")
    if fit is not None and fit not in ("stretch", "letterbox", "crop"):
        raise BadSetting(f"fit can't be {fit!r}. Use stretch, letterbox or crop.")
    size = image_size or _choose_image_size(sample)
    channels = 1 if all(picture.is_grey for picture in sample) else 3
    shapes = {(picture.height, picture.width) for picture in sample}
    shape = next(iter(shapes))
    if fit is None and len(shapes) == 1 and max(shape) <= size and shape != (size, size):
        return Preprocessing(size, channels, "pad", shape, background)
    return Preprocessing(size, channels, fit or "stretch", None, background)


def _choose_image_size(sample: Sequence[DecodedImage]) -> int:
    short_side = median(min(picture.width, picture.height) for picture in sample)
    return next((size for size in STANDARD_SIZES if short_side <= size <= MAX_DEFAULT_SIZE), MAX_DEFAULT_SIZE)


def _resize_array(image: Image.Image, width: int, height: int, box: tuple[int, int, int, int] | None = None) -> Pixels:
    if image.size == (width, height) and box in (None, (0, 0, width, height)):
        return np.asarray(image)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def _compute_central_square(image: Image.Image) -> tuple[int, int, int, int]:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def _convert_to_grey(array: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(array).convert("L"))[:, :, None]


def _restore_aspect(array: Pixels, width: int, height: int) -> Pixels:
    """Stretched back to the aspect of a width x height picture; nothing is shrunk, but by LONGEST_SHOWN."""
    rows, columns = array.shape[:2]
    scale = min(max(rows / height, columns / width), MAX_DECODED_SIDE / max(width, height))
    return _resize_array(Image.fromarray(array), max(1, round(width * scale)), max(1, round(height * scale)))


def upscale(grey: Pixels, factor: int) -> Pixels:
    """Enlarge a grey image with bicubic interpolation.

    Args:
        grey: (H, W) uint8.
        factor: How many times the sides become longer.

    Returns:
        (H * factor, W * factor) uint8.
    """
    image = Image.fromarray(grey)
    return np.asarray(image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC))
