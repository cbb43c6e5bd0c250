"""What is usual in a collection: how near its pictures lie to each other, how well they are reconstructed, their σ.

A distance of 0.3 says nothing by itself. Measured on a sample of the collection it says how many pictures lie as near
to one of its pictures on average: an expectation like the E-value of a sequence search (Karlin and Altschul, 1990).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simile.search.queries import Confidence, ReferencePopulation

Float64Array = NDArray[np.float64]

FALSE_ALARM_RATE = 0.01  # share of the pictures that belong there that may be called unlike it
MAX_FALSE_ALARM_RATE = 0.1  # a small sample can't say it at that share, and beyond this one it says nothing
MAX_GROWTH_FACTOR = 1.5  # times as many pictures, or as few: measured anew
EXPECTATION_GRID_STEPS = 256  # distances at which the expectation is kept
CALIBRATION_SIGNALS = ("reconstruction", "distance", "sigma")


@dataclass(frozen=True)
class CalibrationSample:
    """One signal of the sample's pictures, (m,) float64; NaN where it could not be measured."""

    reconstruction: Float64Array
    distance: Float64Array  # to the nearest other picture
    sigma: Float64Array

    def get_usable_signals(self) -> dict[str, Float64Array]:
        """Those that enough pictures have."""
        known = {name: getattr(self, name) for name in CALIBRATION_SIGNALS}
        return {name: values for name, values in known.items() if np.isfinite(values).mean() >= 0.5}


