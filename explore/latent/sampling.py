"""New pictures: latents drawn from the prior, from a mixture fitted to the collection, or around one picture."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, HomeNotWritable, TooFewPictures
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior, make_no_variance_error
from simile.explore.latent.inputs import check_decoder, decode_latents, encode_inputs
from simile.images.formats import Pixels
from simile.search.calibration.calibration import MAX_GROWTH_FACTOR
from simile.search.searcher import Searcher
from simile.store.home import translate_write_errors

pass

MAX_MIXTURE_SAMPLES = 10_000  # pictures that a mixture is fitted to, always the same of a collection
MIXTURE_COMPONENT_COUNTS = (1, 2, 5, 10, 20)  # tried, the best by the Bayesian information criterion is taken
MIN_MIXTURE_IMAGES = 50  # pictures
SAMPLE_SOURCES = ("prior", "mixture")

SampleSource = str | Path | int  # one of SOURCES, or a picture


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """latents: (n, d); pictures: (n, h, w, 3) uint8."""

    latents: FloatArray
    images: Pixels


def generate_images(
    searcher: Searcher, source: SampleSource = "prior", count: int = 16, temperature: float = 1.0, seed: int = 0
) -> GeneratedImages:
    """`count` pictures that were never taken; the same for the same seed. A path or an id: around that picture.

    Raises NoDecoder, NoVariance, BadSetting, TooFewPictures, UnreadableImage, NoSuchImage.
    """
    if not 0 <= temperature < np.inf:
        raise BadSetting(f"temperature can't be {temperature}. Give a number from 0 on; 1 leaves the spread as it is.")
    check_decoder(searcher, "nothing can be generated")
    encoder = searcher.get_encoder()
    _, _, height, width = encoder.preprocessing.content_box()
    if isinstance(source, str):
        if source not in SAMPLE_SOURCES:
            raise BadSetting(f"from can't be {source!r}. Use prior, mixture, a picture or --id.")
        draw = sample_prior if source == "prior" else sample_mixture
        latents = draw(searcher, count, temperature, seed)
    else:
        (place,) = encode_inputs(searcher, [source])
        latents = sample_posterior(searcher, place.mu, place.sigma, count, temperature, seed)
        width, height = place.width, place.height
    return GeneratedImages(latents, decode_latents(searcher, latents, width, height))


def sample_prior(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """z (n, d) from N(0, temperature² I), what a VAE's decoder was trained towards. Raises NoVariance, NoDecoder."""
    encoder = searcher.get_encoder()
    if not encoder.has_variance:
        raise make_no_variance_error(encoder.fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, encoder.latent_dim))
    return (temperature * noise).astype(np.float32)


def sample_mixture(searcher: Searcher, count: int, temperature: float, seed: int) -> FloatArray:
    """z (n, d) from a Gaussian mixture over the aggregate posterior. Needs no σ; raises TooFewPictures."""
    return get_mixture(searcher).sample(count, temperature, seed)


def get_mixture(searcher: Searcher) -> LatentMixture:
    """Fitted to μ; the mean σ² is added to each component's variance, as q(z) is a mixture of the pictures' posteriors.

    Fitted once, and kept in HOME/measures until the collection is another. Raises TooFewPictures, NothingIndexed.
    """
    stand = get_mixture_basis(searcher)
    kept = None if stand is None or stand.images < MIN_MIXTURE_IMAGES else load_mixture(searcher, stand)
    if kept is not None:
        return kept
    made = _fit_collection_mixture(searcher)
    if stand is not None:
        save_mixture(searcher, stand, made)
    return made


def _fit_collection_mixture(searcher: Searcher) -> LatentMixture:
    everything = load_aggregate_posterior(searcher).sample(MAX_MIXTURE_SAMPLES, 0)
    if len(everything) < MIN_MIXTURE_IMAGES:
        raise TooFewPictures(
            f"A mixture over {len(everything)} pictures says nothing: index at least {MIN_MIXTURE_IMAGES}."
        )
    best = fit_mixture(everything.mu.astype(np.float64), 0)
    blur = 0.0 if everything.sigma is None else np.square(everything.sigma.astype(np.float64)).mean(axis=0)
    roots = [np.linalg.cholesky(one + np.diag(np.broadcast_to(blur, len(one)))) for one in best.covariances_]
    return LatentMixture(best.weights_ / best.weights_.sum(), best.means_, np.stack(roots))


