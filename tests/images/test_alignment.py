"""Whether one picture is a copy of another, by laying it there and comparing."""

from __future__ import annotations

import numpy as np
import pytest

from simile.images.distortions import DISTORTION_KINDS, HELD_OUT_DISTORTION_KINDS, distort
from simile.images.matching.alignment import align_images
from simile.images.matching.difference import draw_difference, warp_onto
from simile.images.matching.features import ImageFeatures, Pixels
from tests.support.synthetic_images import on_bed, scene


def agreement(first: Pixels, second: Pixels):
    return align_images(ImageFeatures(first), ImageFeatures(second))


@pytest.mark.parametrize("kind", [kind for kind in DISTORTION_KINDS if kind != "chain"])
def test_a_copy_is_one_whichever_comes_first(kind):
    original = scene(1)
    copy = distort(original, kind, np.random.default_rng(3))
    assert agreement(original, copy).same
    assert agreement(copy, original).same


def test_copies_of_other_kinds_are_found_too():
    original = scene(2)
    copies = {kind: distort(original, kind, np.random.default_rng(5)) for kind in HELD_OUT_DISTORTION_KINDS}
    found = {kind: agreement(original, copy).same for kind, copy in copies.items()}
    assert sum(found.values()) >= 17, found


def test_different_pictures_are_no_copies():
    portraits = [ImageFeatures(scene(seed)) for seed in range(8)]
    assert not any(align_images(one, two).is_copy for one in portraits for two in portraits if one is not two)


def test_different_garments_on_one_bed_are_no_copies():
    portraits = [ImageFeatures(on_bed(garment)) for garment in range(6)]
    assert not any(align_images(one, two).is_copy for one in portraits for two in portraits if one is not two)


def test_the_same_shapes_in_other_colours_are_no_copy_but_grey_is():
    red = np.full((160, 160, 3), 235, np.uint8)
    red[40:120, 40:120] = scene(4, 80, 80) // 4 + np.array([150, 20, 20], np.uint8)
    blue = red.copy()
    blue[40:120, 40:120] = red[40:120, 40:120][:, :, ::-1]
    found = agreement(red, blue)
    assert not found.same
    assert "other colours" in found.reason
    assert agreement(red, distort(red, "grey", np.random.default_rng(0))).same


def test_the_reason_says_what_was_done():
    original = scene(5)
    assert agreement(original, original[:, ::-1]).reason == "mirrored"
    assert agreement(original, np.rot90(original)).reason == "turned by 90°"
    cropped = agreement(original, original[40:280, 30:210]).reason
    assert cropped.startswith("cropped to 5"), cropped  # 56 % of the area


def test_the_matrix_leads_from_the_second_to_the_first():
    original = scene(6)
    found = agreement(original, np.ascontiguousarray(original[40:280, 30:210]))
    x, y, w = found.matrix @ (10, 20, 1)
    assert (x / w, y / w) == pytest.approx((40, 60), abs=2)


def tiny(seed: int) -> Pixels:
    return scene(seed, 28, 28)


@pytest.mark.parametrize(
    ("kind", "turn"),
    [
        ("itself", lambda p: p),
        ("mirrored", lambda p: p[:, ::-1]),
        *((f"turned {k}", lambda p, k=k: np.rot90(p, k)) for k in (1, 2, 3)),
        ("turned and mirrored", lambda p: np.rot90(p)[:, ::-1]),
    ],
)
def test_tiny_pictures_are_compared_in_eight_ways(kind, turn):
    original = tiny(1)
    assert agreement(original, np.ascontiguousarray(turn(original))).same, kind
    assert agreement(np.ascontiguousarray(turn(original)), original).same, kind


def test_tiny_pictures_of_other_things_are_no_copies():
    portraits = [ImageFeatures(tiny(seed)) for seed in range(12)]
    assert not any(align_images(one, two).is_copy for one in portraits for two in portraits if one is not two)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 2), (300, 4), (64, 64)])
def test_plain_pictures_say_nothing(shape):
    plain = np.full((*shape, 3), 200, np.uint8)
    assert not agreement(plain, np.full((80, 60, 3), 90, np.uint8)).same
    assert not agreement(scene(1), plain).same
    assert not agreement(plain, scene(1)).same


def test_comparing_twice_gives_the_same():
    one, two = scene(7), distort(scene(7), "chain", np.random.default_rng(1))
    assert agreement(one, two).score == agreement(one, two).score


def test_the_difference_is_red_where_something_was_added():
    original = scene(8)
    marked = original.copy()
    marked[100:150, 60:110] = (255, 255, 0)
    shown = draw_difference(original, marked).astype(int)
    redness = shown[:, :, 0] - shown[:, :, 1]
    assert redness[110:140, 70:100].mean() > 80
    assert abs(redness[200:, :]).mean() < 12


def test_the_difference_has_the_first_ones_size_and_lies_on_it():
    original = scene(9)
    crop = np.ascontiguousarray(original[60:260, 40:200, :])
    assert draw_difference(original, crop).shape == original.shape
    over = warp_onto(original, crop)
    assert np.abs(over[100:220, 70:170].astype(int) - original[100:220, 70:170]).mean() < 12
    assert warp_onto(original, scene(10)) is None or not agreement(original, scene(10)).same
    assert draw_difference(original, scene(10)).shape == original.shape
