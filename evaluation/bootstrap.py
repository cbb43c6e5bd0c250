"""How far a figure would move with other pictures: the bootstrap, with the same draws for every row of the ladder.

Because the draws are shared, the difference of two rows has an error of its own, which is smaller than either's:
both rows stumble over the same hard queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

BOOTSTRAP_DRAWS = 200
MIN_LEAD_STANDARD_ERRORS = 2.0  # standard errors that a lead must have before it is called one


def make_bootstrap_weights(count: int, seed: int) -> Float64Array:
    """How often each of `count` units is drawn, (DRAWS, count): units drawn with replacement, as many as there are."""
    share = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, share, BOOTSTRAP_DRAWS).astype(np.float64)


def compute_bootstrap_means(values: Float64Array, weights: Float64Array) -> Float64Array:
    """The mean of values (n,) under each draw (b, n), (b,); values that are NaN count for nothing."""
    known = np.isfinite(values)
    totals: Float64Array = weights[:, known] @ values[known]
    found: Float64Array = totals / np.maximum(weights[:, known].sum(1), 1)
    return found


def is_significant_lead(better: Float64Array, worse: Float64Array, gap: float) -> bool:
    """Whether a lead of `gap` is beyond chance, by the two rows' figures under the same draws."""
    return gap > MIN_LEAD_STANDARD_ERRORS * float(np.std(better - worse))
