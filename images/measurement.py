"""Measure what an image really holds: colours, bits, detail and traces of compression, whatever its format is.

A grey PNG of a colour photo, a JPEG inside a TIFF, an image of 16 colours, 8-bit values in 16 bits, a PNG made of a bad
JPEG: the names of their formats promise more than the pixels hold.
"""

from __future__ import annotations

import io
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from simile.core.errors import UnreadableImage
from simile.images.codecs.raw import RAW_FORMAT
from simile.images.colour import describe_profile, get_profile, get_profile_mode
from simile.images.containers import UnsupportedContainer, iterate_riff_chunks
from simile.images.decoding import decode_image
from simile.images.formats import Limits, Pixels
from simile.images.quality.detail import Grey, measure_detail

MEASUREMENT_VERSION = 2  # images with a measurement of another version are measured again
MAX_HISTORY_SIDE = 1536  # of the middle part that is searched for traces of compression
HISTORY_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0))
MAX_STEP = 180  # of the quantisation steps that are searched
MIN_COEFFICIENTS = 40  # that are not zero, to see a step in them

_LOSSLESS_FORMATS = frozenset({"PNG", "BMP", "DIB", "GIF", "PPM", "QOI", "ICO"})
_EMBEDDED_MEDIA = re.compile(rb"\xff\xd8\xff|ftyp")
_PNG_END = b"IEND\xaeB`\x82"
_BITS_TAG = 258
_SRGB_NCLX = {"color_primaries": (1, 2), "transfer_characteristics": (1, 2, 6, 13)}


@dataclass(frozen=True, kw_only=True)
class ImageMeasurement:
    """What one file holds.

    Attributes:
        codec: How the pixels are compressed: "lossless", or the name of a lossy codec.
        chroma: The strongest and the mean colour of parts of the image, 0 to 255; 0 if all is grey.
        colours: The number of different colours.
        depth: Bits per channel that are used.
        frames: Frames, pages and further images.
        profile: What the colour profile means; "" for sRGB.
        step: Mean step of JPEG quantisation at low frequencies, of the tables or seen in the pixels; 0 for none.
        table_step: The same of the file's own tables.
        detail: Contrast of the finest details at the image's own size, then at DETAIL_SIDES as far as it is as large;
            relative to the contrast of the whole image.
        clipped: Share of the pixels that are as dark or as bright as possible, 0 to 1.
        size: Width and height in pixels.
        has_camera_data: Whether the metadata name a camera, or say when the image was taken.
    """

    codec: str
    chroma: tuple[float, float]
    colours: int
    depth: int
    has_alpha: bool
    frames: int
    profile: str
    step: float
    table_step: float
    detail: tuple[float, ...]
    clipped: float
    size: tuple[int, int]
    has_camera_data: bool = False
    version: int = MEASUREMENT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> ImageMeasurement | None:
        """Return the measurement of `to_json`; None if it is of another version."""
        if body.get("version") != MEASUREMENT_VERSION:
            return None
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in body.items()
        }
        return cls(**values)


def measure_image(data: bytes, name: str | Path, limits: Limits) -> ImageMeasurement:
    """Decode an image at full size and measure it. Raises UnreadableImage."""
    image = decode_image(data, name=name, limits=limits)
    if image.format == RAW_FORMAT:
        raise UnreadableImage(name, "a camera's raw file holds more than its preview, which can't be compared")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", image.format.upper())) as im:
            codec, table_step = read_codec(im, data), _read_table_step(im)
            is_transparent = im.has_transparency_data and _is_transparent(im)
            profile, frames = describe_colours(im), int(getattr(im, "n_frames", 1))
            container_depth, has_camera_data = read_depth(im, data), _has_camera_data(im)
    except Exception as error:  # as in `decode_image`: parsers raise anything on a damaged file
        raise UnreadableImage(name, "its properties can't be read") from error
    grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    history = _measure_history(image.pixels)
    return ImageMeasurement(
        codec=codec,
        chroma=_measure_chroma(image.pixels),
        colours=_count_colours(image.pixels),
        depth=_measure_depth(data, container_depth),
        has_alpha=is_transparent,
        frames=frames + bool(find_appended_media(data)) * (frames == 1),
        profile=profile,
        step=round(max(table_step, history), 2),
        table_step=round(table_step, 2),
        detail=measure_detail(grey),
        clipped=round(float(np.mean((image.pixels.max(2) >= 254) | (image.pixels.max(2) <= 1))), 4),
        size=(image.width, image.height),
        has_camera_data=has_camera_data,
    )


