"""Align two images by a homography, and measure how similar they are where they overlap.

A copy that was cropped, mirrored, rotated, scaled or seen in perspective lies on its original after one homography. It
comes from matched keypoints (SIFT, Lowe 2004, with the root of Arandjelović & Zisserman 2012; robust fits by RANSAC and
MAGSAC++, arXiv 1912.05909) or, if an image is too small or too plain for keypoints, from the eight symmetries of a
square. The enhanced correlation coefficient (Evangelidis & Psarakis 2008) refines it. The aligned images are compared
window by window in frequency bands (similarity.py): another exposure or compression does not matter, another shirt on
the same bed does.
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

COARSE_SIDE = 96  # longer side, in pixels, of images during the refinement
MIN_DESCRIPTOR_CORRELATION = 0.8  # of two thumbnail descriptors, for a symmetry to be evaluated
MIN_DESCRIPTOR_CORRELATION_TINY = 0.9  # the same if both images are tiny
CERTAIN_INLIER_COUNT = 20  # with more inliers the mirror image is not tried

WindowBox = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class AlignmentResult:
    """The result of comparing two images."""

    is_copy: bool
    score: float  # probability of a copy
    similarity: float  # correlation of the overlap in the lowest frequency band, 0 to 1
    reason: str  # why it is a copy or not, for people
    matrix: Matrix | None = None  # (3, 3), from pixels of the second image to the first's; None if not aligned
    features: CopyFeatures | None = None  # what the score was computed from; None if not aligned


def align_images(first: ImageFeatures, second: ImageFeatures) -> AlignmentResult:
    """Return whether one image is a copy of the other: cropped, rotated, mirrored, recoloured, with text and so on."""
    # Evaluate candidate homographies until one is certain.
    best: tuple[CopyFeatures, Matrix] | None = None
    for matrix, match_count, inlier_count in _propose_homographies(first, second):
        candidate = _evaluate_homography(first, second, matrix, match_count, inlier_count)
        if candidate is not None and (best is None or candidate[0].score > best[0].score):
            best = candidate
        if best is not None and best[0].inlier_count > CERTAIN_INLIER_COUNT and best[0].score > 0.98:
            break
    if best is None:
        return AlignmentResult(is_copy=False, score=0.0, similarity=0.0, reason="the images can't be aligned")
    # Classify the best one; describe the transform of a copy.
    features, matrix = best
    is_copy, reason = classify_copy(features)
    if is_copy:
        reason = ", ".join(_describe_transform(matrix, first, second)) or reason
    return AlignmentResult(
        is_copy=is_copy,
        score=features.score,
        similarity=features.band_correlations[-1],
        reason=reason,
        matrix=np.linalg.inv(make_scale_matrix(first.scale)) @ matrix @ make_scale_matrix(second.scale),
        features=features,
    )


def _propose_homographies(first: ImageFeatures, second: ImageFeatures) -> Iterator[tuple[Matrix, int, int]]:
    """Yield (homography from `grey` of the second image to that of the first, matches, inliers)."""
    both_tiny = first.is_tiny and second.is_tiny
    if not both_tiny:
        for keypoints in (second.keypoints, second.mirrored_keypoints):
            first_points, second_points = match_keypoints(first.keypoints, keypoints)
            matrix, inlier_count = fit_homography(second_points, first_points)
            if matrix is not None and is_plausible_homography(matrix, first, second):
                yield matrix, len(first_points), inlier_count
    symmetries = make_square_symmetries(second.thumbnail_descriptor)
    correlations = [float((descriptor * first.thumbnail_descriptor).sum()) for descriptor in symmetries]
    best = int(np.argmax(correlations))
    if correlations[best] >= (MIN_DESCRIPTOR_CORRELATION_TINY if both_tiny else MIN_DESCRIPTOR_CORRELATION):
        yield make_symmetry_homography(best, first, second), 0, 0


def _evaluate_homography(
    first: ImageFeatures, second: ImageFeatures, matrix: Matrix, match_count: int, inlier_count: int
) -> tuple[CopyFeatures, Matrix] | None:
    """Refine a homography and measure the overlap; None if there is almost no overlap."""
    # Warp both images to their overlap at a coarse size.
    window = _compute_overlap_window(first, second, matrix)
    if window is None:
        return None
    coarse = _warp_to_window(first, second, matrix, window, COARSE_SIDE)
    if coarse.mask.sum() < 100:
        return None
    # Refine, unless so many matches agree that it is not needed; keep the refined one only if it is better.
    refined = None if inlier_count > 4 * CERTAIN_INLIER_COUNT else _refine_homography(coarse, matrix, window)
    if refined is not None:
        pair = _warp_to_window(first, second, refined, window, COARSE_SIDE)
        if pair.mask.sum() > 0.8 * coarse.mask.sum() and compute_correlation(pair) > compute_correlation(coarse):
            coarse, matrix = pair, refined
    # Measure at a fine size.
    fine = _warp_to_window(first, second, matrix, window, min(first.detail_side, second.detail_side))
    left, top, right, bottom = window
    overlap_area = coarse.mask.mean() * (right - left) * (bottom - top)
    return CopyFeatures(
        band_correlations=compute_band_correlations(fine),
        changed_share=compute_changed_share(fine),
        colour_correlation=compute_colour_correlation(coarse),
        match_count=match_count,
        inlier_count=inlier_count,
        distortion=compute_distortion(matrix, second),
        overlap_share=min(1.0, overlap_area / min(first.grey.size, compute_projected_area(matrix, second))),
    ), matrix


def _compute_overlap_window(first: ImageFeatures, second: ImageFeatures, matrix: Matrix) -> WindowBox | None:
    """Return the box in the first image that the second can cover; None if it is under 12 pixels wide or high."""
    corners, (width, height) = project_corners(matrix, second), first.size
    left, top = np.floor(corners.min(0).clip(0)).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(corners.max(0), (width, height))).astype(int).tolist()
    return (left, top, right, bottom) if min(right - left, bottom - top) >= 12 else None


def _compute_window_homography(matrix: Matrix, window: WindowBox, side: int) -> tuple[Matrix, int, int]:
    """Return (homography into the window, width, height), the window's longer side scaled to `side` pixels."""
    left, top, right, bottom = window
    scale = side / max(right - left, bottom - top)
    width, height = (max(8, round(length * scale)) for length in (right - left, bottom - top))
    return make_scale_matrix(scale) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix, width, height


def _warp_to_window(
    first: ImageFeatures, second: ImageFeatures, matrix: Matrix, window: WindowBox, side: int
) -> AlignedPair:
    """Warp both images to the window, its longer side scaled to `side` pixels."""
    second_matrix, width, height = _compute_window_homography(matrix, window, side)
    first_matrix, _, _ = _compute_window_homography(np.eye(3), window, side)
    mask = cv2.warpPerspective(np.ones(second.grey.shape, np.float32), second_matrix, (width, height)) > 0.99
    mask &= cv2.warpPerspective(np.ones(first.grey.shape, np.float32), first_matrix, (width, height)) > 0.9
    return AlignedPair(
        _warp_image(first, first_matrix, width, height), _warp_image(second, second_matrix, width, height), mask
    )


def _warp_image(features: ImageFeatures, matrix: Matrix, width: int, height: int) -> Float32Array:
    """Return the image under a homography, (height, width, 3) float32; blurred first if it is reduced."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    colours = features.rgb.astype(np.float32)
    if scale < 0.8:
        colours = cv2.GaussianBlur(colours, (0, 0), 0.45 / scale)
    warped: Float32Array = cv2.warpPerspective(colours, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return warped


def _refine_homography(pair: AlignedPair, matrix: Matrix, window: WindowBox) -> Matrix | None:
    """Return the homography after up to 20 steps towards the highest correlation; None if it does not converge."""
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255 for image in (pair.first, pair.second))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)
    start, mask = np.eye(3, dtype=np.float32), pair.mask.astype(np.uint8)
    try:
        _, step = cv2.findTransformECC(first, second, start, cv2.MOTION_HOMOGRAPHY, criteria, mask, 3)
    except cv2.error:  # raised when it does not converge
        return None
    # The step is in pixels of the window: convert it to pixels of the first image.
    to_window, _, _ = _compute_window_homography(np.eye(3), window, COARSE_SIDE)
    return np.asarray(
        np.linalg.inv(to_window) @ np.linalg.inv(step.astype(np.float64)) @ to_window @ matrix, np.float64
    )


def _describe_transform(matrix: Matrix, first: ImageFeatures, second: ImageFeatures) -> list[str]:
    """Describe how the copy differs in geometry: mirrored, rotated by an angle, cropped to a share of the area."""
    words, (width, height) = [], second.size
    jacobian = compute_local_jacobian(matrix, second)
    if np.linalg.det(jacobian) < 0:
        words.append("mirrored")
        jacobian = jacobian @ np.diag([-1.0, 1.0])
    degrees = float(np.degrees(np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])))
    if abs(degrees) >= 1.5:
        words.append(f"turned by {abs(degrees):.0f}°")
    left, top, right, bottom = _compute_overlap_window(first, second, matrix) or (0, 0, width, height)
    larger_area = max(first.grey.size, compute_projected_area(matrix, second))
    overlap_share = (right - left) * (bottom - top) / larger_area
    if abs(degrees) < 1.5 and overlap_share < 0.95:
        words.append(f"cropped to {overlap_share:.0%}")
    return words