@dataclass(frozen=True)
class ScoreCalibration:
    """A collection as measured when it held `images` pictures. distances, expected: (n,), both ascending.

    ordered: of each signal its values, ascending. cuts: of signals, joined by commas, (cut, rate): a picture of which
    these are known is unlike the collection if its rank in one of them, from 0 to 1, is above the cut, as it is for
    that rate of what it was measured among: see Certainty.
    """

    encoder: str
    segment: int | None
    images: int
    distances: Float64Array
    expected: Float64Array
    ordered: dict[str, Float64Array] = field(default_factory=dict)
    cuts: dict[str, tuple[float, float]] = field(default_factory=dict)
    among: ReferencePopulation = "own"

    @property
    def false_alarm_rate(self) -> float | None:
        """Of all signals together; None where it can't be said."""
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
        """expectation: see `expectation`. among: what the pictures of `usual` are."""
        signals = sample.get_usable_signals()
        ordered = {name: np.sort(values[np.isfinite(values)]) for name, values in signals.items()}
        return cls(encoder, segment, images, *expectation, ordered, _compute_conformal_cuts(signals), population)

    def compute_expected_counts(self, distances: Float64Array) -> Float64Array:
        """How many pictures lie as near to one of the collection on average, (n,) for distances (n,)."""
        expected: Float64Array = np.interp(distances, self.distances, self.expected)
        return expected

    def compute_confidence(
        self, reconstruction: float | None, distance: float | None, sigma: float | None
    ) -> Confidence:
        """What to think of a picture with this reconstruction error, nearest neighbour and mean σ; None: unknown."""
        asked = {"reconstruction": reconstruction, "distance": distance, "sigma": sigma}
        ranks = {
            name: float(np.searchsorted(self.ordered[name], value) / len(self.ordered[name]))
            for name, value in asked.items()
            if value is not None and name in self.ordered
        }
        percentile = 100 * ranks["reconstruction"] if "reconstruction" in ranks else None
        known = self.cuts.get(",".join(ranks))
        if known is None:
            return Confidence(sigma, percentile)
        cut, rate = known
        highest = max(ranks, key=lambda name: ranks[name])
        unlike = ranks[highest] > cut
        reason = _get_outlier_reason(highest, ranks[highest]) if unlike else None
        return Confidence(sigma, percentile, unlike, reason, rate, self.among)

    def fits(self, images: int) -> bool:
        """Whether it still holds for so many pictures."""
        return self.images / MAX_GROWTH_FACTOR <= images <= self.images * MAX_GROWTH_FACTOR

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(self.to_json()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads it. Raises OSError, KeyError, TypeError or ValueError for anything else."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    def to_json(self) -> dict[str, Any]:
        """Fit for a file; see from_json."""
        arrays = {"distances": self.distances.tolist(), "expected": self.expected.tolist()}
        ordered = {name: values.tolist() for name, values in self.ordered.items()}
        return {**vars(self), **arrays, "ordered": ordered}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """What to_json wrote. Raises KeyError, TypeError or ValueError for anything else."""
        fields = {name: document[name] for name in ("encoder", "segment", "images", "among")}
        fields["cuts"] = {name: (float(cut), float(rate)) for name, (cut, rate) in document["cuts"].items()}
        fields |= {name: np.asarray(document[name], np.float64) for name in ("distances", "expected")}
        ordered = {name: np.asarray(values, np.float64) for name, values in document["ordered"].items()}
        return cls(**fields, ordered=ordered)


def compute_expectation(
    nearest_distances: Sequence[Float64Array], pairwise_distances: Float64Array, image_count: int
) -> tuple[Float64Array, Float64Array]:
    """Distances (n,) and how many other pictures lie within each of them, on average over a sample of m.

    nearest: of each picture of the sample the distances of its nearest others, ascending. apart: (m, m) distances
    within the sample, which stand for all `images` beyond the last of those that are known.
    """
    others = image_count - 1
    scale = others / max(len(pairwise_distances) - 1, 1)
    far = [np.sort(np.delete(row, place)) for place, row in enumerate(pairwise_distances)]
    grid = _make_distance_grid(np.concatenate([*nearest_distances, *far])) if others else np.zeros(1)
    counts = np.zeros(len(grid))
    for known, spaced in zip(nearest_distances, far, strict=True):
        within = np.searchsorted(known, grid, side="right").astype(np.float64)
        if len(known) < others:
            beyond = grid > (known[-1] if len(known) else -1.0)
            guessed = np.maximum(len(known), scale * np.searchsorted(spaced, grid, side="right"))
            within = np.where(beyond, np.minimum(guessed, others), within)
        counts += within
    return grid, counts / max(len(nearest_distances), 1)


def _make_distance_grid(distances: Float64Array) -> Float64Array:
    """Up to 2 STEPS of the distances, ascending, from 0 on: the nearest ones as close as those in the middle."""
    ordered = np.sort(distances)
    evenly = np.linspace(0, len(ordered) - 1, EXPECTATION_GRID_STEPS)
    closely = np.geomspace(1, len(ordered), EXPECTATION_GRID_STEPS) - 1
    grid: Float64Array = np.unique(np.concatenate([[0.0], ordered[np.concatenate([evenly, closely]).astype(np.int64)]]))
    return grid


def _compute_conformal_cuts(signals: dict[str, Float64Array]) -> dict[str, tuple[float, float]]:
    """See Gauge: of all sets of signals of which it can be said."""
    sets = chain.from_iterable(combinations(signals, count) for count in range(1, len(signals) + 1))
    found = {
        ",".join(names): _compute_conformal_cut(_compute_highest_ranks({name: signals[name] for name in names}))
        for names in sets
    }
    return {names: cut for names, cut in found.items() if cut is not None}


def _compute_highest_ranks(signals: dict[str, Float64Array]) -> Float64Array:
    """For each picture that has all signals the highest of its ranks among the others, from 0 to 1; descending."""
    if not signals:
        return np.empty(0)
    table = np.stack(list(signals.values()))  # (signals, m)
    table = table[:, np.isfinite(table).all(axis=0)]
    if table.shape[1] < 2:
        return np.empty(0)
    ranks = np.stack([np.searchsorted(np.sort(row), row) for row in table]) / (table.shape[1] - 1)
    return np.sort(ranks.max(axis=0))[::-1]


def _compute_conformal_cut(highest_ranks: Float64Array) -> tuple[float, float] | None:
    """(cut, rate): so few of the sample lie above `cut` that a new one does at most at `rate`. None: too few are known.

    A picture like those of the sample is above the j+1-th highest of m with a chance of (j+1) / (m+1): so conformal
    prediction has it (Vovk, Gammerman and Shafer, 2005). Those at the very top have to be passed over in any case.
    """
    if not len(highest_ranks):
        return None
    passed = max(int(FALSE_ALARM_RATE * (len(highest_ranks) + 1)) - 1, int((highest_ranks == highest_ranks[0]).sum()))
    rate = (passed + 1) / (len(highest_ranks) + 1)
    return (
        (float(highest_ranks[passed]), round(rate, 4))
        if rate <= MAX_FALSE_ALARM_RATE and passed < len(highest_ranks)
        else None
    )


def _get_outlier_reason(signal: str, rank: float) -> str:
    share = f"{100 * rank:.1f}".removesuffix(".0")
    return {
        "reconstruction": f"It is reconstructed worse than {share} % of this collection's own pictures.",
        "distance": f"Its nearest neighbour lies farther than that of {share} % of this collection's own pictures.",
        "sigma": f"The encoder is less sure of it than of {share} % of this collection's own pictures.",
    }[signal]
