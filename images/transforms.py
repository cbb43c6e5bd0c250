"""Preprocessing: from a decoded image to the network's input, and from the network's output back to an image.

The preprocessing is stored with the encoder, so that images are always prepared as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.images.decoding import DecodedImage
from simile.images.formats import Pixels

FitMode = Literal["stretch", "letterbox", "crop", "pad"]
Resampling = Literal["bicubic", "bilinear"]
ChannelOrder = Literal["rgb", "bgr"]

STANDARD_SIZES = (32, 64, 128)
MAX_DEFAULT_SIZE = 64  # larger inputs cost four times the time; they must be requested
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 256
MAX_EXTERNAL_SIZE = 1024  # of the input of an external encoder
MAX_RESIZED_ASPECT = (
    16  # of the part of an image that is resized before a crop: 1 x 60,000 must not become 256 x 15,360,000
)
MAX_DECODED_SIDE = 4096  # longer side of a reconstruction in pixels: 1 x 60,000 must not become 64 x 3,840,000


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an (S, S, C) array.

    A fit mode is "stretch": the whole image, its aspect changed; "letterbox": the whole image between bars of
    `background`; "crop": the central square; or "pad": scaled to `content`, then the edge pixels repeated up to S x S,
    for collections of small images of one size, which keep their pixels.
    """

    image_size: int  # S, the side of the network's input in pixels
    channels: int  # C, 1 for grey or 3 for RGB
    fit: FitMode = "stretch"
    content: tuple[int, int] | None = None  # (height, width) of the image inside the input, for "pad" only
    background: str = "#ffffff"  # colour of bars and under transparent pixels
    # What external encoders declare besides (models/external/preprocess.py).
    resize: int | None = None  # shorter side before the crop; None crops the largest square
    resampling: Resampling = "bicubic"
    order: ChannelOrder = "rgb"  # of the channels that the network receives
    value_range: tuple[float, float] = (0.0, 1.0)  # of black and white, before mean and deviation
    mean: tuple[float, ...] = ()  # of each channel in `order`; empty: values stay in [0, 1]
    deviation: tuple[float, ...] = ()

    @property
    def min_side(self) -> int:
        """The shorter side in pixels that an image is scaled to; a decoder may reduce it to twice that."""
        return self.resize or self.image_size

    def to_array(self, decoded_image: DecodedImage) -> Pixels:
        """Return the image as (S, S, C) uint8."""
        image = Image.fromarray(decoded_image.pixels)
        size = self.image_size
        if self.fit == "letterbox":
            # By the size of the original, not of the reduced image: `to_pixels` must find the same bars.
            top, left, height, width = self._compute_letterbox(decoded_image.width, decoded_image.height)
            array = np.full((size, size, 3), tuple(bytes.fromhex(self.background[1:])), dtype=np.uint8)
            array[top : top + height, left : left + width] = self._resize(image, width, height)
        elif self.resize is not None:
            array = self._resize_and_crop(image, decoded_image.width, decoded_image.height)
        elif self.fit == "crop":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            array = self._resize(image, size, size, (left, top, left + side, top + side))
        elif self.fit == "pad":
            top, left, height, width = self.content_box()
            bottom, right = size - height - top, size - width - left
            array = np.pad(self._resize(image, width, height), ((top, bottom), (left, right), (0, 0)), mode="edge")
        else:
            array = self._resize(image, size, size)
        return array if self.channels == 3 else np.asarray(Image.fromarray(array).convert("L"))[:, :, None]

    def normalise(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return images (n, C, S, S) in [0, 1] as the network receives them: order, range, mean and deviation."""
        if not self.mean:
            return images
        low, high = self.value_range
        mean, deviation = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.deviation))
        ordered = images[:, ::-1] if self.order == "bgr" else images
        return np.ascontiguousarray((ordered * np.float32(high - low) + (np.float32(low) - mean)) / deviation)

    def content_box(self) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of the image inside the S x S input; bars count as image."""
        if self.fit != "pad":
            return 0, 0, self.image_size, self.image_size
        if self.content is None:
            raise CheckpointDamaged("encoder.json pads images but has no content size. Train again.")
        height, width = self.content
        return (self.image_size - height) // 2, (self.image_size - width) // 2, height, width

    @property
    def content_slices(self) -> tuple[slice, slice]:
        """The rows and columns of `content_box`."""
        top, left, height, width = self.content_box()
        return slice(top, top + height), slice(left, left + width)

    def to_pixels(self, decoded: NDArray[np.float32], width: int, height: int) -> Pixels:
        """Return a decoder's output, a mean (C, S, S) in [0, 1], as pixels in the aspect of the original image.

        They have no bars and no padding. A crop stays square. Nothing is reduced in size, except to MAX_DECODED_SIDE.
        """
        array = np.rint(np.clip(decoded, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)  # (S, S, C)
        array = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
        if self.fit == "crop":
            return array
        box = self._compute_letterbox(width, height) if self.fit == "letterbox" else self.content_box()
        top, left, inner_height, inner_width = box
        array = np.ascontiguousarray(array[top : top + inner_height, left : left + inner_width])
        if self.fit == "letterbox":  # it has the aspect already
            return array
        scale = min(max(inner_height / height, inner_width / width), MAX_DECODED_SIDE / max(width, height))
        return _resize_array(Image.fromarray(array), max(1, round(width * scale)), max(1, round(height * scale)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as encoder.json stores them; of the later ones, those that an external encoder declares."""
        absent = {field.name for field in fields(self)[_TRAINED_FIELDS:] if getattr(self, field.name) == field.default}
        return {name: value for name, value in asdict(self).items() if name not in absent}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_dict` gave. Raises CheckpointDamaged for unknown values."""
        try:
            content = tuple(values["content"]) if values["content"] is not None else None
            tuples = {name: tuple(values[name]) for name in ("value_range", "mean", "deviation") if name in values}
            spec = cls(**(values | tuples | {"content": content}))
        except (TypeError, KeyError) as error:
            raise CheckpointDamaged(
                f"encoder.json has unusable preprocessing {values!r} ({error}). Train again."
            ) from None
        is_known = (
            spec.fit in get_args(FitMode)
            and spec.channels in (1, 3)
            and spec.image_size in range(1, (MAX_EXTERNAL_SIZE if spec.mean else MAX_IMAGE_SIZE) + 1)
            and len(spec.mean) == len(spec.deviation) in (0, spec.channels)
        )
        if not is_known or (spec.fit == "pad") != (content is not None):
            raise CheckpointDamaged(f"encoder.json has preprocessing {values!r}, which this version does not know.")
        return spec

    def _resize(
        self, image: Image.Image, width: int, height: int, box: tuple[int, int, int, int] | None = None
    ) -> Pixels:
        return _resize_array(image, width, height, box, Image.Resampling[self.resampling.upper()])

    def _resize_and_crop(self, image: Image.Image, width: int, height: int) -> Pixels:
        """Scale the shorter side to `resize` and cut out the centre, with the rounding of torchvision's transforms.

        Args:
            image: The image, possibly reduced.
            width, height: Of the original.
        """
        assert self.resize is not None
        short, size = min(width, height), self.image_size
        limited = [min(side, MAX_RESIZED_ASPECT * short) for side in (width, height)]
        if limited != [width, height]:
            inner = [
                max(1, round(side * part / whole))
                for side, part, whole in zip(image.size, limited, (width, height), strict=True)
            ]
            left, top = (image.width - inner[0]) // 2, (image.height - inner[1]) // 2
            image = image.crop((left, top, left + inner[0], top + inner[1]))
        new_width, new_height = (int(self.resize * side / short) for side in limited)
        resized = self._resize(image, new_width, new_height)
        top, left = (round((side - size) / 2) for side in resized.shape[:2])
        return resized[top : top + size, left : left + size]

    def _compute_letterbox(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of a width x height image between its bars."""
        scale = self.image_size / max(width, height)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
        return (self.image_size - inner_height) // 2, (self.image_size - inner_width) // 2, inner_height, inner_width


_TRAINED_FIELDS = 5  # fields that encoder.json always has; the others were added later and change no old fingerprint


def scale_to_unit(batch: Pixels) -> NDArray[np.float32]:
    """Convert (n, S, S, C) uint8 to (n, C, S, S) float32 in [0, 1]."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def choose_preprocessing(
    sample: Sequence[DecodedImage], *, image_size: int | None, fit: FitMode | None = None, background: str = "#ffffff"
) -> Preprocessing:
    """Choose the preprocessing for a collection. Raises BadSetting if `image_size` or `fit` is out of range.

    Without a size, it is the smallest standard size that holds the median shorter side of the sample, up to
    MAX_DEFAULT_SIZE. Without a fit mode, it is "pad" if all images of the sample have one small size, else "stretch".
    """
    if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise BadSetting(f"image_size can't be {image_size}. Use {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels.")
    if fit is not None and fit not in ("stretch", "letterbox", "crop"):
        raise BadSetting(f"fit can't be {fit!r}. Use stretch, letterbox or crop.")
    short_side = median(min(image.width, image.height) for image in sample)
    sizes = (size for size in STANDARD_SIZES if short_side <= size <= MAX_DEFAULT_SIZE)
    size = image_size or next(sizes, MAX_DEFAULT_SIZE)
    channels = 1 if all(image.is_grey for image in sample) else 3
    shapes = {(image.height, image.width) for image in sample}
    shape = next(iter(shapes))
    content = None
    if fit is None and len(shapes) == 1 and max(shape) <= size and shape != (size, size):
        fit, content = "pad", shape
    fit = fit or "stretch"
    return Preprocessing(image_size=size, channels=channels, fit=fit, content=content, background=background)


def _resize_array(
    image: Image.Image,
    width: int,
    height: int,
    box: tuple[int, int, int, int] | None = None,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Pixels:
    """Resize the image, or the `box` (left, top, right, bottom) of it, to (height, width, 3)."""
    if image.size == (width, height) and box in (None, (0, 0, width, height)):
        return np.asarray(image)
    return np.asarray(image.resize((width, height), resampling, box=box, reducing_gap=3.0))


def upscale(grey: Pixels, factor: int) -> Pixels:
    """Enlarge a grey image (H, W) uint8 to (H * factor, W * factor) with bicubic interpolation."""
    image = Image.fromarray(grey)
    return np.asarray(image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC))


def downscale(pixels: Pixels, factor: int) -> Pixels:
    """Reduce (H, W, 3) by a whole factor; each pixel becomes the mean of a block of factor × factor."""
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))
