"""How much of two pictures that lie on each other is the same, window by window, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

# Standard deviations of the Gaussians whose differences are the bands, in pixels, and the side of each one's windows.
FREQUENCY_BANDS = ((1, 9), (2, 13), (4, 21))
CONTRAST_QUANTILE = 0.8  # quantile of the contrast of windows: none counts for more
MIN_CHROMA = 6.0  # of 255, spread of the colour of a picture that has any
MIN_COLOUR_CORRELATION = 0.35  # correlation of colours, below which they are not of one picture
MIN_WINDOW_CORRELATION = 0.5  # correlation of windows, below which they show something else
MIN_WINDOW_CONTRAST = 0.1  # contrast of windows, as a share of the picture's, below which they show nothing
IGNORED_COLOUR_SHARE = 0.2  # share of what both show, whose colours may be anything
MAX_CHANGED_SHARE = 0.21  # of what both show: a part that shows something else, larger than any sticker or lettering
MIN_OVERLAP_SHARE = 0.5  # of the smaller picture: so much of it must lie on the other

# A logistic regression over Features.terms, fitted once: 36 kinds of copies of 70 clothing photos against the nearest
# pictures that are no copies, by an encoder's distance.
KEYPOINT_COEFFICIENTS = (5.16, 5.93, 0.94, 8.76, -2.3, -14.13)
# Small pictures have many near relations, more the larger the collection is: of the 1,000 most alike pairs of 20,000
# digits and garments one passed that was no copy. Coarse detail tells them best.
NO_KEYPOINT_COEFFICIENTS = (6.0, -29.6)
MIN_COPY_SCORE = 0.9  # score


@dataclass(frozen=True)
class AlignedPair:
    """Two pictures on each other, (h, w, 3) float32, 0 to 255 each; mask: (h, w), where both show something."""

    first: Float32Array
    second: Float32Array
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class CopyFeatures:
    """What a verdict is made of.

    details: the mean correlation of windows in each of BANDS, 0 to 1, windows without contrast left out. elsewise: the
    largest connected part that shows something else, as a share. colour: the correlation of their colours, 1 where one
    of them has none. matches: pairs of like keypoints; agreeing: of them, that lie where the homography says, both 0
    where it was guessed without. distortion: how far the homography is from turning and scaling. covered: share of the
    smaller picture that lies on the other.
    """

    band_correlations: tuple[float, ...]
    changed_share: float
    colour_correlation: float
    match_count: int
    inlier_count: int
    distortion: float
    overlap_share: float

    @property
    def score(self) -> float:
        """0 to 1: how likely they are copies."""
        *factors, start = KEYPOINT_COEFFICIENTS if self.inlier_count else NO_KEYPOINT_COEFFICIENTS
        logit = start + float(np.dot(factors, self.get_regression_terms()))
        return 1 / (1 + float(np.exp(-logit)))

    def get_regression_terms(self) -> list[float]:
        """What is weighed."""
        _, fine, coarse = self.band_correlations
        if not self.inlier_count:
            return [-float(np.log(1.003 - min(coarse, 1.0)))]  # how close it is to 1, without end
        return [fine, coarse, float(np.log(self.inlier_count)), self.inlier_count / self.match_count, self.distortion]


def compute_changed_share(pair: AlignedPair) -> float:
    """The largest connected part of what both show where windows of the last band don't agree, as a share of it."""
    inside = pair.mask
    if inside.sum() < 50:
        return 0.0
    deviation, side = FREQUENCY_BANDS[-1]
    greys = [
        cv2.GaussianBlur(_to_grey_floats(picture), (0, 0), FREQUENCY_BANDS[1][0])
        for picture in (pair.first, pair.second)
    ]
    bands = [(grey - cv2.GaussianBlur(grey, (0, 0), deviation)) / (float(grey[inside].std()) + 1e-3) for grey in greys]
    alike, contrast = _compute_window_correlations(bands[0], bands[1], inside.astype(np.float32), side)
    other = (alike < MIN_WINDOW_CORRELATION) & (contrast > MIN_WINDOW_CONTRAST) & inside
    _, _, stats, _ = cv2.connectedComponentsWithStats(other.astype(np.uint8))
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / inside.sum())


