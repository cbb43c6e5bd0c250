"""Laying one picture on another, and how much of what both show is then the same.

Copies that were cropped, mirrored, turned, scaled or seen aslant lie on their original after one homography. It comes
from matched keypoints (SIFT, Lowe 2004, with the roots of Arandjelović & Zisserman 2012; robust fits by RANSAC and
MAGSAC++, arXiv 1912.05909), or, where a picture is too small or too plain for keypoints, from the eight ways to turn
and mirror a square; then it is refined by the enhanced correlation coefficient (Evangelidis & Psarakis 2008). What lies
on each other is compared window by window in bands of detail (models/likeness.py): another light or compression does
not matter, another shirt on the same bed does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from simile.images.matching.features import Float32Array, ImageFeatures
from simile.images.matching.homography import (
    Matrix,
    compute_distortion,
    compute_local_jacobian,
    compute_projected_area,
    fit_homography,
    is_plausible_homography,
    make_scale_matrix,
    make_square_symmetries,
    make_symmetry_homography,
    match_keypoints,
    project_corners,
)
from simile.images.matching.similarity import (
    AlignedPair,
    CopyFeatures,
    classify_copy,
    compute_band_correlations,
    compute_changed_share,
    compute_colour_correlation,
    compute_correlation,
)

COARSE_SIDE = 96  # pixels of the longer side that pictures are laid on each other at
MIN_DESCRIPTOR_CORRELATION, MIN_DESCRIPTOR_CORRELATION_TINY = (
    0.8,
    0.9,
)  # correlation of two squares, from which on it is worth a closer look
CERTAIN_INLIER_COUNT = 20  # matches that agree: the mirror image need not be tried too

WindowBox = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class AlignmentResult:
    """What comparing two pictures gave. score: 0 to 1, how sure it is that one is a copy of the other.

    alike: 0 to 1, how much of what both show is the same. matrix: (3, 3), from pixels of the second to pixels of the
    first, both as they were given; None where they could not be laid on each other. reason: for people.
    """

    is_copy: bool
    score: float
    similarity: float
    reason: str
    matrix: Matrix | None = None
    features: CopyFeatures | None = None


def align_images(first: ImageFeatures, second: ImageFeatures) -> AlignmentResult:
    """Whether one of two pictures is a copy of the other, cropped, turned, mirrored, re-coloured, written on or so."""
    best: tuple[CopyFeatures, Matrix] | None = None
    for matrix, matches, agreeing in _propose_homographies(first, second):
        found = _evaluate_homography(first, second, matrix, matches, agreeing)
        if found is not None and (best is None or found[0].score > best[0].score):
            best = found
        if best is not None and best[0].inlier_count > CERTAIN_INLIER_COUNT and best[0].score > 0.98:
            break
    if best is None:
        return AlignmentResult(False, 0.0, 0.0, "they can't be laid on each other")
    features, matrix = best
    same, reason = classify_copy(features)
    if same:
        reason = ", ".join(_describe_transform(matrix, first, second)) or reason
    between = np.linalg.inv(make_scale_matrix(first.scale)) @ matrix @ make_scale_matrix(second.scale)
    return AlignmentResult(same, features.score, features.band_correlations[-1], reason, between, features)


def _propose_homographies(first: ImageFeatures, second: ImageFeatures) -> Iterator[tuple[Matrix, int, int]]:
    """Homographies from `grey` of the second to that of the first; how many matches there were, how many agree."""
    if not (first.is_tiny and second.is_tiny):
        for keypoints in ("keypoints", "mirrored"):
            ours, theirs = match_keypoints(first.keypoints, getattr(second, keypoints))
            matrix, agreeing = fit_homography(theirs, ours)
            if matrix is not None and is_plausible_homography(matrix, first, second):
                yield matrix, len(ours), agreeing
    turned = make_square_symmetries(second.thumbnail_descriptor)
    likeness = [float((one * first.thumbnail_descriptor).sum()) for one in turned]
    at = int(np.argmax(likeness))
    if likeness[at] >= (
        MIN_DESCRIPTOR_CORRELATION_TINY if first.is_tiny and second.is_tiny else MIN_DESCRIPTOR_CORRELATION
    ):
        yield make_symmetry_homography(at, first, second), 0, 0


def _evaluate_homography(
    first: ImageFeatures, second: ImageFeatures, matrix: Matrix, match_count: int, inlier_count: int
) -> tuple[CopyFeatures, Matrix] | None:
    """What a guess is worth, and the guess refined; None where next to nothing lies on each other."""
    window = _compute_overlap_window(first, second, matrix)
    if window is None:
        return None
    coarse = _warp_to_window(first, second, matrix, window, COARSE_SIDE)
    if coarse.mask.sum() < 100:
        return None
    refined = (
        None if inlier_count > 4 * CERTAIN_INLIER_COUNT else _refine_homography(coarse, matrix, window)
    )  # so many matches need no refining
    if refined is not None:
        again = _warp_to_window(first, second, refined, window, COARSE_SIDE)
        if again.mask.sum() > 0.8 * coarse.mask.sum() and compute_correlation(again) > compute_correlation(coarse):
            coarse, matrix = again, refined
    fine = _warp_to_window(first, second, matrix, window, min(first.detail_side, second.detail_side))
    left, top, right, bottom = window
    both = coarse.mask.mean() * (right - left) * (bottom - top)
    covered = min(1.0, both / min(first.grey.size, compute_projected_area(matrix, second)))
    slant, colours = compute_distortion(matrix, second), compute_colour_correlation(coarse)
    return CopyFeatures(
        compute_band_correlations(fine), compute_changed_share(fine), colours, match_count, inlier_count, slant, covered
    ), matrix


def _compute_overlap_window(first: ImageFeatures, second: ImageFeatures, matrix: Matrix) -> WindowBox | None:
    """Left, top, right, bottom of the part of the first picture that the second may lie on."""
    frame, (width, height) = project_corners(matrix, second), first.size
    left, top = np.floor(frame.min(0).clip(0)).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(frame.max(0), (width, height))).astype(int).tolist()
    return (left, top, right, bottom) if min(right - left, bottom - top) >= 12 else None


def _compute_window_homography(matrix: Matrix, window: WindowBox, side: int) -> tuple[Matrix, int, int]:
    """The homography into the window, its longer side scaled to `side`; width and height there."""
    left, top, right, bottom = window
    scale = side / max(right - left, bottom - top)
    width, height = (max(8, round(length * scale)) for length in (right - left, bottom - top))
    return make_scale_matrix(scale) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix, width, height


def _warp_to_window(
    first: ImageFeatures, second: ImageFeatures, matrix: Matrix, window: WindowBox, side: int
) -> AlignedPair:
    """Both as they show in the window, its longer side scaled to `side`."""
    placed, width, height = _compute_window_homography(matrix, window, side)
    ours, _, _ = _compute_window_homography(np.eye(3), window, side)
    shown = cv2.warpPerspective(np.ones(second.grey.shape, np.float32), placed, (width, height)) > 0.99
    shown &= cv2.warpPerspective(np.ones(first.grey.shape, np.float32), ours, (width, height)) > 0.9
    return AlignedPair(_warp_image(first, ours, width, height), _warp_image(second, placed, width, height), shown)


def _warp_image(features: ImageFeatures, matrix: Matrix, width: int, height: int) -> Float32Array:
    """(height, width, 3) float32 of a picture under a homography, softened first where it is reduced."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    colours = features.rgb.astype(np.float32)
    if scale < 0.8:
        colours = cv2.GaussianBlur(colours, (0, 0), 0.45 / scale)
    sampled: Float32Array = cv2.warpPerspective(colours, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return sampled


def _refine_homography(pair: AlignedPair, matrix: Matrix, window: WindowBox) -> Matrix | None:
    """The homography after a few steps towards the highest correlation; None where they lead nowhere."""
    first, second = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / 255 for picture in (pair.first, pair.second))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)
    start, mask = np.eye(3, dtype=np.float32), pair.mask.astype(np.uint8)
    try:
        _, step = cv2.findTransformECC(first, second, start, cv2.MOTION_HOMOGRAPHY, stop, mask, 3)
    except cv2.error:  # it says so when it does not converge
        return None
    placing, _, _ = _compute_window_homography(np.eye(3), window, COARSE_SIDE)
    return np.asarray(np.linalg.inv(placing) @ np.linalg.inv(step.astype(np.float64)) @ placing @ matrix, np.float64)


def _describe_transform(matrix: Matrix, first: ImageFeatures, second: ImageFeatures) -> list[str]:
    """What was done to the one that shows less, in words: mirrored, turned by so much, cropped to so much."""
    found, (width, height) = [], second.size
    jacobian = compute_local_jacobian(matrix, second)
    if np.linalg.det(jacobian) < 0:
        found.append("mirrored")
        jacobian = jacobian @ np.diag([-1.0, 1.0])
    degrees = float(np.degrees(np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])))
    if abs(degrees) >= 1.5:
        found.append(f"turned by {abs(degrees):.0f}°")
    ours, theirs = first.grey.size, compute_projected_area(matrix, second)
    left, top, right, bottom = _compute_overlap_window(first, second, matrix) or (0, 0, width, height)
    shown = (right - left) * (bottom - top) / max(ours, theirs)
    if abs(degrees) < 1.5 and shown < 0.95:
        found.append(f"cropped to {shown:.0%}")
    return found
