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

from simile.images.matching.features import Floats, Portrait
from simile.images.matching.homography import (
    Matrix,
    area_of,
    distortion,
    frame_of,
    homography,
    is_plausible,
    local,
    matched,
    way,
    ways,
    zoom,
)
from simile.images.matching.similarity import Features, Laid, colour, correlation, details, elsewise, judged

COARSE = 96  # pixels of the longer side that pictures are laid on each other at
LIKE, LIKE_TINY = 0.8, 0.9  # correlation of two squares, from which on it is worth a closer look
SURE = 20  # matches that agree: the mirror image need not be tried too

Window = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Agreement:
    """What comparing two pictures gave. score: 0 to 1, how sure it is that one is a copy of the other.

    alike: 0 to 1, how much of what both show is the same. matrix: (3, 3), from pixels of the second to pixels of the
    first, both as they were given; None where they could not be laid on each other. reason: for people.
    """

    same: bool
    score: float
    alike: float
    reason: str
    matrix: Matrix | None = None
    features: Features | None = None


def compare(first: Portrait, second: Portrait) -> Agreement:
    """Whether one of two pictures is a copy of the other, cropped, turned, mirrored, re-coloured, written on or so."""
    best: tuple[Features, Matrix] | None = None
    for matrix, matches, agreeing in _guesses(first, second):
        found = _examined(first, second, matrix, matches, agreeing)
        if found is not None and (best is None or found[0].score > best[0].score):
            best = found
        if best is not None and best[0].agreeing > SURE and best[0].score > 0.98:
            break
    if best is None:
        return Agreement(False, 0.0, 0.0, "they can't be laid on each other")
    features, matrix = best
    same, reason = judged(features)
    if same:
        reason = ", ".join(_said(matrix, first, second)) or reason
    between = np.linalg.inv(zoom(first.scale)) @ matrix @ zoom(second.scale)
    return Agreement(same, features.score, features.details[-1], reason, between, features)


def _guesses(first: Portrait, second: Portrait) -> Iterator[tuple[Matrix, int, int]]:
    """Homographies from `grey` of the second to that of the first; how many matches there were, how many agree."""
    if not (first.tiny and second.tiny):
        for keypoints in ("keypoints", "mirrored"):
            ours, theirs = matched(first.keypoints, getattr(second, keypoints))
            matrix, agreeing = homography(theirs, ours)
            if matrix is not None and is_plausible(matrix, first, second):
                yield matrix, len(ours), agreeing
    turned = ways(second.square)
    likeness = [float((one * first.square).sum()) for one in turned]
    at = int(np.argmax(likeness))
    if likeness[at] >= (LIKE_TINY if first.tiny and second.tiny else LIKE):
        yield way(at, first, second), 0, 0


def _examined(
    first: Portrait, second: Portrait, matrix: Matrix, matches: int, agreeing: int
) -> tuple[Features, Matrix] | None:
    """What a guess is worth, and the guess refined; None where next to nothing lies on each other."""
    window = _window(first, second, matrix)
    if window is None:
        return None
    coarse = _laid(first, second, matrix, window, COARSE)
    if coarse.mask.sum() < 100:
        return None
    refined = None if agreeing > 4 * SURE else _refined(coarse, matrix, window)  # so many matches need no refining
    if refined is not None:
        again = _laid(first, second, refined, window, COARSE)
        if again.mask.sum() > 0.8 * coarse.mask.sum() and correlation(again) > correlation(coarse):
            coarse, matrix = again, refined
    fine = _laid(first, second, matrix, window, min(first.detail, second.detail))
    left, top, right, bottom = window
    both = coarse.mask.mean() * (right - left) * (bottom - top)
    covered = min(1.0, both / min(first.grey.size, area_of(matrix, second)))
    slant, colours = distortion(matrix, second), colour(coarse)
    return Features(details(fine), elsewise(fine), colours, matches, agreeing, slant, covered), matrix


def _window(first: Portrait, second: Portrait, matrix: Matrix) -> Window | None:
    """Left, top, right, bottom of the part of the first picture that the second may lie on."""
    frame, (width, height) = frame_of(matrix, second), first.size
    left, top = np.floor(frame.min(0).clip(0)).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(frame.max(0), (width, height))).astype(int).tolist()
    return (left, top, right, bottom) if min(right - left, bottom - top) >= 12 else None


def _placed(matrix: Matrix, window: Window, side: int) -> tuple[Matrix, int, int]:
    """The homography into the window, its longer side scaled to `side`; width and height there."""
    left, top, right, bottom = window
    scale = side / max(right - left, bottom - top)
    width, height = (max(8, round(length * scale)) for length in (right - left, bottom - top))
    return zoom(scale) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix, width, height


def _laid(first: Portrait, second: Portrait, matrix: Matrix, window: Window, side: int) -> Laid:
    """Both as they show in the window, its longer side scaled to `side`."""
    placed, width, height = _placed(matrix, window, side)
    ours, _, _ = _placed(np.eye(3), window, side)
    shown = cv2.warpPerspective(np.ones(second.grey.shape, np.float32), placed, (width, height)) > 0.99
    shown &= cv2.warpPerspective(np.ones(first.grey.shape, np.float32), ours, (width, height)) > 0.9
    return Laid(_sampled(first, ours, width, height), _sampled(second, placed, width, height), shown)


def _sampled(portrait: Portrait, matrix: Matrix, width: int, height: int) -> Floats:
    """(height, width, 3) float32 of a picture under a homography, softened first where it is reduced."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    colours = portrait.colours.astype(np.float32)
    if scale < 0.8:
        colours = cv2.GaussianBlur(colours, (0, 0), 0.45 / scale)
    sampled: Floats = cv2.warpPerspective(colours, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return sampled


def _refined(laid: Laid, matrix: Matrix, window: Window) -> Matrix | None:
    """The homography after a few steps towards the highest correlation; None where they lead nowhere."""
    first, second = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / 255 for picture in (laid.first, laid.second))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)
    start, mask = np.eye(3, dtype=np.float32), laid.mask.astype(np.uint8)
    try:
        _, step = cv2.findTransformECC(first, second, start, cv2.MOTION_HOMOGRAPHY, stop, mask, 3)
    except cv2.error:  # it says so when it does not converge
        return None
    placing, _, _ = _placed(np.eye(3), window, COARSE)
    return np.asarray(np.linalg.inv(placing) @ np.linalg.inv(step.astype(np.float64)) @ placing @ matrix, np.float64)


def _said(matrix: Matrix, first: Portrait, second: Portrait) -> list[str]:
    """What was done to the one that shows less, in words: mirrored, turned by so much, cropped to so much."""
    found, (width, height) = [], second.size
    jacobian = local(matrix, second)
    if np.linalg.det(jacobian) < 0:
        found.append("mirrored")
        jacobian = jacobian @ np.diag([-1.0, 1.0])
    degrees = float(np.degrees(np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])))
    if abs(degrees) >= 1.5:
        found.append(f"turned by {abs(degrees):.0f}°")
    ours, theirs = first.grey.size, area_of(matrix, second)
    left, top, right, bottom = _window(first, second, matrix) or (0, 0, width, height)
    shown = (right - left) * (bottom - top) / max(ours, theirs)
    if abs(degrees) < 1.5 and shown < 0.95:
        found.append(f"cropped to {shown:.0%}")
    return found