def fit_mixture(mu: NDArray[np.float64], seed: int) -> GaussianMixture:
    """The mixture with full covariances that the Bayesian information criterion likes best."""
    tried = []
    for count in MIXTURE_COMPONENT_COUNTS:
        if count > 1 and len(mu) < count * mu.shape[1]:  # fewer pictures than a component has directions
            break
        mixture = GaussianMixture(count, reg_covar=1e-4, max_iter=50, tol=1e-2, random_state=seed)
        tried.append(mixture.fit(mu))
    return min(tried, key=lambda mixture: mixture.bic(mu))


def sample_posterior(
    searcher: Searcher, mu: FloatArray, sigma: FloatArray | None, count: int, temperature: float, seed: int
) -> FloatArray:
    """z (n, d) from a picture's own posterior, its σ scaled; mu, sigma: (d,). Raises NoVariance."""
    if sigma is None:
        raise make_no_variance_error(searcher.get_encoder().fingerprint)
    noise = np.random.default_rng(seed).standard_normal((count, len(mu)))
    return (mu + temperature * sigma * noise).astype(np.float32)


Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LatentMixture:
    """Of k Gaussians: weights (k,), means (k, d), roots (k, d, d): Cholesky factors of the covariances."""

    weights: Float64Array
    means: Float64Array
    roots: Float64Array

    def sample(self, count: int, temperature: float, seed: int) -> FloatArray:
        """z (n, d). `temperature` scales each component's deviations, not the distances between components."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.weights), count, p=self.weights)
        noise = random.standard_normal((count, self.means.shape[1]))
        drawn = self.means[chosen] + temperature * np.einsum("nij,nj->ni", self.roots[chosen], noise)
        found: FloatArray = drawn.astype(np.float32)
        return found


@dataclass(frozen=True)
class MixtureBasis:
    """What a mixture was fitted to: how many pictures, by which encoder, in which segment (0: in none yet)."""

    encoder: str
    segment: int
    images: int

    def is_compatible(self, other: MixtureBasis) -> bool:
        """Whether a mixture fitted to one holds for the other."""
        alike = self.images / MAX_GROWTH_FACTOR <= other.images <= self.images * MAX_GROWTH_FACTOR
        return (self.encoder, self.segment) == (other.encoder, other.segment) and alike


def get_mixture_basis(searcher: Searcher) -> MixtureBasis | None:
    """What is indexed now; None before the first index. Reads neither vectors nor a network."""
    state = searcher.catalogue.get_state()
    if state.active_encoder is None:
        return None
    return MixtureBasis(state.active_encoder, state.segment_id or 0, searcher.catalogue.images.count())


def load_mixture(searcher: Searcher, basis: MixtureBasis) -> LatentMixture | None:
    """The mixture that was kept, where it holds for what is indexed now; a damaged file is none."""
    with (
        suppress(OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile),
        _get_mixture_path(searcher, basis.encoder).open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        kept = MixtureBasis(str(stored["encoder"]), int(stored["segment"]), int(stored["images"]))
        found = LatentMixture(stored["weights"], stored["means"], stored["roots"])
        if kept.is_compatible(basis) and _is_valid_mixture(found):
            return found
    return None


def save_mixture(searcher: Searcher, basis: MixtureBasis, mixture: LatentMixture) -> None:
    """Keeps it in place of an earlier one; where nothing can be written it is fitted again next time."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **vars(basis), **vars(mixture))

    path = _get_mixture_path(searcher, basis.encoder)
    with suppress(HomeNotWritable), translate_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write)


def _is_valid_mixture(mixture: LatentMixture) -> bool:
    (k, d), arrays = mixture.means.shape, (mixture.weights, mixture.means, mixture.roots)
    shapes = mixture.weights.shape == (k,) and mixture.roots.shape == (k, d, d)
    return shapes and all(bool(np.isfinite(array).all()) for array in arrays)


def _get_mixture_path(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}-mixture.npz"
