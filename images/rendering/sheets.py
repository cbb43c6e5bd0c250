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

from simile.images.decoding import DecodedImage
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.rendering.text import choose_font, truncate_text

Pixels = NDArray[np.uint8]

TEXT_COLOUR, MUTED_COLOUR, RULE_COLOUR, MAT_COLOUR, PAPER_COLOUR = "#1f2328", "#6a717a", "#d9dde2", "#f3f4f6", "#ffffff"
_TILE_SIDE, _TILE_GAP, _SHEET_MARGIN = 160, 20, 32  # a tile, the space between tiles, around the sheet, in pixels
_CAPTION_SIZE, _CAPTION_LINE_HEIGHT = 13, 18  # font size of captions, their line height
_MAX_HIT_COLUMNS = 8  # hits beside the query, before they go on below


@dataclass(frozen=True)
class SheetTile:
    """One picture of a sheet. `caption` may have several lines; each is cut in the middle to the tile's width."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """One query, its hits, and below each what the model saw of it (both may be missing)."""

    query: SheetTile
    reconstruction: SheetTile | None
    hits: list[SheetTile]
    hit_reconstructions: list[SheetTile] = field(default_factory=list)


def encode_thumbnail(image: DecodedImage, side: int = 256) -> bytes:
    """A small copy, at most side x side: JPEG; PNG when the picture is so small that it is enlarged.

    Pictures with both sides at most side / 2 are enlarged by a whole factor, others never.
    """
    height, width = image.pixels.shape[:2]
    factor = side // max(height, width)
    if factor >= 2:
        return encode_png(image.pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    if factor == 1:
        return encode_jpeg(image.pixels, 85)
    return encode_jpeg(np.asarray(resize_to_fit(image.pixels, side, side)), 85)


def draw_side_by_side(images: list[Pixels], captions: list[str]) -> bytes:
    """PNG of pictures in one row, all of the same height (256 pixels), each over its caption."""
    shown = [resize_to_fit(pixels, 4 * 256, 256) for pixels in images]
    lines = max((len(caption.split("\n")) for caption in captions), default=0)
    widths = [max(image.width, 96) for image in shown]  # a caption needs some room
    canvas = _make_canvas(sum(widths) + _TILE_GAP * (len(shown) - 1), 256 + 8 + lines * _CAPTION_LINE_HEIGHT)
    left = _SHEET_MARGIN
    for image, caption, width in zip(shown, captions, widths, strict=True):
        canvas.paste(image, (left, _SHEET_MARGIN + (256 - image.height) // 2))
        _draw_caption(canvas, caption, left, _SHEET_MARGIN + 256 + 8, width)
        left += width + _TILE_GAP
    return _encode_canvas(canvas)


def draw_contact_sheets(rows: list[SheetRow]) -> bytes:
    """PNG of queries below each other, a rule between them; reconstructions beneath their pictures."""
    columns = max((min(len(row.hits), _MAX_HIT_COLUMNS) for row in rows), default=0)
    bands = [_draw_sheet_row(row, columns) for row in rows]
    width = _TILE_SIDE + (2 * _TILE_GAP + columns * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP if columns else 0)
    canvas = _make_canvas(width, sum(band.height + 2 * _TILE_GAP for band in bands) - 2 * _TILE_GAP)
    top = _SHEET_MARGIN
    for number, band in enumerate(bands):
        if number:
            ImageDraw.Draw(canvas).line(
                (_SHEET_MARGIN, top - _TILE_GAP, _SHEET_MARGIN + width - 1, top - _TILE_GAP), RULE_COLOUR
            )
        canvas.paste(band, (_SHEET_MARGIN, top))
        top += band.height + 2 * _TILE_GAP
    return _encode_canvas(canvas)


def draw_tile_grid(rows: list[list[SheetTile]]) -> bytes:
    """PNG of captioned tiles, one list beneath the other."""
    columns = max(map(len, rows), default=0)
    heights = [_compute_row_height(row) for row in rows]
    canvas = _make_canvas(
        max(0, columns * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP), max(0, sum(heights) + _TILE_GAP * (len(rows) - 1))
    )
    top = _SHEET_MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _draw_tile(canvas, tile, _SHEET_MARGIN + column * (_TILE_SIDE + _TILE_GAP), top)
        top += height + _TILE_GAP
    return _encode_canvas(canvas)


def encode_animation(frames: Pixels, format: str, pause_frames: Sequence[int] = ()) -> bytes:
    """GIF or WEBP of (n, H, W, 3) uint8 frames that starts again when it ends; it rests at the frames `held`."""
    factor = max(1, round(256 / max(frames.shape[1:3])))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    grey = bool((frames == frames[..., :1]).all())  # a GIF has 256 colours: all greys, or what is nearest
    images = [Image.fromarray(np.ascontiguousarray(frame[..., 0] if grey else frame)) for frame in large]
    durations = [700 if row in pause_frames else 80 for row in range(len(images))]  # milliseconds
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {"optimize": False}
    images[0].save(file, format, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return file.getvalue()


def draw_image_grid(images: Pixels, columns: int) -> bytes:
    """PNG of (n, H, W, C) uint8 pictures, C 1 or 3, in a plain grid of so many columns."""
    return _encode_canvas(_arrange_in_grid(_to_three_channels(images), columns))


def draw_reconstruction_pairs(originals: Pixels, reconstructions: Pixels, columns: int) -> bytes:
    """PNG of rows in turns: originals, and beneath each its reconstruction; both (n, H, W, C) uint8, C 1 or 3."""
    above, below = _to_three_channels(originals), _to_three_channels(reconstructions)
    bands = []
    for start in range(0, len(above), columns):
        pair = np.concatenate([_pad_images(half[start : start + columns], columns) for half in (above, below)])
        bands.append(_arrange_in_grid(pair, columns))
    legend = _CAPTION_LINE_HEIGHT + 6
    canvas = _make_canvas(
        max((band.width for band in bands), default=0),
        legend + sum(band.height + _TILE_GAP for band in bands) - _TILE_GAP,
    )
    width = canvas.width - 2 * _SHEET_MARGIN
    _draw_caption(canvas, "above: the original · below: its reconstruction", _SHEET_MARGIN, _SHEET_MARGIN - 4, width)
    top = _SHEET_MARGIN + legend
    for band in bands:
        canvas.paste(band, (_SHEET_MARGIN, top))
        top += band.height + _TILE_GAP
    return _encode_canvas(canvas)


def draw_text(
    canvas: Image.Image, text: str, position: tuple[int, int], size: int, colour: str, anchor: str = "la"
) -> None:
    """Draw one line of text; `anchor` as in Pillow (left ascender by default)."""
    line, font = choose_font(text, size)
    ImageDraw.Draw(canvas).text(position, line, colour, font, anchor=anchor)


def _draw_sheet_row(row: SheetRow, columns: int) -> Image.Image:
    """One query on the left, its hits on the right in lines of `columns`, reconstructions beneath each line."""
    lines: list[list[SheetTile]] = []
    for start in range(0, len(row.hits), max(columns, 1)):
        chunk = slice(start, start + columns)
        lines += [row.hits[chunk]] + ([row.hit_reconstructions[chunk]] if row.hit_reconstructions else [])
    left = [row.query] + ([row.reconstruction] if row.reconstruction else [])
    count = max(len(lines), len(left))
    lines += [[] for _ in range(count - len(lines))]
    heights = [_compute_row_height([*line, *left[at : at + 1]]) for at, line in enumerate(lines)]
    width = _TILE_SIDE + (2 * _TILE_GAP + columns * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP if columns else 0)
    band = Image.new("RGB", (width, sum(heights) + 12 * (count - 1)), PAPER_COLOUR)
    top = 0
    for at, line in enumerate(lines):
        for tile in left[at : at + 1]:
            _draw_tile(band, tile, 0, top)
        for column, tile in enumerate(line):
            _draw_tile(band, tile, _TILE_SIDE + 2 * _TILE_GAP + column * (_TILE_SIDE + _TILE_GAP), top)
        top += heights[at] + 12
    if columns:
        rule = _TILE_SIDE + _TILE_GAP
        ImageDraw.Draw(band).line((rule, 0, rule, band.height - 1), RULE_COLOUR)
    return band


def _compute_row_height(tiles: list[SheetTile]) -> int:
    lines = max((len(tile.caption.split("\n")) if tile.caption else 0 for tile in tiles), default=0)
    return _TILE_SIDE + (6 + lines * _CAPTION_LINE_HEIGHT if lines else 0)


def _draw_tile(canvas: Image.Image, tile: SheetTile, left: int, top: int) -> None:
    """A tile on its mat: pictures of any shape stand in squares of one size, so that rows and columns align."""
    image = resize_to_fit(tile.pixels, _TILE_SIDE, _TILE_SIDE)
    ImageDraw.Draw(canvas).rectangle((left, top, left + _TILE_SIDE - 1, top + _TILE_SIDE - 1), MAT_COLOUR)
    canvas.paste(image, (left + (_TILE_SIDE - image.width) // 2, top + (_TILE_SIDE - image.height) // 2))
    _draw_caption(canvas, tile.caption, left, top + _TILE_SIDE + 6, _TILE_SIDE)


def _draw_caption(canvas: Image.Image, caption: str, left: int, top: int, width: int) -> None:
    """Lines of a caption, the first dark, the others faint."""
    for number, line in enumerate(caption.split("\n")):
        text = truncate_text(line, _CAPTION_SIZE, width)
        draw_text(
            canvas,
            text,
            (left, top + number * _CAPTION_LINE_HEIGHT),
            _CAPTION_SIZE,
            MUTED_COLOUR if number else TEXT_COLOUR,
        )


def resize_to_fit(pixels: Pixels, width: int, height: int) -> Image.Image:
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


def _arrange_in_grid(images: Pixels, columns: int, gap: int = 4) -> Image.Image:
    """(n, H, W, 3) side by side in rows of `columns`, enlarged by a whole factor to some 96 pixels."""
    factor = max(1, round(96 / max(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = images.shape[1:3]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, max(1, rows * (height + gap) - gap)), PAPER_COLOUR)
    for at, pixels in enumerate(images):
        canvas.paste(Image.fromarray(pixels), (at % columns * (width + gap), at // columns * (height + gap)))
    return canvas


def _pad_images(images: Pixels, count: int) -> Pixels:
    """(n, H, W, 3) filled up with white to `count` pictures."""
    return np.concatenate([images, np.full((count - len(images), *images.shape[1:]), 255, np.uint8)])


def _to_three_channels(images: Pixels) -> Pixels:
    """(n, H, W, 1 or 3) as (n, H, W, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[3] == 1 else images


def _make_canvas(width: int, height: int) -> Image.Image:
    """A white sheet with room for width x height inside its margins."""
    return Image.new("RGB", (width + 2 * _SHEET_MARGIN, height + 2 * _SHEET_MARGIN), PAPER_COLOUR)


def _encode_canvas(canvas: Image.Image) -> bytes:
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()
