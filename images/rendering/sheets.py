"""Compose images: thumbnails, sheets of search results, grids, animations, originals with reconstructions.

All functions take (H, W, 3) uint8 arrays and return the bytes of a file. Small images are enlarged with square pixels,
so that they show exactly what the network sees.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

from simile.images.decoding import DecodedImage, decode_image
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.formats import Limits, Pixels
from simile.images.rendering.text import MUTED_COLOUR, PAPER_COLOUR, TEXT_COLOUR, draw_text, truncate_text

RULE_COLOUR, _TILE_COLOUR = "#d9dde2", "#f3f4f6"
_TILE_SIDE, _TILE_GAP, _SHEET_MARGIN = 160, 20, 32  # pixels
_CAPTION_SIZE, _CAPTION_LINE_HEIGHT = 13, 18  # font size and pixels
ANIMATION_SIDE = 256  # pixels that the frames of an animation are enlarged to, about
_MAX_HIT_COLUMNS = 8  # hits in a line, beside the query


@dataclass(frozen=True)
class SheetTile:
    """One image of a sheet. `caption` can have several lines; a line that is too wide loses its middle."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """One query, its hits, and their reconstructions below them (optional)."""

    query: SheetTile
    reconstruction: SheetTile | None
    hits: list[SheetTile]
    hit_reconstructions: list[SheetTile] = field(default_factory=list)


def encode_thumbnail(image: DecodedImage, side: int = 256) -> bytes:
    """Encode a small copy, at most side x side, as JPEG, or as PNG if the image is enlarged.

    Images with both sides at most side / 2 are enlarged by a whole factor, others never.
    """
    factor = side // max(image.pixels.shape[:2])
    if factor >= 2:
        return encode_png(image.pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    return encode_jpeg(image.pixels if factor == 1 else resize_to_fit(image.pixels, side, side), 85)


def render_thumbnail(data: bytes, name: str, limits: Limits, side: int) -> tuple[bytes, str, int, int]:
    """Decode an image; return `encode_thumbnail` of it, its media type, and width and height of the original.

    Raises UnreadableImage or ImageTooLarge with `name`.
    """
    image = decode_image(data, name=name, limits=limits, min_side=side, to_srgb=True)
    thumbnail = encode_thumbnail(image, side)
    return thumbnail, get_thumbnail_type(thumbnail), image.width, image.height


def get_thumbnail_type(thumbnail: bytes) -> str:
    """Return the media type of what `encode_thumbnail` made."""
    return "image/png" if thumbnail.startswith(b"\x89PNG") else "image/jpeg"


def decode_thumbnail(data: bytes, name: str, original_side: int) -> DecodedImage:
    """Decode a thumbnail and undo its enlargement; `original_side`: the longer side of the image in pixels.

    Raises UnreadableImage with `name`.
    """
    image = decode_image(data, name=name)
    factor = max(1, max(image.width, image.height) // original_side)
    return replace(image, pixels=image.pixels[::factor, ::factor])


def resize_thumbnail(data: bytes, name: str, original_side: int, side: int) -> bytes:
    """Make a smaller thumbnail from a thumbnail. Arguments and errors as for `decode_thumbnail`."""
    return encode_thumbnail(decode_thumbnail(data, name, original_side), side)


def draw_side_by_side(images: list[Pixels], captions: list[str]) -> bytes:
    """Draw images in one row, 256 pixels high, each with its caption below, as PNG."""
    height = 256
    resized = [resize_to_fit(pixels, 4 * height, height) for pixels in images]
    widths = [max(image.width, 96) for image in resized]  # room for the caption
    caption_top = _SHEET_MARGIN + height + 8
    canvas = _make_canvas(
        sum(widths) + _TILE_GAP * (len(resized) - 1),
        height + 8 + max(map(_count_lines, captions), default=0) * _CAPTION_LINE_HEIGHT,
    )
    left = _SHEET_MARGIN
    for image, caption, width in zip(resized, captions, widths, strict=True):
        canvas.paste(image, (left, _SHEET_MARGIN + (height - image.height) // 2))
        _draw_caption(canvas, caption, left, caption_top, width)
        left += width + _TILE_GAP
    return encode_png(canvas)


def draw_contact_sheets(rows: list[SheetRow]) -> bytes:
    """Draw queries below each other, separated by lines, with their hits and reconstructions, as PNG."""
    columns = max((min(len(row.hits), _MAX_HIT_COLUMNS) for row in rows), default=0)
    bands = [_draw_sheet_row(row, columns) for row in rows]
    width = max((band.width for band in bands), default=_TILE_SIDE)
    canvas = _make_canvas(width, sum(band.height + 2 * _TILE_GAP for band in bands) - 2 * _TILE_GAP)
    top = _SHEET_MARGIN
    for number, band in enumerate(bands):
        if number:
            y = top - _TILE_GAP
            ImageDraw.Draw(canvas).line((_SHEET_MARGIN, y, _SHEET_MARGIN + width - 1, y), RULE_COLOUR)
        canvas.paste(band, (_SHEET_MARGIN, top))
        top += band.height + 2 * _TILE_GAP
    return encode_png(canvas)


def draw_tile_grid(rows: list[list[SheetTile]]) -> bytes:
    """Draw rows of tiles with captions as PNG."""
    columns = max(map(len, rows), default=0)
    heights = [_compute_row_height(row) for row in rows]
    width, height = columns * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP, sum(heights) + _TILE_GAP * (len(rows) - 1)
    canvas = _make_canvas(max(0, width), max(0, height))
    top = _SHEET_MARGIN
    for row, row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _draw_tile(canvas, tile, _SHEET_MARGIN + column * (_TILE_SIDE + _TILE_GAP), top)
        top += row_height + _TILE_GAP
    return encode_png(canvas)


def encode_animation(frames: Pixels, format: str, pause_frames: Sequence[int] = ()) -> bytes:
    """Encode frames (n, H, W, 3), enlarged to about ANIMATION_SIDE, as an endless animation.

    `format` is "GIF" or "WEBP"; `pause_frames` are indices of frames that are shown longer.
    """
    factor = max(1, round(ANIMATION_SIDE / max(frames.shape[1:3])))
    is_grey = bool((frames == frames[..., :1]).all())  # a GIF has 256 colours: enough for all greys
    images = [Image.fromarray(np.ascontiguousarray(frame[..., 0] if is_grey else frame)) for frame in frames]
    if format == "GIF" and not is_grey:  # before they are enlarged, because choosing colours takes time by the pixel
        images = [image.convert("P", palette=Image.Palette.ADAPTIVE) for image in images]
    size = (factor * frames.shape[2], factor * frames.shape[1])
    images = [image.resize(size, Image.Resampling.NEAREST) for image in images]
    durations = [700 if index in pause_frames else 80 for index in range(len(images))]  # milliseconds
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {"optimize": False}
    images[0].save(file, format, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return file.getvalue()


def draw_image_grid(images: Pixels, columns: int) -> bytes:
    """Draw (n, H, W, C) uint8 images, C 1 or 3, in a grid of so many columns as PNG."""
    return encode_png(_arrange_in_grid(_to_three_channels(images), columns))


def draw_reconstruction_pairs(originals: Pixels, reconstructions: Pixels, columns: int) -> bytes:
    """Draw rows of originals (n, H, W, 1 or 3), each with a row of their reconstructions below, as PNG."""
    # Two rows make a band; the last one is filled up with white.
    bands = []
    for start in range(0, len(originals), columns):
        halves = [_to_three_channels(images[start : start + columns]) for images in (originals, reconstructions)]
        blank = np.full((columns - len(halves[0]), *halves[0].shape[1:]), 255, np.uint8)
        bands.append(_arrange_in_grid(np.concatenate([halves[0], blank, halves[1], blank]), columns))
    # Place the caption and the bands.
    legend_height = _CAPTION_LINE_HEIGHT + 6
    width = max((band.width for band in bands), default=0)
    canvas = _make_canvas(width, legend_height + sum(band.height + _TILE_GAP for band in bands) - _TILE_GAP)
    _draw_caption(canvas, "above: the original · below: its reconstruction", _SHEET_MARGIN, _SHEET_MARGIN - 4, width)
    top = _SHEET_MARGIN + legend_height
    for band in bands:
        canvas.paste(band, (_SHEET_MARGIN, top))
        top += band.height + _TILE_GAP
    return encode_png(canvas)


def _draw_sheet_row(row: SheetRow, columns: int) -> Image.Image:
    """Draw one query on the left and its hits on the right, in lines of `columns` with reconstructions below."""
    # Arrange the hits in lines; a line of reconstructions follows each.
    lines: list[list[SheetTile]] = []
    for start in range(0, len(row.hits), max(columns, 1)):
        chunk = slice(start, start + columns)
        lines += [row.hits[chunk]] + ([row.hit_reconstructions[chunk]] if row.hit_reconstructions else [])
    left_tiles = [row.query] + ([row.reconstruction] if row.reconstruction else [])
    lines += [[] for _ in range(len(left_tiles) - len(lines))]
    # Draw each line with the query or its reconstruction at the left.
    heights = [_compute_row_height([*line, *left_tiles[index : index + 1]]) for index, line in enumerate(lines)]
    width = _TILE_SIDE + (2 * _TILE_GAP + columns * (_TILE_SIDE + _TILE_GAP) - _TILE_GAP if columns else 0)
    band = Image.new("RGB", (width, sum(heights) + 12 * (len(lines) - 1)), PAPER_COLOUR)
    top = 0
    for index, line in enumerate(lines):
        if index < len(left_tiles):
            _draw_tile(band, left_tiles[index], 0, top)
        for column, tile in enumerate(line):
            _draw_tile(band, tile, _TILE_SIDE + 2 * _TILE_GAP + column * (_TILE_SIDE + _TILE_GAP), top)
        top += heights[index] + 12
    if columns:
        x = _TILE_SIDE + _TILE_GAP
        ImageDraw.Draw(band).line((x, 0, x, band.height - 1), RULE_COLOUR)
    return band


def _count_lines(caption: str) -> int:
    """Return the number of lines of a caption."""
    return caption.count("\n") + 1 if caption else 0


def _compute_row_height(tiles: list[SheetTile]) -> int:
    """Return the height of a row of tiles with their captions."""
    lines = max((_count_lines(tile.caption) for tile in tiles), default=0)
    return _TILE_SIDE + (6 + lines * _CAPTION_LINE_HEIGHT if lines else 0)


def _draw_tile(canvas: Image.Image, tile: SheetTile, left: int, top: int) -> None:
    """Draw an image in the middle of a square, so that rows and columns align, with its caption."""
    image = resize_to_fit(tile.pixels, _TILE_SIDE, _TILE_SIDE)
    ImageDraw.Draw(canvas).rectangle((left, top, left + _TILE_SIDE - 1, top + _TILE_SIDE - 1), _TILE_COLOUR)
    canvas.paste(image, (left + (_TILE_SIDE - image.width) // 2, top + (_TILE_SIDE - image.height) // 2))
    _draw_caption(canvas, tile.caption, left, top + _TILE_SIDE + 6, _TILE_SIDE)


def _draw_caption(canvas: Image.Image, caption: str, left: int, top: int, width: int) -> None:
    """Draw the lines of a caption, the first dark, the others faint."""
    for number, line in enumerate(caption.split("\n")):
        text, colour = truncate_text(line, _CAPTION_SIZE, width), MUTED_COLOUR if number else TEXT_COLOUR
        draw_text(canvas, text, (left, top + number * _CAPTION_LINE_HEIGHT), _CAPTION_SIZE, colour)


def resize_to_fit(pixels: Pixels, width: int, height: int) -> Image.Image:
    """Return (H, W, 3) as large as possible in width x height, in its own aspect.

    It is enlarged by a whole factor with square pixels, then reduced to the size: even pixels at any scale.
    """
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    if scale > 1:
        factor = int(np.ceil(scale))
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize(size, Image.Resampling.BOX if scale > 1 else Image.Resampling.LANCZOS, reducing_gap=3.0)


def _arrange_in_grid(images: Pixels, columns: int, gap: int = 4) -> Image.Image:
    """Arrange (n, H, W, 3) in rows of `columns`, enlarged by a whole factor to about 96 pixels."""
    factor = max(1, round(96 / max(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = images.shape[1:3]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, max(1, rows * (height + gap) - gap)), PAPER_COLOUR)
    for index, pixels in enumerate(images):
        canvas.paste(Image.fromarray(pixels), (index % columns * (width + gap), index // columns * (height + gap)))
    return canvas


def _to_three_channels(images: Pixels) -> Pixels:
    """Convert (n, H, W, 1 or 3) to (n, H, W, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[3] == 1 else images


def _make_canvas(width: int, height: int) -> Image.Image:
    """Return a white image with width x height inside its margins."""
    return Image.new("RGB", (width + 2 * _SHEET_MARGIN, height + 2 * _SHEET_MARGIN), PAPER_COLOUR)
