"""Bootstrap estimates of how much a metric depends on the chosen images; all methods use the same draws.

With shared draws the difference of two methods has a smaller error than each of them, because both have difficulty
with the same queries.
"""

from __future__ import annotations

import numpy as np

from simile.core.records import Float64Array

BOOTSTRAP_DRAWS = 200
MIN_LEAD_STANDARD_ERRORS = 2.0  # a smaller difference is not significant


def make_bootstrap_weights(count: int, seed: int) -> Float64Array:
    """Draw `count` units with replacement; return how often each was drawn, (BOOTSTRAP_DRAWS, count)."""
    share = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, share, BOOTSTRAP_DRAWS).astype(np.float64)


def compute_bootstrap_means(values: Float64Array, weights: Float64Array) -> Float64Array:
    """Compute the mean of values (n,) for each draw (b, n), (b,); NaN values are ignored."""
    is_known = np.isfinite(values)
    totals: Float64Array = weights[:, is_known] @ values[is_known]
    means: Float64Array = totals / np.maximum(weights[:, is_known].sum(1), 1)
    return means


def is_significant_lead(better: Float64Array, worse: Float64Array, gap: float) -> bool:
    """Tell whether a difference of `gap` is significant, from the values of both methods for the same draws."""
    return gap > MIN_LEAD_STANDARD_ERRORS * float(np.std(better - worse))