def describe_colours(im: Image.Image) -> str:
    """Describe the colour space of an image; "" for sRGB."""
    profile = get_profile(im)
    if profile:
        return describe_profile(profile, get_profile_mode(im))
    nclx = im.info.get("nclx_profile")
    if isinstance(nclx, dict) and any(nclx.get(key, 2) not in usual for key, usual in _SRGB_NCLX.items()):
        return " ".join(str(nclx.get(key)) for key in _SRGB_NCLX)
    gamma = im.info.get("gamma")
    if im.format == "PNG" and gamma and "srgb" not in im.info and abs(gamma - 0.45455) > 0.02:
        return f"gamma {gamma:.4f}"
    return ""


def read_depth(im: Image.Image, data: bytes) -> int:  # noqa: PLR0911  # one for each format
    """Return the bits per channel of the container; 8 also for less."""
    if im.mode in ("I", "F"):
        return 16 if im.format == "PNG" or (im.format == "PPM" and im.mode == "I") else 32
    if im.mode.startswith("I;16"):
        return 16
    if im.format == "PNG":
        return max(8, data[24])
    if im.format == "TIFF":
        bits = im.tag_v2.get(_BITS_TAG, (8,))  # type: ignore[attr-defined]
        return int(max(8, *(bits if isinstance(bits, tuple) else (bits, 8))))
    if im.format == "PPM":
        found = re.match(rb"P[36](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)", data[:4096])
        return 16 if found and int(found[1]) > 255 else 8
    if im.format == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        return max(8, (data[start + 42] & 0x7F) + 1) if start >= 0 and start + 42 < len(data) else 8
    if im.format == "AVIF":
        start = data.find(b"av1C")
        return (12 if data[start + 6] & 0x20 else 10) if start >= 0 and data[start + 6] & 0x40 else 8
    return max(8, int(im.info.get("bit_depth", 8)))


