"""A line chart as a PNG, drawn with Pillow alone: enough for a training report."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.sheets import MUTED_COLOUR, PAPER_COLOUR, RULE_COLOUR, TEXT_COLOUR, draw_text
from simile.images.rendering.text import choose_font

ChartSeries = dict[str, list[tuple[float, float]]]
AxisRange = tuple[float, float]

# Okabe and Ito's colours, told apart with any kind of colour vision (https://jfly.uni-koeln.de/color/).
_SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")
_CHART_WIDTH, _CHART_HEIGHT = 880, 500
_FRAME_LEFT, _FRAME_TOP, _FRAME_RIGHT, _FRAME_BOTTOM = 92, 100, 848, 424  # the frame that the lines stand in
_TITLE_HEIGHT = 58  # the title's height; the legend is put in beneath it
_CHART_SUPERSAMPLING = 3  # drawn three times as large, then reduced: smooth lines


def draw_line_chart(series: ChartSeries, *, title: str, x_label: str, y_label: str) -> bytes:
    """PNG of one line for each name in `series`, a list of (x, y); values that are not finite leave a gap.

    The y axis leaves out the few values far from all others (a first epoch, a spike), and the chart says so.
    """
    points = [point for line in series.values() for point in line if np.isfinite(point).all()]
    across = _widen_range(min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0))
    up, hidden = _compute_robust_range([y for _, y in points])
    canvas = Image.new("RGB", (_CHART_WIDTH, _CHART_HEIGHT), PAPER_COLOUR)
    draw_text(canvas, title, (_FRAME_LEFT, 24), 20, TEXT_COLOUR)
    _draw_axes(canvas, across, up)
    canvas = _draw_lines(canvas, series, across, up)
    draw_text(canvas, x_label, ((_FRAME_LEFT + _FRAME_RIGHT) // 2, _FRAME_BOTTOM + 36), 14, MUTED_COLOUR, "ma")
    note = f"  ({hidden} of {len(points)} values lie outside)" if hidden else ""
    draw_text(canvas, y_label + note, (_FRAME_LEFT, _FRAME_TOP - 14), 14, MUTED_COLOUR, "ls")
    sheet = np.asarray(canvas)
    return encode_png(np.concatenate([sheet[:_TITLE_HEIGHT], _draw_chart_legend(list(series)), sheet[_TITLE_HEIGHT:]]))


def compute_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in [low, high], some `about` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def _compute_robust_range(values: list[float]) -> tuple[AxisRange, int]:
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
    low, high = _widen_range(low, high)
    return (low - 0.04 * (high - low), high + 0.04 * (high - low)), hidden


def _widen_range(low: float, high: float) -> AxisRange:
    """A range of some width: one point, or a constant line, stands in its middle."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = 0.5 * max(abs(low), 1.0)
    return low - half, high + half


def _to_chart_pixel(value: float, axis_range: AxisRange, start: int, end: int) -> float:
    return start + (value - axis_range[0]) / (axis_range[1] - axis_range[0]) * (end - start)


def _draw_axes(canvas: Image.Image, x_range: AxisRange, y_range: AxisRange) -> None:
    draw = ImageDraw.Draw(canvas)
    for value in compute_ticks(*y_range):
        y = round(_to_chart_pixel(value, y_range, _FRAME_BOTTOM, _FRAME_TOP))
        draw.line((_FRAME_LEFT, y, _FRAME_RIGHT, y), RULE_COLOUR)
        draw_text(canvas, f"{value:.4g}", (_FRAME_LEFT - 10, y), 13, MUTED_COLOUR, "rm")
    for value in compute_ticks(*x_range, count=8):
        x = round(_to_chart_pixel(value, x_range, _FRAME_LEFT, _FRAME_RIGHT))
        draw.line((x, _FRAME_BOTTOM, x, _FRAME_BOTTOM + 5), MUTED_COLOUR)
        draw_text(canvas, f"{value:.4g}", (x, _FRAME_BOTTOM + 10), 13, MUTED_COLOUR, "ma")
    draw.line((_FRAME_LEFT, _FRAME_BOTTOM, _FRAME_RIGHT, _FRAME_BOTTOM), MUTED_COLOUR)


def _draw_lines(canvas: Image.Image, series: ChartSeries, x_range: AxisRange, y_range: AxisRange) -> Image.Image:
    """The canvas with the lines drawn, each cut off at the frame."""
    box = (_FRAME_LEFT - 6, _FRAME_TOP - 6, _FRAME_RIGHT + 6, _FRAME_BOTTOM + 6)
    frame = canvas.crop(box).resize(
        ((box[2] - box[0]) * _CHART_SUPERSAMPLING, (box[3] - box[1]) * _CHART_SUPERSAMPLING)
    )
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(series.values()):
        colour = _SERIES_COLOURS[number % len(_SERIES_COLOURS)]
        for run in _split_runs(line):
            dots = [
                (
                    (_to_chart_pixel(x, x_range, _FRAME_LEFT, _FRAME_RIGHT) - box[0]) * _CHART_SUPERSAMPLING,
                    (_to_chart_pixel(y, y_range, _FRAME_BOTTOM, _FRAME_TOP) - box[1]) * _CHART_SUPERSAMPLING,
                )
                for x, y in run
            ]
            draw.line(dots, colour, 2 * _CHART_SUPERSAMPLING, joint="curve")
            for dot in dots if len(dots) == 1 else ():
                draw.circle(dot, 4 * _CHART_SUPERSAMPLING, colour)
    canvas.paste(frame.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
    return canvas


def _split_runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """A line in its unbroken runs: values that are not finite leave a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if np.isfinite(point).all():
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _draw_chart_legend(names: list[str]) -> NDArray[np.uint8]:
    """Names beside their colours, from left to right, on as many lines as they need."""
    places, left, top = [], _FRAME_LEFT, 0
    for name in names:
        line, font = choose_font(name, 14)
        width = 30 + round(font.getlength(line))
        if left > _FRAME_LEFT and left + width > _FRAME_RIGHT:
            left, top = _FRAME_LEFT, top + 24
        places.append((left, top))
        left += width + 24
    strip = Image.new("RGB", (_CHART_WIDTH, top + 24 if names else 1), PAPER_COLOUR)
    for number, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        ImageDraw.Draw(strip).line((x, y + 12, x + 20, y + 12), _SERIES_COLOURS[number % len(_SERIES_COLOURS)], 3)
        draw_text(strip, name, (x + 30, y + 17), 14, TEXT_COLOUR, "ls")
    return np.asarray(strip)
