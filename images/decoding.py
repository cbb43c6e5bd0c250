"""Decode image files to RGB pixels. Training, indexing and queries all use this decoder.

    path --read_bytes--> bytes --decode_image--> DecodedImage (uint8 RGB, upright, over a background)

A file that cannot be decoded raises UnreadableImage (or ImageTooLarge) with a short reason. Pillow gets the list of
formats to try; its other formats stay off, because some of them run external programs (EPS, WMF) or contain no image
(HDF5, GRIB). The decoder is safe to call from many threads, and the same bytes always give the same pixels.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray

# Without these imports Pillow loads all of its plugins when it meets one of these formats.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    IcoImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    PpmImagePlugin,  # noqa: F401
    PsdImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from simile.core.errors import ImageTooLarge, UnreadableImage
from simile.images.codecs.fast_decoders import register_fast_decoders
from simile.images.codecs.jxl import JXL_REASON, is_jxl, register_jxl
from simile.images.codecs.psd import NO_COMPOSITE_REASON, is_psd, lacks_composite
from simile.images.codecs.raw import RAW_FORMAT, NoPreview, can_read_raw, extract_preview
from simile.images.codecs.sizes import read_described_sizes, read_stated_sizes
from simile.images.colour import convert_to_srgb, get_profile, judge_profile
from simile.images.formats import DEFAULT_LIMITS, PILLOW_FORMATS, Limits, Pixels, check_byte_count, has_format_name
from simile.images.structure import check_structure, is_cut_off
from simile.images.tiff import RAW_REASON, find_unread_image

MAX_SIDE = 2**31 - 1  # more is a negative number in a header, or nonsense
DECODER_BYTES_PER_PIXEL = 20  # of the decoders of WebP, HEIF and JPEG 2000, with the result
COPIED_PIXELS = 2_000_000  # of a large image at a time

# Pillow's own guard is one number for the whole process, and it only warns up to twice that number. Here each
# call brings its limit, and the header is checked before any pixel is decoded (_check_pixel_count).
Image.MAX_IMAGE_PIXELS = None
# Drawing programs store whole workflows in compressed text chunks; these must not make the image unreadable.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 << 20
# Callers decode with one thread or process per core: more threads inside the decoders would only compete.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Decode the image itself, not the small preview stored with it, and no depth maps.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
register_fast_decoders()
# Pillow's message on a damaged file is already part of the error; its log lines would repeat it.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image, turned upright."""

    pixels: Pixels  # (H, W, 3) RGB, possibly reduced by whole factors
    width: int  # of the original in pixels
    height: int
    format: str  # Pillow's format name in lower case; "jpeg" for MPO
    is_grey: bool  # the pixels have no colour, whatever the mode of the file
    profile: str = ""  # as `ImageQuality.profile`


def decode_image(
    data: bytes,
    *,
    name: str | Path,
    limits: Limits = DEFAULT_LIMITS,
    background: str = "#ffffff",
    min_side: int | None = None,
    to_srgb: bool = False,
) -> DecodedImage:
    """Decode the first frame as RGB, upright by its EXIF orientation.

    Args:
        data: The bytes of the file.
        name: Path or name of the file, for errors only.
        limits: Limits on bytes and pixels.
        background: Colour under transparent pixels, "#rrggbb".
        min_side: A JPEG is decoded at the smallest scale (1/2, 1/4, 1/8) with both sides at least 2 * min_side:
            much faster, and still enough to scale down from. None decodes at full size.
        to_srgb: Convert the colours by the file's profile, for display. Otherwise the profile is ignored:
            encoders compare the numbers that the file stores.

    Raises:
        UnreadableImage: The data are no image, or a damaged one.
        ImageTooLarge: The file is over the limits; raised before any pixel is decoded.
    """
    check_byte_count(len(data), name, limits)
    if not data:
        raise UnreadableImage(name, "the file is empty")
    check_structure(data, name)
    reason = _find_refusal(data)
    is_raw = reason == RAW_REASON and can_read_raw()
    if reason and not is_raw:
        raise UnreadableImage(name, reason)
    ignore_decoder_warnings()
    decode = _decode_raw if is_raw else _decode_first_frame
    try:
        return decode(data, name, limits, background, min_side, to_srgb=to_srgb)
    except UnreadableImage:
        raise
    except Exception as error:  # a dozen parsers, most of them in C, raise anything on a damaged file
        if _lacks_memory(error, data, limits):
            error = MemoryError()  # callers know the limit
        raise UnreadableImage(name, _get_decode_failure_reason(error, data)) from error


