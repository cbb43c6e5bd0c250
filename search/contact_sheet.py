"""Draw search results as contact sheets: the query, its reconstruction, the hits and their reconstructions."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from simile.core.atomic_write import write_output_file
from simile.core.errors import BadSetting, NoDecoder, NoSuchImage, UnreadableImage
from simile.core.records import Hit
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetRow, SheetTile, draw_contact_sheets, draw_side_by_side
from simile.search.searcher import Searcher, SearchResult

BLANK_PIXELS = np.full((64, 64, 3), 255, np.uint8)  # for an image without a file and a decoder


def write_contact_sheet(searcher: Searcher, results: list[tuple[SearchResult, Pixels]], output: Path) -> None:
    """Write results, each with the pixels of its query image, as .html or .png. Raises BadSetting."""
    rows = [make_sheet_row(searcher, result, pixels) for result, pixels in results]
    if output.suffix.lower() == ".png":
        data = draw_contact_sheets(rows)
    elif output.suffix.lower() in (".html", ".htm"):
        data = _PAGE_TEMPLATE.format(sections="\n".join(map(_render_section, rows))).encode()
    else:
        raise BadSetting(f"{output} can't be written: name a file that ends in .png or .html.")
    write_output_file(output, data)


def write_reconstruction(searcher: Searcher, image: Path, output: Path) -> float:
    """Write an image and its reconstruction as a PNG; return the mean squared error, of values in [0, 1]."""
    original, reconstruction, query = searcher.reconstruct_file(image, name=str(image))
    if output.suffix.lower() != ".png":
        raise BadSetting(f"{output} can't be written: name a file that ends in .png.")
    write_output_file(output, draw_side_by_side([original, reconstruction], [image.name, "reconstruction"]))
    assert query.reconstruction_error is not None
    return query.reconstruction_error


def make_sheet_row(searcher: Searcher, result: SearchResult, query_pixels: Pixels) -> SheetRow:
    """Make the row of one query; a hit without a readable file is shown as its reconstruction."""
    query, encoder = result.query, searcher.get_encoder()
    query_tile = SheetTile(query_pixels, query.name or "query")
    hits = [make_hit_tile(searcher, hit) for hit in result.hits]
    if not encoder.has_decoder:
        return SheetRow(query_tile, None, hits, [])
    pixels = encoder.reconstruct(query.mu, query.width or 1, query.height or 1)
    hit_reconstructions = [SheetTile(searcher.get_reconstruction_pixels(hit.image_id), "") for hit in result.hits]
    return SheetRow(query_tile, SheetTile(pixels, "reconstruction"), hits, hit_reconstructions)


def make_hit_tile(searcher: Searcher, hit: Hit, caption_prefix: str = "") -> SheetTile:
    """Make the tile of a hit with its name and distance: its file, else its reconstruction, else an empty tile."""
    caption = f"{caption_prefix}{Path(hit.path).name}\ndistance {hit.distance:.3f}"
    if hit.verified:
        caption += f"\nverified: {hit.relation}"
    try:
        return SheetTile(searcher.get_pixels(hit.image_id), caption)
    except (UnreadableImage, NoSuchImage):
        caption += " (file missing)"
    try:
        return SheetTile(searcher.get_reconstruction_pixels(hit.image_id), caption)
    except NoDecoder:
        return SheetTile(BLANK_PIXELS, caption)


def make_frame_rows(
    searcher: Searcher, frames: Pixels, captions: Sequence[str], hits: Sequence[Hit | None]
) -> list[list[SheetTile]]:
    """Make a row of tiles of decoded images and, if there are hits, a row of the nearest images below it."""
    rows = [[SheetTile(frame, caption) for frame, caption in zip(frames, captions, strict=True)]]
    if hits:
        nothing = SheetTile(BLANK_PIXELS, "nothing is indexed")
        rows.append([nothing if hit is None else make_hit_tile(searcher, hit, "nearest: ") for hit in hits])
    return rows


def _render_section(row: SheetRow) -> str:
    query = _render_figure(row.query) + (_render_figure(row.reconstruction) if row.reconstruction else "")
    figures = [_render_figure(hit) for hit in row.hits]
    title = "Nearest"
    if row.hit_reconstructions:
        title = "Nearest, each above its reconstruction"
        images = [render_image_tag(tile.pixels, "reconstruction") for tile in row.hit_reconstructions]
        figures = [figure + image for figure, image in zip(figures, images, strict=True)]
    hits = "".join(f"<li>{figure}</li>" for figure in figures)
    return f"<section><h2>Query</h2><div class=query>{query}</div><h2>{title}</h2><ol>{hits}</ol></section>"


def _render_figure(tile: SheetTile) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in tile.caption.split("\n"))
    return f"<figure>{render_image_tag(tile.pixels, tile.caption)}<figcaption>{lines}</figcaption></figure>"


def render_image_tag(pixels: Pixels, alt: str) -> str:
    """Return an HTML image with the pixels as a data URL."""
    data = base64.b64encode(encode_png(pixels)).decode()
    small = " class=small" if max(pixels.shape[:2]) <= 64 else ""  # shown with sharp pixels
    return f'<img{small} alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


_PAGE_TEMPLATE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>simile</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1d2328;background:#fff}}
h2{{font-size:1rem;font-weight:600;color:#5a6570;margin:1.5rem 0 .5rem}}
.query,ol{{display:flex;flex-wrap:wrap;gap:1rem;list-style:none;padding:0;margin:0}}
figure{{margin:0 0 .75rem}}img{{width:9rem;height:9rem;object-fit:contain;background:#f2f3f4;display:block}}
img{{border-radius:6px}}.small{{image-rendering:pixelated}}
figcaption{{font-size:.8rem;color:#5a6570;width:9rem}}
figcaption span{{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
</style>{sections}</html>
"""
