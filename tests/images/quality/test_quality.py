"""Measures of the quality of pixels: each follows the fault that it is for, and nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from simile.core.records import ImageQuality
from simile.images.formats import Pixels
from simile.images.quality.quality import QUALITY_SIDE, measure_quality
from tests.support.synthetic_images import scene

SCENES = [scene(seed) for seed in range(6)]


def _blur(pixels: Pixels, deviation: float) -> Pixels:
    return cv2.GaussianBlur(pixels, (0, 0), deviation).astype(np.uint8)


def _expose(pixels: Pixels, factor: float) -> Pixels:
    return np.clip(pixels * factor, 0, 255).astype(np.uint8)


def _get_sharpness(pixels: Pixels) -> float:
    sharpness = measure_quality(pixels).sharpness
    assert sharpness is not None
    return sharpness


@pytest.mark.parametrize("pixels", SCENES)
def test_the_sharpness_falls_with_each_step_of_blur(pixels: Pixels) -> None:
    steps = [_get_sharpness(_blur(pixels, deviation)) for deviation in (0.5, 1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 0.45 > steps[-1]


def test_exposure_and_contrast_change_the_sharpness_little() -> None:
    for pixels in SCENES:
        sharpness = _get_sharpness(pixels)
        assert _get_sharpness(_expose(pixels, 0.7)) == pytest.approx(sharpness, rel=0.2)
        assert _get_sharpness(pixels // 2 + 60) == pytest.approx(sharpness, rel=0.2)


def test_a_sharp_object_on_a_blurred_background_is_sharp() -> None:
    pixels = _blur(SCENES[0], 8)
    blurred = _get_sharpness(pixels)
    pixels[100:220, 60:180] = SCENES[1][100:220, 60:180]
    assert _get_sharpness(pixels) > 2 * blurred


def test_images_of_all_sizes_are_measured_at_one_size() -> None:
    pixels = scene(3, 600, 800)
    expected = measure_quality(pixels)
    reduced = measure_quality(cv2.resize(pixels, (300, 400), interpolation=cv2.INTER_AREA).astype(np.uint8))
    assert reduced.sharpness == pytest.approx(expected.sharpness, rel=0.15)
    assert reduced.brightness == pytest.approx(expected.brightness, abs=0.01)
    assert reduced.contrast == pytest.approx(expected.contrast, abs=0.02)


def test_brightness_contrast_and_clipping_are_shares_of_the_range() -> None:
    halves = np.zeros((QUALITY_SIDE, QUALITY_SIDE, 3), np.uint8)
    halves[:, QUALITY_SIDE // 2 :] = 255
    assert measure_quality(halves) == ImageQuality(
        sharpness=measure_quality(halves).sharpness,
        brightness=0.5,
        brightness_p5=0.0,
        brightness_p99=1.0,
        contrast=0.5,
        shadows=0.5,
        highlights=0.5,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (3, 2), (5000, 2), (15, 40)])
def test_the_sharpness_of_an_image_of_few_pixels_is_unknown(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert measure_quality(pixels).sharpness is None


def test_the_sharpness_of_a_flat_image_is_unknown() -> None:
    flat = measure_quality(np.full((200, 300, 3), 90, np.uint8))
    assert (flat.sharpness, flat.contrast) == (None, 0.0)
    assert flat.brightness == flat.brightness_p5 == flat.brightness_p99 == pytest.approx(90 / 255, abs=1e-4)


def test_colours_of_one_brightness_are_contrast() -> None:
    halves = np.full((QUALITY_SIDE, QUALITY_SIDE, 3), (150, 75, 75), np.uint8)
    halves[:, QUALITY_SIDE // 2 :] = (75, 113, 75)
    quality = measure_quality(halves)
    assert quality.brightness_p99 - quality.brightness_p5 < 0.01
    assert quality.contrast > 0.1