def ignore_decoder_warnings() -> None:
    """Ignore the warnings of the parsers: where warnings are errors, they would make good images unreadable.

    Checked on each call, because filters that are installed later (by a test runner) come before this filter.
    `warnings.catch_warnings` is not safe with threads: it swaps the filters of the whole process.
    """
    decoder_modules = r"(PIL|pillow_heif|pillow_jxl)\b"
    first = warnings.filters[0] if warnings.filters else None
    if first is None or first[0] != "ignore" or first[3] != re.compile(decoder_modules):
        warnings.filterwarnings("ignore", module=decoder_modules)


def _find_refusal(data: bytes) -> str | None:
    """Return why a file can't be shown as the image that it is: it holds more, or a package is missing."""
    if is_jxl(data):
        return None if register_jxl() else JXL_REASON
    if is_psd(data):
        return NO_COMPOSITE_REASON if lacks_composite(data) else None
    return find_unread_image(data)


def _decode_first_frame(
    data: bytes,
    name: str | Path,
    limits: Limits,
    background: str,
    min_side: int | None,
    *,
    to_srgb: bool,
    orientation: int | None = None,
) -> DecodedImage:
    """Check the header against the limits, then decode; see `decode_image`. `orientation`: None for the file's."""
    for size in read_stated_sizes(data):
        _check_pixel_count(size, name, limits)
    with Image.open(io.BytesIO(data), formats=_get_pillow_formats(data)) as im:
        _check_pixel_count(im.size, name, limits)
        # Decode a JPEG at a reduced scale if that is enough.
        original_size = im.size
        if min_side is not None and im.format in ("JPEG", "MPO"):
            im.draft(None, (2 * min_side, 2 * min_side))
        is_reduced = im.size != original_size
        # Pillow scales the pixels of a grey PNG with 2 or 4 bits to 0..255, but not the value that is transparent.
        if isinstance(im, PngImagePlugin.PngImageFile) and im.tile and isinstance(im.info.get("transparency"), int):
            im.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(str(im.tile[0].args), 1)
        # Decode, convert to RGB and turn upright.
        im.load()
        orientation, profile = orientation or _read_orientation(im), judge_profile(im)
        in_srgb = convert_to_srgb(im, get_profile(im)) if to_srgb else im
        pixels = _apply_orientation(_to_array(_to_rgb(in_srgb, name, background)), orientation)
        format = "jpeg" if im.format == "MPO" else str(im.format).lower()
    height, width = pixels.shape[:2]
    if is_reduced:  # report the size of the original, upright
        width, height = original_size if orientation < 5 else original_size[::-1]
    return DecodedImage(
        pixels=pixels, width=width, height=height, format=format, is_grey=_is_colourless(pixels), profile=profile
    )


def _decode_raw(
    data: bytes, name: str | Path, limits: Limits, background: str, min_side: int | None, *, to_srgb: bool
) -> DecodedImage:
    """Decode the preview of a camera's raw file; see `decode_image`."""
    try:
        preview = extract_preview(data)
    except NoPreview as error:
        raise UnreadableImage(name, str(error)) from None
    check_structure(preview.data, name)
    image = _decode_first_frame(
        preview.data, name, limits, background, min_side, to_srgb=to_srgb, orientation=preview.orientation
    )
    return replace(image, format=RAW_FORMAT)


def _get_pillow_formats(data: bytes) -> tuple[str, ...]:
    """Return the formats for Pillow to try: of those in optional packages only the one that the file has."""
    return ("JXL",) if is_jxl(data) else PILLOW_FORMATS


def _check_pixel_count(size: tuple[int, int], name: str | Path, limits: Limits) -> None:
    """Raise UnreadableImage or ImageTooLarge if `size` (width, height) is empty or over the limit."""
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImage(name, "it has no pixels")
    if max(size) > MAX_SIDE:
        raise UnreadableImage(name, f"the image is damaged: its header states {width} x {height} pixels")
    if width * height > limits.max_pixels:
        reason = f"{width} x {height} pixels are more than the limit of {limits.max_pixels:,} (SIMILE_MAX_PIXELS)"
        raise ImageTooLarge(name, reason)


