"""The calibration as lines of a small drawing: precision and recall by distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dedup.records import Calibration, CurvePoint

WIDTH, HEIGHT = 400, 96  # of the drawing's own units
_STEPS = 200  # places of the slider
_POINTS = 200  # of a line: more can't be told apart


@dataclass(frozen=True)
class Curve:
    """precision, recall: points of an SVG polyline. at: where the threshold stands. largest, step: of the slider."""

    precision: str
    recall: str
    at: float
    largest: float
    step: float
    here: CurvePoint | None


def curve_of(calibration: Calibration, threshold: float) -> Curve | None:
    """None where nothing was measured."""
    points = sorted(calibration.curve, key=lambda point: point.distance)
    if len(points) < 2 or points[-1].distance <= 0:
        return None
    largest = max(points[-1].distance, threshold)
    shown = points[:: max(1, len(points) // _POINTS)]

    def line(value: Callable[[CurvePoint], float]) -> str:
        return " ".join(f"{WIDTH * p.distance / largest:.1f},{HEIGHT * (1 - value(p)):.1f}" for p in shown)

    reached = [point for point in points if point.distance <= threshold]
    return Curve(
        precision=line(lambda point: point.precision),
        recall=line(lambda point: point.recall),
        at=round(WIDTH * threshold / largest, 1),
        largest=largest,
        step=largest / _STEPS,
        here=reached[-1] if reached else None,
    )
