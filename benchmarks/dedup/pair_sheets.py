"""Sheets of pairs for counting by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from simile.images.encoding import encode_png
from simile.images.rendering.text import draw_text

ACROSS, GAP = 6, 24  # pairs side by side, pixels between them
SHOWN = 60  # pairs of a sheet


def upright(file: Path | str) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def least_sure(lines: Sequence[dict[str, str]]) -> list[int]:
    """Places of lines of pairs.csv, the least agreement first."""
    return sorted(range(len(lines)), key=lambda at: float(lines[at]["agreement"] or 1))


def draw_pairs(lines: Sequence[dict[str, str]], captions: Sequence[str], sheet: Path, side: int = 150) -> None:
    """PNG of lines of pairs.csv, SHOWN at most: numbered, with distance and agreement, and a caption."""
    lines = lines[:SHOWN]
    if not lines:
        return
    width, height = 2 * side + GAP, side + 44
    rows = -(-len(lines) // ACROSS)
    canvas = Image.new("RGB", (min(ACROSS, len(lines)) * width, rows * height), "white")
    for at, (line, caption) in enumerate(zip(lines, captions, strict=False)):
        left, top = at % ACROSS * width, at // ACROSS * height
        for place, key in enumerate(("path_a", "path_b")):
            canvas.paste(fitted(upright(line[key]), side), (left + place * (side + 2), top))
        said = f"{at + 1}  distance {line['distance'][:5]}  agreement {line['agreement'][:5]}"
        draw_text(canvas, said, (left, top + side + 2), 13, "#1f2328")
        draw_text(canvas, caption[:48], (left, top + side + 19), 12, "#6a717a")
    sheet.write_bytes(encode_png(np.asarray(canvas)))


def fitted(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """As large as it goes in a square, on grey."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (side, side), "#f3f4f6")
    resized = image.resize(size, Image.Resampling.BOX if scale > 1 else Image.Resampling.LANCZOS)
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
