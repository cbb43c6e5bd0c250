"""Scatter plots of points in a plane, coloured by label, as PNG drawn with Pillow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.line_chart import compute_ticks
from simile.images.rendering.sheets import RULE_COLOUR
from simile.images.rendering.text import MUTED_COLOUR, PAPER_COLOUR, TEXT_COLOUR, draw_legend, draw_text, truncate_text

# Ten hues of even lightness: Paul Tol's "muted" and "vibrant" sets, distinguishable with most kinds of colour vision
# (https://sronpersonalpages.nl/~pault/).
SCATTER_COLOURS = (
    *("#332288", "#ee7733", "#117733", "#cc3311", "#88ccee", "#aa4499", "#999933", "#44aa99", "#882255", "#ddcc77"),
)
OTHER_COLOUR = "#bbbbbb"  # for labels beyond ten, and for points without a label
_PANEL_SIDE, _PANEL_GAP, _SCATTER_MARGIN = 400, 56, 40  # pixels: plot area of a panel, between and around panels
_PANEL_HEADER_HEIGHT, _PANEL_FOOTER_HEIGHT = 66, 58
_PANEL_HEIGHT = _PANEL_HEADER_HEIGHT + _PANEL_SIDE + _PANEL_FOOTER_HEIGHT
_SCATTER_SUPERSAMPLING = 3  # dots are drawn three times as large, then reduced, to be smooth
_DOT_RADIUS = 2.2  # pixels

ScatterPointArray = NDArray[np.float32]


@dataclass(frozen=True)
class ScatterPanel:
    """One plot."""

    title: str
    note: str  # a second, fainter line
    points: ScatterPointArray  # (n, 2)
    ring_radii: tuple[float, ...] = ()  # of circles around the origin


def draw_scatter(panels: Sequence[ScatterPanel], labels: Sequence[str | None], columns: int = 3) -> bytes:
    """Draw panels of n points in rows, all coloured by the same n labels (or None), with a legend below, as PNG.

    Each panel has its own axes, equal in both directions, with the origin in the middle. The ten most frequent labels
    have a colour; the others are grey. Points that are not finite are left out.
    """
    # Choose the colours.
    counts = Counter(label for label in labels if label is not None)
    names = sorted(label for label, _ in counts.most_common(len(SCATTER_COLOURS)))
    colour_of = dict(zip(names, SCATTER_COLOURS, strict=False))
    colours = [OTHER_COLOUR if label is None else colour_of.get(label, OTHER_COLOUR) for label in labels]
    entries = [*colour_of.items()]
    if entries and OTHER_COLOUR in colours:
        entries.append(("others", OTHER_COLOUR))
    # Place the panels and the legend.
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    width = columns * (_PANEL_SIDE + _PANEL_GAP) - _PANEL_GAP + 2 * _SCATTER_MARGIN
    legend = draw_legend(entries, width, _SCATTER_MARGIN)
    sheet = Image.new("RGB", (width, rows * _PANEL_HEIGHT + 2 * _SCATTER_MARGIN + legend.height), PAPER_COLOUR)
    for number, panel in enumerate(panels):
        left = _SCATTER_MARGIN + number % columns * (_PANEL_SIDE + _PANEL_GAP)
        sheet.paste(_draw_panel(panel, colours), (left, _SCATTER_MARGIN + number // columns * _PANEL_HEIGHT))
    sheet.paste(legend, (0, _SCATTER_MARGIN + rows * _PANEL_HEIGHT))
    return encode_png(sheet)


def _draw_panel(panel: ScatterPanel, colours: Sequence[str]) -> Image.Image:
    """Draw a plot with its title, its note and the numbers of the x axis."""
    image = Image.new("RGB", (_PANEL_SIDE, _PANEL_HEIGHT), PAPER_COLOUR)
    draw_text(image, truncate_text(panel.title, 18, _PANEL_SIDE), (0, 0), 18, TEXT_COLOUR)
    draw_text(image, truncate_text(panel.note, 13, _PANEL_SIDE), (0, 30), 13, MUTED_COLOUR)
    # Half the side of a square around the origin that shows all rings, and all points except a few far ones.
    is_finite: NDArray[np.bool_] = np.asarray(np.isfinite(panel.points).all(1))
    far = float(np.percentile(np.abs(panel.points[is_finite]).max(1), 99.5)) if is_finite.any() else 0.0
    half_extent = 1.08 * max(far, *panel.ring_radii, 1e-6)
    image.paste(_draw_plot(panel, is_finite, colours, half_extent), (0, _PANEL_HEADER_HEIGHT))
    for value in compute_ticks(-half_extent, half_extent, count=7):
        x = round((value + half_extent) / (2 * half_extent) * _PANEL_SIDE)
        draw_text(image, f"{value:.4g}", (x, _PANEL_HEADER_HEIGHT + _PANEL_SIDE + 8), 12, MUTED_COLOUR, "ma")
    return image


def _draw_plot(
    panel: ScatterPanel, is_finite: NDArray[np.bool_], colours: Sequence[str], half_extent: float
) -> Image.Image:
    """Draw the square with grid, dots, rings and frame."""
    line_width, side = _SCATTER_SUPERSAMPLING, _PANEL_SIDE * _SCATTER_SUPERSAMPLING
    plot = Image.new("RGB", (side, side), PAPER_COLOUR)
    draw = ImageDraw.Draw(plot)

    def to_pixel(value: float) -> float:
        return (value + half_extent) / (2 * half_extent) * side

    for value in compute_ticks(-half_extent, half_extent, count=7):
        x = to_pixel(value)
        draw.line((x, 0, x, side), RULE_COLOUR, line_width)
        draw.line((0, side - x, side, side - x), RULE_COLOUR, line_width)
    order = np.random.default_rng(0).permutation(len(panel.points))  # so that no class is hidden below another
    for row in order[is_finite[order]]:
        x, y = (to_pixel(float(value)) for value in panel.points[row])
        draw.circle((x, side - y), _DOT_RADIUS * _SCATTER_SUPERSAMPLING, colours[row])
    for radius in panel.ring_radii:
        low, high = to_pixel(-radius), to_pixel(radius)
        draw.ellipse((low, low, high, high), outline=TEXT_COLOUR, width=line_width)
    draw.rectangle((0, 0, side - 1, side - 1), outline=MUTED_COLOUR, width=line_width)
    return plot.resize((_PANEL_SIDE, _PANEL_SIDE), Image.Resampling.LANCZOS)
