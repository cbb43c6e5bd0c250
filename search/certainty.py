"""How sure a distance is, when the encoder says how sure it was of the query: q(z|x) = N(mu, diag(sigma²))."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.records import FloatArray
from store.distances import to_indexed
from store.records import EncoderRecord

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
