"""Sampling: latents drawn from the prior, from a mixture fitted to the collection, or around one image."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays
from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Float64Array, FloatArray
from simile.explore.arrays import save_derived_arrays
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior, make_no_variance_error
from simile.explore.latent.inputs import check_decoder, decode_latents, encode_inputs, get_content_size
from simile.images.formats import Pixels
from simile.search.calibration.calibration import MAX_GROWTH_FACTOR
from simile.search.searcher import Searcher

MAX_MIXTURE_SAMPLES = 10_000  # images that a mixture is fitted to: more take longer and change little
MIXTURE_COMPONENT_COUNTS = (1, 2, 5, 10, 20)  # the best one by the Bayesian information criterion is used
MIN_MIXTURE_IMAGES = 50
SAMPLE_SOURCES = ("prior", "mixture")

SampleSource = str | Path | int  # one of SAMPLE_SOURCES, or an image


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """Generated images (n, h, w, 3) with their latents (n, d)."""

    latents: FloatArray
    images: Pixels


@dataclass(frozen=True, eq=False)
class LatentMixture:
    """A mixture of k Gaussians."""

    weights: Float64Array  # component weights (k,)
    means: Float64Array  # component means (k, d)
    roots: Float64Array  # Cholesky factors (k, d, d) of the component covariances

    def sample(self, count: int, temperature: float, seed: int) -> FloatArray:
        """Draw latents (count, d). The temperature scales the spread of each component, not the means."""
        random = np.random.default_rng(seed)
        components = random.choice(len(self.weights), count, p=self.weights)
        noise = random.standard_normal((count, self.means.shape[1]))
        latents: FloatArray = (
            self.means[components] + temperature * np.einsum("nij,nj->ni", self.roots[components], noise)
        ).astype(np.float32)
        return latents

    def is_valid(self) -> bool:
        """Return whether all shapes agree and all values are finite."""
        count, dims = self.means.shape
        has_shapes = self.weights.shape == (count,) and self.roots.shape == (count, dims, dims)
        return has_shapes and all(np.isfinite(array).all() for array in (self.weights, self.means, self.roots))


@dataclass(frozen=True)
class MixtureBasis:
    """The collection that a mixture was fitted to: encoder, segment (0: none yet) and number of images."""

    encoder: str
    segment: int
    images: int

    def is_compatible(self, other: MixtureBasis) -> bool:
        """Return whether a mixture fitted to one collection is good enough for the other."""
        is_similar_size = self.images / MAX_GROWTH_FACTOR <= other.images <= self.images * MAX_GROWTH_FACTOR
        return (self.encoder, self.segment) == (other.encoder, other.segment) and is_similar_size


def generate_images(
    searcher: Searcher, source: SampleSource = "prior", count: int = 16, temperature: float = 1.0, seed: int = 0
) -> GeneratedImages:
    """Generate new images; the same images for the same seed.

    Args:
        source: `prior`, `mixture`, or a file or id: around that image.
        temperature: Scales the spread; below 1 the images are more typical.

    Raises:
        NoDecoder, NoVariance, BadSetting, TooFewPictures, UnreadableImage, NoSuchImage.
    """
    if not 0 <= temperature < np.inf:
        raise BadSetting(f"temperature can't be {temperature}. Give a number of at least 0; 1 keeps the spread.")
    check_decoder(searcher, "no images can be generated")
    width, height = get_content_size(searcher)
    if isinstance(source, str):
        if source not in SAMPLE_SOURCES:
            raise BadSetting(f"from can't be {source!r}. Use prior, mixture, an image file or --id.")
        draw = sample_prior if source == "prior" else sample_mixture
        latents = draw(searcher, count, temperature, seed)
    else:
        (point,) = encode_inputs(searcher, [source])
        latents = sample_posterior(searcher, point.mu, point.sigma, count, temperature, seed)
        width, height = point.width, point.height
    return GeneratedImages(latents, decode_latents(searcher, latents, width, height))


def sample_prior(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """Draw latents (count, d) from N(0, temperature² I), the prior of a VAE. Raises NoVariance."""
    encoder = searcher.get_encoder()
    if not encoder.has_variance:
        raise make_no_variance_error(encoder.fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, encoder.latent_dim))
    return (temperature * noise).astype(np.float32)


def sample_mixture(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """Draw latents (count, d) from a mixture fitted to the collection. Needs no σ. Raises TooFewPictures."""
    return get_mixture(searcher).sample(count, temperature, seed)


def sample_posterior(
    searcher: Searcher, mu: FloatArray, sigma: FloatArray | None, count: int, temperature: float, seed: int
) -> FloatArray:
    """Draw latents (count, d) from N(mu, (temperature sigma)²) of one image. Raises NoVariance if sigma is None."""
    if sigma is None:
        raise make_no_variance_error(searcher.get_encoder().fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, len(mu)))
    return (mu + temperature * sigma * noise).astype(np.float32)


def get_mixture(searcher: Searcher) -> LatentMixture:
    """Return the mixture of the collection, stored in HOME/measures until the collection changes.

    Raises TooFewPictures, NothingIndexed.
    """
    state = searcher.catalogue.get_state()
    basis = MixtureBasis(state.active_encoder or "", state.segment_id or 0, searcher.catalogue.images.count())
    path = searcher.home.root / "measures" / f"{basis.encoder[:16]}-mixture.npz"
    mixture = _load_mixture(path, basis) if basis.images >= MIN_MIXTURE_IMAGES else None
    if mixture is None:
        mixture = _fit_collection_mixture(searcher)
        save_derived_arrays(path, **vars(basis), **vars(mixture))
    return mixture


def fit_mixture(mu: Float64Array, seed: int) -> GaussianMixture:
    """Fit mixtures with full covariances to mu (n, d), and return the best by the Bayesian information criterion."""
    mixtures = []
    for count in MIXTURE_COMPONENT_COUNTS:
        if count > 1 and len(mu) < count * mu.shape[1]:  # fewer images for each component than dimensions
            break
        mixture = GaussianMixture(count, reg_covar=1e-4, max_iter=50, tol=1e-2, random_state=seed)
        mixtures.append(mixture.fit(mu))
    return min(mixtures, key=lambda mixture: mixture.bic(mu))


def _load_mixture(path: Path, basis: MixtureBasis) -> LatentMixture | None:
    """Load a mixture; None if it is missing, damaged, or of a collection that is too different."""
    with suppress(*ARRAY_FILE_ERRORS):
        arrays = read_arrays(path)
        stored_basis = MixtureBasis(str(arrays["encoder"]), int(arrays["segment"]), int(arrays["images"]))
        mixture = LatentMixture(arrays["weights"], arrays["means"], arrays["roots"])
        return mixture if stored_basis.is_compatible(basis) and mixture.is_valid() else None
    return None


def _fit_collection_mixture(searcher: Searcher) -> LatentMixture:
    """Fit a mixture to the aggregate posterior.

    The mixture is fitted to mu; the mean σ² is added to each covariance, as the aggregate posterior is the mean of the
    posteriors of all images.
    """
    posterior = load_aggregate_posterior(searcher).sample(MAX_MIXTURE_SAMPLES, 0)
    if len(posterior) < MIN_MIXTURE_IMAGES:
        raise TooFewPictures(
            f"{len(posterior)} images are too few for a mixture: index at least {MIN_MIXTURE_IMAGES} images."
        )
    mixture = fit_mixture(posterior.mu.astype(np.float64), 0)
    covariances = mixture.covariances_
    if posterior.sigma is not None:
        covariances = covariances + np.diag(np.square(posterior.sigma.astype(np.float64)).mean(axis=0))
    roots = np.linalg.cholesky(covariances)
    return LatentMixture(mixture.weights_ / mixture.weights_.sum(), mixture.means_, roots)
