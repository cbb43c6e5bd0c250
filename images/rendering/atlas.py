"""Very many small pictures at once: atlases that a page cuts thumbnails from, and the map of a collection."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.sheets import FAINT, INK, PAPER, Pixels, fitted, write
from simile.images.rendering.text import lettered, shortened

# Twenty hues of middling lightness: seen on light ground and on dark; static/map_colours.js has the same.
PALETTE = (
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
RAMP = ("#5b4a94", "#3b6ea5", "#21918c", "#5ec962", "#e8d32a")
GREY = "#9a9a9a"  # of what is not known, or has no label
WIDTH, HEIGHT = 1600, 1120  # of the plane in a map's picture
_MARGIN, _HEAD, _LINE = 40, 84, 26
_FINE = 2  # dots are drawn twice as large, then reduced

Colours = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapSheet:
    """What a map's picture shows. points: (n, 2) within [-1, 1]; colours: (n, 3); pictures: by row, those to be seen.

    legend: names and colours; between: what the ends of a ramp mean, in place of a legend.
    """

    title: str
    note: str
    points: Points
    colours: Colours
    pictures: Sequence[tuple[int, Pixels]] = ()
    legend: Sequence[tuple[str, str]] = ()
    between: tuple[str, str] | None = None


def atlas(pictures: Sequence[Pixels | None], side: int, columns: int) -> bytes:
    """WebP of pictures in squares of `side` pixels, each in its own aspect; what is None, or beside one, is clear."""
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGBA", (columns * side, rows * side))
    for place, pixels in enumerate(pictures):
        if pixels is not None:
            image = fitted(pixels, side, side)
            left, top = place % columns * side, place // columns * side
            canvas.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()


def palette_colours(numbers: NDArray[np.int32]) -> Colours:
    """(n, 3) of numbers (n,): the palette, again from its start where it ends; grey for negative ones."""
    known = np.array([_rgb(colour) for colour in (*PALETTE, GREY)], np.uint8)
    found: Colours = known[np.where(numbers < 0, len(PALETTE), numbers % len(PALETTE))]
    return found


def ramp_colours(values: NDArray[np.float32]) -> Colours:
    """(n, 3) of values (n,) from 0 to 1; grey for NaN."""
    stops = np.array([_rgb(colour) for colour in RAMP], np.float64)
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    found = np.stack([np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    found[~np.isfinite(values)] = _rgb(GREY)
    return found.round().astype(np.uint8)


def map_places(points: Points) -> NDArray[np.float64]:
    """Pixels (n, 2) in the plane of a map's picture for points within [-1, 1], up being up."""
    half = (min(WIDTH, HEIGHT) - 40) / 2
    return np.stack([WIDTH / 2 + points[:, 0] * half * _stretch(points), HEIGHT / 2 - points[:, 1] * half], axis=1)


def draw_map(sheet: MapSheet) -> bytes:
    """PNG of a map: dots in their colours, pictures over them framed in theirs, what the colours mean beneath."""
    foot = _foot(sheet)
    canvas = Image.new("RGB", (WIDTH + 2 * _MARGIN, _HEAD + HEIGHT + foot.height + _MARGIN), PAPER)
    write(canvas, sheet.title, (_MARGIN, 22), 22, INK)
    write(canvas, sheet.note, (_MARGIN, 52), 14, FAINT)
    canvas.paste(_plane(sheet), (_MARGIN, _HEAD))
    canvas.paste(foot, (0, _HEAD + HEIGHT + 12))
    return encode_png(np.asarray(canvas))


def _plane(sheet: MapSheet) -> Image.Image:
    places = map_places(sheet.points)
    plane = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), PAPER)
    draw = ImageDraw.Draw(plane)
    radius = float(np.clip(260 / np.sqrt(max(len(places), 1)), 1.4, 6)) * _FINE
    hexes = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in sheet.colours.tolist()]
    for row in np.random.default_rng(0).permutation(len(places)).tolist():  # no colour hides beneath another
        draw.circle((places[row, 0] * _FINE, places[row, 1] * _FINE), radius, hexes[row])
    plane = plane.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(plane)
    for row, pixels in sheet.pictures:
        image = fitted(pixels, 34, 34)
        left, top = round(places[row, 0] - image.width / 2), round(places[row, 1] - image.height / 2)
        draw.rectangle((left - 2, top - 2, left + image.width + 1, top + image.height + 1), hexes[row])
        plane.paste(image, (left, top))
    return plane


def _foot(sheet: MapSheet) -> Image.Image:
    if sheet.between is not None:
        return _ramp(*sheet.between)
    places, left, top = [], _MARGIN, 0
    for name, _ in sheet.legend:
        line, font = lettered(shortened(name, 14, 260), 14)
        across = 42 + round(font.getlength(line))
        if left > _MARGIN and left + across > WIDTH + _MARGIN:
            left, top = _MARGIN, top + _LINE
        places.append((left, top))
        left += across
    strip = Image.new("RGB", (WIDTH + 2 * _MARGIN, top + _LINE), PAPER)
    for (name, colour), (x, y) in zip(sheet.legend, places, strict=True):
        ImageDraw.Draw(strip).circle((x + 6, y + 11), 6, colour)
        write(strip, shortened(name, 14, 260), (x + 18, y + 16), 14, INK, "ls")
    return strip


def _ramp(low: str, high: str) -> Image.Image:
    strip = Image.new("RGB", (WIDTH + 2 * _MARGIN, _LINE), PAPER)
    across = round(lettered(low, 14)[1].getlength(low))
    write(strip, low, (_MARGIN, 16), 14, INK, "ls")
    colours = ramp_colours(np.linspace(0, 1, 240, dtype=np.float32))
    strip.paste(Image.fromarray(np.repeat(colours[None], 12, axis=0)), (_MARGIN + across + 12, 5))
    write(strip, high, (_MARGIN + across + 264, 16), 14, INK, "ls")
    return strip


def _stretch(points: Points) -> float:
    """How much wider than high the plane may be drawn: as far as it has room, when the points are flat."""
    high = float(np.abs(points[:, 1]).max(initial=0))
    return min(WIDTH / HEIGHT, (WIDTH - 40) / (HEIGHT - 40)) if high > 0.5 else 1.0


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
