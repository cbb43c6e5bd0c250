"""Neighbours by how far whole posteriors lie apart: N(mu, diag(sigma²)) against another, not mu against mu alone.

The 2-Wasserstein distance between two such distributions is W² = |mu1 - mu2|² + |sigma1 - sigma2|² (Dowson and Landau
1982), which is the Euclidean distance over [mu, sigma]. It is never below that of the means, so the means' own index
finds it: more of their neighbours are fetched until none that was left out could be nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simile.core.records import FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import EncoderRecord
from simile.store.index.flat import Distances, Ids, Neighbours, nearest_first
from simile.store.index.metric import to_indexed

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


Doubles = NDArray[np.float64]


def mean_sigma(sigma: FloatArray | None, encoder: EncoderRecord) -> float | None:
    """The mean of sigma (d,) over the dimensions that are indexed; None without one."""
    return None if sigma is None else float(to_indexed(sigma[None], encoder.index_dims, "l2").mean())


def spreads(mu: FloatArray, sigma: FloatArray, vectors: FloatArray, encoder: EncoderRecord) -> Doubles:
    """The standard deviation (n,) of the distance between x ~ N(mu, diag(sigma²)), both (n, d), and `vectors` (n, d').

    The delta method on the squared distance D, whose moments are known (Mathai and Provost, Quadratic Forms in Random
    Variables, 3.2b): with offset δ and covariance C, E D = δᵀδ + tr C and Var D = 4 δᵀCδ + 2 tr C². So it holds at
    distance 0 as well, where the distance itself has no derivative. For `cosine`, C is that of x / |x|, linearised.
    """
    x, variance = (to_indexed(rows, encoder.index_dims, "l2").astype(np.float64) for rows in (mu, sigma))
    variance **= 2
    if encoder.metric != "cosine":
        offsets = across = vectors - x  # (n, d')
        trace, squared = variance.sum(axis=1), np.square(variance).sum(axis=1)
    else:
        length = np.linalg.norm(x, axis=1, keepdims=True)
        length[length == 0] = 1  # zero stays zero: see to_indexed
        x /= length
        variance /= length**2
        offsets = vectors - x
        # The part at right angles to x: x / |x| does not move along x.
        across = offsets - np.einsum("nd,nd->n", offsets, x)[:, None] * x
        share = np.square(x) * variance
        along_x = share.sum(axis=1)
        trace = variance.sum(axis=1) - along_x
        squared = np.square(variance).sum(axis=1) - 2 * (share * variance).sum(axis=1) + along_x**2
    along = np.einsum("nd,nd->n", np.square(across), variance)
    mean = np.square(offsets).sum(axis=1) + trace
    spread: Doubles = np.sqrt((4 * along + 2 * squared) / np.where(mean > 0, 4 * mean, 1))
    return spread
