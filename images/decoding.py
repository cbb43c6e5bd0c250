"""The one decoder: bytes become RGB pixels here and nowhere else, for training, indexing and queries alike.

    path --read_bytes--> bytes --decode--> Picture (uint8 RGB, upright, over a background)

What can't be read becomes UnreadableImage (or ImageTooLarge) with a short reason. Pillow is told which formats
to try; its others stay off, some of them run other programs (EPS, WMF) or say nothing of a picture (HDF5, GRIB).
Safe to call from many threads; the same bytes give the same pixels.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pillow_heif
from numpy.typing import NDArray

# Pillow loads the formats below on its own only after all of its plugins: naming them keeps the others out.
from PIL import (
    AvifImagePlugin,
    ExifTags,
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from simile.core.errors import ImageTooLarge, UnreadableImage
from simile.images.containers import has_more_scans

if TYPE_CHECKING:  # worker processes load this module, and no pydantic
    pass
from simile.images.formats import _DEFAULT_LIMITS, _FORMATS, Limits, Pixels, check_byte_count, has_image_signature

MAX_JPEG_SCANS = 100  # of a JPEG; progressive ones have about ten. libtiff stops at as many

# Pillow's own guard is one number for the whole process, and it only warns up to twice that number. Here each
# call brings its limit, checked against the header before any pixel is decoded (_check_size).
Image.MAX_IMAGE_PIXELS = None
# Drawing programs keep whole workflows in compressed text chunks: they must not cost the picture.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 << 20
# Callers decode on a thread for each core: threads inside the decoders would only fight over the same cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# The picture itself is wanted: never the small preview stored beside it, nor depth maps.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
# What Pillow has to say of a damaged file is in the reason of the error; its log lines would come twice.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded picture. `pixels`: (H, W, 3) uint8 RGB, possibly reduced by whole factors.

    `width` and `height` are the original's, upright. `grey`: it shows no colour, whatever its mode.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    is_grey: bool


def decode_image(
    data: bytes,
    *,
    name: str | Path,
    limits: Limits = _DEFAULT_LIMITS,
    background: str = "#ffffff",
    min_side: int | None = None,
) -> DecodedImage:
    """Decode the first frame: upright by its EXIF orientation, RGB, what is transparent laid over `background`.

    `name` is used in errors only. With `min_side`, a JPEG is decoded at the smallest scale (1/2, 1/4, 1/8) whose
    sides are both at least 2 * min_side: much faster, and still enough to scale down from.
    Raises UnreadableImage; ImageTooLarge when it is over the limits, before any pixel is decoded.
    """
    check_byte_count(len(data), name, limits)
    if not data:
        raise UnreadableImage(name, "the file is empty")
    _ignore_decoder_warnings()
    try:
        return _decode_first_frame(data, name, limits, background, min_side)
    except UnreadableImage:
        raise
    except Exception as error:  # a dozen parsers, most of them in C, raise anything on a damaged file
        raise UnreadableImage(name, _get_decode_failure_reason(error, data)) from error


def _ignore_decoder_warnings() -> None:
    """Ignore the warnings of the parsers: where warnings are errors, they would cost good pictures.

    Looked at on each call, because whoever installs filters later (a test runner) puts them in front of ours.
    `warnings.catch_warnings` would do for one thread only: it swaps the filters of the whole process.
    """
    quiet = r"(PIL|pillow_heif)\."
    first = warnings.filters[0] if warnings.filters else None
    if first is None or first[0] != "ignore" or first[3] != re.compile(quiet):
        warnings.filterwarnings("ignore", module=quiet)


def _decode_first_frame(
    data: bytes, name: str | Path, limits: Limits, background: str, min_side: int | None
) -> DecodedImage:
    if data.startswith(b"\0\0\1\0"):
        for size in _read_icon_sizes(data):
            _check_pixel_count(size, name, limits)
    with Image.open(io.BytesIO(data), formats=tuple(_FORMATS)) as im:
        _check_pixel_count(im.size, name, limits)
        if im.format in ("JPEG", "MPO") and has_more_scans(data, MAX_JPEG_SCANS):
            raise UnreadableImage(name, f"it is coded in more than {MAX_JPEG_SCANS} scans, as no picture needs to be")
        original = im.size
        if min_side is not None and im.format in ("JPEG", "MPO"):
            im.draft(None, (2 * min_side, 2 * min_side))
        reduced = im.size != original
        _scale_transparent_grey(im)
        im.load()
        orientation = _read_orientation(im)
        pixels = _apply_orientation(np.array(_to_rgb(im, name, background), dtype=np.uint8), orientation)
        format = "jpeg" if im.format == "MPO" else str(im.format).lower()
    height, width = pixels.shape[:2]
    if reduced:
        width, height = original if orientation < 5 else original[::-1]
    return DecodedImage(pixels, width, height, format, _is_colourless(pixels))


def _read_icon_sizes(data: bytes) -> list[tuple[int, int]]:
    """Sizes of the pictures that an icon wraps: its own header says 256 at most, and Pillow decodes on opening."""
    sizes = []
    for at in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
        offset = int.from_bytes(data[at + 12 : at + 16], "little")
        head = data[offset : offset + 24]
        if len(head) < 24:  # cut off: the decoder will say so
            continue
        if head.startswith(b"\x89PNG"):
            sizes.append((int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")))
        else:  # a bitmap: picture and mask, one above the other
            width, height = (int.from_bytes(head[at : at + 4], "little", signed=True) for at in (4, 8))
            sizes.append((abs(width), abs(height) // 2))
    return sizes


def _scale_transparent_grey(im: Image.Image) -> None:
    """Pillow spreads PNG's greys of 2 and 4 bits over 0 to 255, but not the one that means transparent."""
    if isinstance(im, PngImagePlugin.PngImageFile) and im.tile and isinstance(im.info.get("transparency"), int):
        im.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(str(im.tile[0].args), 1)


