"""Alignment decides whether one image is a copy of another, and draws their difference."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from simile.images.distortions import DISTORTION_KINDS, HELD_OUT_DISTORTION_KINDS, distort
from simile.images.formats import Pixels
from simile.images.matching.alignment import AlignmentResult, align_images
from simile.images.matching.difference import draw_difference, warp_onto
from simile.images.matching.features import ImageFeatures
from tests.support.synthetic_images import on_bed, scene


def align(first: Pixels, second: Pixels) -> AlignmentResult:
    return align_images(ImageFeatures(first), ImageFeatures(second))


def any_copies(images: list[Pixels]) -> bool:
    features = [ImageFeatures(image) for image in images]
    return any(align_images(first, second).is_copy for first, second in permutations(features, 2))


@pytest.mark.parametrize("kind", [kind for kind in DISTORTION_KINDS if kind != "chain"])
def test_a_copy_is_recognised_in_both_orders(kind):
    original = scene(1)
    copy = distort(original, kind, np.random.default_rng(3))
    assert align(original, copy).is_copy
    assert align(copy, original).is_copy


def test_most_copies_of_held_out_kinds_are_recognised():
    original = scene(2)
    copies = {kind: distort(original, kind, np.random.default_rng(5)) for kind in HELD_OUT_DISTORTION_KINDS}
    is_copy = {kind: align(original, copy).is_copy for kind, copy in copies.items()}
    assert sum(is_copy.values()) >= 17, is_copy


def test_different_images_are_no_copies():
    assert not any_copies([scene(seed) for seed in range(8)])


def test_different_garments_on_one_bed_are_no_copies():
    assert not any_copies([on_bed(garment) for garment in range(6)])


def test_the_same_shapes_in_other_colours_are_no_copy_but_a_grey_image_is():
    red = np.full((160, 160, 3), 235, np.uint8)
    red[40:120, 40:120] = scene(4, 80, 80) // 4 + np.array([150, 20, 20], np.uint8)
    blue = red.copy()
    blue[40:120, 40:120] = red[40:120, 40:120][:, :, ::-1]
    result = align(red, blue)
    assert not result.is_copy
    assert "other colours" in result.reason
    assert align(red, distort(red, "grey", np.random.default_rng(0))).is_copy


def test_the_reason_names_the_transform():
    original = scene(5)
    assert align(original, original[:, ::-1]).reason == "mirrored"
    assert align(original, np.rot90(original)).reason == "turned by 90°"
    cropped = align(original, original[40:280, 30:210]).reason
    assert cropped.startswith("cropped to 5"), cropped  # 56 % of the area


def test_the_matrix_maps_pixels_of_the_second_image_to_the_first():
    original = scene(6)
    result = align(original, np.ascontiguousarray(original[40:280, 30:210]))
    x, y, w = result.matrix @ (10, 20, 1)
    assert (x / w, y / w) == pytest.approx((40, 60), abs=2)


def tiny(seed: int) -> Pixels:
    return scene(seed, 28, 28)


@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        ("unchanged", lambda p: p),
        ("mirrored", lambda p: p[:, ::-1]),
        *((f"rotated {k}", lambda p, k=k: np.rot90(p, k)) for k in (1, 2, 3)),
        ("rotated and mirrored", lambda p: np.rot90(p)[:, ::-1]),
    ],
)
def test_tiny_images_are_compared_under_eight_symmetries(kind, transform):
    original = tiny(1)
    assert align(original, np.ascontiguousarray(transform(original))).is_copy, kind
    assert align(np.ascontiguousarray(transform(original)), original).is_copy, kind


def test_different_tiny_images_are_no_copies():
    assert not any_copies([tiny(seed) for seed in range(12)])


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 2), (300, 4), (64, 64)])
def test_images_of_one_plain_colour_are_no_copies(shape):
    plain = np.full((*shape, 3), 200, np.uint8)
    assert not align(plain, np.full((80, 60, 3), 90, np.uint8)).is_copy
    assert not align(scene(1), plain).is_copy
    assert not align(plain, scene(1)).is_copy


def test_two_comparisons_of_the_same_images_agree():
    first, second = scene(7), distort(scene(7), "chain", np.random.default_rng(1))
    assert align(first, second).score == align(first, second).score


def test_the_difference_is_red_where_something_was_added():
    original = scene(8)
    marked = original.copy()
    marked[100:150, 60:110] = (255, 255, 0)
    drawn = draw_difference(original, marked).astype(int)
    redness = drawn[:, :, 0] - drawn[:, :, 1]
    assert redness[110:140, 70:100].mean() > 80
    assert abs(redness[200:, :]).mean() < 12


def test_the_difference_has_the_size_of_the_first_image():
    original = scene(9)
    crop = np.ascontiguousarray(original[60:260, 40:200, :])
    assert draw_difference(original, crop).shape == original.shape
    aligned = warp_onto(original, crop)
    assert np.abs(aligned[100:220, 70:170].astype(int) - original[100:220, 70:170]).mean() < 12
    assert warp_onto(original, scene(10)) is None or not align(original, scene(10)).is_copy
    assert draw_difference(original, scene(10)).shape == original.shape
