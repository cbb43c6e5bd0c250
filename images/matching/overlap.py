"""Bring two aligned images to a common frame, at a size where letters can be read.

The homography comes from keypoints of small images (alignment.py). It is refined by the enhanced correlation
coefficient from a coarse to a fine size, and by a smooth field of shifts from optical flow (Kroeger et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from simile.core.records import Float64Array
from simile.images.formats import Pixels
from simile.images.matching.features import Float32Array
from simile.images.matching.homography import Matrix, make_scale_matrix
from simile.images.matching.photometry import Mask, keep_channels, to_bytes

COMPARED_SIDE = 1024  # longer side of the overlap, in pixels
REFINED_SIDES = (160, 400, 640)  # the same while the alignment is refined
CERTAIN_AGREEMENT = 0.995  # correlation above which the alignment needs no refinement
MAX_TILT = 0.12  # of the entries of the rotation matrix
ECC_BLUR = 5  # pixels
MAX_FRAME_SHIFT = 0.02  # of the longer side, by which a homography may differ from that of the whole frames
MAX_LOCAL_SHIFT = 3.0  # pixels
LOCAL_GRID = 8  # pixels
LOCAL_SHARE = 1 / 32  # of the longer side: standard deviation of the window in which shifts are averaged

FrameBox = tuple[float, float, float, float]  # left, top, right, bottom
WarpedImage = tuple[Float32Array, Pixels]  # levels (h, w, c), and a mask (h, w), 1 where the image has pixels


@dataclass(frozen=True)
class Overlap:
    """Both images as levels (h, w, c) in a common frame."""

    first: Float32Array
    second: Float32Array
    mask: Mask  # (h, w), True where both images have pixels


def make_overlap(first: Pixels, second: Pixels, matrix: Matrix) -> tuple[Overlap, Matrix, Matrix] | None:
    """Return both images in a common frame, as fine as the coarser of the two; None if they hardly overlap.

    Args:
        first: (H, W, c) uint8.
        second: (H', W', c) uint8.
        matrix: (3, 3), from pixels of the second image to the first's.

    Returns:
        The overlap, the refined matrix, and the matrix from the first image to the frame.
    """
    window = _compute_window(first, second, matrix)
    if window is None:
        return None
    matrix = _refine(first, second, matrix, window)
    frame = _make_frame(matrix, window, COMPARED_SIDE)
    return _align_locally(_warp(_warp_image(first, *frame), second, matrix, frame)), matrix, frame[0]


def project_frame(image: Pixels, matrix: Matrix) -> Float64Array:
    """Return the corners of an image, (4, 2), under a homography."""
    height, width = image.shape[:2]
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64)
    return np.asarray(cv2.perspectiveTransform(corners, matrix)[0], np.float64)


def make_upright(matrix: Matrix, second: Pixels) -> Matrix | None:
    """Return the nearest map that turns by a multiple of 90°, equal at the centre; None if it is not near."""
    height, width = second.shape[:2]
    centre = np.array([width / 2, height / 2, 1.0])
    x, y, depth = matrix @ centre
    jacobian = (matrix[:2, :2] - np.outer((x / depth, y / depth), matrix[2, :2])) / depth
    scale = float(np.sqrt(abs(np.linalg.det(jacobian))))
    rounded = np.round(jacobian / scale)
    if abs(abs(np.linalg.det(rounded)) - 1) > 0.1 or np.abs(jacobian / scale - rounded).max() > MAX_TILT:
        return None
    upright = np.eye(3)
    upright[:2, :2] = scale * rounded
    upright[:2, 2] = np.array([x, y]) / depth - upright[:2, :2] @ centre[:2]
    return upright


def _compute_window(first: Pixels, second: Pixels, matrix: Matrix) -> FrameBox | None:
    """Return left, top, right and bottom of the part of the first image that the second covers."""
    projected = project_frame(second, matrix)
    left, top = projected.min(0).clip(0)
    right, bottom = np.minimum(projected.max(0), (first.shape[1], first.shape[0]))
    return (left, top, right, bottom) if min(right - left, bottom - top) >= 16 else None


def _make_frame(matrix: Matrix, window: FrameBox, side: int) -> tuple[Matrix, tuple[int, int]]:
    """Return the matrix from the first image to the common frame, and the frame's width and height."""
    left, top, right, bottom = window
    # How many pixels of the second image lie on one of the first: the coarser image decides.
    density = 1 / np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    longer = max(right - left, bottom - top)
    scale = min(side / longer, 1.0, float(density))
    size = max(8, round((right - left) * scale)), max(8, round((bottom - top) * scale))
    return make_scale_matrix(scale) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]), size


