"""Draw many small images at once: atlases of thumbnails for a web page, and the map of a collection."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.rendering.sheets import resize_to_fit
from simile.images.rendering.text import MUTED_COLOUR, PAPER_COLOUR, TEXT_COLOUR, choose_font, draw_legend, draw_text

# Twenty hues of medium lightness, visible on light and on dark; static/map_colours.js has the same.
MAP_PALETTE = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#2fa8a0", "#d4a818", "#9c755f", "#e377c2", "#6b7fd7"),
    *("#86bc40", "#b85c38", "#5b8c9b", "#d37295", "#8175aa", "#a0a83b", "#1f9e89", "#c0862c", "#ff9da7", "#76b7e2"),
)
# From low to high, in steps that look even: after viridis (Smith and van der Walt, 2015, CC0), the dark end lightened.
MAP_RAMP = ("#5b4a94", "#3b6ea5", "#21918c", "#5ec962", "#e8d32a")
UNKNOWN_COLOUR = "#9a9a9a"  # for points without a label or value
MAP_WIDTH, MAP_HEIGHT = 1600, 1120  # of the plane, in pixels
_MAP_MARGIN, _MAP_HEADER_HEIGHT = 40, 84
_MAP_SUPERSAMPLING = 2  # dots are drawn twice as large, then reduced, to be smooth

ColourArray = NDArray[np.uint8]
MapPointArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class MapSheet:
    """The contents of a map."""

    title: str
    note: str  # a second, fainter line
    points: MapPointArray  # (n, 2) within [-1, 1]
    colours: ColourArray  # (n, 3)
    images: Sequence[tuple[int, Pixels]] = ()  # rows of points and the images to draw there
    legend: Sequence[tuple[str, str]] = ()  # names and their colours
    ramp_labels: tuple[str, str] | None = None  # meaning of both ends of the colour ramp, instead of a legend


def draw_atlas(images: Sequence[Pixels | None], side: int, columns: int) -> bytes:
    """Draw images (None: an empty square) in a grid as WebP.

    Each is in a square of `side` pixels; it keeps its aspect, and the rest is transparent.
    """
    rows = -(-len(images) // columns)
    canvas = Image.new("RGBA", (columns * side, rows * side))
    for number, pixels in enumerate(images):
        if pixels is not None:
            image = resize_to_fit(pixels, side, side)
            left, top = number % columns * side, number // columns * side
            canvas.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()


def get_palette_colours(numbers: NDArray[np.int32]) -> ColourArray:
    """Return colours (n, 3) of numbers (n,): the palette, repeated; grey for negative numbers."""
    palette = np.array([ImageColor.getrgb(colour) for colour in (*MAP_PALETTE, UNKNOWN_COLOUR)], np.uint8)
    colours: ColourArray = palette[np.where(numbers < 0, len(MAP_PALETTE), numbers % len(MAP_PALETTE))]
    return colours


def get_ramp_colours(values: NDArray[np.float32]) -> ColourArray:
    """Return colours (n, 3) of values (n,) in 0..1; grey for NaN."""
    stops = np.array([ImageColor.getrgb(colour) for colour in MAP_RAMP], np.float64)
    positions = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    colours = np.stack([np.interp(positions, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    colours[~np.isfinite(values)] = ImageColor.getrgb(UNKNOWN_COLOUR)
    return colours.round().astype(np.uint8)


def compute_map_positions(points: MapPointArray) -> NDArray[np.float64]:
    """Return pixels (n, 2) in the plane for points within [-1, 1]; y points up."""
    # Points that fill the square's height are drawn up to the plane's aspect; flat ones stay as they are.
    height = float(np.abs(points[:, 1]).max(initial=0))
    stretch = min(MAP_WIDTH / MAP_HEIGHT, (MAP_WIDTH - 40) / (MAP_HEIGHT - 40)) if height > 0.5 else 1.0
    half = (min(MAP_WIDTH, MAP_HEIGHT) - 40) / 2
    return np.stack([MAP_WIDTH / 2 + points[:, 0] * half * stretch, MAP_HEIGHT / 2 - points[:, 1] * half], axis=1)


def draw_map(sheet: MapSheet) -> bytes:
    """Draw a map as PNG: coloured dots, images framed in their colours, and a legend below."""
    width = MAP_WIDTH + 2 * _MAP_MARGIN
    legend = _draw_ramp(*sheet.ramp_labels) if sheet.ramp_labels else draw_legend(sheet.legend, width, _MAP_MARGIN)
    canvas = Image.new("RGB", (width, _MAP_HEADER_HEIGHT + MAP_HEIGHT + legend.height + _MAP_MARGIN), PAPER_COLOUR)
    draw_text(canvas, sheet.title, (_MAP_MARGIN, 22), 22, TEXT_COLOUR)
    draw_text(canvas, sheet.note, (_MAP_MARGIN, 52), 14, MUTED_COLOUR)
    canvas.paste(_draw_map_points(sheet), (_MAP_MARGIN, _MAP_HEADER_HEIGHT))
    canvas.paste(legend, (0, _MAP_HEADER_HEIGHT + MAP_HEIGHT + 12))
    return encode_png(canvas)


def _draw_map_points(sheet: MapSheet) -> Image.Image:
    """Draw the plane: dots, then images over them."""
    positions = compute_map_positions(sheet.points)
    scale = _MAP_SUPERSAMPLING
    plane = Image.new("RGB", (MAP_WIDTH * scale, MAP_HEIGHT * scale), PAPER_COLOUR)
    draw = ImageDraw.Draw(plane)
    radius = float(np.clip(260 / np.sqrt(max(len(positions), 1)), 1.4, 6)) * scale  # smaller for more points
    hex_colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in sheet.colours.tolist()]
    # In random order, so that no colour is hidden below another.
    for row in np.random.default_rng(0).permutation(len(positions)).tolist():
        draw.circle((positions[row, 0] * scale, positions[row, 1] * scale), radius, hex_colours[row])
    plane = plane.resize((MAP_WIDTH, MAP_HEIGHT), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(plane)
    for row, pixels in sheet.images:
        image = resize_to_fit(pixels, 34, 34)
        left, top = round(positions[row, 0] - image.width / 2), round(positions[row, 1] - image.height / 2)
        draw.rectangle((left - 2, top - 2, left + image.width + 1, top + image.height + 1), hex_colours[row])
        plane.paste(image, (left, top))
    return plane


def _draw_ramp(low: str, high: str) -> Image.Image:
    """Draw the colour ramp between its two labels."""
    ramp = Image.new("RGB", (MAP_WIDTH + 2 * _MAP_MARGIN, 26), PAPER_COLOUR)
    low_width = round(choose_font(low, 14)[1].getlength(low))
    draw_text(ramp, low, (_MAP_MARGIN, 16), 14, TEXT_COLOUR, "ls")
    colours = get_ramp_colours(np.linspace(0, 1, 240, dtype=np.float32))
    ramp.paste(Image.fromarray(np.repeat(colours[None], 12, axis=0)), (_MAP_MARGIN + low_width + 12, 5))
    draw_text(ramp, high, (_MAP_MARGIN + low_width + 264, 16), 14, TEXT_COLOUR, "ls")
    return ramp
