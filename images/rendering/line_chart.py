"""A line chart as a PNG, drawn with Pillow alone: enough for a training report."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.sheets import FAINT, INK, PAPER, RULE, write
from simile.images.rendering.text import lettered

Series = dict[str, list[tuple[float, float]]]
Range = tuple[float, float]

# Okabe and Ito's colours, told apart with any kind of colour vision (https://jfly.uni-koeln.de/color/).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")
_WIDTH, _HEIGHT = 880, 500
_LEFT, _TOP, _RIGHT, _BOTTOM = 92, 100, 848, 424  # the frame that the lines stand in
_HEAD = 58  # the title's height; the legend is put in beneath it
_FINE = 3  # drawn three times as large, then reduced: smooth lines


def curves(series: Series, *, title: str, x_label: str, y_label: str) -> bytes:
    """PNG of one line for each name in `series`, a list of (x, y); values that are not finite leave a gap.

    The y axis leaves out the few values far from all others (a first epoch, a spike), and the chart says so.
    """
    points = [point for line in series.values() for point in line if np.isfinite(point).all()]
    across = _widened(min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0))
    up, hidden = _robust([y for _, y in points])
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), PAPER)
    write(canvas, title, (_LEFT, 24), 20, INK)
    _axes(canvas, across, up)
    canvas = _lines(canvas, series, across, up)
    write(canvas, x_label, ((_LEFT + _RIGHT) // 2, _BOTTOM + 36), 14, FAINT, "ma")
    note = f"  ({hidden} of {len(points)} values lie outside)" if hidden else ""
    write(canvas, y_label + note, (_LEFT, _TOP - 14), 14, FAINT, "ls")
    sheet = np.asarray(canvas)
    return encode_png(np.concatenate([sheet[:_HEAD], _legend(list(series)), sheet[_HEAD:]]))


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in [low, high], some `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def _robust(values: list[float]) -> tuple[Range, int]:
    """The range to show, and how many values lie outside of it.

    All of them, unless that leaves the 10th to 90th percentile with less than a third of the height.
    """
    if not values:
        return (0.0, 1.0), 0
    low, high = min(values), max(values)
    core_low, core_high = (float(x) for x in np.percentile(values, [10, 90]))
    if core_high > core_low and high - low > 3 * (core_high - core_low):
        room = 0.5 * (core_high - core_low)
        low, high = max(low, core_low - room), min(high, core_high + room)
    hidden = sum(not low <= value <= high for value in values)
    low, high = _widened(low, high)
    return (low - 0.04 * (high - low), high + 0.04 * (high - low)), hidden


def _widened(low: float, high: float) -> Range:
    """A range of some width: one point, or a constant line, stands in its middle."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = 0.5 * max(abs(low), 1.0)
    return low - half, high + half


def _place(value: float, shown: Range, start: int, end: int) -> float:
    return start + (value - shown[0]) / (shown[1] - shown[0]) * (end - start)


def _axes(canvas: Image.Image, across: Range, up: Range) -> None:
    draw = ImageDraw.Draw(canvas)
    for value in ticks(*up):
        y = round(_place(value, up, _BOTTOM, _TOP))
        draw.line((_LEFT, y, _RIGHT, y), RULE)
        write(canvas, f"{value:.4g}", (_LEFT - 10, y), 13, FAINT, "rm")
    for value in ticks(*across, about=8):
        x = round(_place(value, across, _LEFT, _RIGHT))
        draw.line((x, _BOTTOM, x, _BOTTOM + 5), FAINT)
        write(canvas, f"{value:.4g}", (x, _BOTTOM + 10), 13, FAINT, "ma")
    draw.line((_LEFT, _BOTTOM, _RIGHT, _BOTTOM), FAINT)


def _lines(canvas: Image.Image, series: Series, across: Range, up: Range) -> Image.Image:
    """The canvas with the lines drawn, each cut off at the frame."""
    box = (_LEFT - 6, _TOP - 6, _RIGHT + 6, _BOTTOM + 6)
    frame = canvas.crop(box).resize(((box[2] - box[0]) * _FINE, (box[3] - box[1]) * _FINE))
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(series.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        for run in _runs(line):
            dots = [
                ((_place(x, across, _LEFT, _RIGHT) - box[0]) * _FINE, (_place(y, up, _BOTTOM, _TOP) - box[1]) * _FINE)
                for x, y in run
            ]
            draw.line(dots, colour, 2 * _FINE, joint="curve")
            for dot in dots if len(dots) == 1 else ():
                draw.circle(dot, 4 * _FINE, colour)
    canvas.paste(frame.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
    return canvas


def _runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """A line in its unbroken runs: values that are not finite leave a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if np.isfinite(point).all():
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _legend(names: list[str]) -> NDArray[np.uint8]:
    """Names beside their colours, from left to right, on as many lines as they need."""
    places, left, top = [], _LEFT, 0
    for name in names:
        line, font = lettered(name, 14)
        width = 30 + round(font.getlength(line))
        if left > _LEFT and left + width > _RIGHT:
            left, top = _LEFT, top + 24
        places.append((left, top))
        left += width + 24
    strip = Image.new("RGB", (_WIDTH, top + 24 if names else 1), PAPER)
    for number, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        ImageDraw.Draw(strip).line((x, y + 12, x + 20, y + 12), _COLOURS[number % len(_COLOURS)], 3)
        write(strip, name, (x + 30, y + 17), 14, INK, "ls")
    return np.asarray(strip)
