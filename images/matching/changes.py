"""Find regions where one of two aligned images shows something that the other lacks.

A copy may have something more than its original (a caption, a sticker), or less. If each has something that the other
lacks, two files were made from different originals: two invoices with different amounts, two frames of a burst. The
images are compared at a size where letters can be read (overlap.py). A pixel differs if its level is outside the
range of levels around the same pixel of the other image, which tolerates small errors of the alignment. For each
region of such pixels, the edges along its outline show which image has something on the common background: an outline
of edges that only one image has belongs to an object of that image, whatever it covers in the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from simile.core.records import Float64Array
from simile.images.formats import Pixels
from simile.images.matching.features import Float32Array
from simile.images.matching.homography import Matrix
from simile.images.matching.overlap import make_overlap, make_upright, project_frame
from simile.images.matching.photometry import Mask, compute_tone_difference, keep_channels, match_appearance, to_bytes

CHANGES_VERSION = 4  # of what `find_changes` finds; stored results of other versions are not used
MAX_TONE_DIFFERENCE = 3.0  # levels, as `compute_tone_difference`
MAX_FRAME_TILT = 0.015  # of the longer side, by which a corner may be moved from where an upright copy has it
SMALL_WINDOW = 9  # pixels: a small letter
SMALL_FACTOR = 2.2  # times the 0.995 quantile; copies that were compressed or resized reach 1.4, another digit 2.7
MARGIN_SIDE = 256  # longer side, in pixels, at which the surroundings of the common part are described
MIN_MARGIN_SHARE = 0.01  # of an image: less around the common part is no margin
MAX_FLAT_STEP, MIN_FLAT_SHARE = 12, 0.6  # levels between neighbours, and the share of such pixels in a border
MIN_CHROMA = 20.0  # levels; below it an image is grey
MIN_DIFFERENCE = 28.0  # levels, of 255
NOISE_SIGMA, NOISE_WINDOW = 2.0, 31  # pixels: finer differences are noise, which is measured in this window
MAX_NOISE = 40.0  # levels; letters that differ are no noise
NOISE_FACTOR = 3.5  # a difference is at least so many times the mean of the noise
MIN_RELATIVE_DIFFERENCE = 0.45  # of the range of levels around the pixel: another sharpness differs less
MIN_REGION_AREA = 6  # pixels
MIN_REGION_EXCESS = 2500.0  # levels, summed over the pixels of a region
MIN_INK_LEVEL, MIN_INK_EXCESS = 90.0, 700.0  # levels; a region with the contrast of ink may be smaller
MAX_DIFFERENT_SHARE = 0.25  # of the overlap: more is no local change, but another rendering
GROUP_SHARE = 1 / 64  # of the longer side: regions with smaller gaps are a group
MIN_GROUP_AREA = 0.005  # of the frame; letters are smaller
MIN_GROUP_DOMINANCE = 0.5  # of the edges around a group: above, the group is an object of one image
MIN_OWNER_DOMINANCE = 0.35  # of the edges along an outline: below, it belongs to both images
MIN_BALANCE = 0.03  # their smallest share in those of both images
MIN_EVIDENCE = 7.0  # outline pixels of the objects of one image
MAX_REGIONS = 12


PixelBox = tuple[int, int, int, int]  # left, top, right, bottom
ShareBox = tuple[float, float, float, float]  # left, top, right, bottom, as shares of an image's width and height


class ChangedRegion(NamedTuple):
    """A region that differs, in each of the two images."""

    first_box: ShareBox
    second_box: ShareBox


Margin = Literal["", "flat", "content"]  # what surrounds the part of an image that the other one shows; "": nothing


@dataclass(frozen=True, kw_only=True)
class ImageChanges:
    """How two near copies differ.

    Attributes:
        in_first, in_second: Whether the image has something that the other one lacks.
        regions: Where; the largest regions first.
        has_other_tones: Whether brightness or colours differ.
        is_warped: Whether one of the two was turned by less than 90°, tilted or stretched.
        is_mostly_different: Whether too much differs to find regions.
        has_small_difference: Whether, without regions, a small part differs much more than the rest.
        is_turned: Whether one of the two is mirrored, or turned by a multiple of 90°.
        first_margin, second_margin: What surrounds the part of the image that the other one shows.
        area_ratio: The area of the second image on the first, as a share of the first.
        first_may_have_more, second_may_have_more: Whether the image is not known to be a compressed, reduced or grey
            copy of the other one (derivation.py).
    """

    in_first: bool = False
    in_second: bool = False
    regions: tuple[ChangedRegion, ...] = ()
    has_other_tones: bool = False
    is_warped: bool = False
    is_mostly_different: bool = False
    has_small_difference: bool = False
    is_turned: bool = False
    first_margin: Margin = ""
    second_margin: Margin = ""
    area_ratio: float = 1.0
    first_may_have_more: bool = False
    second_may_have_more: bool = False

    @property
    def is_mutual(self) -> bool:
        """Whether each has something that the other lacks."""
        return self.in_first and self.in_second

    def swap(self) -> ImageChanges:
        """Return the changes with the two images exchanged."""
        return replace(
            self,
            in_first=self.in_second,
            in_second=self.in_first,
            regions=tuple(ChangedRegion(*boxes[::-1]) for boxes in self.regions),
            first_margin=self.second_margin,
            second_margin=self.first_margin,
            area_ratio=round(1 / max(self.area_ratio, 1e-6), 6),
            first_may_have_more=self.second_may_have_more,
            second_may_have_more=self.first_may_have_more,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the changes as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> ImageChanges:
        """Read the values of `to_json`."""
        regions = tuple(ChangedRegion(tuple(first), tuple(second)) for first, second in body["regions"])
        return cls(**{**body, "regions": regions})


NO_CHANGES = ImageChanges()


def find_changes(first: Pixels, second: Pixels, matrix: Matrix) -> ImageChanges:
    """Find the regions in which one of two aligned images has something that the other lacks.

    Args:
        first: (H, W, 3) uint8.
        second: (H', W', 3) uint8.
        matrix: (3, 3), from pixels of the second image to the first's.
    """
    # Without colours in one of the images, compare brightness.
    if min(_compute_chroma(image) for image in (first, second)) < MIN_CHROMA:
        first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None] for image in (first, second))
    # Bring both to a common frame, and describe how they differ as a whole.
    made = make_overlap(first, second, matrix)
    if made is None:
        return NO_CHANGES
    overlap, matrix, to_frame = made
    upright = make_upright(matrix, second)
    whole = ImageChanges(
        has_other_tones=compute_tone_difference(overlap.first, overlap.second, overlap.mask) > MAX_TONE_DIFFERENCE,
        is_warped=_is_warped(first, second, matrix, upright),
        is_turned=_is_turned(upright),
        first_margin=_describe_margin(first, second, matrix),
        second_margin=_describe_margin(second, first, np.asarray(np.linalg.inv(matrix), np.float64)),
        area_ratio=_compute_area_ratio(first, second, matrix),
    )
    # Find the pixels that differ, and which image has the edges around them.
    matched = match_appearance(overlap.first, overlap.second, overlap.mask)
    levels = to_bytes(matched[0]), to_bytes(matched[1])
    excess = _compute_excess(*levels, overlap.mask)
    if np.count_nonzero(excess) > MAX_DIFFERENT_SHARE * overlap.mask.sum():
        return replace(whole, is_mostly_different=True)
    evidence, boxes = _assign_regions(*levels, excess)
    in_first, in_second = (bool(share >= max(MIN_EVIDENCE, MIN_BALANCE * evidence.sum())) for share in evidence)
    if not in_first and not in_second:
        return replace(whole, has_small_difference=_has_small_difference(*levels, overlap.mask))
    to_first = np.asarray(np.linalg.inv(to_frame), np.float64)
    to_second = np.asarray(np.linalg.inv(matrix) @ to_first, np.float64)
    regions = tuple(
        ChangedRegion(_to_shares(box, to_first, first), _to_shares(box, to_second, second))
        for box in boxes[:MAX_REGIONS]
    )
    return replace(whole, in_first=in_first, in_second=in_second, regions=regions)


def _is_warped(first: Pixels, second: Pixels, matrix: Matrix, upright: Matrix | None) -> bool:
    """Return whether the second image is turned by less than 90°, tilted or stretched on the first."""
    if upright is None:
        return True
    moved = project_frame(second, matrix) - project_frame(second, upright)
    return bool(np.abs(moved).max() > MAX_FRAME_TILT * max(first.shape[:2]))


def _is_turned(upright: Matrix | None) -> bool:
    """Return whether the second image is mirrored, or turned by a multiple of 90°, on the first."""
    return upright is not None and not np.allclose(np.sign(np.round(upright[:2, :2], 6)), np.eye(2))


def _has_small_difference(first: Pixels, second: Pixels, mask: Mask) -> bool:
    """Return whether some letters differ much more, relative to their edges, than the rest of the overlap."""
    if not mask.any():
        return False
    difference = _take_largest_channel(keep_channels(cv2.absdiff(first, second))).astype(np.float32)
    edges = np.maximum(_compute_edges(first), _compute_edges(second))
    window = (SMALL_WINDOW, SMALL_WINDOW)
    ratios = (cv2.blur(difference, window) - 2) / (cv2.blur(edges, window) + 12)
    inside = ratios[cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0]
    if not len(inside):
        return False
    return bool(inside.max() > SMALL_FACTOR * (float(np.quantile(inside, 0.995)) + 0.02))


def _describe_margin(image: Pixels, other: Pixels, matrix: Matrix) -> Margin:
    """Return what an image has around the part that the other one shows; `matrix`: from the other image to this one."""
    scale = MARGIN_SIDE / max(image.shape[:2])
    height, width = (max(8, round(length * scale)) for length in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    to_small = np.diag([width / image.shape[1], height / image.shape[0], 1.0]) @ matrix
    covered = cv2.warpPerspective(np.ones(other.shape[:2], np.uint8), to_small, (width, height)) > 0
    outside = ~covered
    if outside.mean() < MIN_MARGIN_SHARE:
        return ""
    is_flat = _compute_edges(keep_channels(small)) < MAX_FLAT_STEP
    return "flat" if is_flat[outside].mean() > MIN_FLAT_SHARE else "content"


def _compute_area_ratio(first: Pixels, second: Pixels, matrix: Matrix) -> float:
    """Return the area of the second image's frame on the first, also beyond its edges, as a share of the first."""
    area = cv2.contourArea(project_frame(second, matrix).astype(np.float32))
    return round(float(area / (first.shape[0] * first.shape[1])), 6)


