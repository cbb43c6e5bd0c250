"""Scatter plots of points in a plane, coloured by label, as a PNG drawn with Pillow alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.line_chart import compute_ticks
from simile.images.rendering.sheets import MUTED_COLOUR, PAPER_COLOUR, RULE_COLOUR, TEXT_COLOUR, draw_text
from simile.images.rendering.text import choose_font, truncate_text

# Ten hues of even lightness: Paul Tol's "muted" and "vibrant" sets, told apart with most kinds of colour vision
# (https://sronpersonalpages.nl/~pault/).
SCATTER_COLOURS = (
    "#332288",
    "#ee7733",
    "#117733",
    "#cc3311",
    "#88ccee",
    "#aa4499",
    "#999933",
    "#44aa99",
    "#882255",
    "#ddcc77",
)
OTHER_COLOUR = "#bbbbbb"  # of labels beyond ten, and of points without a label
_PANEL_SIDE, _PANEL_GAP, _SCATTER_MARGIN = 400, 56, 40  # of a panel, between panels, around them
_PANEL_HEADER_HEIGHT, _PANEL_FOOTER_HEIGHT, _SCATTER_LEGEND_LINE_HEIGHT = 66, 58, 26
_SCATTER_SUPERSAMPLING = 3  # drawn three times as large, then reduced: smooth dots
_DOT_RADIUS = 2.2  # of a dot, in pixels

ScatterPointArray = NDArray[np.float32]


@dataclass(frozen=True)
class ScatterPanel:
    """Points (n, 2) with a title and a fainter line below it; `rings`: radii of circles around the origin."""

    title: str
    note: str
    points: ScatterPointArray
    ring_radii: tuple[float, ...] = ()


def draw_scatter(panels: Sequence[ScatterPanel], labels: Sequence[str | None], columns: int = 3) -> bytes:
    """PNG of panels in rows of `columns`, all coloured by the same labels (n,), a legend beneath.

    Each panel has axes of its own, equal in both directions, with the origin in the middle. At most ten labels have a
    colour, the commonest; the others are grey. Points that are not finite are left out.
    """
    named = [
        label for label, _ in Counter(label for label in labels if label is not None).most_common(len(SCATTER_COLOURS))
    ]
    named.sort()
    colours = [SCATTER_COLOURS[named.index(label)] if label in named else OTHER_COLOUR for label in labels]
    drawn = [_draw_panel(panel, colours) for panel in panels]
    columns = max(1, min(columns, len(drawn)))
    rows = -(-len(drawn) // columns)
    entries = [
        *zip(named, SCATTER_COLOURS, strict=False),
        *([("others", OTHER_COLOUR)] if OTHER_COLOUR in colours and named else []),
    ]
    width = columns * (_PANEL_SIDE + _PANEL_GAP) - _PANEL_GAP + 2 * _SCATTER_MARGIN
    legend = _draw_scatter_legend(entries, width)
    panel_height = _PANEL_HEADER_HEIGHT + _PANEL_SIDE + _PANEL_FOOTER_HEIGHT
    sheet = Image.new("RGB", (width, rows * panel_height + 2 * _SCATTER_MARGIN + legend.height), PAPER_COLOUR)
    for number, image in enumerate(drawn):
        left = _SCATTER_MARGIN + number % columns * (_PANEL_SIDE + _PANEL_GAP)
        sheet.paste(image, (left, _SCATTER_MARGIN + number // columns * panel_height))
    sheet.paste(legend, (0, _SCATTER_MARGIN + rows * panel_height))
    return encode_png(np.asarray(sheet))


def _draw_panel(panel: ScatterPanel, colours: Sequence[str]) -> Image.Image:
    image = Image.new("RGB", (_PANEL_SIDE, _PANEL_HEADER_HEIGHT + _PANEL_SIDE + _PANEL_FOOTER_HEIGHT), PAPER_COLOUR)
    draw_text(image, truncate_text(panel.title, 18, _PANEL_SIDE), (0, 0), 18, TEXT_COLOUR)
    draw_text(image, truncate_text(panel.note, 13, _PANEL_SIDE), (0, 30), 13, MUTED_COLOUR)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(panel.points).all(1))
    reach = _compute_half_extent(panel.points[finite], panel.ring_radii)
    image.paste(_draw_plot(panel, finite, colours, reach), (0, _PANEL_HEADER_HEIGHT))
    for value in compute_ticks(-reach, reach, count=7):
        draw_text(
            image,
            f"{value:.4g}",
            (round(_to_plot_pixel(value, reach)), _PANEL_HEADER_HEIGHT + _PANEL_SIDE + 8),
            12,
            MUTED_COLOUR,
            "ma",
        )
    return image


def _draw_plot(
    panel: ScatterPanel, finite_mask: NDArray[np.bool_], colours: Sequence[str], half_extent: float
) -> Image.Image:
    """The square with grid, rings and dots."""
    plot = Image.new("RGB", (_PANEL_SIDE * _SCATTER_SUPERSAMPLING, _PANEL_SIDE * _SCATTER_SUPERSAMPLING), PAPER_COLOUR)
    draw = ImageDraw.Draw(plot)
    for value in compute_ticks(-half_extent, half_extent, count=7):
        at, end = _to_plot_pixel(value, half_extent) * _SCATTER_SUPERSAMPLING, _PANEL_SIDE * _SCATTER_SUPERSAMPLING
        draw.line((at, 0, at, end), RULE_COLOUR, _SCATTER_SUPERSAMPLING)
        draw.line((0, end - at, end, end - at), RULE_COLOUR, _SCATTER_SUPERSAMPLING)
    order = np.random.default_rng(0).permutation(len(panel.points))  # no class hides beneath another
    for row in order[finite_mask[order]]:
        x, y = (float(value) for value in panel.points[row])
        draw.circle(
            (
                _to_plot_pixel(x, half_extent) * _SCATTER_SUPERSAMPLING,
                (_PANEL_SIDE - _to_plot_pixel(y, half_extent)) * _SCATTER_SUPERSAMPLING,
            ),
            _DOT_RADIUS * _SCATTER_SUPERSAMPLING,
            colours[row],
        )
    for radius in panel.ring_radii:
        low, high = (
            _to_plot_pixel(-radius, half_extent) * _SCATTER_SUPERSAMPLING,
            _to_plot_pixel(radius, half_extent) * _SCATTER_SUPERSAMPLING,
        )
        draw.ellipse((low, low, high, high), outline=TEXT_COLOUR, width=_SCATTER_SUPERSAMPLING)
    draw.rectangle(
        (0, 0, _PANEL_SIDE * _SCATTER_SUPERSAMPLING - 1, _PANEL_SIDE * _SCATTER_SUPERSAMPLING - 1),
        outline=MUTED_COLOUR,
        width=_SCATTER_SUPERSAMPLING,
    )
    return plot.resize((_PANEL_SIDE, _PANEL_SIDE), Image.Resampling.LANCZOS)


def _compute_half_extent(points: ScatterPointArray, ring_radii: tuple[float, ...]) -> float:
    """Half the side of the square around the origin that shows all points but a few far ones, and all rings."""
    far = float(np.percentile(np.abs(points).max(1), 99.5)) if len(points) else 0.0
    return 1.08 * max(far, *ring_radii, 1e-6)


def _to_plot_pixel(value: float, half_extent: float) -> float:
    return (value + half_extent) / (2 * half_extent) * _PANEL_SIDE


def _draw_scatter_legend(entries: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Names beside their colours, on as many lines as they need."""
    places, left, top = [], _SCATTER_MARGIN, 0
    for name, _ in entries:
        line, font = choose_font(name, 14)
        across = 40 + round(font.getlength(line))
        if left > _SCATTER_MARGIN and left + across > width - _SCATTER_MARGIN:
            left, top = _SCATTER_MARGIN, top + _SCATTER_LEGEND_LINE_HEIGHT
        places.append((left, top))
        left += across
    strip = Image.new("RGB", (width, top + _SCATTER_LEGEND_LINE_HEIGHT if entries else 1), PAPER_COLOUR)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        ImageDraw.Draw(strip).circle((x + 6, y + 10), 5, colour)
        draw_text(strip, name, (x + 18, y + 15), 14, TEXT_COLOUR, "ls")
    return strip
