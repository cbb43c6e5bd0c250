"""Pictures made of pictures: thumbnails, sheets of search results, originals above reconstructions.

Everything takes (H, W, 3) uint8 arrays and gives the bytes of a file. Small pictures are enlarged with their
pixels left square, so that what is shown is what the network saw.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.decoding import Picture
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.rendering.text import lettered, shortened

Pixels = NDArray[np.uint8]

INK, FAINT, RULE, MAT, PAPER = "#1f2328", "#6a717a", "#d9dde2", "#f3f4f6", "#ffffff"
_SIDE, _GAP, _MARGIN = 160, 20, 32  # a tile, the space between tiles, around the sheet, in pixels
_TEXT, _LINE = 13, 18  # font size of captions, their line height
_COLUMNS = 8  # hits beside the query, before they go on below


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet. `caption` may have several lines; each is cut in the middle to the tile's width."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """One query, its hits, and below each what the model saw of it (both may be missing)."""

    query: Tile
    reconstruction: Tile | None
    hits: list[Tile]
    hit_reconstructions: list[Tile] = field(default_factory=list)


def thumbnail(picture: Picture, side: int = 256) -> bytes:
    """A small copy, at most side x side: JPEG; PNG when the picture is so small that it is enlarged.

    Pictures with both sides at most side / 2 are enlarged by a whole factor, others never.
    """
    height, width = picture.pixels.shape[:2]
    factor = side // max(height, width)
    if factor >= 2:
        return encode_png(picture.pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    if factor == 1:
        return encode_jpeg(picture.pixels, 85)
    return encode_jpeg(np.asarray(fitted(picture.pixels, side, side)), 85)


def side_by_side(pictures: list[Pixels], captions: list[str]) -> bytes:
    """PNG of pictures in one row, all of the same height (256 pixels), each over its caption."""
    shown = [fitted(pixels, 4 * 256, 256) for pixels in pictures]
    lines = max((len(caption.split("\n")) for caption in captions), default=0)
    widths = [max(image.width, 96) for image in shown]  # a caption needs some room
    canvas = _paper(sum(widths) + _GAP * (len(shown) - 1), 256 + 8 + lines * _LINE)
    left = _MARGIN
    for image, caption, width in zip(shown, captions, widths, strict=True):
        canvas.paste(image, (left, _MARGIN + (256 - image.height) // 2))
        _write_lines(canvas, caption, left, _MARGIN + 256 + 8, width)
        left += width + _GAP
    return _png(canvas)


def contact_sheets(rows: list[SheetRow]) -> bytes:
    """PNG of queries below each other, a rule between them; reconstructions beneath their pictures."""
    columns = max((min(len(row.hits), _COLUMNS) for row in rows), default=0)
    bands = [_band(row, columns) for row in rows]
    width = _SIDE + (2 * _GAP + columns * (_SIDE + _GAP) - _GAP if columns else 0)
    canvas = _paper(width, sum(band.height + 2 * _GAP for band in bands) - 2 * _GAP)
    top = _MARGIN
    for number, band in enumerate(bands):
        if number:
            ImageDraw.Draw(canvas).line((_MARGIN, top - _GAP, _MARGIN + width - 1, top - _GAP), RULE)
        canvas.paste(band, (_MARGIN, top))
        top += band.height + 2 * _GAP
    return _png(canvas)


def tile_grid(rows: list[list[Tile]]) -> bytes:
    """PNG of captioned tiles, one list beneath the other."""
    columns = max(map(len, rows), default=0)
    heights = [_line_height(row) for row in rows]
    canvas = _paper(max(0, columns * (_SIDE + _GAP) - _GAP), max(0, sum(heights) + _GAP * (len(rows) - 1)))
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _place(canvas, tile, _MARGIN + column * (_SIDE + _GAP), top)
        top += height + _GAP
    return _png(canvas)


def animation(frames: Pixels, format: str, held: Sequence[int] = ()) -> bytes:
    """GIF or WEBP of (n, H, W, 3) uint8 frames that starts again when it ends; it rests at the frames `held`."""
    factor = max(1, round(256 / max(frames.shape[1:3])))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    grey = bool((frames == frames[..., :1]).all())  # a GIF has 256 colours: all greys, or what is nearest
    images = [Image.fromarray(np.ascontiguousarray(frame[..., 0] if grey else frame)) for frame in large]
    durations = [700 if row in held else 80 for row in range(len(images))]  # milliseconds
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {"optimize": False}
    images[0].save(file, format, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return file.getvalue()


def grid(pictures: Pixels, columns: int) -> bytes:
    """PNG of (n, H, W, C) uint8 pictures, C 1 or 3, in a plain grid of so many columns."""
    return _png(_mosaic(_colour(pictures), columns))


def pair_rows(originals: Pixels, reconstructions: Pixels, columns: int) -> bytes:
    """PNG of rows in turns: originals, and beneath each its reconstruction; both (n, H, W, C) uint8, C 1 or 3."""
    above, below = _colour(originals), _colour(reconstructions)
    bands = []
    for start in range(0, len(above), columns):
        pair = np.concatenate([_padded(half[start : start + columns], columns) for half in (above, below)])
        bands.append(_mosaic(pair, columns))
    legend = _LINE + 6
    canvas = _paper(
        max((band.width for band in bands), default=0), legend + sum(band.height + _GAP for band in bands) - _GAP
    )
    width = canvas.width - 2 * _MARGIN
    _write_lines(canvas, "above: the original · below: its reconstruction", _MARGIN, _MARGIN - 4, width)
    top = _MARGIN + legend
    for band in bands:
        canvas.paste(band, (_MARGIN, top))
        top += band.height + _GAP
    return _png(canvas)


def write(canvas: Image.Image, text: str, at: tuple[int, int], size: int, colour: str, anchor: str = "la") -> None:
    """Draw one line of text; `anchor` as in Pillow (left ascender by default)."""
    line, font = lettered(text, size)
    ImageDraw.Draw(canvas).text(at, line, colour, font, anchor=anchor)


def _band(row: SheetRow, columns: int) -> Image.Image:
    """One query on the left, its hits on the right in lines of `columns`, reconstructions beneath each line."""
    lines: list[list[Tile]] = []
    for start in range(0, len(row.hits), max(columns, 1)):
        chunk = slice(start, start + columns)
        lines += [row.hits[chunk]] + ([row.hit_reconstructions[chunk]] if row.hit_reconstructions else [])
    left = [row.query] + ([row.reconstruction] if row.reconstruction else [])
    count = max(len(lines), len(left))
    lines += [[] for _ in range(count - len(lines))]
    heights = [_line_height([*line, *left[at : at + 1]]) for at, line in enumerate(lines)]
    width = _SIDE + (2 * _GAP + columns * (_SIDE + _GAP) - _GAP if columns else 0)
    band = Image.new("RGB", (width, sum(heights) + 12 * (count - 1)), PAPER)
    top = 0
    for at, line in enumerate(lines):
        for tile in left[at : at + 1]:
            _place(band, tile, 0, top)
        for column, tile in enumerate(line):
            _place(band, tile, _SIDE + 2 * _GAP + column * (_SIDE + _GAP), top)
        top += heights[at] + 12
    if columns:
        rule = _SIDE + _GAP
        ImageDraw.Draw(band).line((rule, 0, rule, band.height - 1), RULE)
    return band


def _line_height(tiles: list[Tile]) -> int:
    lines = max((len(tile.caption.split("\n")) if tile.caption else 0 for tile in tiles), default=0)
    return _SIDE + (6 + lines * _LINE if lines else 0)


def _place(canvas: Image.Image, tile: Tile, left: int, top: int) -> None:
    """A tile on its mat: pictures of any shape stand in squares of one size, so that rows and columns align."""
    image = fitted(tile.pixels, _SIDE, _SIDE)
    ImageDraw.Draw(canvas).rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), MAT)
    canvas.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
    _write_lines(canvas, tile.caption, left, top + _SIDE + 6, _SIDE)


def _write_lines(canvas: Image.Image, caption: str, left: int, top: int, width: int) -> None:
    """Lines of a caption, the first dark, the others faint."""
    for number, line in enumerate(caption.split("\n")):
        text = shortened(line, _TEXT, width)
        write(canvas, text, (left, top + number * _LINE), _TEXT, FAINT if number else INK)


def fitted(pixels: Pixels, width: int, height: int) -> Image.Image:
    """(H, W, 3) as large as it goes in width x height, in its own aspect.

    Enlarged by a whole factor with square pixels, then reduced to size: even pixels at any factor.
    """
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    if scale > 1:
        factor = int(np.ceil(scale))
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize(size, Image.Resampling.BOX if scale > 1 else Image.Resampling.LANCZOS, reducing_gap=3.0)


def _mosaic(pictures: Pixels, columns: int, gap: int = 4) -> Image.Image:
    """(n, H, W, 3) side by side in rows of `columns`, enlarged by a whole factor to some 96 pixels."""
    factor = max(1, round(96 / max(pictures.shape[1:3])))
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = pictures.shape[1:3]
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, max(1, rows * (height + gap) - gap)), PAPER)
    for at, pixels in enumerate(pictures):
        canvas.paste(Image.fromarray(pixels), (at % columns * (width + gap), at // columns * (height + gap)))
    return canvas


def _padded(pictures: Pixels, count: int) -> Pixels:
    """(n, H, W, 3) filled up with white to `count` pictures."""
    return np.concatenate([pictures, np.full((count - len(pictures), *pictures.shape[1:]), 255, np.uint8)])


def _colour(pictures: Pixels) -> Pixels:
    """(n, H, W, 1 or 3) as (n, H, W, 3)."""
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3)) if pictures.shape[3] == 1 else pictures


def _paper(width: int, height: int) -> Image.Image:
    """A white sheet with room for width x height inside its margins."""
    return Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), PAPER)


def _png(canvas: Image.Image) -> bytes:
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()
