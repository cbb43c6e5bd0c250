"""How one picture lies on another: homographies, what makes them, and whether a person's copy may lie so.

All are (3, 3) float64, from pixels of the second picture's `grey` to pixels of the first's (models/portraits.py).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.images.matching.features import Float32Array, ImageFeatures

Matrix = NDArray[np.float64]

MIN_INLIERS = 5  # matches that agree on a homography
RATIO_TEST_THRESHOLD = 0.85  # of the distances to the best and the second best match
MAX_HOMOGRAPHY_DISTORTION = 1.2  # of a homography that people's copies are made by, see distortion


def match_keypoints(
    first: tuple[Float32Array, Float32Array], second: tuple[Float32Array, Float32Array]
) -> tuple[Float32Array, Float32Array]:
    """Points (m, 2) of each that are each other's best match, and clearly better than the next."""
    (ours, described), (theirs, others) = first, second
    if min(len(ours), len(theirs)) < MIN_INLIERS:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    likeness = described @ others.T  # (n, m) cosines
    nearest, rows = likeness.argmax(1), np.arange(len(ours))
    best = likeness[rows, nearest]
    mutual = likeness.argmax(0)[nearest] == rows
    likeness[rows, nearest] = -1
    clear = 1 - best < RATIO_TEST_THRESHOLD**2 * (1 - likeness.max(1))  # squared distances are 2 - 2 cosines
    return ours[mutual & clear], theirs[nearest[mutual & clear]]


def fit_homography(source: Float32Array, target: Float32Array) -> tuple[Matrix | None, int]:
    """The best fit from points (m, 2) to points (m, 2), and how many of them agree; None where too few do."""
    if len(source) < MIN_INLIERS:
        return None, 0
    affine, agreeing = cv2.estimateAffine2D(source, target, ransacReprojThreshold=4, maxIters=500, confidence=0.99)
    best, count = (None, 0) if affine is None else (np.vstack([affine, [0, 0, 1]]), int(agreeing.sum()))
    if len(source) >= 8:
        aslant, agreeing = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 3.0, maxIters=500, confidence=0.99)
        if aslant is not None and agreeing.sum() > 1.15 * count:  # has two degrees of freedom more to earn
            best, count = aslant, int(agreeing.sum())
    return (best, count) if count >= MIN_INLIERS else (None, count)


def project_corners(matrix: Matrix, features: ImageFeatures) -> Float32Array:
    """The corners (4, 2) of a picture after a homography."""
    width, height = features.size
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    moved: Float32Array = cv2.perspectiveTransform(corners, matrix)[0].astype(np.float32)
    return moved


def compute_projected_area(matrix: Matrix, features: ImageFeatures) -> float:
    return float(cv2.contourArea(project_corners(matrix, features)))


def compute_local_jacobian(matrix: Matrix, second: ImageFeatures) -> Matrix:
    """What it does around the second picture's middle, (2, 2)."""
    width, height = second.size
    x, y, w = matrix @ (width / 2, height / 2, 1.0)
    return np.asarray((matrix[:2, :2] - np.outer((x / w, y / w), matrix[2, :2])) / w, np.float64)


def is_plausible_homography(matrix: Matrix, first: ImageFeatures, second: ImageFeatures) -> bool:
    """Whether a person's copy may lie so: a convex frame, not squeezed to a line, not bent out of all proportion."""
    frame = project_corners(matrix, second)
    if not np.isfinite(frame).all() or not cv2.isContourConvex(frame):
        return False
    share = cv2.contourArea(frame) / first.grey.size
    return 0.03 < share < 30 and compute_distortion(matrix, second) < MAX_HOMOGRAPHY_DISTORTION


def compute_distortion(matrix: Matrix, second: ImageFeatures) -> float:
    """How far a homography is from turning, mirroring and scaling: squeeze, shear and perspective, 0 for none."""
    (width, height), jacobian = second.size, compute_local_jacobian(matrix, second)
    longer, shorter = np.linalg.svd(jacobian)[1]
    lengths = np.linalg.norm(jacobian, axis=0)
    shear = abs(jacobian[:, 0] @ jacobian[:, 1]) / (lengths.prod() + 1e-12)
    depth = matrix[2] @ (width / 2, height / 2, 1.0)
    perspective = float(np.hypot(matrix[2, 0] * width, matrix[2, 1] * height) / abs(depth))
    return float(np.log(longer / max(shorter, 1e-9)) + shear + perspective)


def make_square_symmetries(square: Float32Array) -> list[Float32Array]:
    """A square turned by 0, 90, 180 and 270 degrees, then its mirror image likewise."""
    return [np.rot90(side, turns) for side in (square, square[:, ::-1]) for turns in range(4)]


def make_symmetry_homography(index: int, first: ImageFeatures, second: ImageFeatures) -> Matrix:
    """The homography of one of `_ways`, from `grey` of the second to that of the first, stretched to its frame."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    if index >= 4:
        square = square[[1, 0, 3, 2]]
    turned = np.roll(square, -(index % 4), axis=0)  # where each corner of the result lies in the picture
    source, target = turned * np.array(second.size, np.float32), corners * np.array(first.size, np.float32)
    return np.asarray(cv2.getPerspectiveTransform(source, target), np.float64)


def make_scale_matrix(scale: float) -> Matrix:
    return np.diag([scale, scale, 1.0])
