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
from simile.store.index.flat import Distances, Ids, Neighbours, sort_by_distance
from simile.store.index.metric import make_index_vectors

INITIAL_CANDIDATES = 32  # neighbours of the mean, at first
CANDIDATE_GROWTH = 4
POSTERIOR_CHUNK_SIZE = 4096  # whose posteriors are in memory together

SigmaDistances = Callable[[Ids], Distances]  # |sigma1 - sigma2|² of these ids, NaN for what is gone


class MetricDescription(Protocol):
    """What an encoder says of how its vectors are compared."""

    @property
    def index_dims(self) -> Any: ...

    @property
    def metric(self) -> str: ...


def to_indexed_sigma(mu: FloatArray, sigma: FloatArray, encoder: MetricDescription) -> FloatArray:
    """sigma (n, d') over what is compared, of mu, sigma (n, d); for `cosine` both are divided by the length of mu."""
    spread = make_index_vectors(sigma, encoder.index_dims, "l2")
    if encoder.metric != "cosine":
        return spread
    length = np.linalg.norm(make_index_vectors(mu, encoder.index_dims, "l2"), axis=1, keepdims=True)
    scaled: FloatArray = (spread / np.where(length == 0, 1, length)).astype(np.float32)
    return scaled


def find_nearest_posteriors(
    count: int, find_nearest_means: Callable[[int], Neighbours], sigma_distances: SigmaDistances
) -> Neighbours:
    """The `count` nearest posteriors: ids and distances W, ascending.

    nearest_means: so many neighbours of the query's mean, ascending, fewer if there are fewer. With an approximate
    index, what that misses is missed here too.
    """
    fetched = max(2 * count, INITIAL_CANDIDATES)
    while True:
        ids, distances = find_nearest_means(fetched)
        found_ids, found = filter_posteriors(ids, distances, sigma_distances, np.inf)
        found_ids, found = found_ids[:count], found[:count]
        if len(ids) < fetched or (len(found) == count and found[-1] <= distances[-1]):
            return found_ids, found
        fetched *= CANDIDATE_GROWTH


def filter_posteriors(ids: Ids, distances: Distances, sigma_distances: SigmaDistances, radius: float) -> Neighbours:
    """Of ids (n,) at distances (n,) of their means those whose W is at most `within`, with W, ascending."""
    apart = np.sqrt(np.square(distances) + sigma_distances(ids))
    kept = apart <= radius  # NaN is not
    return sort_by_distance(ids[kept], apart[kept])


def make_sigma_distances(
    mu: FloatArray, sigma: FloatArray, catalogue: Catalogue, encoder: EncoderRecord
) -> SigmaDistances:
    """|sigma1 - sigma2|² of indexed images from a query's mu, sigma (d,); each is read once."""
    asked = to_indexed_sigma(mu[None], sigma[None], encoder)[0].astype(np.float64)
    known: dict[int, float] = {}

    def apart(ids: Ids) -> Distances:
        missing = [one for one in ids.tolist() if one not in known]
        for start in range(0, len(missing), POSTERIOR_CHUNK_SIZE):
            part = missing[start : start + POSTERIOR_CHUNK_SIZE]
            known.update(dict.fromkeys(part, float("nan")))
            rows = {
                one: (found.mu, np.exp(0.5 * found.log_variance))
                for one, found in catalogue.embeddings.get_many(part, encoder.fingerprint).items()
                if found.log_variance is not None
            }
            if rows:
                mus, sigmas = (np.stack(column) for column in zip(*rows.values(), strict=True))
                gaps = np.square(to_indexed_sigma(mus, sigmas, encoder) - asked).sum(axis=1)
                known.update(zip(rows, gaps.tolist(), strict=True))
        return np.array([known[one] for one in ids.tolist()], np.float64)

    return apart


Float64Array = NDArray[np.float64]


def compute_mean_sigma(sigma: FloatArray | None, encoder: EncoderRecord) -> float | None:
    """The mean of sigma (d,) over the dimensions that are indexed; None without one."""
    return None if sigma is None else float(make_index_vectors(sigma[None], encoder.index_dims, "l2").mean())


def compute_distance_spreads(
    mu: FloatArray, sigma: FloatArray, vectors: FloatArray, encoder: EncoderRecord
) -> Float64Array:
    """The standard deviation (n,) of the distance between x ~ N(mu, diag(sigma²)), both (n, d), and `vectors` (n, d').

    The delta method on the squared distance D, whose moments are known (Mathai and Provost, Quadratic Forms in Random
    Variables, 3.2b): with offset δ and covariance C, E D = δᵀδ + tr C and Var D = 4 δᵀCδ + 2 tr C². So it holds at
    distance 0 as well, where the distance itself has no derivative. For `cosine`, C is that of x / |x|, linearised.
    """
    x, variance = (make_index_vectors(rows, encoder.index_dims, "l2").astype(np.float64) for rows in (mu, sigma))
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
    spread: Float64Array = np.sqrt((4 * along + 2 * squared) / np.where(mean > 0, 4 * mean, 1))
    return spread