def _check_pixel_count(size: tuple[int, int], name: str | Path, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImage(name, "it has no pixels")
    if width * height > limits.max_pixels:
        reason = f"{width} x {height} pixels are more than the limit of {limits.max_pixels:,} (SIMILE_MAX_PIXELS)"
        raise ImageTooLarge(name, reason)


def _read_orientation(im: Image.Image) -> int:
    """EXIF orientation, 1 to 8, still to be applied. HEIF and TIFF come out of `load` upright."""
    if im.format in ("HEIF", "TIFF"):
        return 1
    try:
        value = im.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # noqa: BLE001 - a malformed EXIF block raises anything, and must not cost the picture
        return 1


def _apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, 3) made upright. The eight orientations are a transpose (5 to 8), then a flip of rows or columns."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(im: Image.Image, name: str | Path, background: str) -> Image.Image:
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        im = _to_eight_bits(im, name)
    if im.mode in ("La", "RGBa"):  # colour already multiplied by alpha
        im = im.convert({"La": "LA", "RGBa": "RGBA"}[im.mode])
    if not im.has_transparency_data:
        return im.convert("RGB")
    rgba = im.convert("RGBA")
    canvas = Image.new("RGB", im.size, background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _to_eight_bits(im: Image.Image, name: str | Path) -> Image.Image:
    """Grey of more than 8 bits as "L", or as "LA" where one of its values means transparent."""
    values = np.asarray(im)
    levels = Image.fromarray(_scale_to_uint8(values, im, name))
    if "transparency" in im.info:
        levels.putalpha(Image.fromarray(np.where(values == im.info["transparency"], 0, 255).astype(np.uint8)))
    return levels


def _scale_to_uint8(values: NDArray[Any], im: Image.Image, name: str | Path) -> Pixels:
    """(H, W) of uint16, int32 or float32 to uint8: 16 bits / 257, floats in [0, 1] x 255, others min to max."""
    if im.mode.startswith("I;16") or (im.format in ("PNG", "PPM") and im.mode == "I"):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.isfinite(values).all():
        raise UnreadableImage(name, "it holds values that are not numbers (NaN or infinity)")
    low, high = float(values.min()), float(values.max())
    if im.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - np.float64(low)) * scale).astype(np.uint8)


def _is_colourless(pixels: Pixels) -> bool:
    """Whether max - min of R, G, B is below 1 of 255 on average, over at most some 250,000 pixels of a grid."""
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / 250_000) ** 0.5))
    red, green, blue = np.moveaxis(pixels[::step, ::step], 2, 0)
    # Channel by channel: max and min over an axis of 3 took as long as decoding the JPEG.
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float(spread.mean()) < 1.0


def _get_decode_failure_reason(error: Exception, data: bytes) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if not has_image_signature(data[:32]):
        return "not a picture (or of a kind that simile does not read)"
    signs = ("truncated", "end of file", "eof", "not enough", "only got", "broken data stream", "unpack", "buffer")
    if _is_truncated(data) or any(sign in str(error).lower() for sign in signs):
        return "the file is truncated"
    return "the picture is damaged, or of a variant that simile does not read"


def _is_truncated(data: bytes) -> bool:
    """Whether a WebP or a TIFF says of itself that it goes on: their parsers only say that they can't go on."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    return data[:4] in (b"II*\0", b"MM\0*") and len(data) < int.from_bytes(data[4:8], order)
