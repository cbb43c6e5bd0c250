"""Attributes: a direction in the latent space that two sets of pictures differ by, and how well it tells them apart.

Two directions of one thing. raw: the difference of the means (White 2016, arXiv 1609.04468), for painting: a step of 1
takes the average picture without it to the average picture with it. whitened: the same divided by the covariance within
the classes (Fisher's discriminant; covariance shrunk as in Ledoit and Wolf 2004), for ranking: it looks away from what
varies anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from simile.core.errors import TooFewPictures
from simile.core.records import FloatArray
from simile.search.attributes import Attribute, Float64Array, check_attribute_name

CROSS_VALIDATION_FOLDS = 5
MIN_EXAMPLES_PER_SIDE = 2 * CROSS_VALIDATION_FOLDS  # different pictures on each side: two for each fold


@dataclass(frozen=True, eq=False)
class AttributeExamples:
    """Pictures with and without something. mu: (n, d); has: (n,) bool; digests: SHA-256 of each, for copies."""

    mu: FloatArray
    is_positive: NDArray[np.bool_]
    digests: Sequence[str]
    unreadable: int = 0


@dataclass(frozen=True)
class AttributeEntanglement:
    """What else moves. cosine: of the raw directions, measured by the covariance, -1 to 1. change: by how much the
    other's score changes when this one is pushed by 1.
    """

    name: str
    cosine: float
    change: float


def learn_attribute(name: str, encoder: str, examples: AttributeExamples, seed: int = 0) -> Attribute:
    """The attribute that tells the examples apart. Raises BadSetting, TooFewPictures."""
    check_attribute_name(name)
    kept, contradictory = _remove_contradictions(examples)
    mu, has, groups = kept
    for which, side in (("positive", has), ("negative", ~has)):
        count = len(np.unique(groups[side]))
        if count < MIN_EXAMPLES_PER_SIDE:
            raise TooFewPictures(
                f"{count} different {which} pictures are too few: give at least {MIN_EXAMPLES_PER_SIDE} of each side."
            )
    found = _cross_validate(mu, has, groups, seed)
    raw, whitened, centre = compute_directions(mu, has)
    return Attribute(
        name=name,
        encoder=encoder,
        raw=raw,
        whitened=whitened,
        centre=centre,
        auc={which: float(np.mean(values)) for which, values in found.items()},
        spread={which: float(np.std(values)) for which, values in found.items()},
        positives=int(has.sum()),
        negatives=int((~has).sum()),
        contradictory=contradictory,
        unreadable=examples.unreadable,
        seed=seed,
    )


def compute_directions(
    mu: Float64Array, is_positive: NDArray[np.bool_]
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The raw and the whitened direction, and the centre, (d,) each, of mu (n, d)."""
    with_it, without = mu[is_positive].mean(0), mu[~is_positive].mean(0)
    within = np.where(is_positive[:, None], mu - with_it, mu - without)
    covariance = LedoitWolf(assume_centered=True).fit(within).covariance_
    raw = with_it - without
    return raw, np.linalg.solve(covariance, raw), (with_it + without) / 2


def find_entangled_attributes(attribute: Attribute, others: Sequence[Attribute]) -> list[AttributeEntanglement]:
    """What of the others moves when this one is pushed, the strongest first."""
    found = []
    for other in others:
        length = np.sqrt((attribute.raw @ attribute.whitened) * (other.raw @ other.whitened))
        along = attribute.raw @ other.whitened
        cosine = float(np.clip(along / length, -1, 1))
        found.append(AttributeEntanglement(other.name, cosine, float(along / (other.raw @ other.whitened))))
    return sorted(found, key=lambda drag: -abs(drag.change))


def _remove_contradictions(
    examples: AttributeExamples,
) -> tuple[tuple[Float64Array, NDArray[np.bool_], NDArray[np.int64]], int]:
    """(mu, has, group of copies) without pictures that stand on both sides, and how many those are."""
    _, groups = np.unique(np.asarray(examples.digests), return_inverse=True)
    both = np.intersect1d(groups[examples.is_positive], groups[~examples.is_positive])
    kept = ~np.isin(groups, both)
    return (examples.mu[kept].astype(np.float64), examples.is_positive[kept], groups[kept]), len(both)


def _cross_validate(
    mu: Float64Array, is_positive: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> dict[str, list[float]]:
    """The area under the ROC curve of each direction in each fold, learned on the others; copies are never parted."""
    found: dict[str, list[float]] = {"raw": [], "whitened": []}
    parts = StratifiedGroupKFold(CROSS_VALIDATION_FOLDS, shuffle=True, random_state=seed)
    for known, asked in parts.split(mu, is_positive, groups):
        raw, whitened, _ = compute_directions(mu[known], is_positive[known])
        for which, direction in (("raw", raw), ("whitened", whitened)):
            found[which].append(float(roc_auc_score(is_positive[asked], mu[asked] @ direction)))
    return found