def _compute_chroma(image: Pixels) -> float:
    """Return how far the channels of an image differ at its most colourful places, 0 to 255."""
    small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
    largest, smallest = (reduce(pick, cv2.split(small)) for pick in (np.maximum, np.minimum))
    return float(np.quantile(largest - smallest, 0.9995))


def _compute_excess(first: Pixels, second: Pixels, mask: Mask) -> Float32Array:
    """Return by how much a level is outside the range of the other image's levels around it, (h, w).

    It is 0 where noise, another sharpness, or a small error of the alignment explains it. The largest of all channels.
    """
    kernel, wide = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)
    excess, spread = np.zeros_like(first), np.zeros_like(first)
    for image, other in ((first, second), (second, first)):
        np.maximum(excess, keep_channels(cv2.subtract(image, cv2.dilate(other, kernel))), out=excess)
        np.maximum(excess, keep_channels(cv2.subtract(cv2.erode(other, kernel), image)), out=excess)
        np.maximum(spread, keep_channels(cv2.subtract(cv2.dilate(image, wide), cv2.erode(image, wide))), out=spread)
    # Noise is what differs from pixel to pixel, in a window of some letters.
    difference = first.astype(np.int16) - second
    rough = cv2.absdiff(difference, keep_channels(cv2.GaussianBlur(difference, (0, 0), NOISE_SIGMA)))
    noise = keep_channels(cv2.blur(np.minimum(rough, MAX_NOISE).astype(np.uint8), (NOISE_WINDOW, NOISE_WINDOW)))
    limit = np.maximum(np.maximum(MIN_DIFFERENCE, NOISE_FACTOR * noise), MIN_RELATIVE_DIFFERENCE * spread)
    return np.asarray(_take_largest_channel(np.where(excess > limit, excess, 0)) * mask, np.float32)


