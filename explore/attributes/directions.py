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
from simile.search.attributes import Attribute, Doubles, check_name

FOLDS = 5
FEWEST = 2 * FOLDS  # different pictures on each side: two for each fold


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures with and without something. mu: (n, d); has: (n,) bool; digests: SHA-256 of each, for copies."""

    mu: FloatArray
    has: NDArray[np.bool_]
    digests: Sequence[str]
    unreadable: int = 0


@dataclass(frozen=True)
class Drag:
    """What else moves. cosine: of the raw directions, measured by the covariance, -1 to 1. change: by how much the
    other's score changes when this one is pushed by 1.
    """

    name: str
    cosine: float
    change: float


def learn(name: str, encoder: str, examples: Examples, seed: int = 0) -> Attribute:
    """The attribute that tells the examples apart. Raises BadSetting, TooFewPictures."""
    check_name(name)
    kept, contradictory = _without_contradictions(examples)
    mu, has, groups = kept
    for which, side in (("positive", has), ("negative", ~has)):
        count = len(np.unique(groups[side]))
        if count < FEWEST:
            raise TooFewPictures(
                f"{count} different {which} pictures are too few: give at least {FEWEST} of each side."
            )
    found = _held_out(mu, has, groups, seed)
    raw, whitened, centre = directions(mu, has)
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


def directions(mu: Doubles, has: NDArray[np.bool_]) -> tuple[Doubles, Doubles, Doubles]:
    """The raw and the whitened direction, and the centre, (d,) each, of mu (n, d)."""
    with_it, without = mu[has].mean(0), mu[~has].mean(0)
    within = np.where(has[:, None], mu - with_it, mu - without)
    covariance = LedoitWolf(assume_centered=True).fit(within).covariance_
    raw = with_it - without
    return raw, np.linalg.solve(covariance, raw), (with_it + without) / 2


def drags(attribute: Attribute, others: Sequence[Attribute]) -> list[Drag]:
    """What of the others moves when this one is pushed, the strongest first."""
    found = []
    for other in others:
        length = np.sqrt((attribute.raw @ attribute.whitened) * (other.raw @ other.whitened))
        along = attribute.raw @ other.whitened
        cosine = float(np.clip(along / length, -1, 1))
        found.append(Drag(other.name, cosine, float(along / (other.raw @ other.whitened))))
    return sorted(found, key=lambda drag: -abs(drag.change))


def _without_contradictions(
    examples: Examples,
) -> tuple[tuple[Doubles, NDArray[np.bool_], NDArray[np.int64]], int]:
    """(mu, has, group of copies) without pictures that stand on both sides, and how many those are."""
    _, groups = np.unique(np.asarray(examples.digests), return_inverse=True)
    both = np.intersect1d(groups[examples.has], groups[~examples.has])
    kept = ~np.isin(groups, both)
    return (examples.mu[kept].astype(np.float64), examples.has[kept], groups[kept]), len(both)


def _held_out(mu: Doubles, has: NDArray[np.bool_], groups: NDArray[np.int64], seed: int) -> dict[str, list[float]]:
    """The area under the ROC curve of each direction in each fold, learned on the others; copies are never parted."""
    found: dict[str, list[float]] = {"raw": [], "whitened": []}
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for known, asked in parts.split(mu, has, groups):
        raw, whitened, _ = directions(mu[known], has[known])
        for which, direction in (("raw", raw), ("whitened", whitened)):
            found[which].append(float(roc_auc_score(has[asked], mu[asked] @ direction)))
    return found
