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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import Aggregate, aggregate_of

pass
import warnings
from typing import Any

from scipy.linalg import solve_triangular

from simile.explore.latent.measurements import Measures, OnProgress, measures_of
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids

Doubles = NDArray[np.float64]

FEWEST = 20  # pictures: among fewer, nothing is usual
NEIGHBOUR_SHARE = 0.025  # which neighbour, as a share of the collection ...
LEAST_NEIGHBOUR = 10  # ... and at least
REFERENCES = 20_000  # pictures that stand for all as neighbours
BLOCK = 512  # pictures whose distances to all references are in memory: 40 MB
SMALLEST = 1e-8  # error or detail: a flat picture's logarithm must be finite
STRONGEST = 2  # signals that count
WORTH_A_WORD = 0.9  # rank from which on a second signal is named
REASONS = {
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
class Judged:
    """All pictures: ids, score (n,). ranks: of each signal (n,), NaN where it could not be measured.

    neighbour: the k whose distance counts.
    """

    ids: Ids
    score: Doubles
    ranks: dict[str, Doubles]
    neighbour: int


def find_outliers(
    searcher: Searcher, count: int, on_progress: OnProgress, *, seed: int = 0
) -> tuple[list[Outlier], Judged]:
    """The `count` pictures least like the rest, the strangest first, and what all are judged by.

    Raises NothingIndexed, TooFewPictures, BadSetting.
    """
    if count < 1:
        raise BadSetting(f"count can't be {count}. Ask for one or more.")
    collection = aggregate_of(searcher)
    check_enough(searcher, len(collection))
    measures = measures_of(searcher, collection.ids, on_progress)
    judged = judge(collection, measures, on_progress, seed=seed)
    order = np.lexsort((judged.ids, -judged.score))[:count]
    records = searcher.catalogue.images(judged.ids[order].tolist())
    return [
        _outlier(judged, row, records[image_id].paths)
        for row, image_id in zip(order.tolist(), judged.ids[order].tolist(), strict=True)
        if image_id in records  # it may have been deleted meanwhile
    ], judged


def check_enough(searcher: Searcher, images: int) -> None:
    """Raises TooFewPictures where nothing can be called usual."""
    if images < FEWEST:
        raise TooFewPictures(
            f"{searcher.home.root} holds {images} pictures: among fewer than {FEWEST} nothing is unusual. "
            "Run `simile index` on more."
        )


def judge(collection: Aggregate, measures: Measures, on_progress: OnProgress, *, seed: int) -> Judged:
    """How unlike the rest each picture of the collection is. measures: of the same ids."""
    distance, neighbour = neighbour_distance(
        collection.indexed(), seed, lambda done: on_progress("comparing", done, len(collection))
    )
    signals = {
        "reconstruction": relative_error(measures.error, measures.detail),
        "distance": distance,
        "density": surprise(collection.mu, collection.sigma, seed),
    }
    ranks = {name: _ranks(values) for name, values in signals.items() if np.isfinite(values).sum() >= FEWEST}
    return Judged(collection.ids, combined(ranks), ranks, neighbour)


def relative_error(error: Doubles, detail: Doubles) -> Doubles:
    """log(error) less the line through log(detail) that most pictures follow, (n,); NaN stays NaN.

    Pictures of much detail are reconstructed worse by any network, plain ones better: only the rest says something.
    The line is fitted robustly (Huber, 1964), so that strangers do not bend it.
    """
    from sklearn.linear_model import HuberRegressor  # noqa: PLC0415  # a second, and only here

    left = np.full(len(error), np.nan)
    known = np.isfinite(error) & np.isfinite(detail)
    if known.sum() < FEWEST:
        return left
    y, x = np.log(np.maximum(error[known], SMALLEST)), np.log(np.maximum(detail[known], SMALLEST))
    if x.std() < 1e-9 or y.std() < 1e-9:
        left[known] = y - np.median(y)
        return left
    column = ((x - x.mean()) / x.std())[:, None]
    scaled = (y - y.mean()) / y.std()
    left[known] = scaled - HuberRegressor(max_iter=1000).fit(column, scaled).predict(column)
    return left


def neighbour_distance(vectors: FloatArray, seed: int, on_rows: Callable[[int], None]) -> tuple[Doubles, int]:
    """Distance (n,) of each of vectors (n, d) to its k-th nearest other, and the k.

    Of more than REFERENCES vectors so many, drawn with the seed, stand for all, and k is as much smaller.
    """
    count = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:REFERENCES])
    references = vectors[chosen]
    squares = np.square(references, dtype=np.float64).sum(axis=1).astype(np.float32)
    k = min(max(LEAST_NEIGHBOUR, round(NEIGHBOUR_SHARE * len(chosen))), len(chosen) - 1)
    itself = np.isin(np.arange(count), chosen)
    found = np.empty(count)
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK]
        apart = squares - 2 * block @ references.T  # (b, m), less the block's own squares
        nearest = np.partition(apart, (k - 1, k), axis=1)[:, k - 1 : k + 1]
        own = np.square(block, dtype=np.float64).sum(axis=1)
        rows = itself[start : start + BLOCK].astype(np.int64)  # one more, where the picture itself is among them
        squared = nearest[np.arange(len(block)), rows] + own
        found[start : start + BLOCK] = np.sqrt(np.maximum(squared, 0))
        on_rows(min(start + BLOCK, count))
    return found, round(k * count / len(chosen))


def combined(ranks: dict[str, Doubles]) -> Doubles:
    """The evidence of the two strongest signals of each picture together, (n,) in nats; ranks (n,) each."""
    evidence = np.stack([-np.log1p(-np.where(np.isfinite(one), one, 0.0)) for one in ranks.values()])  # (signals, n)
    strongest: Doubles = np.sort(evidence, axis=0)[-STRONGEST:].sum(axis=0)
    return strongest


def _ranks(values: Doubles) -> Doubles:
    """From 0 to 1, both left out, the larger the value the higher; equal values share theirs. NaN stays NaN."""
    known = np.isfinite(values)
    ordered = np.sort(values[known])
    below, upto = (np.searchsorted(ordered, values[known], side) for side in ("left", "right"))
    ranks = np.full(len(values), np.nan)
    ranks[known] = (below + upto) / 2 / len(ordered)
    return ranks


def _outlier(judged: Judged, row: int, paths: tuple[str, ...]) -> Outlier:
    ranks = {name: float(values[row]) for name, values in judged.ranks.items() if np.isfinite(values[row])}
    path = paths[0] if paths else ""
    return Outlier(int(judged.ids[row]), path, float(judged.score[row]), ranks, reason(ranks, judged.neighbour))


def reason(ranks: dict[str, float], neighbour: int) -> str:
    """What the strongest signals say, as a sentence."""
    strongest = sorted(ranks, key=lambda name: -ranks[name])[:STRONGEST]
    named = [name for at, name in enumerate(strongest) if at == 0 or ranks[name] >= WORTH_A_WORD]
    said = [REASONS[name].format(share=_share(ranks[name]), neighbour=_ordinal(neighbour)) for name in named]
    return " and ".join(said).capitalize() + "."


def _share(rank: float) -> str:
    return f"{100 * rank:.1f}".removesuffix(".0") if rank < 0.999 else f"{min(100 * rank, 99.99):.2f}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


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
