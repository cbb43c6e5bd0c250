"""How much of two pictures that lie on each other is the same, window by window, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Standard deviations of the Gaussians whose differences are the bands, in pixels, and the side of each one's windows.
BANDS = ((1, 9), (2, 13), (4, 21))
LOUD = 0.8  # quantile of the contrast of windows: none counts for more
COLOURED = 6.0  # of 255, spread of the colour of a picture that has any
OTHER_COLOURS = 0.35  # correlation of colours, below which they are not of one picture
OTHERWISE = 0.5  # correlation of windows, below which they show something else
FAINT = 0.1  # contrast of windows, as a share of the picture's, below which they show nothing
STICKER = 0.2  # share of what both show, whose colours may be anything
ELSEWISE = 0.21  # of what both show: a part that shows something else, larger than any sticker or lettering
COVERED = 0.5  # of the smaller picture: so much of it must lie on the other

# A logistic regression over Features.terms, fitted once: 36 kinds of copies of 70 clothing photos against the nearest
# pictures that are no copies, by an encoder's distance.
WITH_KEYPOINTS = (5.16, 5.93, 0.94, 8.76, -2.3, -14.13)
# Small pictures have many near relations, more the larger the collection is: of the 1,000 most alike pairs of 20,000
# digits and garments one passed that was no copy. Coarse detail tells them best.
WITHOUT_KEYPOINTS = (6.0, -29.6)
SAME = 0.9  # score


@dataclass(frozen=True)
class Laid:
    """Two pictures on each other, (h, w, 3) float32, 0 to 255 each; mask: (h, w), where both show something."""

    first: Floats
    second: Floats
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Features:
    """What a verdict is made of.

    details: the mean correlation of windows in each of BANDS, 0 to 1, windows without contrast left out. elsewise: the
    largest connected part that shows something else, as a share. colour: the correlation of their colours, 1 where one
    of them has none. matches: pairs of like keypoints; agreeing: of them, that lie where the homography says, both 0
    where it was guessed without. distortion: how far the homography is from turning and scaling. covered: share of the
    smaller picture that lies on the other.
    """

    details: tuple[float, ...]
    elsewise: float
    colour: float
    matches: int
    agreeing: int
    distortion: float
    covered: float

    @property
    def score(self) -> float:
        """0 to 1: how likely they are copies."""
        *factors, start = WITH_KEYPOINTS if self.agreeing else WITHOUT_KEYPOINTS
        logit = start + float(np.dot(factors, self.terms()))
        return 1 / (1 + float(np.exp(-logit)))

    def terms(self) -> list[float]:
        """What is weighed."""
        _, fine, coarse = self.details
        if not self.agreeing:
            return [-float(np.log(1.003 - min(coarse, 1.0)))]  # how close it is to 1, without end
        return [fine, coarse, float(np.log(self.agreeing)), self.agreeing / self.matches, self.distortion]


def elsewise(laid: Laid) -> float:
    """The largest connected part of what both show where windows of the last band don't agree, as a share of it."""
    inside = laid.mask
    if inside.sum() < 50:
        return 0.0
    deviation, side = BANDS[-1]
    greys = [cv2.GaussianBlur(_grey(picture), (0, 0), BANDS[1][0]) for picture in (laid.first, laid.second)]
    bands = [(grey - cv2.GaussianBlur(grey, (0, 0), deviation)) / (float(grey[inside].std()) + 1e-3) for grey in greys]
    alike, contrast = _alike(bands[0], bands[1], inside.astype(np.float32), side)
    other = (alike < OTHERWISE) & (contrast > FAINT) & inside
    _, _, stats, _ = cv2.connectedComponentsWithStats(other.astype(np.uint8))
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / inside.sum())


def correlation(laid: Laid) -> float:
    """Of what both show, in grey, -1 to 1."""
    first, second = (_grey(picture)[laid.mask] for picture in (laid.first, laid.second))
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6))


def details(laid: Laid) -> tuple[float, ...]:
    """The mean correlation of windows in each of BANDS, 0 to 1."""
    inside = cv2.erode(laid.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if inside.sum() < 50:
        return (0.0,) * len(BANDS)
    mask, rest = laid.mask.astype(np.float32), (_grey(laid.first), _grey(laid.second))
    spreads = [float(grey[inside].std()) + 1e-3 for grey in rest]
    found = []
    for deviation, side in BANDS:
        softer = [cv2.GaussianBlur(grey, (0, 0), deviation) for grey in rest]
        bands = [(grey - soft) / spread for grey, soft, spread in zip(rest, softer, spreads, strict=True)]
        found.append(_windows(bands[0], bands[1], mask, inside, side))
        rest = (softer[0], softer[1])
    return tuple(found)


def colour(laid: Laid) -> float:
    """The correlation of their colours beyond grey, 1 where one of them has next to none; a sticker does not count."""
    first, second = (_chroma(picture)[laid.mask] for picture in (laid.first, laid.second))  # (n, 2)
    spreads = [float(np.sqrt((chroma**2).sum(1).mean())) for chroma in (first, second)]
    if min(spreads) < COLOURED:
        return 1.0
    apart = np.square(first / spreads[0] - second / spreads[1]).sum(1)
    kept = apart <= np.quantile(apart, 1 - STICKER)
    first, second = first[kept], second[kept]
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6))


def judged(features: Features) -> tuple[bool, str]:
    """Whether they are copies, and the reason."""
    if features.covered < COVERED:
        return False, f"they share only {features.covered:.0%} of the smaller one"
    if features.elsewise > ELSEWISE:
        return False, f"{features.elsewise:.0%} of what both show is something else"
    if features.colour < OTHER_COLOURS:
        return False, "the same shapes in other colours"
    if features.score < SAME:
        return False, f"only {features.details[-1]:.0%} of what both show is the same"
    return True, "the same view"


def _windows(first: Floats, second: Floats, mask: Floats, inside: NDArray[np.bool_], side: int) -> float:
    """The mean correlation of windows, weighted by the stronger contrast of the two, 0 to 1."""
    alike, contrast = _alike(first, second, mask, side)
    weights = np.minimum(contrast, np.quantile(contrast[inside], LOUD)) * inside
    return float((weights * alike).sum() / (weights.sum() + 1e-6))


def _alike(first: Floats, second: Floats, mask: Floats, side: int) -> tuple[Floats, Floats]:
    """Of the window around each pixel: the correlation of the two, 0 to 1, and the stronger contrast of the two."""

    def summed(values: Floats) -> Floats:
        boxes: Floats = cv2.boxFilter(values * mask, -1, (side, side), borderType=cv2.BORDER_CONSTANT)
        return boxes

    ours, theirs, both = summed(first * first), summed(second * second), summed(first * second)
    alike = np.clip(both / np.sqrt(ours * theirs + 1e-9), 0, 1)
    return alike, np.sqrt(np.maximum(ours, theirs).clip(0))


def _chroma(picture: Floats) -> Floats:
    """What its colours have beyond grey, (h, w, 2), of mean 0."""
    soft = cv2.GaussianBlur(picture, (0, 0), 2).clip(0, 255).astype(np.uint8)
    chroma: Floats = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)[:, :, 1:].astype(np.float32)
    chroma -= chroma.mean((0, 1))
    return chroma


def _grey(picture: Floats) -> Floats:
    grey: Floats = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey
