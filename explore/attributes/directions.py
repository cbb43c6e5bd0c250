"""Attributes: the latent direction that separates two sets of images, and how well it separates them.

Each attribute has two directions. raw: the difference of the means (White 2016, arXiv 1609.04468), for rendering: a
step of 1 moves the average image without the attribute to the average image with it. whitened: the same, multiplied by
the inverse covariance within the classes (Fisher's discriminant; covariance shrunk as in Ledoit and Wolf 2004), for
ranking: it gives little weight to dimensions that vary within both classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Float64Array, FloatArray
from simile.search.attributes import Attribute, check_attribute_name

CROSS_VALIDATION_FOLDS = 5
MIN_EXAMPLES_PER_SIDE = 2 * CROSS_VALIDATION_FOLDS  # different images with and without: two of each for every fold


@dataclass(frozen=True, eq=False)
class AttributeExamples:
    """Images with and without an attribute."""

    mu: FloatArray  # latent vectors (n, d)
    is_positive: NDArray[np.bool_]  # whether each image has the attribute, (n,)
    digests: Sequence[str]  # a hash of each file; files with the same hash are copies
    unreadable: int = 0  # number of files that could not be read


@dataclass(frozen=True)
class AttributeEntanglement:
    """How much another attribute moves with an attribute."""

    name: str
    cosine: float  # cosine of the two raw directions under the within-class covariance, -1 to 1
    change: float  # change of the other attribute's score for a step of 1 along this one


def learn_attribute(name: str, encoder: str, examples: AttributeExamples, seed: int = 0) -> Attribute:
    """Learn both directions of an attribute, and measure their held-out AUC by cross-validation.

    `encoder` is the fingerprint of the encoder of the examples; the seed draws the folds. Raises BadSetting for a name
    that is not allowed, TooFewPictures.
    """
    check_attribute_name(name)
    # Remove images that are on both sides. Copies form a group, which is never split between folds.
    _, groups = np.unique(np.asarray(examples.digests), return_inverse=True)
    contradictory = np.intersect1d(groups[examples.is_positive], groups[~examples.is_positive])
    is_kept = ~np.isin(groups, contradictory)
    mu, is_positive, groups = examples.mu[is_kept].astype(np.float64), examples.is_positive[is_kept], groups[is_kept]
    for side, is_member in (("positive", is_positive), ("negative", ~is_positive)):
        count = len(np.unique(groups[is_member]))
        if count < MIN_EXAMPLES_PER_SIDE:
            raise TooFewPictures(
                f"{count} different {side} images are too few: give at least {MIN_EXAMPLES_PER_SIDE} on each side."
            )
    fold_aucs = _cross_validate(mu, is_positive, groups, seed)
    raw, whitened, centre = compute_directions(mu, is_positive)
    return Attribute(
        name=name,
        encoder=encoder,
        raw=raw,
        whitened=whitened,
        centre=centre,
        auc={direction: float(np.mean(values)) for direction, values in fold_aucs.items()},
        spread={direction: float(np.std(values)) for direction, values in fold_aucs.items()},
        positives=int(is_positive.sum()),
        negatives=int((~is_positive).sum()),
        contradictory=len(contradictory),
        unreadable=examples.unreadable,
        seed=seed,
    )


def make_text_attribute(
    name: str, encoder: str, text_vectors: tuple[FloatArray, FloatArray], mu: FloatArray, metric: str
) -> Attribute:
    """Make an attribute of the vectors (d,) of two texts, without examples, so that its AUC is not known.

    Args:
        text_vectors: Of the text for the attribute, and of the text for its opposite.
        mu: Of the collection, (n, d): gives the covariance and the centre, and for cosine the length of the step.

    Raises:
        BadSetting: The name is not allowed, or both texts have the same vector.
    """
    check_attribute_name(name)
    positive, negative = (vector.astype(np.float64) for vector in text_vectors)
    if metric == "cosine":  # the length of a vector means nothing: use that of the images
        length = np.linalg.norm(mu.astype(np.float64), axis=1).mean()
        positive, negative = (length * vector / np.linalg.norm(vector) for vector in (positive, negative))
    raw = positive - negative
    if np.linalg.norm(raw) <= 1e-6 * np.linalg.norm(positive):
        raise BadSetting("Both texts have the same vector. Give --against a text that differs.")
    centre = mu.mean(0, dtype=np.float64)
    covariance = LedoitWolf(assume_centered=True).fit(mu - centre).covariance_
    return Attribute(
        name=name,
        encoder=encoder,
        raw=raw,
        whitened=np.linalg.solve(covariance, raw),
        centre=centre,
        auc={},
        spread={},
        positives=0,
        negatives=0,
        contradictory=0,
        unreadable=0,
        seed=0,
    )


def compute_directions(
    mu: Float64Array, is_positive: NDArray[np.bool_]
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the raw direction, the whitened direction and the centre, (d,) each, of examples mu (n, d)."""
    positive_mean, negative_mean = mu[is_positive].mean(0), mu[~is_positive].mean(0)
    residuals = mu - np.where(is_positive[:, None], positive_mean, negative_mean)
    covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    raw = positive_mean - negative_mean
    return raw, np.linalg.solve(covariance, raw), (positive_mean + negative_mean) / 2


def find_entangled_attributes(attribute: Attribute, others: Sequence[Attribute]) -> list[AttributeEntanglement]:
    """Measure how much each of the other attributes moves with this one, the largest change first."""
    entangled = []
    for other in others:
        product = attribute.raw @ other.whitened
        other_norm = other.raw @ other.whitened
        cosine = np.clip(product / np.sqrt((attribute.raw @ attribute.whitened) * other_norm), -1, 1)
        entangled.append(AttributeEntanglement(other.name, float(cosine), float(product / other_norm)))
    return sorted(entangled, key=lambda entanglement: -abs(entanglement.change))


def _cross_validate(
    mu: Float64Array, is_positive: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> dict[str, list[float]]:
    """Return by direction the area under the ROC curve on each fold, learned on the other folds."""
    aucs: dict[str, list[float]] = {"raw": [], "whitened": []}
    folds = StratifiedGroupKFold(CROSS_VALIDATION_FOLDS, shuffle=True, random_state=seed)
    for training, held_out in folds.split(mu, is_positive, groups):
        raw, whitened, _ = compute_directions(mu[training], is_positive[training])
        for name, direction in (("raw", raw), ("whitened", whitened)):
            aucs[name].append(float(roc_auc_score(is_positive[held_out], mu[held_out] @ direction)))
    return aucs