def _assign_regions(first: Pixels, second: Pixels, excess: Float32Array) -> tuple[Float64Array, list[PixelBox]]:
    """Return how many outline pixels belong to objects of each image, (2,), and the boxes, the largest first."""
    different = cv2.morphologyEx((excess > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    edges = [_compute_edges(image) for image in (first, second)]
    # Regions near each other may be one object, as a sticker on a pattern, if one image has the edges around them all.
    side = max(3, round(max(different.shape) * GROUP_SHARE))
    groups = cv2.morphologyEx(different, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    _, labels = cv2.connectedComponents(groups)
    owners: dict[int, Float64Array | None] = {}
    for outline in cv2.findContours(groups, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        if cv2.contourArea(outline) < MIN_GROUP_AREA * different.size:
            continue
        shares = _compute_owner_shares(outline, edges)
        is_certain = shares is not None and abs(shares[0] - shares[1]) > MIN_GROUP_DOMINANCE
        owners[int(labels[outline[0, 0, 1], outline[0, 0, 0]])] = shares if is_certain else None
    # Assign each region to its group's owner, else by its own outline.
    evidence = np.zeros(2)
    boxes = []
    for outline in cv2.findContours(different, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        if cv2.contourArea(outline) + len(outline) / 2 < MIN_REGION_AREA:
            continue
        left, top, width, height = cv2.boundingRect(outline)
        inside = excess[top : top + height, left : left + width]
        if inside.sum() < (MIN_INK_EXCESS if inside.max() >= MIN_INK_LEVEL else MIN_REGION_EXCESS):
            continue
        shares = owners.get(int(labels[outline[0, 0, 1], outline[0, 0, 0]]))
        if shares is None:
            shares = _compute_owner_shares(outline, edges)
        if shares is None:  # one shape in two colours: each has its own
            shares = np.array([0.5, 0.5])
        if abs(shares[0] - shares[1]) > MIN_OWNER_DOMINANCE:
            shares = (shares > 0.5).astype(np.float64)
        evidence += shares * len(outline)
        boxes.append((left, top, left + width, top + height))
    return evidence, _merge_boxes(boxes, round(side / 2))


def _merge_boxes(boxes: Sequence[PixelBox], gap: int) -> list[PixelBox]:
    """Merge boxes with gaps of at most `gap` pixels; return them with the largest first."""
    merged: list[PixelBox] = []
    for box in boxes:
        # A merged box may reach others, which are merged in turn.
        current, others = box, merged
        while near := [other for other in others if _are_near(current, other, gap)]:
            others = [other for other in others if other not in near]
            ends = list(zip(current, *near, strict=True))
            current = min(ends[0]), min(ends[1]), max(ends[2]), max(ends[3])
        merged = [*others, current]
    return sorted(merged, key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))


def _are_near(first: PixelBox, second: PixelBox, gap: int) -> bool:
    """Return whether two boxes overlap, or nearly do."""
    return all(first[axis] - gap <= second[axis + 2] and second[axis] - gap <= first[axis + 2] for axis in (0, 1))


def _compute_owner_shares(outline: NDArray[np.int32], edges: Sequence[Float32Array]) -> Float64Array | None:
    """Return the share of each image, (2,), in the edges along an outline (n, 1, 2) that only one has; None if none."""
    x, y = outline[:, 0, 0], outline[:, 0, 1]
    first, second = (image[y, x] for image in edges)
    sums = np.array([first[first > 1.5 * second].sum(), second[second > 1.5 * first].sum()], np.float64)
    return sums / sums.sum() if sums.sum() else None


def _compute_edges(image: Pixels) -> Float32Array:
    """Return the strongest step of levels of any channel within a pixel of each pixel, (h, w)."""
    kernel = np.ones((3, 3), np.uint8)
    steps = cv2.subtract(cv2.dilate(image, kernel), cv2.erode(image, kernel))
    return np.asarray(_take_largest_channel(keep_channels(steps)), np.float32)


def _take_largest_channel(image: NDArray[Any]) -> NDArray[Any]:
    """Return the largest channel of each pixel, (h, w); a reduction along the last axis would be much slower."""
    return reduce(np.maximum, (image[:, :, channel] for channel in range(image.shape[2])))


def _to_shares(box: PixelBox, transform: Matrix, image: Pixels) -> ShareBox:
    """Return the box of a frame as shares of an image's width and height."""
    left, top, right, bottom = box
    corners = np.array([[[left, top], [right, top], [right, bottom], [left, bottom]]], np.float64)
    points = cv2.perspectiveTransform(corners, transform)[0] / (image.shape[1], image.shape[0])
    low, high = points.min(0).clip(0, 1), points.max(0).clip(0, 1)
    return tuple(round(float(value), 4) for value in (*low, *high))  # type: ignore[return-value]
