"""Diverse results: near the query and unlike each other, by maximal marginal relevance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simile.core.records import Float64Array, FloatArray


def select_diverse(distances: Float64Array, vectors: FloatArray, count: int, diversity: float) -> NDArray[np.int64]:
    """Select candidates one after the other, each near the query and far from those that are selected already.

    Maximal marginal relevance (Carbonell and Goldstein 1998, https://doi.org/10.1145/290941.291025) with λ =
    1 - diversity. Both similarities are 1 - distance, scaled to [0, 1] on the candidates.

    Args:
        distances: From the query to each candidate (n,), ascending.
        vectors: Of the candidates, (n, d).
        count: The largest number of candidates to select.
        diversity: 0: by distance from the query alone, 1: by distance from each other alone, after the nearest.

    Returns:
        Positions of the candidates (m,) in the order of their selection.
    """
    if not len(distances):
        return np.empty(0, np.int64)
    from scipy.spatial.distance import cdist  # takes 0.2 s, which few searches need  # noqa: PLC0415

    pairwise = cdist(vectors, vectors)  # in one thread: several wait for each other on a busy machine
    novelty_by_pair = pairwise / (pairwise.max() or 1.0)
    relevance = 1 - (distances - distances[0]) / ((distances[-1] - distances[0]) or 1.0)
    selected = [0]
    novelty = novelty_by_pair[0].copy()
    is_left = np.ones(len(distances), bool)
    for _ in range(min(count, len(distances)) - 1):
        is_left[selected[-1]] = False
        gains = np.where(is_left, (1 - diversity) * relevance + diversity * novelty, -np.inf)
        selected.append(int(gains.argmax()))
        np.minimum(novelty, novelty_by_pair[selected[-1]], out=novelty)
    return np.array(selected[:count], np.int64)
