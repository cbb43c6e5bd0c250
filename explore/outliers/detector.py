"""The pictures least like the rest of their collection, each with the reason.

Three signals, because one alone is known to fail: a network finds a plain stranger likelier than the pictures it was
trained on (Nalisnick et al., arXiv 1810.09136; Serrà et al., arXiv 1909.11480; Xiao et al., arXiv 2003.02977).

    reconstruction   log of the error, less what the picture's own detail explains
    distance         to the k-th neighbour, k a fortieth of the collection: a small bunch of strangers can't hide itself
    density          of a mixture of Gaussians in which strangers have no say; see density.py

Each becomes a rank within the collection, -log(1 - rank) its weight as evidence (Fisher, 1925), and a picture is judged
by the two strongest together: one signal that says nothing of a collection costs nothing, one alone decides nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import AggregatePosterior, load_aggregate_posterior
from simile.explore.latent.measurements import ImageMeasurements, OnProgress, measure_images
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

pass

Float64Array = NDArray[np.float64]

MIN_OUTLIER_IMAGES = 20  # pictures: among fewer, nothing is usual
NEIGHBOUR_FRACTION = 0.025  # which neighbour, as a share of the collection ...
MIN_NEIGHBOUR = 10  # ... and at least
MAX_REFERENCE_IMAGES = 20_000  # pictures that stand for all as neighbours
OUTLIER_BLOCK_ROWS = 512  # pictures whose distances to all references are in memory: 40 MB
MIN_LOG_ARGUMENT = 1e-8  # error or detail: a flat picture's logarithm must be finite
COMBINED_SIGNAL_COUNT = 2  # signals that count
MIN_MENTIONED_RANK = 0.9  # rank from which on a second signal is named
REASON_TEMPLATES = {
    "reconstruction": "reconstructed worse than {share} % of the others, for how much there is to it",
    "distance": "farther from its {neighbour} neighbour than {share} % of the others",
    "density": "lies where the collection is thinner than for {share} % of the others",
}


@dataclass(frozen=True)
class Outlier:
    """One picture. score: the evidence in nats; ranks: of each signal, from 0 to 1, 1 the least like the rest."""

    image_id: int
    path: str
    score: float
    ranks: dict[str, float]
    reason: str


@dataclass(frozen=True)
class OutlierScores:
    """All pictures: ids, score (n,). ranks: of each signal (n,), NaN where it could not be measured.

    neighbour: the k whose distance counts.
    """

    ids: Ids
    scores: Float64Array
    ranks: dict[str, Float64Array]
    neighbour: int


def find_outliers(
    searcher: Searcher, count: int, on_progress: OnProgress, *, seed: int = 0
) -> tuple[list[Outlier], OutlierScores]:
    """The `count` pictures least like the rest, the strangest first, and what all are judged by.

    Raises NothingIndexed, TooFewPictures, BadSetting.
    """
    if count < 1:
        raise BadSetting(f"count can't be {count}. Ask for one or more.")
    collection = load_aggregate_posterior(searcher)
    check_enough_images(searcher, len(collection))
    measures = measure_images(searcher, collection.ids, on_progress)
    judged = score_outliers(collection, measures, on_progress, seed=seed)
    order = np.lexsort((judged.ids, -judged.scores))[:count]
    records = searcher.catalogue.images.get_many(judged.ids[order].tolist())
    return [
        _make_outlier(judged, row, records[image_id].paths)
        for row, image_id in zip(order.tolist(), judged.ids[order].tolist(), strict=True)
        if image_id in records  # it may have been deleted meanwhile
    ], judged


def check_enough_images(searcher: Searcher, images: int) -> None:
    """Raises TooFewPictures where nothing can be called usual."""
    if images < MIN_OUTLIER_IMAGES:
        raise TooFewPictures(
            f"{searcher.home.root} holds {images} pictures: among fewer than {MIN_OUTLIER_IMAGES} nothing is unusual. "
            "Run `simile index` on more."
        )


def score_outliers(
    posterior: AggregatePosterior, measurements: ImageMeasurements, on_progress: OnProgress, *, seed: int
) -> OutlierScores:
    """How unlike the rest each picture of the collection is. measures: of the same ids."""
    distance, neighbour = compute_neighbour_distances(
        posterior.get_index_vectors(), seed, lambda done: on_progress("comparing", done, len(posterior))
    )
    signals = {
        "reconstruction": compute_relative_error(measurements.error, measurements.detail),
        "distance": distance,
        "density": compute_negative_log_density(posterior.mu, posterior.sigma, seed),
    }
    ranks = {
        name: _compute_ranks(values)
        for name, values in signals.items()
        if np.isfinite(values).sum() >= MIN_OUTLIER_IMAGES
    }
    return OutlierScores(posterior.ids, combine_ranks(ranks), ranks, neighbour)


def compute_relative_error(error: Float64Array, detail: Float64Array) -> Float64Array:
    """log(error) less the line through log(detail) that most pictures follow, (n,); NaN stays NaN.

    Pictures of much detail are reconstructed worse by any network, plain ones better: only the rest says something.
    The line is fitted robustly (Huber, 1964), so that strangers do not bend it.
    """
    from sklearn.linear_model import HuberRegressor  # noqa: PLC0415  # a second, and only here

    left = np.full(len(error), np.nan)
    known = np.isfinite(error) & np.isfinite(detail)
    if known.sum() < MIN_OUTLIER_IMAGES:
        return left
    y, x = np.log(np.maximum(error[known], MIN_LOG_ARGUMENT)), np.log(np.maximum(detail[known], MIN_LOG_ARGUMENT))
    if x.std() < 1e-9 or y.std() < 1e-9:
        left[known] = y - np.median(y)
        return left
    column = ((x - x.mean()) / x.std())[:, None]
    scaled = (y - y.mean()) / y.std()
    left[known] = scaled - HuberRegressor(max_iter=1000).fit(column, scaled).predict(column)
    return left


def compute_neighbour_distances(
    vectors: FloatArray, seed: int, on_progress: Callable[[int], None]
) -> tuple[Float64Array, int]:
    """Distance (n,) of each of vectors (n, d) to its k-th nearest other, and the k.

    Of more than REFERENCES vectors so many, drawn with the seed, stand for all, and k is as much smaller.
    """
    count = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:MAX_REFERENCE_IMAGES])
    references = vectors[chosen]
    squares = np.square(references, dtype=np.float64).sum(axis=1).astype(np.float32)
    k = min(max(MIN_NEIGHBOUR, round(NEIGHBOUR_FRACTION * len(chosen))), len(chosen) - 1)
    itself = np.isin(np.arange(count), chosen)
    found = np.empty(count)
    for start in range(0, count, OUTLIER_BLOCK_ROWS):
        block = vectors[start : start + OUTLIER_BLOCK_ROWS]
        apart = squares - 2 * block @ references.T  # (b, m), less the block's own squares
        nearest = np.partition(apart, (k - 1, k), axis=1)[:, k - 1 : k + 1]
        own = np.square(block, dtype=np.float64).sum(axis=1)
        rows = itself[start : start + OUTLIER_BLOCK_ROWS].astype(
            np.int64
        )  # one more, where the picture itself is among them
        squared = nearest[np.arange(len(block)), rows] + own
        found[start : start + OUTLIER_BLOCK_ROWS] = np.sqrt(np.maximum(squared, 0))
        on_progress(min(start + OUTLIER_BLOCK_ROWS, count))
    return found, round(k * count / len(chosen))


def combine_ranks(ranks: dict[str, Float64Array]) -> Float64Array:
    """The evidence of the two strongest signals of each picture together, (n,) in nats; ranks (n,) each."""
    evidence = np.stack([-np.log1p(-np.where(np.isfinite(one), one, 0.0)) for one in ranks.values()])  # (signals, n)
    strongest: Float64Array = np.sort(evidence, axis=0)[-COMBINED_SIGNAL_COUNT:].sum(axis=0)
    return strongest


def _compute_ranks(values: Float64Array) -> Float64Array:
    """From 0 to 1, both left out, the larger the value the higher; equal values share theirs. NaN stays NaN."""
    known = np.isfinite(values)
    ordered = np.sort(values[known])
    below, upto = (np.searchsorted(ordered, values[known], side) for side in ("left", "right"))
    ranks = np.full(len(values), np.nan)
    ranks[known] = (below + upto) / 2 / len(ordered)
    return ranks


def _make_outlier(outlier_scores: OutlierScores, row: int, paths: tuple[str, ...]) -> Outlier:
    ranks = {name: float(values[row]) for name, values in outlier_scores.ranks.items() if np.isfinite(values[row])}
    path = paths[0] if paths else ""
    return Outlier(
        int(outlier_scores.ids[row]),
        path,
        float(outlier_scores.scores[row]),
        ranks,
        make_outlier_reason(ranks, outlier_scores.neighbour),
    )


def make_outlier_reason(ranks: dict[str, float], neighbour: int) -> str:
    """What the strongest signals say, as a sentence."""
    strongest = sorted(ranks, key=lambda name: -ranks[name])[:COMBINED_SIGNAL_COUNT]
    named = [name for at, name in enumerate(strongest) if at == 0 or ranks[name] >= MIN_MENTIONED_RANK]
    said = [
        REASON_TEMPLATES[name].format(share=_format_percentage(ranks[name]), neighbour=_format_ordinal(neighbour))
        for name in named
    ]
    return " and ".join(said).capitalize() + "."


def _format_percentage(rank: float) -> str:
    return f"{100 * rank:.1f}".removesuffix(".0") if rank < 0.999 else f"{min(100 * rank, 99.99):.2f}"


def _format_ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


MAX_DENSITY_COMPONENTS = 3  # with more of them a bunch of strangers gets one of its own
MIN_IMAGES_PER_DIMENSION = 10  # pictures for each dimension, below which there are fewer components
TRIM_FRACTION = 0.1  # share that has no say
MIN_COMPONENT_WEIGHT = 0.03  # of the weights, for a component that counts
TRIM_ROUNDS = 3
MAX_DENSITY_SAMPLES = 20_000  # pictures; more make it no better
COVARIANCE_REGULARISATION = 1e-3  # of a dimension's variance


def compute_negative_log_density(mu: FloatArray, sigma: FloatArray | None, seed: int) -> Float64Array:
    """-log of the density at each picture of mu (n, d), (n,) in nats but for a constant.

    The pictures' own mean σ² is added to each component's: so the mixture is that of the aggregate posterior, and
    dimensions that say nothing of the pictures say nothing here.
    """
    scale = np.maximum(mu.std(axis=0, dtype=np.float64), 1e-6 * max(float(mu.std()), 1e-12))
    scaled = (mu - mu.mean(axis=0, dtype=np.float64)) / scale  # (n, d) float64
    own = np.zeros(mu.shape[1]) if sigma is None else np.square(sigma, dtype=np.float64).mean(axis=0) / scale**2
    chosen = np.random.default_rng(seed).permutation(len(mu))[:MAX_DENSITY_SAMPLES]
    fitted_on, kept = scaled[chosen], np.ones(len(chosen), bool)
    for _ in range(TRIM_ROUNDS):
        mixture = _fit_density(fitted_on[kept], seed)
        among = _compute_mixture_negative_log_density(fitted_on, mixture, own)
        kept = among <= np.quantile(among, 1 - TRIM_FRACTION)
    return _compute_mixture_negative_log_density(scaled, mixture, own)


def _fit_density(points: Float64Array, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  # a second, and only here
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    components = int(np.clip(len(points) // (MIN_IMAGES_PER_DIMENSION * points.shape[1]), 1, MAX_DENSITY_COMPONENTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the next round goes on from better pictures anyhow
        return GaussianMixture(components, reg_covar=COVARIANCE_REGULARISATION, random_state=seed, max_iter=50).fit(
            points
        )


def _compute_mixture_negative_log_density(
    points: Float64Array, mixture: Any, mean_variance: Float64Array
) -> Float64Array:
    counted = mixture.weights_ >= min(MIN_COMPONENT_WEIGHT, mixture.weights_.max())
    parts = [
        np.log(weight) + _compute_log_density(points, mean, covariance + np.diag(mean_variance))
        for weight, mean, covariance in zip(
            mixture.weights_[counted], mixture.means_[counted], mixture.covariances_[counted], strict=True
        )
    ]
    found: Float64Array = -np.logaddexp.reduce(parts, axis=0)
    return found


def _compute_log_density(points: Float64Array, mean: Float64Array, covariance: Float64Array) -> Float64Array:
    """log N(points; mean, covariance), (n,), but for the constant."""
    root = np.linalg.cholesky(covariance)
    whitened = solve_triangular(root, (points - mean).T, lower=True)  # (d, n)
    found: Float64Array = -0.5 * np.square(whitened).sum(axis=0) - np.log(np.diag(root)).sum()
    return found
