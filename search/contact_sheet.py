"""Answers as pictures a person can judge: query, what the model saw, hits and their reconstructions."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, NoDecoder, NoSuchImage, UnreadableImage
from simile.core.records import Hit
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetRow, SheetTile, draw_contact_sheets, draw_side_by_side
from simile.search.searcher import Searcher, SearchResult


def write_contact_sheet(searcher: Searcher, results: list[tuple[SearchResult, Pixels]], output: Path) -> None:
    """Writes .html or .png, by the suffix; `answers` with each query's picture. Raises BadSetting."""
    rows = [make_sheet_row(searcher, answer, picture) for answer, picture in results]
    if output.suffix.lower() == ".png":
        data = draw_contact_sheets(rows)
    elif output.suffix.lower() in (".html", ".htm"):
        data = _render_html(rows).encode()
    else:
        raise BadSetting(f"{output} can't be written: name a file that ends in .png or .html.")
    _write_sheet_file(output, data)


def write_reconstruction(searcher: Searcher, image: Path, output: Path) -> float:
    """Original beside reconstruction, as a PNG; gives the mean squared error over values in [0, 1]."""
    original, seen, query = searcher.reconstruct_file(image, name=str(image))
    if output.suffix.lower() != ".png":
        raise BadSetting(f"{output} can't be written: name a file that ends in .png.")
    _write_sheet_file(output, draw_side_by_side([original, seen], [image.name, "what the model saw"]))
    assert query.reconstruction_error is not None
    return query.reconstruction_error


def _write_sheet_file(output: Path, data: bytes) -> None:
    try:
        output.write_bytes(data)
    except OSError as error:
        raise BadSetting(f"{output} can't be written: {error.strerror}. Name another --output.") from error


def make_sheet_row(searcher: Searcher, result: SearchResult, query_pixels: Pixels) -> SheetRow:
    """One query with its hits. A hit whose file is gone is shown by its reconstruction, and says so."""
    query, encoder = result.query, searcher.get_encoder()
    seen = None
    if encoder.has_decoder:
        seen = SheetTile(encoder.reconstruct(query.mu, query.width or 1, query.height or 1), "what the model saw")
    hits = [make_hit_tile(searcher, hit) for hit in result.hits]
    reconstructions = []
    if encoder.has_decoder:
        reconstructions = [SheetTile(searcher.get_reconstruction_pixels(hit.image_id), "") for hit in result.hits]
    return SheetRow(SheetTile(query_pixels, query.name or "query"), seen, hits, reconstructions)


def make_hit_tile(searcher: Searcher, hit: Hit, caption_prefix: str = "") -> SheetTile:
    """A hit with its name, `before` in front, and distance: its file, else its reconstruction, else an empty tile."""
    caption = f"{caption_prefix}{Path(hit.path).name}\ndistance {hit.distance:.3f}"
    try:
        return SheetTile(searcher.get_pixels(hit.image_id), caption)
    except (UnreadableImage, NoSuchImage):
        caption += " (file gone)"
    try:
        return SheetTile(searcher.get_reconstruction_pixels(hit.image_id), caption)
    except NoDecoder:
        return SheetTile(np.full((64, 64, 3), 255, np.uint8), caption)


def _render_html(rows: list[SheetRow]) -> str:
    return _PAGE_TEMPLATE.format(sections="\n".join(map(_render_section, rows)))


def _render_section(row: SheetRow) -> str:
    asked = _render_figure(row.query) + (_render_figure(row.reconstruction) if row.reconstruction else "")
    shown = [_render_figure(hit) for hit in row.hits]
    title = "Nearest"
    if row.hit_reconstructions:
        title = "Nearest, each above its reconstruction"
        seen = [_render_image(tile.pixels, "reconstruction") for tile in row.hit_reconstructions]
        shown = [hit + below for hit, below in zip(shown, seen, strict=True)]
    hits = "".join(f"<li>{hit}</li>" for hit in shown)
    return f"<section><h2>Query</h2><div class=asked>{asked}</div><h2>{title}</h2><ol>{hits}</ol></section>"


def _render_figure(tile: SheetTile) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in tile.caption.split("\n"))
    return f"<figure>{_render_image(tile.pixels, tile.caption)}<figcaption>{lines}</figcaption></figure>"


def _render_image(pixels: Pixels, alt: str) -> str:
    data = base64.b64encode(encode_png(pixels)).decode()
    small = " class=small" if max(pixels.shape[:2]) <= 64 else ""
    return f'<img{small} alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


_PAGE_TEMPLATE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
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
