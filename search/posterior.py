"""Compare whole posteriors N(mu, diag(sigma²)), not only their means.

The 2-Wasserstein distance between two of them is W² = |mu1 - mu2|² + |sigma1 - sigma2|² (Dowson and Landau 1982), the
Euclidean distance over [mu, sigma]. It is never below the distance of the means. So the index of the means can find the
nearest posteriors: it returns more and more neighbours until no other image can be nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from simile.core.records import Float64Array, FloatArray
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import EncoderRecord
from simile.store.index.flat import Distances, Ids, Neighbours, sort_by_distance
from simile.store.index.metric import make_index_vectors

if TYPE_CHECKING:  # imports torch
    from simile.models.inference.encoder import TrainedEncoder

INITIAL_CANDIDATES = 32  # neighbours of the mean in the first index search
CANDIDATE_GROWTH = 4
POSTERIOR_CHUNK_SIZE = 4096  # images whose posteriors are in memory at once

SigmaDistances = Callable[[Ids], Distances]  # |sigma1 - sigma2|² for ids (n,), NaN for a deleted image


def to_indexed_sigma(mu: FloatArray, sigma: FloatArray, encoder: EncoderRecord | TrainedEncoder) -> FloatArray:
    """Return sigma over the indexed dimensions, (n, d') from (n, d); for `cosine` divided by the length of mu."""
    indexed_sigma = make_index_vectors(sigma, encoder.index_dims, "l2")
    if encoder.metric != "cosine":
        return indexed_sigma
    length = np.linalg.norm(make_index_vectors(mu, encoder.index_dims, "l2"), axis=1, keepdims=True)
    scaled: FloatArray = (indexed_sigma / np.where(length == 0, 1, length)).astype(np.float32)
    return scaled


def find_nearest_posteriors(
    count: int, find_nearest_means: Callable[[int], Neighbours], sigma_distances: SigmaDistances
) -> Neighbours:
    """Find the nearest posteriors: ids and distances W, ascending. An approximate index may miss some.

    `find_nearest_means` returns so many neighbours of the query's mean, ascending; fewer if there are fewer.
    """
    candidate_count = max(2 * count, INITIAL_CANDIDATES)
    while True:
        ids, mean_distances = find_nearest_means(candidate_count)
        sorted_ids, distances = filter_posteriors(ids, mean_distances, sigma_distances, np.inf)
        is_complete = len(ids) < candidate_count
        # Images that were not fetched are farther than the last mean distance.
        if is_complete or (len(distances) >= count and distances[count - 1] <= mean_distances[-1]):
            return sorted_ids[:count], distances[:count]
        candidate_count *= CANDIDATE_GROWTH


def filter_posteriors(ids: Ids, distances: Distances, sigma_distances: SigmaDistances, radius: float) -> Neighbours:
    """Return the ids (n,) with W within the radius and their W, ascending; `distances` (n,) are those of the means."""
    posterior_distances = np.sqrt(np.square(distances) + sigma_distances(ids))
    is_within = posterior_distances <= radius  # false for NaN
    return sort_by_distance(ids[is_within], posterior_distances[is_within])


def make_sigma_distances(
    mu: FloatArray, sigma: FloatArray, catalogue: Catalogue, encoder: EncoderRecord
) -> SigmaDistances:
    """Return a function that computes |sigma1 - sigma2|² between a query (d,) and indexed images; each is read once."""
    query_sigma = to_indexed_sigma(mu[None], sigma[None], encoder)[0].astype(np.float64)
    known: dict[int, float] = {}

    def compute_distances(ids: Ids) -> Distances:
        missing = [image_id for image_id in ids.tolist() if image_id not in known]
        for start in range(0, len(missing), POSTERIOR_CHUNK_SIZE):
            chunk = missing[start : start + POSTERIOR_CHUNK_SIZE]
            known.update(dict.fromkeys(chunk, float("nan")))
            posteriors = {
                image_id: (embedding.mu, np.exp(0.5 * embedding.log_variance))
                for image_id, embedding in catalogue.embeddings.get_many(chunk, encoder.fingerprint).items()
                if embedding.log_variance is not None
            }
            if posteriors:
                mus, sigmas = (np.stack(column) for column in zip(*posteriors.values(), strict=True))
                distances = np.square(to_indexed_sigma(mus, sigmas, encoder) - query_sigma).sum(axis=1)
                known.update(zip(posteriors, distances.tolist(), strict=True))
        return np.array([known[image_id] for image_id in ids.tolist()], np.float64)

    return compute_distances


def compute_mean_sigma(sigma: FloatArray | None, encoder: EncoderRecord) -> float | None:
    """Return the mean of sigma (d,) over the indexed dimensions; None if sigma is None."""
    return None if sigma is None else float(make_index_vectors(sigma[None], encoder.index_dims, "l2").mean())


def compute_distance_spreads(
    mu: FloatArray, sigma: FloatArray, vectors: FloatArray, encoder: EncoderRecord
) -> Float64Array:
    """Compute the standard deviation of the distance between x ~ N(mu, diag(sigma²)) and a vector, for n pairs.

    The delta method is applied to the squared distance D, whose moments are known (Mathai and Provost, Quadratic Forms
    in Random Variables, 3.2b): with offset δ and covariance C, E D = δᵀδ + tr C and Var D = 4 δᵀCδ + 2 tr C². This
    works at distance 0 too, where the distance itself has no derivative. For `cosine`, C is the linearised covariance
    of x / |x|.

    Args:
        mu: (n, d), like `sigma`.
        vectors: (n, d') as indexed.
    """
    x, variance = (make_index_vectors(rows, encoder.index_dims, "l2").astype(np.float64) for rows in (mu, sigma))
    variance **= 2
    if encoder.metric != "cosine":
        offsets = orthogonal = vectors - x  # (n, d')
        trace, squared = variance.sum(axis=1), np.square(variance).sum(axis=1)
    else:
        length = np.linalg.norm(x, axis=1, keepdims=True)
        length[length == 0] = 1  # a zero vector stays zero, as in make_index_vectors
        x /= length
        variance /= length**2
        offsets = vectors - x
        # Only the part orthogonal to x: x / |x| does not change along x.
        orthogonal = offsets - np.einsum("nd,nd->n", offsets, x)[:, None] * x
        share = np.square(x) * variance
        variance_along_x = share.sum(axis=1)
        trace = variance.sum(axis=1) - variance_along_x
        squared = np.square(variance).sum(axis=1) - 2 * (share * variance).sum(axis=1) + variance_along_x**2
    quadratic_form = np.einsum("nd,nd->n", np.square(orthogonal), variance)
    mean = np.square(offsets).sum(axis=1) + trace
    spread: Float64Array = np.sqrt((4 * quadratic_form + 2 * squared) / np.where(mean > 0, 4 * mean, 1))
    return spread
