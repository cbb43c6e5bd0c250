"""New pictures: latents drawn from the prior, from a mixture fitted to the collection, or around one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import aggregate_of, no_variance

pass
from contextlib import suppress
from zipfile import BadZipFile

from simile.core.atomic_write import write_durably
from simile.core.errors import HomeNotWritable
from simile.explore.latent.inputs import check_decoder, decoded, places_of
from simile.images.transforms import Pixels
from simile.search.calibration.calibration import GROWN
from simile.search.searcher import Searcher
from simile.store.home import writing

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


Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Of k Gaussians: weights (k,), means (k, d), roots (k, d, d): Cholesky factors of the covariances."""

    weights: Doubles
    means: Doubles
    roots: Doubles

    def draw(self, count: int, temperature: float, seed: int) -> FloatArray:
        """z (n, d). `temperature` scales each component's deviations, not the distances between components."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.weights), count, p=self.weights)
        noise = random.standard_normal((count, self.means.shape[1]))
        drawn = self.means[chosen] + temperature * np.einsum("nij,nj->ni", self.roots[chosen], noise)
        found: FloatArray = drawn.astype(np.float32)
        return found


@dataclass(frozen=True)
class Stand:
    """What a mixture was fitted to: how many pictures, by which encoder, in which segment (0: in none yet)."""

    encoder: str
    segment: int
    images: int

    def is_like(self, other: Stand) -> bool:
        """Whether a mixture fitted to one holds for the other."""
        alike = self.images / GROWN <= other.images <= self.images * GROWN
        return (self.encoder, self.segment) == (other.encoder, other.segment) and alike


def stand_of(searcher: Searcher) -> Stand | None:
    """What is indexed now; None before the first index. Reads neither vectors nor a network."""
    state = searcher.catalogue.state()
    if state.active_encoder is None:
        return None
    return Stand(state.active_encoder, state.segment_id or 0, searcher.catalogue.count_images())


def load_mixture(searcher: Searcher, stand: Stand) -> Mixture | None:
    """The mixture that was kept, where it holds for what is indexed now; a damaged file is none."""
    with (
        suppress(OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile),
        _file(searcher, stand.encoder).open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        kept = Stand(str(stored["encoder"]), int(stored["segment"]), int(stored["images"]))
        found = Mixture(stored["weights"], stored["means"], stored["roots"])
        if kept.is_like(stand) and _is_whole(found):
            return found
    return None


def save_mixture(searcher: Searcher, stand: Stand, mixture: Mixture) -> None:
    """Keeps it in place of an earlier one; where nothing can be written it is fitted again next time."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **vars(stand), **vars(mixture))

    path = _file(searcher, stand.encoder)
    with suppress(HomeNotWritable), writing(path):
        path.parent.mkdir(exist_ok=True)
        write_durably(path, write)


def _is_whole(mixture: Mixture) -> bool:
    (k, d), arrays = mixture.means.shape, (mixture.weights, mixture.means, mixture.roots)
    shapes = mixture.weights.shape == (k,) and mixture.roots.shape == (k, d, d)
    return shapes and all(bool(np.isfinite(array).all()) for array in arrays)


def _file(searcher: Searcher, fingerprint: str) -> Path:
    return searcher.home.root / "measures" / f"{fingerprint[:16]}-mixture.npz"
