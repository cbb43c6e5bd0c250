"""How far a figure would move with other pictures: the bootstrap, with the same draws for every row of the ladder.

Because the draws are shared, the difference of two rows has an error of its own, which is smaller than either's:
both rows stumble over the same hard queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

DRAWS = 200
CONFIDENCE = 2.0  # standard errors that a lead must have before it is called one


def draws(count: int, seed: int) -> Doubles:
    """How often each of `count` units is drawn, (DRAWS, count): units drawn with replacement, as many as there are."""
    share = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, share, DRAWS).astype(np.float64)


def means(values: Doubles, weights: Doubles) -> Doubles:
    """The mean of values (n,) under each draw (b, n), (b,); values that are NaN count for nothing."""
    known = np.isfinite(values)
    totals: Doubles = weights[:, known] @ values[known]
    found: Doubles = totals / np.maximum(weights[:, known].sum(1), 1)
    return found


def leads(better: Doubles, worse: Doubles, gap: float) -> bool:
    """Whether a lead of `gap` is beyond chance, by the two rows' figures under the same draws."""
    return gap > CONFIDENCE * float(np.std(better - worse))
