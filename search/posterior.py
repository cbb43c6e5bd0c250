"""Neighbours by how far whole posteriors lie apart: N(mu, diag(sigma²)) against another, not mu against mu alone.

The 2-Wasserstein distance between two such distributions is W² = |mu1 - mu2|² + |sigma1 - sigma2|² (Dowson and Landau
1982), which is the Euclidean distance over [mu, sigma]. It is never below that of the means, so the means' own index
finds it: more of their neighbours are fetched until none that was left out could be nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from core.records import FloatArray
from store.catalogue import Catalogue
from store.distances import to_indexed
from store.records import EncoderRecord
from store.vectors import Distances, Ids, Neighbours, nearest_first

FETCHED = 32  # neighbours of the mean, at first
GROWTH = 4
ROWS = 4096  # whose posteriors are in memory together

Within = Callable[[Ids], Distances]  # |sigma1 - sigma2|² of these ids, NaN for what is gone


class Comparing(Protocol):
    """What an encoder says of how its vectors are compared."""

    @property
    def index_dims(self) -> Any: ...

    @property
    def metric(self) -> str: ...


def indexed_sigma(mu: FloatArray, sigma: FloatArray, encoder: Comparing) -> FloatArray:
    """sigma (n, d') over what is compared, of mu, sigma (n, d); for `cosine` both are divided by the length of mu."""
    spread = to_indexed(sigma, encoder.index_dims, "l2")
    if encoder.metric != "cosine":
        return spread
    length = np.linalg.norm(to_indexed(mu, encoder.index_dims, "l2"), axis=1, keepdims=True)
    scaled: FloatArray = (spread / np.where(length == 0, 1, length)).astype(np.float32)
    return scaled


def nearest_posteriors(count: int, nearest_means: Callable[[int], Neighbours], spread_apart: Within) -> Neighbours:
    """The `count` nearest posteriors: ids and distances W, ascending.

    nearest_means: so many neighbours of the query's mean, ascending, fewer if there are fewer. With an approximate
    index, what that misses is missed here too.
    """
    fetched = max(2 * count, FETCHED)
    while True:
        ids, distances = nearest_means(fetched)
        found_ids, found = among_posteriors(ids, distances, spread_apart, np.inf)
        found_ids, found = found_ids[:count], found[:count]
        if len(ids) < fetched or (len(found) == count and found[-1] <= distances[-1]):
            return found_ids, found
        fetched *= GROWTH


def among_posteriors(ids: Ids, distances: Distances, spread_apart: Within, within: float) -> Neighbours:
    """Of ids (n,) at distances (n,) of their means those whose W is at most `within`, with W, ascending."""
    apart = np.sqrt(np.square(distances) + spread_apart(ids))
    kept = apart <= within  # NaN is not
    return nearest_first(ids[kept], apart[kept])


def spread_from(mu: FloatArray, sigma: FloatArray, catalogue: Catalogue, encoder: EncoderRecord) -> Within:
    """|sigma1 - sigma2|² of indexed images from a query's mu, sigma (d,); each is read once."""
    asked = indexed_sigma(mu[None], sigma[None], encoder)[0].astype(np.float64)
    known: dict[int, float] = {}

    def apart(ids: Ids) -> Distances:
        missing = [one for one in ids.tolist() if one not in known]
        for start in range(0, len(missing), ROWS):
            part = missing[start : start + ROWS]
            known.update(dict.fromkeys(part, float("nan")))
            rows = {
                one: (found.mu, np.exp(0.5 * found.log_variance))
                for one, found in catalogue.embeddings(part, encoder.fingerprint).items()
                if found.log_variance is not None
            }
            if rows:
                mus, sigmas = (np.stack(column) for column in zip(*rows.values(), strict=True))
                gaps = np.square(indexed_sigma(mus, sigmas, encoder) - asked).sum(axis=1)
                known.update(zip(rows, gaps.tolist(), strict=True))
        return np.array([known[one] for one in ids.tolist()], np.float64)

    return apart
