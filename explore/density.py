"""How thick a collection lies around each of its pictures: a mixture of Gaussians that strangers have no say in.

Fitted by turns on the nine tenths that it explains best (concentration steps: Rousseeuw and Van Driessen, 1999; for a
mixture: Cuesta-Albertos, Matrán and Mayo-Iscar, 2008), so that neither single strangers nor a small bunch of them bend
it to themselves. A component that holds few pictures does not count: it may be just such a bunch.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from core.records import FloatArray

Doubles = NDArray[np.float64]

COMPONENTS = 3  # with more of them a bunch of strangers gets one of its own
PER_COMPONENT = 10  # pictures for each dimension, below which there are fewer components
TRIMMED = 0.1  # share that has no say
LEAST = 0.03  # of the weights, for a component that counts
ROUNDS = 3
MOST_FITTED = 20_000  # pictures; more make it no better
REGULARISED = 1e-3  # of a dimension's variance


def surprise(mu: FloatArray, sigma: FloatArray | None, seed: int) -> Doubles:
    """-log of the density at each picture of mu (n, d), (n,) in nats but for a constant.

    The pictures' own mean σ² is added to each component's: so the mixture is that of the aggregate posterior, and
    dimensions that say nothing of the pictures say nothing here.
    """
    scale = np.maximum(mu.std(axis=0, dtype=np.float64), 1e-6 * max(float(mu.std()), 1e-12))
    scaled = (mu - mu.mean(axis=0, dtype=np.float64)) / scale  # (n, d) float64
    own = np.zeros(mu.shape[1]) if sigma is None else np.square(sigma, dtype=np.float64).mean(axis=0) / scale**2
    chosen = np.random.default_rng(seed).permutation(len(mu))[:MOST_FITTED]
    fitted_on, kept = scaled[chosen], np.ones(len(chosen), bool)
    for _ in range(ROUNDS):
        mixture = _fitted(fitted_on[kept], seed)
        among = _surprise(fitted_on, mixture, own)
        kept = among <= np.quantile(among, 1 - TRIMMED)
    return _surprise(scaled, mixture, own)


def _fitted(points: Doubles, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  # a second, and only here
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    components = int(np.clip(len(points) // (PER_COMPONENT * points.shape[1]), 1, COMPONENTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next round goes on from better pictures anyhow
        return GaussianMixture(components, reg_covar=REGULARISED, random_state=seed, max_iter=50).fit(points)


def _surprise(points: Doubles, mixture: Any, own: Doubles) -> Doubles:
    counted = mixture.weights_ >= min(LEAST, mixture.weights_.max())
    parts = [
        np.log(weight) + _log_density(points, mean, covariance + np.diag(own))
        for weight, mean, covariance in zip(
            mixture.weights_[counted], mixture.means_[counted], mixture.covariances_[counted], strict=True
        )
    ]
    found: Doubles = -np.logaddexp.reduce(parts, axis=0)
    return found


def _log_density(points: Doubles, mean: Doubles, covariance: Doubles) -> Doubles:
    """log N(points; mean, covariance), (n,), but for the constant."""
    root = np.linalg.cholesky(covariance)
    whitened = solve_triangular(root, (points - mean).T, lower=True)  # (d, n)
    found: Doubles = -0.5 * np.square(whitened).sum(axis=0) - np.log(np.diag(root)).sum()
    return found