def compute_correlation(pair: AlignedPair) -> float:
    """Of what both show, in grey, -1 to 1."""
    first, second = (_to_grey_floats(picture)[pair.mask] for picture in (pair.first, pair.second))
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6))


def compute_band_correlations(pair: AlignedPair) -> tuple[float, ...]:
    """The mean correlation of windows in each of BANDS, 0 to 1."""
    inside = cv2.erode(pair.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if inside.sum() < 50:
        return (0.0,) * len(FREQUENCY_BANDS)
    mask, rest = pair.mask.astype(np.float32), (_to_grey_floats(pair.first), _to_grey_floats(pair.second))
    spreads = [float(grey[inside].std()) + 1e-3 for grey in rest]
    found = []
    for deviation, side in FREQUENCY_BANDS:
        softer = [cv2.GaussianBlur(grey, (0, 0), deviation) for grey in rest]
        bands = [(grey - soft) / spread for grey, soft, spread in zip(rest, softer, spreads, strict=True)]
        found.append(_compute_mean_window_correlation(bands[0], bands[1], mask, inside, side))
        rest = (softer[0], softer[1])
    return tuple(found)


def compute_colour_correlation(pair: AlignedPair) -> float:
    """The correlation of their colours beyond grey, 1 where one of them has next to none; a sticker does not count."""
    first, second = (_compute_chroma(picture)[pair.mask] for picture in (pair.first, pair.second))  # (n, 2)
    spreads = [float(np.sqrt((chroma**2).sum(1).mean())) for chroma in (first, second)]
    if min(spreads) < MIN_CHROMA:
        return 1.0
    apart = np.square(first / spreads[0] - second / spreads[1]).sum(1)
    kept = apart <= np.quantile(apart, 1 - IGNORED_COLOUR_SHARE)
    first, second = first[kept], second[kept]
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6))


def classify_copy(features: CopyFeatures) -> tuple[bool, str]:
    """Whether they are copies, and the reason."""
    if features.overlap_share < MIN_OVERLAP_SHARE:
        return False, f"they share only {features.overlap_share:.0%} of the smaller one"
    if features.changed_share > MAX_CHANGED_SHARE:
        return False, f"{features.changed_share:.0%} of what both show is something else"
    if features.colour_correlation < MIN_COLOUR_CORRELATION:
        return False, "the same shapes in other colours"
    if features.score < MIN_COPY_SCORE:
        return False, f"only {features.band_correlations[-1]:.0%} of what both show is the same"
    return True, "the same view"


def _compute_mean_window_correlation(
    first: Float32Array, second: Float32Array, mask: Float32Array, inside: NDArray[np.bool_], side: int
) -> float:
    """The mean correlation of windows, weighted by the stronger contrast of the two, 0 to 1."""
    alike, contrast = _compute_window_correlations(first, second, mask, side)
    weights = np.minimum(contrast, np.quantile(contrast[inside], CONTRAST_QUANTILE)) * inside
    return float((weights * alike).sum() / (weights.sum() + 1e-6))


def _compute_window_correlations(
    first: Float32Array, second: Float32Array, mask: Float32Array, side: int
) -> tuple[Float32Array, Float32Array]:
    """Of the window around each pixel: the correlation of the two, 0 to 1, and the stronger contrast of the two."""

    def summed(values: Float32Array) -> Float32Array:
        boxes: Float32Array = cv2.boxFilter(values * mask, -1, (side, side), borderType=cv2.BORDER_CONSTANT)
        return boxes

    ours, theirs, both = summed(first * first), summed(second * second), summed(first * second)
    alike = np.clip(both / np.sqrt(ours * theirs + 1e-9), 0, 1)
    return alike, np.sqrt(np.maximum(ours, theirs).clip(0))


def _compute_chroma(image: Float32Array) -> Float32Array:
    """What its colours have beyond grey, (h, w, 2), of mean 0."""
    soft = cv2.GaussianBlur(image, (0, 0), 2).clip(0, 255).astype(np.uint8)
    chroma: Float32Array = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)[:, :, 1:].astype(np.float32)
    chroma -= chroma.mean((0, 1))
    return chroma


def _to_grey_floats(image: Float32Array) -> Float32Array:
    grey: Float32Array = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey
