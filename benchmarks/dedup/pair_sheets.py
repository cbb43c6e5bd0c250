"""Sheets of pairs of images, to be counted by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from simile.images.encoding import encode_png
from simile.images.rendering.text import draw_text

COLUMNS, GAP = 6, 24  # pairs in a row, pixels between them
MAX_PAIRS = 60  # on a sheet


def read_upright(file: Path | str) -> NDArray[np.uint8]:
    """Decode an image with its EXIF orientation, (H, W, 3)."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def sort_by_agreement(lines: Sequence[dict[str, str]]) -> list[int]:
    """Return the positions of lines of pairs.csv, the lowest agreement first."""
    return sorted(range(len(lines)), key=lambda position: float(lines[position]["agreement"] or 1))


def draw_pairs(lines: Sequence[dict[str, str]], captions: Sequence[str], sheet: Path, side: int = 150) -> None:
    """Draw up to MAX_PAIRS lines of pairs.csv as PNG, each with number, distance, agreement and a caption."""
    lines = lines[:MAX_PAIRS]
    if not lines:
        return
    width, height = 2 * side + GAP, side + 44
    rows = -(-len(lines) // COLUMNS)
    canvas = Image.new("RGB", (min(COLUMNS, len(lines)) * width, rows * height), "white")
    for number, (line, caption) in enumerate(zip(lines, captions, strict=False)):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        for column, key in enumerate(("path_a", "path_b")):
            canvas.paste(fit_into_square(read_upright(line[key]), side), (left + column * (side + 2), top))
        title = f"{number + 1}  distance {line['distance'][:5]}  agreement {line['agreement'][:5]}"
        draw_text(canvas, title, (left, top + side + 2), 13, "#1f2328")
        draw_text(canvas, caption[:48], (left, top + side + 19), 12, "#6a717a")
    sheet.write_bytes(encode_png(np.asarray(canvas)))


def fit_into_square(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Scale an image to a grey square."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (side, side), "#f3f4f6")
    resized = image.resize(size, Image.Resampling.BOX if scale > 1 else Image.Resampling.LANCZOS)
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
