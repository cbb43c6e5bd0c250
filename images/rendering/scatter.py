"""Scatter plots of points in a plane, coloured by label, as a PNG drawn with Pillow alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.line_chart import ticks
from simile.images.rendering.sheets import FAINT, INK, PAPER, RULE, write
from simile.images.rendering.text import lettered, shortened

# Ten hues of even lightness: Paul Tol's "muted" and "vibrant" sets, told apart with most kinds of colour vision
# (https://sronpersonalpages.nl/~pault/).
COLOURS = (
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
OTHERS = "#bbbbbb"  # of labels beyond ten, and of points without a label
_SIDE, _GAP, _MARGIN = 400, 56, 40  # of a panel, between panels, around them
_HEAD, _FOOT, _LEGEND_LINE = 66, 58, 26
_FINE = 3  # drawn three times as large, then reduced: smooth dots
_RADIUS = 2.2  # of a dot, in pixels

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """Points (n, 2) with a title and a fainter line below it; `rings`: radii of circles around the origin."""

    title: str
    note: str
    points: Points
    rings: tuple[float, ...] = ()


def scatter(panels: Sequence[Panel], labels: Sequence[str | None], columns: int = 3) -> bytes:
    """PNG of panels in rows of `columns`, all coloured by the same labels (n,), a legend beneath.

    Each panel has axes of its own, equal in both directions, with the origin in the middle. At most ten labels have a
    colour, the commonest; the others are grey. Points that are not finite are left out.
    """
    named = [label for label, _ in Counter(label for label in labels if label is not None).most_common(len(COLOURS))]
    named.sort()
    colours = [COLOURS[named.index(label)] if label in named else OTHERS for label in labels]
    drawn = [_panel(panel, colours) for panel in panels]
    columns = max(1, min(columns, len(drawn)))
    rows = -(-len(drawn) // columns)
    entries = [*zip(named, COLOURS, strict=False), *([("others", OTHERS)] if OTHERS in colours and named else [])]
    width = columns * (_SIDE + _GAP) - _GAP + 2 * _MARGIN
    legend = _legend(entries, width)
    panel_height = _HEAD + _SIDE + _FOOT
    sheet = Image.new("RGB", (width, rows * panel_height + 2 * _MARGIN + legend.height), PAPER)
    for number, image in enumerate(drawn):
        left = _MARGIN + number % columns * (_SIDE + _GAP)
        sheet.paste(image, (left, _MARGIN + number // columns * panel_height))
    sheet.paste(legend, (0, _MARGIN + rows * panel_height))
    return encode_png(np.asarray(sheet))


def _panel(panel: Panel, colours: Sequence[str]) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _HEAD + _SIDE + _FOOT), PAPER)
    write(image, shortened(panel.title, 18, _SIDE), (0, 0), 18, INK)
    write(image, shortened(panel.note, 13, _SIDE), (0, 30), 13, FAINT)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(panel.points).all(1))
    reach = _reach(panel.points[finite], panel.rings)
    image.paste(_plot(panel, finite, colours, reach), (0, _HEAD))
    for value in ticks(-reach, reach, about=7):
        write(image, f"{value:.4g}", (round(_place(value, reach)), _HEAD + _SIDE + 8), 12, FAINT, "ma")
    return image


def _plot(panel: Panel, finite: NDArray[np.bool_], colours: Sequence[str], reach: float) -> Image.Image:
    """The square with grid, rings and dots."""
    plot = Image.new("RGB", (_SIDE * _FINE, _SIDE * _FINE), PAPER)
    draw = ImageDraw.Draw(plot)
    for value in ticks(-reach, reach, about=7):
        at, end = _place(value, reach) * _FINE, _SIDE * _FINE
        draw.line((at, 0, at, end), RULE, _FINE)
        draw.line((0, end - at, end, end - at), RULE, _FINE)
    order = np.random.default_rng(0).permutation(len(panel.points))  # no class hides beneath another
    for row in order[finite[order]]:
        x, y = (float(value) for value in panel.points[row])
        draw.circle((_place(x, reach) * _FINE, (_SIDE - _place(y, reach)) * _FINE), _RADIUS * _FINE, colours[row])
    for radius in panel.rings:
        low, high = _place(-radius, reach) * _FINE, _place(radius, reach) * _FINE
        draw.ellipse((low, low, high, high), outline=INK, width=_FINE)
    draw.rectangle((0, 0, _SIDE * _FINE - 1, _SIDE * _FINE - 1), outline=FAINT, width=_FINE)
    return plot.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _reach(points: Points, rings: tuple[float, ...]) -> float:
    """Half the side of the square around the origin that shows all points but a few far ones, and all rings."""
    far = float(np.percentile(np.abs(points).max(1), 99.5)) if len(points) else 0.0
    return 1.08 * max(far, *rings, 1e-6)


def _place(value: float, reach: float) -> float:
    return (value + reach) / (2 * reach) * _SIDE


def _legend(entries: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Names beside their colours, on as many lines as they need."""
    places, left, top = [], _MARGIN, 0
    for name, _ in entries:
        line, font = lettered(name, 14)
        across = 40 + round(font.getlength(line))
        if left > _MARGIN and left + across > width - _MARGIN:
            left, top = _MARGIN, top + _LEGEND_LINE
        places.append((left, top))
        left += across
    strip = Image.new("RGB", (width, top + _LEGEND_LINE if entries else 1), PAPER)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        ImageDraw.Draw(strip).circle((x + 6, y + 10), 5, colour)
        write(strip, name, (x + 18, y + 15), 14, INK, "ls")
    return strip
