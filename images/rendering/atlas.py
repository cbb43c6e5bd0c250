"""Very many small pictures at once: atlases that a page cuts thumbnails from, and the map of a collection."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.rendering.sheets import MUTED_COLOUR, PAPER_COLOUR, TEXT_COLOUR, draw_text, resize_to_fit
from simile.images.rendering.text import choose_font, truncate_text

# Twenty hues of middling lightness: seen on light ground and on dark; static/map_colours.js has the same.
MAP_PALETTE = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#b07aa1",
    "#2fa8a0",
    "#d4a818",
    "#9c755f",
    "#e377c2",
    "#6b7fd7",
    "#86bc40",
    "#b85c38",
    "#5b8c9b",
    "#d37295",
    "#8175aa",
    "#a0a83b",
    "#1f9e89",
    "#c0862c",
    "#ff9da7",
    "#76b7e2",
)
# From low to high, of even steps to the eye: after viridis (Smith and van der Walt, 2015, CC0), its dark end lightened.
MAP_RAMP = ("#5b4a94", "#3b6ea5", "#21918c", "#5ec962", "#e8d32a")
UNKNOWN_COLOUR = "#9a9a9a"  # of what is not known, or has no label
MAP_WIDTH, MAP_HEIGHT = 1600, 1120  # of the plane in a map's picture
_MAP_MARGIN, _MAP_HEADER_HEIGHT, _MAP_LEGEND_LINE_HEIGHT = 40, 84, 26
_MAP_SUPERSAMPLING = 2  # dots are drawn twice as large, then reduced

ColourArray = NDArray[np.uint8]
MapPointArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapSheet:
    """What a map's picture shows. points: (n, 2) within [-1, 1]; colours: (n, 3); pictures: by row, those to be seen.

    legend: names and colours; between: what the ends of a ramp mean, in place of a legend.
    """

    title: str
    note: str
    points: MapPointArray
    colours: ColourArray
    images: Sequence[tuple[int, Pixels]] = ()
    legend: Sequence[tuple[str, str]] = ()
    ramp_labels: tuple[str, str] | None = None


def draw_atlas(images: Sequence[Pixels | None], side: int, columns: int) -> bytes:
    """WebP of pictures in squares of `side` pixels, each in its own aspect; what is None, or beside one, is clear."""
    rows = -(-len(images) // columns)
    canvas = Image.new("RGBA", (columns * side, rows * side))
    for place, pixels in enumerate(images):
        if pixels is not None:
            image = resize_to_fit(pixels, side, side)
            left, top = place % columns * side, place // columns * side
            canvas.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()


def get_palette_colours(numbers: NDArray[np.int32]) -> ColourArray:
    """(n, 3) of numbers (n,): the palette, again from its start where it ends; grey for negative ones."""
    known = np.array([_parse_hex_colour(colour) for colour in (*MAP_PALETTE, UNKNOWN_COLOUR)], np.uint8)
    found: ColourArray = known[np.where(numbers < 0, len(MAP_PALETTE), numbers % len(MAP_PALETTE))]
    return found


def get_ramp_colours(values: NDArray[np.float32]) -> ColourArray:
    """(n, 3) of values (n,) from 0 to 1; grey for NaN."""
    stops = np.array([_parse_hex_colour(colour) for colour in MAP_RAMP], np.float64)
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    found = np.stack([np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    found[~np.isfinite(values)] = _parse_hex_colour(UNKNOWN_COLOUR)
    return found.round().astype(np.uint8)


def compute_map_positions(points: MapPointArray) -> NDArray[np.float64]:
    """Pixels (n, 2) in the plane of a map's picture for points within [-1, 1], up being up."""
    half = (min(MAP_WIDTH, MAP_HEIGHT) - 40) / 2
    return np.stack(
        [MAP_WIDTH / 2 + points[:, 0] * half * _compute_stretch(points), MAP_HEIGHT / 2 - points[:, 1] * half], axis=1
    )


