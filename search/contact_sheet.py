"""Answers as pictures a person can judge: query, what the model saw, hits and their reconstructions."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, NoDecoder, NoSuchImage, UnreadableImage
from simile.core.records import Hit
from simile.images.encoding import encode_png
from simile.images.rendering.sheets import SheetRow, Tile, contact_sheets, side_by_side
from simile.images.transforms import Pixels
from simile.search.searcher import Answer, Searcher


def write_sheet(searcher: Searcher, answers: list[tuple[Answer, Pixels]], output: Path) -> None:
    """Writes .html or .png, by the suffix; `answers` with each query's picture. Raises BadSetting."""
    rows = [sheet_row(searcher, answer, picture) for answer, picture in answers]
    if output.suffix.lower() == ".png":
        data = contact_sheets(rows)
    elif output.suffix.lower() in (".html", ".htm"):
        data = _html(rows).encode()
    else:
        raise BadSetting(f"{output} can't be written: name a file that ends in .png or .html.")
    _write(output, data)


def write_reconstruction(searcher: Searcher, image: Path, output: Path) -> float:
    """Original beside reconstruction, as a PNG; gives the mean squared error over values in [0, 1]."""
    original, seen, query = searcher.reconstruct_file(image, name=str(image))
    if output.suffix.lower() != ".png":
        raise BadSetting(f"{output} can't be written: name a file that ends in .png.")
    _write(output, side_by_side([original, seen], [image.name, "what the model saw"]))
    assert query.reconstruction_error is not None
    return query.reconstruction_error


def _write(output: Path, data: bytes) -> None:
    try:
        output.write_bytes(data)
    except OSError as error:
        raise BadSetting(f"{output} can't be written: {error.strerror}. Name another --output.") from error


def sheet_row(searcher: Searcher, answer: Answer, picture: Pixels) -> SheetRow:
    """One query with its hits. A hit whose file is gone is shown by its reconstruction, and says so."""
    query, encoder = answer.query, searcher.encoder()
    seen = None
    if encoder.has_decoder:
        seen = Tile(encoder.reconstruct(query.mu, query.width or 1, query.height or 1), "what the model saw")
    hits = [hit_tile(searcher, hit) for hit in answer.hits]
    reconstructions = []
    if encoder.has_decoder:
        reconstructions = [Tile(searcher.reconstruction_pixels(hit.image_id), "") for hit in answer.hits]
    return SheetRow(Tile(picture, query.name or "query"), seen, hits, reconstructions)


def hit_tile(searcher: Searcher, hit: Hit, before: str = "") -> Tile:
    """A hit with its name, `before` in front, and distance: its file, else its reconstruction, else an empty tile."""
    caption = f"{before}{Path(hit.path).name}\ndistance {hit.distance:.3f}"
    try:
        return Tile(searcher.pixels(hit.image_id), caption)
    except (UnreadableImage, NoSuchImage):
        caption += " (file gone)"
    try:
        return Tile(searcher.reconstruction_pixels(hit.image_id), caption)
    except NoDecoder:
        return Tile(np.full((64, 64, 3), 255, np.uint8), caption)


def _html(rows: list[SheetRow]) -> str:
    return _PAGE.format(sections="\n".join(map(_section, rows)))


def _section(row: SheetRow) -> str:
    asked = _figure(row.query) + (_figure(row.reconstruction) if row.reconstruction else "")
    shown = [_figure(hit) for hit in row.hits]
    title = "Nearest"
    if row.hit_reconstructions:
        title = "Nearest, each above its reconstruction"
        seen = [_image(tile.pixels, "reconstruction") for tile in row.hit_reconstructions]
        shown = [hit + below for hit, below in zip(shown, seen, strict=True)]
    hits = "".join(f"<li>{hit}</li>" for hit in shown)
    return f"<section><h2>Query</h2><div class=asked>{asked}</div><h2>{title}</h2><ol>{hits}</ol></section>"


def _figure(tile: Tile) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in tile.caption.split("\n"))
    return f"<figure>{_image(tile.pixels, tile.caption)}<figcaption>{lines}</figcaption></figure>"


def _image(pixels: Pixels, alt: str) -> str:
    data = base64.b64encode(encode_png(pixels)).decode()
    small = " class=small" if max(pixels.shape[:2]) <= 64 else ""
    return f'<img{small} alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>simile</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2328;background:#fff}}
h2{{font-size:1rem;font-weight:600;color:#5a6570;margin:1.5rem 0 .5rem}}
.asked,ol{{display:flex;flex-wrap:wrap;gap:1rem;list-style:none;padding:0;margin:0}}
figure{{margin:0 0 .75rem}}img{{width:9rem;height:9rem;object-fit:contain;background:#f2f3f4;display:block}}
img{{border-radius:6px}}.small{{image-rendering:pixelated}}
figcaption{{font-size:.8rem;color:#5a6570;width:9rem}}
figcaption span{{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
</style>{sections}</html>
"""
