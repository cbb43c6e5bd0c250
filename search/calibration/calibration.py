"""What distances, reconstruction errors and σ are usual in a collection.

A distance alone means little. The calibration turns it into an expectation: the number of images that are as near to
an image of the collection on average, like the E-value of a sequence search (Karlin and Altschul, 1990).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from simile.core.records import Float64Array
from simile.search.background import CacheEntry
from simile.search.queries import Confidence, ReferencePopulation
from simile.store.index.snapshot import Snapshot

FALSE_ALARM_RATE = 0.01  # share of usual images that may be called outliers
MAX_FALSE_ALARM_RATE = 0.1  # small samples only support higher rates; above this one no statement is made
MAX_GROWTH_FACTOR = 1.5  # the collection may grow or shrink by this factor before a new calibration
EXPECTATION_GRID_STEPS = 256  # distances at which the expectation is stored

_OUTLIER_REASONS = {
    "reconstruction": "It is reconstructed worse than {share} % of this collection's own images.",
    "distance": "Its nearest neighbour is farther away than that of {share} % of this collection's own images.",
    "sigma": "The encoder is less sure of it than of {share} % of this collection's own images.",
}


@dataclass(frozen=True)
class CalibrationSample:
    """The signals of a sample of images, (m,) float64 each; NaN if unknown."""

    reconstruction: Float64Array  # reconstruction error
    distance: Float64Array  # to the nearest other image
    sigma: Float64Array  # mean sigma


@dataclass(frozen=True, kw_only=True)
class ScoreCalibration(CacheEntry):
    """The calibration of a collection."""

    suffix: ClassVar = "-gauge.json"

    images: int  # in the collection
    distances: Float64Array  # (n,) ascending
    expected: Float64Array  # (n,) number of images within each of these distances of an image, on average
    ordered: dict[str, Float64Array] = field(default_factory=dict)  # the values of each signal in the sample, ascending
    # For a set of signals (names joined by commas): (cut, rate). A query image with these signals is an outlier if its
    # highest rank among them, 0 to 1, is above the cut. The same is true for `rate` of the sample.
    cuts: dict[str, tuple[float, float]] = field(default_factory=dict)
    population: ReferencePopulation = "own"  # the images of the sample: see Confidence.false_alarm_among

    @property
    def false_alarm_rate(self) -> float | None:
        """The rate with all signals; None if there is no cut for them."""
        return self.cuts.get(",".join(self.ordered), (None, None))[1]

    @classmethod
    def from_sample(
        cls,
        encoder: str,
        segment: int | None,
        images: int,
        expectation: tuple[Float64Array, Float64Array],
        sample: CalibrationSample,
        population: ReferencePopulation = "own",
    ) -> Self:
        """Make a calibration from a sample; `expectation` is the result of `compute_expectation`."""
        # Signals that are known for at least half of the images.
        signals = {name: values for name, values in vars(sample).items() if np.isfinite(values).mean() >= 0.5}
        ordered = {name: np.sort(values[np.isfinite(values)]) for name, values in signals.items()}
        distances, expected = expectation
        return cls(
            encoder=encoder,
            segment=segment,
            images=images,
            distances=distances,
            expected=expected,
            ordered=ordered,
            cuts=_compute_conformal_cuts(signals),
            population=population,
        )

    def compute_expected_counts(self, distances: Float64Array) -> Float64Array:
        """Return the number of images within each distance (n,) of an image of the collection, on average, (n,)."""
        expected: Float64Array = np.interp(distances, self.distances, self.expected)
        return expected

    def compute_confidence(
        self, reconstruction: float | None, distance: float | None, sigma: float | None
    ) -> Confidence:
        """Judge a query image by its reconstruction error, nearest distance and mean sigma. None: unknown."""
        signals = {"reconstruction": reconstruction, "distance": distance, "sigma": sigma}
        ranks = {
            name: float(np.searchsorted(self.ordered[name], value) / len(self.ordered[name]))
            for name, value in signals.items()
            if value is not None and name in self.ordered
        }
        percentile = 100 * ranks["reconstruction"] if "reconstruction" in ranks else None
        cut_and_rate = self.cuts.get(",".join(ranks))
        if cut_and_rate is None:
            return Confidence(sigma=sigma, error_percentile=percentile)
        cut, rate = cut_and_rate
        highest = max(ranks, key=lambda name: ranks[name])
        is_outlier, share = ranks[highest] > cut, f"{100 * ranks[highest]:.1f}".removesuffix(".0")
        return Confidence(
            sigma=sigma,
            error_percentile=percentile,
            unlike=is_outlier,
            unlike_reason=_OUTLIER_REASONS[highest].format(share=share) if is_outlier else None,
            false_alarm_rate=rate,
            false_alarm_among=self.population,
        )

    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether it is still valid for this number of images."""
        return self.images / MAX_GROWTH_FACTOR <= len(snapshot) <= self.images * MAX_GROWTH_FACTOR

    def save(self, path: Path) -> None:
        """Save it as JSON."""
        document = {"among" if name == "population" else name: value for name, value in vars(self).items()}
        path.write_text(json.dumps(document, default=np.ndarray.tolist), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a saved calibration. Raises OSError, KeyError, TypeError or ValueError for a bad file."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            encoder=document["encoder"],
            segment=document["segment"],
            images=document["images"],
            distances=np.asarray(document["distances"], np.float64),
            expected=np.asarray(document["expected"], np.float64),
            ordered={name: np.asarray(values, np.float64) for name, values in document["ordered"].items()},
            cuts={names: (float(cut), float(rate)) for names, (cut, rate) in document["cuts"].items()},
            population=document["among"],
        )


