"""Similarity of two aligned images, window by window, and the classification as a copy."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.matching.features import Float32Array

# Standard deviation of the Gaussian and side of the windows of each band, in pixels. A band is the difference of two
# Gaussians.
FREQUENCY_BANDS = ((1, 9), (2, 13), (4, 21))
CONTRAST_QUANTILE = 0.8  # the weight of a window is capped at this quantile of contrasts
MIN_CHROMA = 6.0  # of 255: images with less spread of colour count as grey
MIN_COLOUR_CORRELATION = 0.35  # below, the colours are of different images
MIN_WINDOW_CORRELATION = 0.5  # below, two windows show different things
MIN_WINDOW_CONTRAST = 0.1  # relative to the image's contrast; below, a window shows nothing
IGNORED_COLOUR_SHARE = 0.2  # share of the overlap whose colours are ignored (a sticker)
MAX_CHANGED_SHARE = 0.21  # of the overlap; larger than any sticker or text
MIN_OVERLAP_SHARE = 0.5  # of the smaller image

# Logistic regression over `get_regression_terms`, fitted once: 36 kinds of copies of 70 clothing photos against the
# nearest images that are no copies, by an encoder's distance. The last coefficient is the intercept.
KEYPOINT_COEFFICIENTS = (5.16, 5.93, 0.94, 8.76, -2.3, -14.13)
# Small images have many similar images, more in a larger collection: of the 1,000 most similar pairs of 20,000 digits
# and garments, one that was no copy passed. The lowest band separates them best.
NO_KEYPOINT_COEFFICIENTS = (6.0, -29.6)
MIN_COPY_SCORE = 0.9


@dataclass(frozen=True)
class AlignedPair:
    """Two aligned images."""

    first: Float32Array  # (h, w, 3), 0 to 255
    second: Float32Array
    mask: NDArray[np.bool_]  # (h, w), True where both images have pixels


@dataclass(frozen=True, kw_only=True)
class CopyFeatures:
    """The inputs of the copy classification."""

    band_correlations: tuple[float, ...]  # as `compute_band_correlations`
    changed_share: float  # as `compute_changed_share`
    colour_correlation: float  # as `compute_colour_correlation`
    match_count: int  # matched keypoints; 0 for a homography without keypoints
    inlier_count: int  # matches that agree with the homography; 0 for a homography without keypoints
    distortion: float  # as `compute_distortion`
    overlap_share: float  # share of the smaller image that overlaps the other

    @property
    def score(self) -> float:
        """Probability that the images are copies, 0 to 1."""
        *coefficients, intercept = KEYPOINT_COEFFICIENTS if self.inlier_count else NO_KEYPOINT_COEFFICIENTS
        logit = intercept + float(np.dot(coefficients, self.get_regression_terms()))
        return 1 / (1 + float(np.exp(-logit)))

    def get_regression_terms(self) -> list[float]:
        """Return the terms of the logistic regression; there are fewer without keypoints."""
        _, fine, coarse = self.band_correlations
        if not self.inlier_count:
            return [-float(np.log(1.003 - min(coarse, 1.0)))]  # large when the correlation is close to 1
        return [fine, coarse, float(np.log(self.inlier_count)), self.inlier_count / self.match_count, self.distortion]


def compute_changed_share(pair: AlignedPair) -> float:
    """Return the largest connected part of the overlap that differs in the lowest band, as a share of the overlap."""
    inside = pair.mask
    if inside.sum() < 50:
        return 0.0
    deviation, side = FREQUENCY_BANDS[-1]
    greys = [
        cv2.GaussianBlur(_to_grey_floats(image), (0, 0), FREQUENCY_BANDS[1][0]) for image in (pair.first, pair.second)
    ]
    bands = [(grey - cv2.GaussianBlur(grey, (0, 0), deviation)) / (float(grey[inside].std()) + 1e-3) for grey in greys]
    correlations, contrasts = _compute_window_correlations(bands[0], bands[1], inside.astype(np.float32), side)
    changed = (correlations < MIN_WINDOW_CORRELATION) & (contrasts > MIN_WINDOW_CONTRAST) & inside
    _, _, stats, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8))
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / inside.sum())


def compute_correlation(pair: AlignedPair) -> float:
    """Return the correlation of the overlap in grey, -1 to 1."""
    first, second = (_to_grey_floats(image)[pair.mask] for image in (pair.first, pair.second))
    return _correlate(first - first.mean(), second - second.mean())


def compute_band_correlations(pair: AlignedPair) -> tuple[float, ...]:
    """Return the mean correlation of windows in each of FREQUENCY_BANDS, 0 to 1."""
    inside = cv2.erode(pair.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if inside.sum() < 50:
        return (0.0,) * len(FREQUENCY_BANDS)
    mask = pair.mask.astype(np.float32)
    greys = [_to_grey_floats(pair.first), _to_grey_floats(pair.second)]
    spreads = [float(grey[inside].std()) + 1e-3 for grey in greys]
    correlations = []
    for deviation, side in FREQUENCY_BANDS:
        blurred = [cv2.GaussianBlur(grey, (0, 0), deviation) for grey in greys]
        first, second = ((grey - soft) / spread for grey, soft, spread in zip(greys, blurred, spreads, strict=True))
        # The mean over windows, weighted by the stronger contrast of the two.
        windows, contrasts = _compute_window_correlations(first, second, mask, side)
        weights = np.minimum(contrasts, np.quantile(contrasts[inside], CONTRAST_QUANTILE)) * inside
        correlations.append(float((weights * windows).sum() / (weights.sum() + 1e-6)))
        greys = blurred  # the next band starts from here
    return tuple(correlations)


def compute_colour_correlation(pair: AlignedPair) -> float:
    """Return the correlation of the colours beyond grey; 1 if an image is grey. A sticker is ignored."""
    first, second = (_compute_chroma(image)[pair.mask] for image in (pair.first, pair.second))  # (n, 2)
    spreads = [float(np.sqrt((chroma**2).sum(1).mean())) for chroma in (first, second)]
    if min(spreads) < MIN_CHROMA:
        return 1.0
    distances = np.square(first / spreads[0] - second / spreads[1]).sum(1)
    near = distances <= np.quantile(distances, 1 - IGNORED_COLOUR_SHARE)
    return _correlate(first[near], second[near])


def classify_copy(features: CopyFeatures) -> tuple[bool, str]:
    """Return whether the images are copies, and the reason for people."""
    if features.overlap_share < MIN_OVERLAP_SHARE:
        return False, f"they share only {features.overlap_share:.0%} of the smaller one"
    if features.changed_share > MAX_CHANGED_SHARE:
        return False, f"{features.changed_share:.0%} of the overlap shows something else"
    if features.colour_correlation < MIN_COLOUR_CORRELATION:
        return False, "the same shapes in other colours"
    if features.score < MIN_COPY_SCORE:
        return False, f"only {features.band_correlations[-1]:.0%} of the overlap is the same"
    return True, "the same view"


def _correlate(first: Float32Array, second: Float32Array) -> float:
    """Return the correlation of two arrays of mean 0."""
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6))


def _compute_window_correlations(
    first: Float32Array, second: Float32Array, mask: Float32Array, side: int
) -> tuple[Float32Array, Float32Array]:
    """Correlate the windows of `side` pixels around each pixel of two images (h, w), of mean 0 in each window.

    `mask` is 1 where both images have pixels, else 0. Return for each pixel the correlation, 0 to 1, and the stronger
    contrast of the two.
    """

    def box_mean(values: Float32Array) -> Float32Array:
        means: Float32Array = cv2.boxFilter(values * mask, -1, (side, side), borderType=cv2.BORDER_CONSTANT)
        return means

    first_energy, second_energy = box_mean(first * first), box_mean(second * second)
    correlations = np.clip(box_mean(first * second) / np.sqrt(first_energy * second_energy + 1e-9), 0, 1)
    return correlations, np.sqrt(np.maximum(first_energy, second_energy).clip(0))


def _compute_chroma(image: Float32Array) -> Float32Array:
    """Return the a and b channels of LAB, (h, w, 2), of mean 0."""
    blurred = cv2.GaussianBlur(image, (0, 0), 2).clip(0, 255).astype(np.uint8)
    chroma: Float32Array = cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB)[:, :, 1:].astype(np.float32)
    chroma -= chroma.mean((0, 1))
    return chroma


def _to_grey_floats(image: Float32Array) -> Float32Array:
    """Convert (h, w, 3) RGB to (h, w) grey."""
    grey: Float32Array = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey
