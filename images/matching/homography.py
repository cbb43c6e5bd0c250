"""Homographies between two images: estimation, plausibility and distortion.

All are (3, 3) float64, from pixels of the second image's `grey` to pixels of the first's (features.py).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.matching.features import Float32Array, ImageFeatures

Matrix = NDArray[np.float64]

MIN_INLIERS = 5  # matches that must agree on a homography
RATIO_TEST_THRESHOLD = 0.85  # of the distances to the best and the second best match
MAX_HOMOGRAPHY_DISTORTION = 1.2  # largest `compute_distortion` of copies that people make


def match_keypoints(
    first: tuple[Float32Array, Float32Array], second: tuple[Float32Array, Float32Array]
) -> tuple[Float32Array, Float32Array]:
    """Match keypoints that are each other's best match and clearly better than the second best.

    From points (n, 2) and descriptors (n, 128) of each image, return the matched points (k, 2) in both.
    """
    (first_points, first_descriptors), (second_points, second_descriptors) = first, second
    if min(len(first_points), len(second_points)) < MIN_INLIERS:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    cosines = first_descriptors @ second_descriptors.T  # (n, m)
    nearest, rows = cosines.argmax(1), np.arange(len(first_points))
    best = cosines[rows, nearest]
    is_mutual = cosines.argmax(0)[nearest] == rows
    cosines[rows, nearest] = -1
    is_clear = 1 - best < RATIO_TEST_THRESHOLD**2 * (1 - cosines.max(1))  # squared distances are 2 - 2 cosines
    selected = is_mutual & is_clear
    return first_points[selected], second_points[nearest[selected]]


def fit_homography(source: Float32Array, target: Float32Array) -> tuple[Matrix | None, int]:
    """Fit an affine map and a homography from points (m, 2) to points (m, 2).

    Return the one with more inliers (None if there are too few) and its number of inliers.
    """
    if len(source) < MIN_INLIERS:
        return None, 0
    affine, inliers = cv2.estimateAffine2D(source, target, ransacReprojThreshold=4, maxIters=500, confidence=0.99)
    best, count = (None, 0) if affine is None else (np.vstack([affine, [0, 0, 1]]), int(inliers.sum()))
    if len(source) >= 8:
        matrix, inliers = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 3.0, maxIters=500, confidence=0.99)
        if matrix is not None and inliers.sum() > 1.15 * count:  # it must justify its two more degrees of freedom
            best, count = matrix, int(inliers.sum())
    return (best, count) if count >= MIN_INLIERS else (None, count)


def project_corners(matrix: Matrix, features: ImageFeatures) -> Float32Array:
    """Return the corners (4, 2) of an image under a homography."""
    width, height = features.size
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    projected: Float32Array = cv2.perspectiveTransform(corners, matrix)[0].astype(np.float32)
    return projected


def compute_projected_area(matrix: Matrix, features: ImageFeatures) -> float:
    """Return the area of an image under a homography, in pixels."""
    return float(cv2.contourArea(project_corners(matrix, features)))


def compute_local_jacobian(matrix: Matrix, second: ImageFeatures) -> Matrix:
    """Return the Jacobian (2, 2) of the homography at the centre of the second image."""
    width, height = second.size
    x, y, w = matrix @ (width / 2, height / 2, 1.0)
    return np.asarray((matrix[:2, :2] - np.outer((x / w, y / w), matrix[2, :2])) / w, np.float64)


def is_plausible_homography(matrix: Matrix, first: ImageFeatures, second: ImageFeatures) -> bool:
    """Return whether a copy can have this homography: a convex frame of plausible area and low distortion."""
    corners = project_corners(matrix, second)
    if not np.isfinite(corners).all() or not cv2.isContourConvex(corners):
        return False
    area_ratio = cv2.contourArea(corners) / first.grey.size
    return 0.03 < area_ratio < 30 and compute_distortion(matrix, second) < MAX_HOMOGRAPHY_DISTORTION


def compute_distortion(matrix: Matrix, second: ImageFeatures) -> float:
    """Return how far a homography is from rotation, mirroring and scaling: 0 for none.

    It is the sum of squeeze (log of the ratio of singular values), shear and perspective.
    """
    (width, height), jacobian = second.size, compute_local_jacobian(matrix, second)
    longer, shorter = np.linalg.svd(jacobian)[1]
    lengths = np.linalg.norm(jacobian, axis=0)
    shear = abs(jacobian[:, 0] @ jacobian[:, 1]) / (lengths.prod() + 1e-12)
    depth = matrix[2] @ (width / 2, height / 2, 1.0)
    perspective = float(np.hypot(matrix[2, 0] * width, matrix[2, 1] * height) / abs(depth))
    return float(np.log(longer / max(shorter, 1e-9)) + shear + perspective)


def compute_unit_overlap(matrix: Matrix) -> float:
    """Return how much two images have in common, as a share of the smaller one.

    Args:
        matrix: (3, 3), from the unit square of one image to that of the other.
    """
    corners = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], np.float32)
    projected = cv2.perspectiveTransform(corners, matrix)[0].astype(np.float32)
    if not np.isfinite(projected).all() or not cv2.isContourConvex(projected):
        return 0.0
    common, _ = cv2.intersectConvexConvex(projected, corners[0])
    return float(common / max(min(1.0, cv2.contourArea(projected)), 1e-9))


def make_square_symmetries(square: Float32Array) -> list[Float32Array]:
    """Return a square (s, s) rotated by 0, 90, 180 and 270 degrees, then its mirror image rotated likewise."""
    return [np.rot90(side, turns) for side in (square, square[:, ::-1]) for turns in range(4)]


def make_symmetry_homography(index: int, first: ImageFeatures, second: ImageFeatures) -> Matrix:
    """Return the homography of a symmetry, by its index in `make_square_symmetries`, between the images' frames."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    square = corners[[1, 0, 3, 2]] if index >= 4 else corners
    rotated = np.roll(square, -(index % 4), axis=0)  # where each corner of the result is in the second image
    source, target = rotated * np.array(second.size, np.float32), corners * np.array(first.size, np.float32)
    return np.asarray(cv2.getPerspectiveTransform(source, target), np.float64)


def make_scale_matrix(scale: float) -> Matrix:
    """Return the (3, 3) matrix that scales both axes."""
    return np.diag([scale, scale, 1.0])