def draw_map(sheet: MapSheet) -> bytes:
    """PNG of a map: dots in their colours, pictures over them framed in theirs, what the colours mean beneath."""
    foot = _draw_map_legend(sheet)
    canvas = Image.new(
        "RGB", (MAP_WIDTH + 2 * _MAP_MARGIN, _MAP_HEADER_HEIGHT + MAP_HEIGHT + foot.height + _MAP_MARGIN), PAPER_COLOUR
    )
    draw_text(canvas, sheet.title, (_MAP_MARGIN, 22), 22, TEXT_COLOUR)
    draw_text(canvas, sheet.note, (_MAP_MARGIN, 52), 14, MUTED_COLOUR)
    canvas.paste(_draw_map_points(sheet), (_MAP_MARGIN, _MAP_HEADER_HEIGHT))
    canvas.paste(foot, (0, _MAP_HEADER_HEIGHT + MAP_HEIGHT + 12))
    return encode_png(np.asarray(canvas))


def _draw_map_points(sheet: MapSheet) -> Image.Image:
    places = compute_map_positions(sheet.points)
    plane = Image.new("RGB", (MAP_WIDTH * _MAP_SUPERSAMPLING, MAP_HEIGHT * _MAP_SUPERSAMPLING), PAPER_COLOUR)
    draw = ImageDraw.Draw(plane)
    radius = float(np.clip(260 / np.sqrt(max(len(places), 1)), 1.4, 6)) * _MAP_SUPERSAMPLING
    hexes = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in sheet.colours.tolist()]
    for row in np.random.default_rng(0).permutation(len(places)).tolist():  # no colour hides beneath another
        draw.circle((places[row, 0] * _MAP_SUPERSAMPLING, places[row, 1] * _MAP_SUPERSAMPLING), radius, hexes[row])
    plane = plane.resize((MAP_WIDTH, MAP_HEIGHT), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(plane)
    for row, pixels in sheet.images:
        image = resize_to_fit(pixels, 34, 34)
        left, top = round(places[row, 0] - image.width / 2), round(places[row, 1] - image.height / 2)
        draw.rectangle((left - 2, top - 2, left + image.width + 1, top + image.height + 1), hexes[row])
        plane.paste(image, (left, top))
    return plane


def _draw_map_legend(sheet: MapSheet) -> Image.Image:
    if sheet.ramp_labels is not None:
        return _draw_ramp(*sheet.ramp_labels)
    places, left, top = [], _MAP_MARGIN, 0
    for name, _ in sheet.legend:
        line, font = choose_font(truncate_text(name, 14, 260), 14)
        across = 42 + round(font.getlength(line))
        if left > _MAP_MARGIN and left + across > MAP_WIDTH + _MAP_MARGIN:
            left, top = _MAP_MARGIN, top + _MAP_LEGEND_LINE_HEIGHT
        places.append((left, top))
        left += across
    strip = Image.new("RGB", (MAP_WIDTH + 2 * _MAP_MARGIN, top + _MAP_LEGEND_LINE_HEIGHT), PAPER_COLOUR)
    for (name, colour), (x, y) in zip(sheet.legend, places, strict=True):
        ImageDraw.Draw(strip).circle((x + 6, y + 11), 6, colour)
        draw_text(strip, truncate_text(name, 14, 260), (x + 18, y + 16), 14, TEXT_COLOUR, "ls")
    return strip


def _draw_ramp(low: str, high: str) -> Image.Image:
    strip = Image.new("RGB", (MAP_WIDTH + 2 * _MAP_MARGIN, _MAP_LEGEND_LINE_HEIGHT), PAPER_COLOUR)
    across = round(choose_font(low, 14)[1].getlength(low))
    draw_text(strip, low, (_MAP_MARGIN, 16), 14, TEXT_COLOUR, "ls")
    colours = get_ramp_colours(np.linspace(0, 1, 240, dtype=np.float32))
    strip.paste(Image.fromarray(np.repeat(colours[None], 12, axis=0)), (_MAP_MARGIN + across + 12, 5))
    draw_text(strip, high, (_MAP_MARGIN + across + 264, 16), 14, TEXT_COLOUR, "ls")
    return strip


def _compute_stretch(points: MapPointArray) -> float:
    """How much wider than high the plane may be drawn: as far as it has room, when the points are flat."""
    high = float(np.abs(points[:, 1]).max(initial=0))
    return min(MAP_WIDTH / MAP_HEIGHT, (MAP_WIDTH - 40) / (MAP_HEIGHT - 40)) if high > 0.5 else 1.0


def _parse_hex_colour(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
