"""Line charts as PNG, drawn with Pillow."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from simile.images.encoding import encode_png
from simile.images.rendering.sheets import RULE_COLOUR
from simile.images.rendering.text import MUTED_COLOUR, PAPER_COLOUR, TEXT_COLOUR, draw_legend, draw_text

ChartSeries = dict[str, list[tuple[float, float]]]
AxisRange = tuple[float, float]

# Okabe and Ito's colours, distinguishable with any kind of colour vision (https://jfly.uni-koeln.de/color/).
_SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")
_CHART_WIDTH, _CHART_HEIGHT = 880, 500
_FRAME_LEFT, _FRAME_TOP, _FRAME_RIGHT, _FRAME_BOTTOM = 92, 100, 848, 424  # the plot area
_TITLE_HEIGHT = 58  # the legend is inserted below the title
_CHART_SUPERSAMPLING = 3  # lines are drawn three times as large, then reduced, to be smooth


def draw_line_chart(series: ChartSeries, *, title: str, x_label: str, y_label: str) -> bytes:
    """Draw (x, y) points by name as lines, as PNG; a value that is not finite leaves a gap.

    The y axis excludes the few values that are far from all others (a first epoch, a spike); a note counts them.
    """
    # Choose the ranges of the axes.
    points = [point for line in series.values() for point in line if np.isfinite(point).all()]
    x_range = _widen_range(min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0))
    y_range, hidden_count = _compute_robust_range([y for _, y in points])
    # Draw the axes, the lines and the texts.
    canvas = Image.new("RGB", (_CHART_WIDTH, _CHART_HEIGHT), PAPER_COLOUR)
    draw_text(canvas, title, (_FRAME_LEFT, 24), 20, TEXT_COLOUR)
    _draw_axes(canvas, x_range, y_range)
    _draw_lines(canvas, series, x_range, y_range)
    draw_text(canvas, x_label, ((_FRAME_LEFT + _FRAME_RIGHT) // 2, _FRAME_BOTTOM + 36), 14, MUTED_COLOUR, "ma")
    note = f"  ({hidden_count} of {len(points)} values are outside)" if hidden_count else ""
    draw_text(canvas, y_label + note, (_FRAME_LEFT, _FRAME_TOP - 14), 14, MUTED_COLOUR, "ls")
    # Insert the legend, whose height depends on the series, below the title.
    entries = [(name, _SERIES_COLOURS[number % len(_SERIES_COLOURS)]) for number, name in enumerate(series)]
    chart, legend = np.asarray(canvas), np.asarray(draw_legend(entries, _CHART_WIDTH, _FRAME_LEFT))
    return encode_png(np.concatenate([chart[:_TITLE_HEIGHT], legend, chart[_TITLE_HEIGHT:]]))


def compute_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten) in [low, high]."""
    rough_step = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough_step * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def _compute_robust_range(values: list[float]) -> tuple[AxisRange, int]:
    """Return the range to show and the number of values outside it.

    It contains all values, unless the 10th to 90th percentile would get less than a third of the height.
    """
    if not values:
        return (0.0, 1.0), 0
    low, high = min(values), max(values)
    core_low, core_high = (float(x) for x in np.percentile(values, [10, 90]))
    if core_high > core_low and high - low > 3 * (core_high - core_low):
        room = 0.5 * (core_high - core_low)
        low, high = max(low, core_low - room), min(high, core_high + room)
    hidden_count = sum(not low <= value <= high for value in values)
    low, high = _widen_range(low, high)
    return (low - 0.04 * (high - low), high + 0.04 * (high - low)), hidden_count


def _widen_range(low: float, high: float) -> AxisRange:
    """Return a range of positive width: a single value is in its middle."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = 0.5 * max(abs(low), 1.0)
    return low - half, high + half


def _to_chart_pixel(value: float, axis_range: AxisRange, start: int, end: int) -> float:
    """Map a value on an axis to a pixel between `start` and `end`."""
    return start + (value - axis_range[0]) / (axis_range[1] - axis_range[0]) * (end - start)


def _draw_axes(canvas: Image.Image, x_range: AxisRange, y_range: AxisRange) -> None:
    """Draw grid lines, ticks and their numbers."""
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


def _draw_lines(canvas: Image.Image, series: ChartSeries, x_range: AxisRange, y_range: AxisRange) -> None:
    """Draw the lines, each cut off at the frame; a single point is a dot."""
    scale, left, top = _CHART_SUPERSAMPLING, _FRAME_LEFT - 6, _FRAME_TOP - 6
    frame = canvas.crop((left, top, _FRAME_RIGHT + 6, _FRAME_BOTTOM + 6))
    large = frame.resize((frame.width * scale, frame.height * scale))
    draw = ImageDraw.Draw(large)
    for number, line in enumerate(series.values()):
        colour = _SERIES_COLOURS[number % len(_SERIES_COLOURS)]
        for run in _split_runs(line):
            dots = [
                (
                    (_to_chart_pixel(x, x_range, _FRAME_LEFT, _FRAME_RIGHT) - left) * scale,
                    (_to_chart_pixel(y, y_range, _FRAME_BOTTOM, _FRAME_TOP) - top) * scale,
                )
                for x, y in run
            ]
            draw.line(dots, colour, 2 * scale, joint="curve")
            if len(dots) == 1:
                draw.circle(dots[0], 4 * scale, colour)
    canvas.paste(large.resize(frame.size, Image.Resampling.LANCZOS), (left, top))


def _split_runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split a line at the points that are not finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if np.isfinite(point).all():
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
