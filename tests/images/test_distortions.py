"""Altered copies of images, and altered views of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simile.images.distortions import DISTORTION_KINDS, HARD_DISTORTION_KINDS, HELD_OUT_DISTORTION_KINDS, distort
from simile.models.augmentation.geometric import AugmentationStrength, augment, resize_images


def photo(height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    """Something with a slope of colours, an edge and a little texture."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = np.stack([x, y, (x > 0.4) * 0.7 + 0.1 * np.sin(40 * x * y)], axis=2)
    return np.rint(np.clip(channels, 0, 1) * 255).astype(np.uint8)


def batch(n: int, channels: int, side: int) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(7))


def test_eighteen_kinds_are_planted_and_no_kind_is_on_both_lists() -> None:
    assert len(DISTORTION_KINDS) == 18
    assert len({*DISTORTION_KINDS, *HELD_OUT_DISTORTION_KINDS, *HARD_DISTORTION_KINDS}) == 18 + 18 + 6


@pytest.mark.parametrize("kind", DISTORTION_KINDS + HELD_OUT_DISTORTION_KINDS + HARD_DISTORTION_KINDS)
def test_a_copy_is_an_rgb_image_that_differs_and_repeats_with_its_seed(kind: str) -> None:
    original = photo()
    copy, again = (distort(original, kind, np.random.default_rng(3)) for _ in range(2))
    assert copy.dtype == np.uint8
    assert copy.ndim == 3
    assert copy.shape[2] == 3
    assert np.array_equal(copy, again)
    assert copy.shape != original.shape or not np.array_equal(copy, original)
    assert np.array_equal(original, photo()), "the original must stay as it is"


@pytest.mark.parametrize("kind", DISTORTION_KINDS + HELD_OUT_DISTORTION_KINDS + HARD_DISTORTION_KINDS)
@pytest.mark.parametrize("shape", [(28, 28), (1, 40), (64, 5)])
def test_small_and_thin_images_can_be_altered(kind: str, shape: tuple[int, int]) -> None:
    for seed in range(3):
        assert distort(photo(*shape), kind, np.random.default_rng(seed)).size > 0


@pytest.mark.parametrize(("kind", "area"), [("crop-90", 0.9), ("crop-60", 0.6), ("crop-30", 0.3)])
def test_a_crop_keeps_the_named_share_of_the_area(kind: str, area: float) -> None:
    copy = distort(photo(300, 400), kind, np.random.default_rng(0))
    assert copy.shape[0] * copy.shape[1] / (300 * 400) == pytest.approx(area, abs=0.01)


def test_geometry_is_exact_where_it_can_be() -> None:
    original, random = photo(), np.random.default_rng(0)
    assert np.array_equal(distort(original, "mirror", random), original[:, ::-1])
    assert np.array_equal(distort(original, "turn-90", random), np.rot90(original))
    assert np.array_equal(distort(original, "turn-180", random), original[::-1, ::-1])
    grey = distort(original, "grey", random)
    assert (grey.max(axis=2) == grey.min(axis=2)).all()


def test_an_unknown_kind_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="melt"):
        distort(photo(), "melt", np.random.default_rng(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(64, 32), (32, 32), (28, 28)])
def test_views_have_the_networks_shape_and_stay_in_range(channels: int, side: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        seen = augment(batch(16, channels, side), size, generator)
        assert seen.shape == (16, channels, size, size)
        assert seen.dtype == torch.float32
        assert torch.isfinite(seen).all()
        assert seen.min() >= 0
        assert seen.max() <= 1


def test_views_repeat_with_the_state_of_the_generator_and_leave_the_images_alone() -> None:
    pictures = batch(16, 3, 64)
    before, generator = pictures.clone(), torch.Generator().manual_seed(5)
    state = generator.get_state()
    first, second = augment(pictures, 32, generator), augment(pictures, 32, generator)
    generator.set_state(state)
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(first, augment(pictures, 32, generator))
    assert not torch.equal(first, second)
    assert torch.equal(pictures, before)


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_may_be_so_small_that_nothing_is_drawn_for_some_effects(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        assert torch.isfinite(augment(batch(n, 3, 32), 32, generator)).all()


def test_without_strength_a_view_is_nearly_the_clean_image() -> None:
    flat = torch.linspace(0, 1, 64).expand(12, 3, 64, 64).contiguous()
    rates = ("quarter_turn_rate", "max_tilt_degrees", "effect_rate", "frame_rate", "mirror_rate")
    nothing = AugmentationStrength(min_crop_area=1.0, uncropped_rate=1.0, **dict.fromkeys(rates, 0.0))
    seen = augment(flat, 32, torch.Generator().manual_seed(0), nothing)
    assert (seen - resize_images(flat, 32)).abs().max() < 0.03


def test_clean_shrinks_and_otherwise_changes_nothing() -> None:
    pictures = batch(2, 3, 32)
    assert resize_images(pictures, 32) is pictures
    assert resize_images(torch.full((2, 1, 64, 64), 0.5), 32).allclose(torch.tensor(0.5))