def _warp(first: WarpedImage, second: Pixels, matrix: Matrix, frame: tuple[Matrix, tuple[int, int]]) -> Overlap:
    """Warp the second image to the frame that the first was warped to."""
    levels, mask = _warp_image(second, frame[0] @ matrix, frame[1])
    mask = cv2.erode(first[1] & mask, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return Overlap(first[0], levels, mask > 0)


def _warp_image(image: Pixels, transform: Matrix, size: tuple[int, int]) -> WarpedImage:
    """Return the levels of an image in a frame, (h, w, c), and where it has pixels, (h, w) uint8."""
    mask = cv2.warpPerspective(np.ones(image.shape[:2], np.uint8), transform, size, flags=cv2.INTER_NEAREST)
    return _warp_levels(image, transform, size), mask


def _warp_levels(image: Pixels, transform: Matrix, size: tuple[int, int]) -> Float32Array:
    """Return the levels (h, w, c) of an image in a frame; averaged first where it is reduced."""
    image, to_reduced = _reduce(image, float(np.sqrt(abs(np.linalg.det(transform[:2, :2])))))
    transform = transform @ np.linalg.inv(to_reduced)
    warped: Float32Array = cv2.warpPerspective(
        image.astype(np.float32), transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return keep_channels(warped)


def _reduce(image: Pixels, scale: float) -> tuple[Pixels, Matrix]:
    """Return an image reduced to a scale (as it is, if that is not much smaller), and the matrix to the reduced one."""
    if scale >= 0.8:
        return image, np.eye(3)
    height, width = (max(8, round(length * scale)) for length in image.shape[:2])
    # Pixel centres: (x + 1/2) · width / W - 1/2.
    x, y = width / image.shape[1], height / image.shape[0]
    reduced = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return reduced, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def _refine(first: Pixels, second: Pixels, matrix: Matrix, window: FrameBox) -> Matrix:
    """Return the homography, or that of the whole frames, after refinement from a coarse to a fine size."""
    # Reduce both images to the largest frame, in grey.
    (to_frame, _) = _make_frame(matrix, window, REFINED_SIDES[-1])
    scales = [float(np.sqrt(abs(np.linalg.det(transform[:2, :2])))) for transform in (to_frame, to_frame @ matrix)]
    (first, to_first), (second, to_second) = (
        _reduce(image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), scale)
        for image, scale in zip((first, second), scales, strict=True)
    )
    matrix = np.asarray(to_first @ matrix @ np.linalg.inv(to_second), np.float64)
    window = _compute_window(first, second, matrix) or (0, 0, first.shape[1], first.shape[0])
    # Two images of a series have the same frame, whatever moved inside.
    candidates = [matrix]
    whole = np.diag([first.shape[1] / second.shape[1], first.shape[0] / second.shape[0], 1.0])
    moved = project_frame(second, matrix) - project_frame(second, whole)
    if np.abs(moved).max() < MAX_FRAME_SHIFT * max(first.shape[:2]):
        candidates.append(whole)
    # A crop or a screenshot is not turned by half a degree, whatever the keypoints of repeated letters say.
    frame = _make_frame(matrix, window, REFINED_SIDES[-1])
    upright = make_upright(matrix, second)
    if upright is not None:
        transforms = ((first, frame[0]), (second, frame[0] @ upright))
        levels = [_warp_levels(image, transform, frame[1])[:, :, 0] for image, transform in transforms]
        shift, _ = cv2.phaseCorrelate(levels[0], levels[1])
        moved_frame = frame[0].copy()
        moved_frame[:2, 2] -= shift
        candidates.append(np.asarray(np.linalg.inv(frame[0]) @ moved_frame @ upright, np.float64))
    # Choose the best one, and refine it at each size.
    for side in REFINED_SIDES:
        frame = _make_frame(matrix, window, side)
        warped = _warp_image(first, *frame)
        overlaps = [_warp(warped, second, candidate, frame) for candidate in candidates]
        scores = [_compute_agreement(overlap) for overlap in overlaps]
        best = int(np.argmax(scores))
        candidates = [candidates[best]]
        if scores[best] > CERTAIN_AGREEMENT:
            break
        refined = _compute_refinement(overlaps[best], candidates[0], frame[0])
        if refined is not None and _compute_agreement(_warp(warped, second, refined, frame)) > scores[best]:
            candidates = [refined]
    return np.asarray(np.linalg.inv(to_first) @ candidates[0] @ to_second, np.float64)


def _compute_refinement(overlap: Overlap, matrix: Matrix, to_frame: Matrix) -> Matrix | None:
    """Return the homography with the highest correlation near this one; None if the search does not converge."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-4)
    start, mask = np.eye(3, dtype=np.float32), overlap.mask.astype(np.uint8)
    first, second = overlap.first[:, :, 0] / 255, overlap.second[:, :, 0] / 255
    try:
        _, step = cv2.findTransformECC(first, second, start, cv2.MOTION_HOMOGRAPHY, criteria, mask, ECC_BLUR)
    except cv2.error:  # raised when it does not converge
        return None
    refined = np.linalg.inv(to_frame) @ np.linalg.inv(step.astype(np.float64)) @ to_frame @ matrix
    return np.asarray(refined / refined[2, 2], np.float64)


def _align_locally(overlap: Overlap) -> Overlap:
    """Shift the parts of the second image by a smooth field: paper bends, and a homography may be wrong by a pixel."""
    greys = [
        to_bytes(image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        for image in (overlap.first, overlap.second)
    ]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow = estimator.calc(greys[0], greys[1], None)
    # The mean over a large window, of small shifts on edges: what moved by more is a change. A coarse grid is enough.
    steep = np.hypot(cv2.Scharr(greys[0], cv2.CV_32F, 1, 0), cv2.Scharr(greys[0], cv2.CV_32F, 0, 1))
    is_small = (np.abs(flow[:, :, 0]) < MAX_LOCAL_SHIFT) & (np.abs(flow[:, :, 1]) < MAX_LOCAL_SHIFT)
    weight = steep * overlap.mask * is_small
    height, width = weight.shape
    grid = max(1, width // LOCAL_GRID), max(1, height // LOCAL_GRID)
    sigma = max(grid) * LOCAL_SHARE
    sums = [
        cv2.GaussianBlur(cv2.resize(values, grid, interpolation=cv2.INTER_AREA), (0, 0), sigma)
        for values in (weight, flow[:, :, 0] * weight, flow[:, :, 1] * weight)
    ]
    total = sums[0] + 1e-3 * (float(steep.mean()) + 1e-3)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += cv2.resize(sums[1] / total, (width, height))
    y += cv2.resize(sums[2] / total, (width, height))
    second = cv2.remap(overlap.second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return Overlap(overlap.first, keep_channels(second), overlap.mask)


def _compute_agreement(overlap: Overlap) -> float:
    """Return the correlation of the grey overlap, -1 to 1."""
    if overlap.mask.sum() < 100:
        return -1.0
    first, second = (image[:, :, 0][overlap.mask] for image in (overlap.first, overlap.second))
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else -1.0
