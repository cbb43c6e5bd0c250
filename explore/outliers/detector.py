"""Outliers: the images least like the rest of their collection, each with the reason.

Three signals, because each alone is known to fail: a generative model may give an unrelated image a higher likelihood
than its training images (Nalisnick et al., arXiv 1810.09136; Serrà et al., arXiv 1909.11480; Xiao et al., arXiv
2003.02977).

    reconstruction   log of the error, minus what the detail of the image explains
    distance         to the k-th neighbour, k = 2.5 % of the collection: a small group of outliers can't hide itself
    density          of a mixture of Gaussians, fitted without the images that it explains least

Each signal becomes a rank within the collection, and -log(1 - rank) its weight as evidence (Fisher, 1925). The score
of an image is the sum of its two strongest signals: a signal without information does no harm, and a single signal is
not enough.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal, rankdata

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Float64Array, FloatArray
from simile.explore.arrays import OnProgress
from simile.explore.latent.aggregate_posterior import AggregatePosterior, load_aggregate_posterior
from simile.explore.latent.measurements import ImageMeasurements, measure_images
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

MIN_OUTLIER_IMAGES = 20  # a smaller collection has no typical image
COMBINED_SIGNAL_COUNT = 2  # strongest signals that are added
MIN_MENTIONED_RANK = 0.9  # smallest rank of a second signal that the reason names
MIN_LOG_ARGUMENT = 1e-8  # of error and detail: keeps the logarithm of a uniform image finite

# Distance signal.
NEIGHBOUR_FRACTION = 0.025  # k as a fraction of the collection
MIN_NEIGHBOUR = 10
MAX_REFERENCE_IMAGES = 20_000  # larger collections are sampled
OUTLIER_BLOCK_ROWS = 512  # rows whose distances to all references are in memory together: 40 MB

# Density signal.
MAX_DENSITY_COMPONENTS = 3  # with more components, a group of outliers gets its own
MIN_IMAGES_PER_DIMENSION = 10  # of each component: smaller collections get fewer components
TRIM_FRACTION = 0.1  # images that the mixture is not fitted to: those with the lowest density
MIN_COMPONENT_WEIGHT = 0.03  # smaller components don't count
TRIM_ROUNDS = 3
MAX_DENSITY_SAMPLES = 20_000  # more images make the mixture no better
COVARIANCE_REGULARISATION = 1e-3  # fraction of the variance of a dimension

REASON_TEMPLATES = {
    "reconstruction": "reconstructed worse than {percentage} % of the others, for its amount of detail",
    "distance": "farther from its {neighbour} neighbour than {percentage} % of the others",
    "density": "in a thinner region of the latent space than {percentage} % of the others",
}


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """One image."""

    image_id: int
    path: str  # first path; empty if there is none
    score: float  # evidence in nats
    ranks: dict[str, float]  # rank of each signal, 0 to 1; 1 is the least like the rest
    reason: str  # the strongest signals in words


@dataclass(frozen=True)
class OutlierScores:
    """The scores of all n images."""

    ids: Ids  # image ids (n,)
    scores: Float64Array  # evidence (n,) in nats
    ranks: dict[str, Float64Array]  # rank (n,) of each signal; NaN if it could not be measured
    neighbour: int  # the k of the k-th neighbour


def find_outliers(
    searcher: Searcher, count: int, on_progress: OnProgress, *, seed: int = 0
) -> tuple[list[Outlier], OutlierScores]:
    """Find the `count` images with the highest scores, the highest first, and the scores of all images.

    Raises NothingIndexed, TooFewPictures, BadSetting.
    """
    if count < 1:
        raise BadSetting(f"count can't be {count}. Give a number of at least 1.")
    posterior = load_aggregate_posterior(searcher)
    check_enough_images(searcher, len(posterior))
    measurements = measure_images(searcher, posterior.ids, on_progress)
    scores = score_outliers(posterior, measurements, on_progress, seed=seed)
    rows = np.lexsort((scores.ids, -scores.scores))[:count].tolist()
    records = searcher.catalogue.images.get_many(scores.ids[rows].tolist())
    outliers = []
    for row, image_id in zip(rows, scores.ids[rows].tolist(), strict=True):
        if image_id not in records:  # deleted in the meantime
            continue
        ranks = {name: float(values[row]) for name, values in scores.ranks.items() if np.isfinite(values[row])}
        paths = records[image_id].paths
        outliers.append(
            Outlier(
                image_id=image_id,
                path=paths[0] if paths else "",
                score=float(scores.scores[row]),
                ranks=ranks,
                reason=make_outlier_reason(ranks, scores.neighbour),
            )
        )
    return outliers, scores


def check_enough_images(searcher: Searcher, images: int) -> None:
    """Raise TooFewPictures if the collection is too small to have outliers."""
    if images < MIN_OUTLIER_IMAGES:
        raise TooFewPictures(
            f"{searcher.home.root} contains {images} images: outliers need at least {MIN_OUTLIER_IMAGES}. "
            "Run `simile index` on more."
        )


def score_outliers(
    posterior: AggregatePosterior, measurements: ImageMeasurements, on_progress: OnProgress, *, seed: int
) -> OutlierScores:
    """Score all images of a collection; the measurements are of the same ids."""
    distance, neighbour = compute_neighbour_distances(
        posterior.get_index_vectors(), seed, lambda done: on_progress("comparing", done, len(posterior))
    )
    signals = {
        "reconstruction": compute_relative_error(measurements.error, measurements.detail),
        "distance": distance,
        "density": compute_negative_log_density(posterior.mu, posterior.sigma, seed),
    }
    ranks = {}
    for name, values in signals.items():
        count = np.isfinite(values).sum()
        if count >= MIN_OUTLIER_IMAGES:
            # Half a rank less keeps ranks below 1, so that -log(1 - rank) is finite.
            ranks[name] = (rankdata(values, nan_policy="omit") - 0.5) / count
    return OutlierScores(posterior.ids, combine_ranks(ranks), ranks, neighbour)


def compute_relative_error(error: Float64Array, detail: Float64Array) -> Float64Array:
    """Return log(error) (n,) minus the value that a line through log(detail) predicts. NaN stays NaN.

    Any network reconstructs images with much detail worse, so only the difference is informative. The line is fitted
    robustly (Huber, 1964), so that outliers do not change it.
    """
    from sklearn.linear_model import HuberRegressor  # noqa: PLC0415  # slow to import, and only needed here

    residuals = np.full(len(error), np.nan)
    is_known = np.isfinite(error) & np.isfinite(detail)
    if is_known.sum() < MIN_OUTLIER_IMAGES:
        return residuals
    y, x = (np.log(np.maximum(values[is_known], MIN_LOG_ARGUMENT)) for values in (error, detail))
    if x.std() < 1e-9 or y.std() < 1e-9:  # no line: all images have the same detail or error
        residuals[is_known] = y - np.median(y)
        return residuals
    features = ((x - x.mean()) / x.std())[:, None]
    target = (y - y.mean()) / y.std()
    residuals[is_known] = target - HuberRegressor(max_iter=1000).fit(features, target).predict(features)
    return residuals


def compute_neighbour_distances(
    vectors: FloatArray, seed: int, on_progress: Callable[[int], object]
) -> tuple[Float64Array, int]:
    """Return the distance (n,) of each vector (n, d) to its k-th nearest other vector, and k.

    Distances are measured to at most MAX_REFERENCE_IMAGES random vectors, with a proportionally smaller k.
    """
    count = len(vectors)
    reference_rows = np.sort(np.random.default_rng(seed).permutation(count)[:MAX_REFERENCE_IMAGES])
    references = vectors[reference_rows]
    reference_count = len(references)
    k = min(max(MIN_NEIGHBOUR, round(NEIGHBOUR_FRACTION * reference_count)), reference_count - 1)
    # A vector that is a reference finds itself first: its k-th neighbour is one place further.
    is_reference = np.isin(np.arange(count), reference_rows).astype(np.int64)
    reference_squares = np.square(references, dtype=np.float64).sum(axis=1).astype(np.float32)
    distances = np.empty(count)
    for start in range(0, count, OUTLIER_BLOCK_ROWS):
        rows = slice(start, start + OUTLIER_BLOCK_ROWS)
        block = vectors[rows]
        # |a - b|² = |a|² + |b|² - 2ab; |a|² is the same for all references, and added at the end.
        partial = reference_squares - 2 * block @ references.T  # (b, m)
        nearest = np.partition(partial, (k - 1, k), axis=1)[:, k - 1 : k + 1]
        own_squares = np.square(block, dtype=np.float64).sum(axis=1)
        squared = nearest[np.arange(len(block)), is_reference[rows]] + own_squares
        distances[rows] = np.sqrt(np.maximum(squared, 0))
        on_progress(start + len(block))
    return distances, round(k * count / reference_count)


def combine_ranks(ranks: dict[str, Float64Array]) -> Float64Array:
    """Return the evidence (n,) in nats of the two strongest signals of each image; ranks are (n,) each."""
    evidence = np.stack([-np.log1p(-np.nan_to_num(values)) for values in ranks.values()])  # (signals, n)
    strongest: Float64Array = np.sort(evidence, axis=0)[-COMBINED_SIGNAL_COUNT:].sum(axis=0)
    return strongest


def make_outlier_reason(ranks: dict[str, float], neighbour: int) -> str:
    """Return a sentence that names the strongest signals."""
    strongest = sorted(ranks, key=lambda name: -ranks[name])[:COMBINED_SIGNAL_COUNT]
    mentioned = [name for place, name in enumerate(strongest) if place == 0 or ranks[name] >= MIN_MENTIONED_RANK]
    reasons = [
        REASON_TEMPLATES[name].format(percentage=_format_percentage(ranks[name]), neighbour=_format_ordinal(neighbour))
        for name in mentioned
    ]
    return " and ".join(reasons).capitalize() + "."


def compute_negative_log_density(mu: FloatArray, sigma: FloatArray | None, seed: int) -> Float64Array:
    """Return the negative log density (n,) in nats at each mu (n, d).

    The density is a mixture of Gaussians. The mean σ² of the images is added to each covariance, so the mixture is that
    of the aggregate posterior, and a dimension that the encoder does not use does not count.
    """
    # Scale each dimension to a variance of 1.
    scale = np.maximum(mu.std(axis=0, dtype=np.float64), 1e-6 * max(float(mu.std()), 1e-12))
    scaled = (mu - mu.mean(axis=0, dtype=np.float64)) / scale
    dims = mu.shape[1]
    mean_variance = np.zeros(dims) if sigma is None else np.square(sigma, dtype=np.float64).mean(axis=0) / scale**2
    # Fit the mixture several times, each time without the images of lowest density.
    sample = scaled[np.random.default_rng(seed).permutation(len(mu))[:MAX_DENSITY_SAMPLES]]
    is_kept = np.ones(len(sample), bool)
    for _ in range(TRIM_ROUNDS):
        mixture = _fit_density(sample[is_kept], seed)
        sample_densities = _compute_mixture_negative_log_density(sample, mixture, mean_variance)
        is_kept = sample_densities <= np.quantile(sample_densities, 1 - TRIM_FRACTION)
    return _compute_mixture_negative_log_density(scaled, mixture, mean_variance)


def _fit_density(points: Float64Array, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  # slow to import, and only needed here
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    components = int(np.clip(len(points) // (MIN_IMAGES_PER_DIMENSION * points.shape[1]), 1, MAX_DENSITY_COMPONENTS))
    mixture = GaussianMixture(components, reg_covar=COVARIANCE_REGULARISATION, random_state=seed, max_iter=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rough fit is enough to trim
        return mixture.fit(points)


def _compute_mixture_negative_log_density(
    points: Float64Array, mixture: Any, mean_variance: Float64Array
) -> Float64Array:
    """Return the negative log density (n,) of points (n, d), without components of little weight."""
    counts = np.flatnonzero(mixture.weights_ >= min(MIN_COMPONENT_WEIGHT, mixture.weights_.max()))
    log_densities = []
    for component in counts:
        covariance = mixture.covariances_[component] + np.diag(mean_variance)
        normal = multivariate_normal(mixture.means_[component], covariance)
        log_densities.append(np.log(mixture.weights_[component]) + normal.logpdf(points))
    density: Float64Array = -np.logaddexp.reduce(log_densities, axis=0)
    return density


def _format_percentage(rank: float) -> str:
    return f"{100 * rank:.1f}".removesuffix(".0") if rank < 0.999 else f"{min(100 * rank, 99.99):.2f}"


def _format_ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"