def _read_orientation(im: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, that is still to be applied. HEIF, TIFF and JPEG XL are upright already,
    except a JPEG XL that was made from a JPEG."""
    if im.format in ("HEIF", "TIFF") or (im.format == "JXL" and not getattr(im, "jpeg", False)):
        return 1
    try:
        value = im.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # noqa: BLE001 - a malformed EXIF block raises anything; the image is still good
        return 1


def _apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Turn (H, W, 3) pixels upright: orientations 5 to 8 are a transpose, then rows or columns are flipped."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(im: Image.Image, name: str | Path, background: str) -> Image.Image:
    """Convert any mode to RGB; transparent pixels show the background."""
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):  # grey of more than 8 bits
        values, info = np.asarray(im), im.info
        im = Image.fromarray(_scale_to_uint8(values, im, name))
        if "transparency" in info:  # one of its values means transparent
            im.putalpha(Image.fromarray(np.where(values == info["transparency"], 0, 255).astype(np.uint8)))
    if im.mode in ("La", "RGBa"):  # colours are multiplied by alpha
        im = im.convert({"La": "LA", "RGBa": "RGBA"}[im.mode])
    if im.format == "PSD" and im.mode == "RGBA":  # a mask, or transparency that the colours already are on white for
        im = Image.merge("RGB", im.split()[:3])
    if not im.has_transparency_data:
        return im if im.mode == "RGB" else im.convert("RGB")  # convert would copy
    rgba = im.convert("RGBA")
    canvas = Image.new("RGB", im.size, background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _to_array(im: Image.Image) -> Pixels:
    """Return the pixels of an RGB image. A large one is copied in parts, because np.array() holds it twice."""
    rows = max(1, COPIED_PIXELS // im.width)
    if im.height <= rows:
        return np.array(im)
    pixels = np.empty((im.height, im.width, 3), np.uint8)
    for top in range(0, im.height, rows):
        pixels[top : top + rows] = np.asarray(im.crop((0, top, im.width, min(top + rows, im.height))))
    return pixels


def _scale_to_uint8(values: NDArray[Any], im: Image.Image, name: str | Path) -> Pixels:
    """Scale (H, W) uint16, int32 or float32 to uint8: 16 bits / 257, floats in [0, 1] x 255, others min to max."""
    if im.mode.startswith("I;16") or (im.format in ("PNG", "PPM") and im.mode == "I"):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.isfinite(values).all():
        raise UnreadableImage(name, "it contains values that are not numbers (NaN or infinity)")
    low, high = float(values.min()), float(values.max())
    if im.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - np.float64(low)) * scale).astype(np.uint8)


def _is_colourless(pixels: Pixels) -> bool:
    """Return whether max - min of R, G, B is below 1 of 255 on average, over a grid of about 250,000 pixels."""
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / 250_000) ** 0.5))
    red, green, blue = np.moveaxis(pixels[::step, ::step], 2, 0)
    # Channel by channel: max and min over an axis of length 3 take as long as decoding the JPEG.
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float(spread.mean()) < 1.0


def _lacks_memory(error: Exception, data: bytes, limits: Limits) -> bool:
    """Return whether a decoder failed for lack of memory. Those of WebP, HEIF and JPEG 2000 do not always say so."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "allocation" in text:
        return True
    sizes = read_described_sizes(data)
    pixels = max((width * height for width, height in sizes if width > 0 and height > 0), default=0)
    try:
        if pixels <= limits.max_pixels:
            np.empty(pixels * DECODER_BYTES_PER_PIXEL, np.uint8)  # takes no memory until it is written
    except MemoryError:
        return True
    return False


def _get_decode_failure_reason(error: Exception, data: bytes) -> str:
    """Return a short reason for people, from the parser's exception and the first bytes."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if not has_format_name(data[:32]):
        return "not an image, or of a format that simile does not read"
    cut_off = is_cut_off(data)
    words = ("truncated", "end of file", "eof", "not enough", "only got", "broken data stream", "unpack", "buffer")
    if cut_off or (cut_off is None and any(word in str(error).lower() for word in words)):
        return "the file is truncated"
    return "the image is damaged, or of a variant that simile does not read"
