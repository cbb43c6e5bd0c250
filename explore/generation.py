"""New pictures: latents drawn from the prior, from a mixture fitted to the collection, or around one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from core.errors import BadSetting, TooFewPictures
from core.records import FloatArray
from explore.aggregate import aggregate_of, no_variance
from explore.mixture_files import Mixture, load_mixture, save_mixture, stand_of
from explore.parts import check_decoder, decoded, places_of
from models.preprocessing import Pixels
from search.searcher import Searcher

MOST = 10_000  # pictures that a mixture is fitted to, always the same of a collection
COMPONENTS = (1, 2, 5, 10, 20)  # tried, the best by the Bayesian information criterion is taken
FEWEST = 50  # pictures
SOURCES = ("prior", "mixture")

Source = str | Path | int  # one of SOURCES, or a picture


@dataclass(frozen=True, eq=False)
class Generated:
    """latents: (n, d); pictures: (n, h, w, 3) uint8."""

    latents: FloatArray
    pictures: Pixels


def generate(
    searcher: Searcher, source: Source = "prior", count: int = 16, temperature: float = 1.0, seed: int = 0
) -> Generated:
    """`count` pictures that were never taken; the same for the same seed. A path or an id: around that picture.

    Raises NoDecoder, NoVariance, BadSetting, TooFewPictures, UnreadableImage, NoSuchImage.
    """
    if not 0 <= temperature < np.inf:
        raise BadSetting(f"temperature can't be {temperature}. Give a number from 0 on; 1 leaves the spread as it is.")
    check_decoder(searcher, "nothing can be generated")
    encoder = searcher.encoder()
    _, _, height, width = encoder.preprocessing.content_box()
    if isinstance(source, str):
        if source not in SOURCES:
            raise BadSetting(f"from can't be {source!r}. Use prior, mixture, a picture or --id.")
        draw = from_prior if source == "prior" else from_mixture
        latents = draw(searcher, count, temperature, seed)
    else:
        (place,) = places_of(searcher, [source])
        latents = around(searcher, place.mu, place.sigma, count, temperature, seed)
        width, height = place.width, place.height
    return Generated(latents, decoded(searcher, latents, width, height))


def from_prior(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """z (n, d) from N(0, temperature² I), what a VAE's decoder was trained towards. Raises NoVariance, NoDecoder."""
    encoder = searcher.encoder()
    if not encoder.has_variance:
        raise no_variance(encoder.fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, encoder.latent_dim))
    return (temperature * noise).astype(np.float32)


def from_mixture(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """z (n, d) from a Gaussian mixture over the aggregate posterior. Needs no σ; raises TooFewPictures."""
    return mixture_of(searcher).draw(count, temperature, seed)


def mixture_of(searcher: Searcher) -> Mixture:
    """Fitted to μ; the mean σ² is added to each component's variance, as q(z) is a mixture of the pictures' posteriors.

    Fitted once, and kept in HOME/measures until the collection is another. Raises TooFewPictures, NothingIndexed.
    """
    stand = stand_of(searcher)
    kept = None if stand is None or stand.images < FEWEST else load_mixture(searcher, stand)
    if kept is not None:
        return kept
    made = _fitted(searcher)
    if stand is not None:
        save_mixture(searcher, stand, made)
    return made


def _fitted(searcher: Searcher) -> Mixture:
    everything = aggregate_of(searcher).chosen(MOST, 0)
    if len(everything) < FEWEST:
        raise TooFewPictures(f"A mixture over {len(everything)} pictures says nothing: index at least {FEWEST}.")
    best = fit(everything.mu.astype(np.float64), 0)
    blur = 0.0 if everything.sigma is None else np.square(everything.sigma.astype(np.float64)).mean(axis=0)
    roots = [np.linalg.cholesky(one + np.diag(np.broadcast_to(blur, len(one)))) for one in best.covariances_]
    return Mixture(best.weights_ / best.weights_.sum(), best.means_, np.stack(roots))


def fit(mu: NDArray[np.float64], seed: int) -> GaussianMixture:
    """The mixture with full covariances that the Bayesian information criterion likes best."""
    tried = []
    for count in COMPONENTS:
        if count > 1 and len(mu) < count * mu.shape[1]:  # fewer pictures than a component has directions
            break
        mixture = GaussianMixture(count, reg_covar=1e-4, max_iter=50, tol=1e-2, random_state=seed)
        tried.append(mixture.fit(mu))
    return min(tried, key=lambda mixture: mixture.bic(mu))


def around(
    searcher: Searcher, mu: FloatArray, sigma: FloatArray | None, count: int, temperature: float, seed: int
) -> FloatArray:
    """z (n, d) from a picture's own posterior, its σ scaled; mu, sigma: (d,). Raises NoVariance."""
    if sigma is None:
        raise no_variance(searcher.encoder().fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, len(mu)))
    return (mu + temperature * sigma * noise).astype(np.float32)
