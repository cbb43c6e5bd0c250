"""Exports of outliers: a sheet (.png), a self-contained page (.html) or a table (.csv)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from simile.core.atomic_write import write_output_file
from simile.core.csv_cells import escape_formulas
from simile.core.errors import NoDecoder, NoSuchImage
from simile.explore.outliers.detector import Outlier
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.search.contact_sheet import BLANK_PIXELS, render_image_tag
from simile.search.searcher import Searcher

OUTLIER_SUFFIXES = (".png", ".html", ".csv")
OUTLIER_SHEET_COLUMNS = 8
OUTLIER_SIGNALS = ("reconstruction", "distance", "density")


def write_outliers(searcher: Searcher, outliers: Sequence[Outlier], output: Path) -> None:
    """Write outliers in the format of the suffix, one of OUTLIER_SUFFIXES."""
    suffix = output.suffix.lower()
    if suffix == ".csv":
        data = _make_csv(outliers).encode()
    elif suffix == ".html":
        figures = "\n".join(_make_figure(searcher, position, outlier) for position, outlier in enumerate(outliers, 1))
        data = _PAGE_TEMPLATE.format(figures=figures, count=len(outliers)).encode()
    else:
        tiles = [_make_tile(searcher, outlier) for outlier in outliers]
        data = draw_tile_grid(
            [tiles[start : start + OUTLIER_SHEET_COLUMNS] for start in range(0, len(tiles), OUTLIER_SHEET_COLUMNS)]
        )
    write_output_file(output, data)


def _make_csv(outliers: Sequence[Outlier]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "image_id", "path", "score", *(f"{name}_rank" for name in OUTLIER_SIGNALS), "reason"])
    for position, outlier in enumerate(outliers, 1):
        ranks = [f"{outlier.ranks[name]:.6f}" if name in outlier.ranks else "" for name in OUTLIER_SIGNALS]
        row = [position, outlier.image_id, outlier.path, f"{outlier.score:.4f}", *ranks, outlier.reason]
        writer.writerow(escape_formulas(row))
    return text.getvalue()


def _make_tile(searcher: Searcher, outlier: Outlier) -> SheetTile:
    strongest = sorted(outlier.ranks, key=lambda name: -outlier.ranks[name])[:2]
    caption = [Path(outlier.path).name, *(f"{name} {100 * outlier.ranks[name]:.1f} %" for name in strongest)]
    return SheetTile(_get_pixels(searcher, outlier.image_id), "\n".join(caption))


def _get_pixels(searcher: Searcher, image_id: int) -> Pixels:
    pixels = searcher.find_pixels(image_id)
    return BLANK_PIXELS if pixels is None else pixels


def _make_figure(searcher: Searcher, position: int, outlier: Outlier) -> str:
    images = render_image_tag(_get_pixels(searcher, outlier.image_id), Path(outlier.path).name)
    with suppress(NoDecoder, NoSuchImage):
        images += render_image_tag(searcher.get_reconstruction_pixels(outlier.image_id), "its reconstruction")
    bars = "".join(
        f'<tr><th>{name}<td><meter min=0 max=1 value="{rank:.4f}"></meter><td>{100 * rank:.1f} %'
        for name in OUTLIER_SIGNALS
        if (rank := outlier.ranks.get(name)) is not None
    )
    return (
        f"<figure><div>{images}</div><figcaption><b>{position}. {escape(Path(outlier.path).name)}</b>"
        f"<p>{escape(outlier.reason)}</p><table>{bars}</table><small>{escape(outlier.path)}</small></figcaption>"
        "</figure>"
    )


_PAGE_TEMPLATE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>simile: outliers</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1d2328;background:#fff}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1.5rem}}
figure{{margin:0;border-top:1px solid #d9dde2;padding-top:.75rem}}figure div{{display:flex;gap:.5rem}}
img{{width:8rem;height:8rem;object-fit:contain;background:#f2f3f4;border-radius:6px}}
.small{{image-rendering:pixelated}}
p{{margin:.25rem 0}}th{{font-weight:400;text-align:left;padding-right:.5rem}}td,th,small{{font-size:.8rem;color:#567}}
small{{overflow-wrap:anywhere}}
</style><h1>The {count} images least like the rest</h1>
<p>For each signal: the percentage of the collection that is less unusual. The two strongest signals make the score.</p>
<main>{figures}</main></html>
"""
