"""Issues of images: the measure of each, and its limits in a collection.

The limits are robust statistics of the collection between absolute bounds: a collection of night photos must not make
each of them dark, and one of blurred photos not hide them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simile.core.records import Float64Array

DEVIATIONS = 3.0  # robust standard deviations from the median: 0.13 % of a normal distribution are beyond
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution / median absolute deviation
MIN_IMAGES = 30  # fewer images have no statistics
UNUSABLE_PROFILE = "unusable"


class Bounds(NamedTuple):
    """A limit is between these."""

    always: float  # a value beyond has the issue in every collection
    never: float  # a value before has it in none


class IssueLimits(NamedTuple):
    """Values below the one or above the other have an issue; None: no such limit."""

    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Issue:
    """A fault of images.

    Attributes:
        measure: The value that is compared: a column of the table, `pixels` or `aspect`.
        description: For people.
        low, high: Bounds of the limits on each side; None: no limit.
        is_ratio: Whether the logarithms of the values are compared: for measures with ratios that mean something.
        min_ratio: How many times the median a limit is away from it, at least.
        text: The text that the measure has, instead of limits.
    """

    measure: str
    description: str
    low: Bounds | None = None
    high: Bounds | None = None
    is_ratio: bool = False
    min_ratio: float = 1.0
    text: str | None = None

    def compute_limits(self, values: Float64Array) -> IssueLimits:
        """Return the limits in a collection with these values (n,); NaN: not measured."""
        known = values[np.isfinite(values)]
        return IssueLimits(self._compute_limit(known, self.low, -1), self._compute_limit(known, self.high, 1))

    def _compute_limit(self, values: Float64Array, bounds: Bounds | None, direction: int) -> float | None:
        if bounds is None:
            return None
        limit = bounds.always
        if len(values) >= MIN_IMAGES:
            scaled = np.log(np.maximum(values, 1e-9)) if self.is_ratio else values
            median = np.median(scaled)
            spread = DEVIATIONS * NORMAL_MAD * np.median(np.abs(scaled - median))
            away = median + direction * max(spread, math.log(self.min_ratio))
            limit = float(np.clip(np.exp(away) if self.is_ratio else away, min(bounds), max(bounds)))
        return limit if math.isfinite(limit) else None


ISSUES: dict[str, Issue] = {
    "blurred": Issue(
        measure="sharpness",
        description="nothing in it is sharp",
        low=Bounds(always=0.3, never=0.5),
        is_ratio=True,
    ),
    "dark": Issue(
        measure="brightness_p99",
        description="even its brightest parts are dark",
        low=Bounds(always=0.2, never=0.4),
    ),
    "bright": Issue(
        measure="brightness_p5",
        description="even its darkest parts are bright",
        high=Bounds(always=0.95, never=0.75),
    ),
    "low-contrast": Issue(
        measure="contrast",
        description="its parts hardly differ in brightness and colour",
        low=Bounds(always=0.03, never=0.06),
        is_ratio=True,
    ),
    "flat": Issue(
        measure="contrast",
        description="it has one colour, and no content",
        low=Bounds(always=0.012, never=0.012),
    ),
    "odd-size": Issue(
        measure="pixels",
        description="it has far fewer or far more pixels than the others",
        low=Bounds(always=0.0, never=math.inf),
        high=Bounds(always=math.inf, never=0.0),
        is_ratio=True,
        min_ratio=4.0,
    ),
    "odd-aspect": Issue(
        measure="aspect",
        description="it is far longer than wide, unlike the others",
        high=Bounds(always=6.0, never=2.5),
        is_ratio=True,
    ),
    "wrong-profile": Issue(
        measure="profile",
        description="its colour profile is damaged, or for other pixels",
        text=UNUSABLE_PROFILE,
    ),
}