def read_deep_pixels(data: bytes) -> NDArray[Any] | None:
    """Return the values of more than 8 bits, (H, W) or (H, W, C) uint16 or float32; None if they can't be read."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if values is None or values.dtype == np.uint8 else values


def find_appended_media(data: bytes) -> bytes:
    """Return what follows the image of a JPEG, PNG or WebP if it is a further image or a film; b"" otherwise.

    Phones append gain maps, second views (MPO) and films; an editor that saves the JPEG drops them.
    """
    if data.startswith(b"RIFF"):
        rest = data[8 + int.from_bytes(data[4:8], "little") :]
    elif data.startswith(b"\x89PNG"):
        rest = data.partition(_PNG_END)[2]
    elif data.startswith(b"\xff\xd8"):
        position = 2
        while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
            if data[position + 1] == 0xFF:
                position += 1
                continue
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        end = data.find(b"\xff\xd9", position)
        rest = data[end + 2 :] if end >= 0 else b""
    else:
        return b""
    return rest if _EMBEDDED_MEDIA.search(rest) else b""


def read_codec(im: Image.Image, data: bytes) -> str:
    """Return "lossless", or the name of the lossy codec."""
    if im.format in ("JPEG", "MPO"):
        return "jpeg"
    if im.format == "TIFF":
        compression = str(im.info.get("compression", ""))
        lossy = {"jpeg": "jpeg", "tiff_jpeg": "jpeg", "webp": "webp"}
        return lossy.get(compression, "jpeg2000" if "jp2" in compression or "3400" in compression else "lossless")
    if im.format == "WEBP":
        try:
            heads = (kind + (body[16:28] if kind == b"ANMF" else b"") for kind, body in iterate_riff_chunks(data[12:]))
            kinds = re.findall(rb"VP8[ L]", b"".join(heads))
        except UnsupportedContainer:
            kinds = [b"VP8 "]
        return "webp" if b"VP8 " in kinds or not kinds else "lossless"
    if im.format == "JPEG2000":
        start = data.find(b"\xff\x52", max(0, data.find(b"\xff\x4f\xff\x51")))
        return "lossless" if start >= 0 and start + 13 < len(data) and data[start + 13] == 1 else "jpeg2000"
    return "lossless" if im.format in _LOSSLESS_FORMATS else str(im.format).lower()


def _read_table_step(im: Image.Image) -> float:
    """Return the mean step of the luma table at low frequencies; 0 without a table."""
    tables = getattr(im, "quantization", None)
    table = list(tables[min(tables)]) if tables else []
    return float(np.mean([table[8 * row + column] for row, column in HISTORY_FREQUENCIES])) if len(table) == 64 else 0.0


def _has_camera_data(im: Image.Image) -> bool:
    exif = im.getexif()
    date = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    return bool(date or exif.get(ExifTags.Base.Make) or exif.get(ExifTags.Base.Model))


def _is_transparent(im: Image.Image) -> bool:
    if im.mode.startswith("I"):
        return True
    low, _ = im.convert("RGBA").getchannel("A").getextrema()
    return bool(low < 255)  # type: ignore[operator]


def _measure_chroma(pixels: Pixels) -> tuple[float, float]:
    """Return the strongest and the mean difference of the channels of small parts, so that noise does not count."""
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / 96)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    spread = small.max(2).astype(np.float32) - small.min(2)
    return round(float(np.quantile(spread, 0.995)), 1), round(float(spread.mean()), 2)


def _count_colours(pixels: Pixels) -> int:
    if pixels.size < 1 << 21:  # sorting is faster than a table of all colours
        wide = pixels.reshape(-1, 3).astype(np.uint32)
        ordered = np.sort(wide[:, 0] << 16 | wide[:, 1] << 8 | wide[:, 2])
        return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
    seen = np.zeros(1 << 24, bool)
    for rows in np.array_split(pixels, max(1, pixels.shape[0] * pixels.shape[1] // 4_000_000)):
        wide = rows.astype(np.uint32)
        seen[(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]).ravel()] = True
    return int(np.count_nonzero(seen))


def _measure_depth(data: bytes, container_depth: int) -> int:
    """Return the bits that are used: 8-bit values in a container of 16 bits use 8."""
    if container_depth <= 8:
        return 8
    values = read_deep_pixels(data)
    if values is None or values.dtype != np.uint16:
        return container_depth
    high, low = values >> 8, values & 255
    return 8 if not low.any() or bool((high == low).all()) else container_depth


def _measure_history(pixels: Pixels) -> float:
    """Return the mean step of the JPEG quantisation that the brightness of the pixels shows; 0 if it shows none.

    The 8 x 8 DCT coefficients of an image that once was a JPEG lie near the multiples of a step (Fan & de Queiroz
    2003), also after it was saved as PNG, or again as JPEG with finer steps.
    """
    rows, columns = (min(side // 8 * 8, MAX_HISTORY_SIDE) for side in pixels.shape[:2])
    if rows < 64 or columns < 64:
        return 0.0
    top, left = ((side - part) // 16 * 8 for side, part in zip(pixels.shape[:2], (rows, columns), strict=True))
    part = pixels[top : top + rows, left : left + columns].astype(np.float32)
    coefficients = compute_dct(part @ np.array([0.299, 0.587, 0.114], np.float32) - 128)
    steps = [_find_step(coefficients[:, row, column]) for row, column in HISTORY_FREQUENCIES]
    found = [step for step in steps if step]
    return float(np.mean(found)) if len(found) * 2 >= len(steps) else 0.0


def compute_dct(plane: Grey) -> Grey:
    """Return the DCT of the whole blocks of 8 x 8 pixels of a plane, (n, 8, 8), as JPEG computes it."""
    rows, columns = (side // 8 for side in plane.shape)
    blocks = plane[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    order = np.arange(8)
    basis = np.sqrt(0.25) * np.cos((2 * order[None] + 1) * order[:, None] * np.pi / 16)
    basis[0] /= np.sqrt(2)
    dct = basis.astype(np.float32)
    coefficients: Grey = np.einsum("ij,njk,lk->nil", dct, blocks, dct, optimize=True)
    return coefficients


def _find_step(coefficients: Grey) -> int:
    """Return the largest step with multiples that the coefficients are near; 0 for none above 2."""
    values = coefficients[np.abs(coefficients) > 1.5][:40_000]
    if len(values) < MIN_COEFFICIENTS:
        return 0
    # Half of the values are larger than 0.7 steps.
    sizes = np.sort(np.abs(values))
    for step in range(min(MAX_STEP, int(np.median(sizes) / 0.7)), 2, -1):
        outside = sizes[np.searchsorted(sizes, step / 2, "right") :]
        if len(outside) >= MIN_COEFFICIENTS and float(np.cos(2 * np.pi / step * outside).mean()) > 0.6:
            return step
    return 0