def compute_expectation(
    nearest_distances: Sequence[Float64Array], pairwise_distances: Float64Array, image_count: int
) -> tuple[Float64Array, Float64Array]:
    """Compute how many other images are within a distance of an image, on average over a sample of m images.

    Args:
        nearest_distances: For each image of the sample, the distances of its nearest other images, ascending.
        pairwise_distances: (m, m) within the sample; extrapolated beyond the nearest distances.
        image_count: In the collection.

    Returns:
        Distances (n,), ascending, and the expected number for each, (n,).
    """
    other_count = image_count - 1
    scale = other_count / max(len(pairwise_distances) - 1, 1)
    sample_distances = [np.sort(np.delete(distances, row)) for row, distances in enumerate(pairwise_distances)]
    grid = _make_distance_grid(np.concatenate([*nearest_distances, *sample_distances])) if other_count else np.zeros(1)
    totals = np.zeros(len(grid))
    for nearest, others in zip(nearest_distances, sample_distances, strict=True):
        counts = np.searchsorted(nearest, grid, side="right").astype(np.float64)
        if len(nearest) < other_count:
            is_beyond = grid > (nearest[-1] if len(nearest) else -1.0)
            extrapolated = np.maximum(len(nearest), scale * np.searchsorted(others, grid, side="right"))
            counts = np.where(is_beyond, np.minimum(extrapolated, other_count), counts)
        totals += counts
    return grid, totals / max(len(nearest_distances), 1)


def _make_distance_grid(distances: Float64Array) -> Float64Array:
    """Choose 0 and up to 2 * EXPECTATION_GRID_STEPS of the distances, ascending, more densely among the smallest."""
    ordered = np.sort(distances)
    even = np.linspace(0, len(ordered) - 1, EXPECTATION_GRID_STEPS)
    dense = np.geomspace(1, len(ordered), EXPECTATION_GRID_STEPS) - 1
    grid: Float64Array = np.unique(np.concatenate([[0.0], ordered[np.concatenate([even, dense]).astype(np.int64)]]))
    return grid


def _compute_conformal_cuts(signals: dict[str, Float64Array]) -> dict[str, tuple[float, float]]:
    """Compute ScoreCalibration.cuts for all sets of signals that have one."""
    name_sets = chain.from_iterable(combinations(signals, count) for count in range(1, len(signals) + 1))
    cuts = {
        ",".join(names): _compute_conformal_cut(_compute_highest_ranks([signals[name] for name in names]))
        for names in name_sets
    }
    return {names: cut for names, cut in cuts.items() if cut is not None}


def _compute_highest_ranks(signals: list[Float64Array]) -> Float64Array:
    """Compute the highest rank, 0 to 1, of each sample image that has all signals; sorted descending."""
    table = np.stack(signals)  # (signals, m)
    table = table[:, np.isfinite(table).all(axis=0)]
    if table.shape[1] < 2:
        return np.empty(0)
    ranks = np.stack([np.searchsorted(np.sort(row), row) for row in table]) / (table.shape[1] - 1)
    return np.sort(ranks.max(axis=0))[::-1]


def _compute_conformal_cut(highest_ranks: Float64Array) -> tuple[float, float] | None:
    """Compute (cut, rate): a new image like the sample is above `cut` with a probability of at most `rate`.

    A new image is above the (j+1)-th highest of m values with a probability of (j+1) / (m+1): conformal prediction
    (Vovk, Gammerman and Shafer, 2005). Images that share the highest rank are always passed.

    Returns:
        None if the sample is too small.
    """
    if not len(highest_ranks):
        return None
    passed = max(int(FALSE_ALARM_RATE * (len(highest_ranks) + 1)) - 1, int((highest_ranks == highest_ranks[0]).sum()))
    rate = (passed + 1) / (len(highest_ranks) + 1)
    if rate > MAX_FALSE_ALARM_RATE or passed >= len(highest_ranks):
        return None
    return float(highest_ranks[passed]), round(rate, 4)
