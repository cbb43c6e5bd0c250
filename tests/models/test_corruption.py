"""Corruption of inputs: seeded, within bounds, and what its name says."""

from __future__ import annotations

import pytest
import torch

from simile.core.errors import BadSetting
from simile.models.augmentation.corruption import CORRUPTION_KINDS, apply_corruption, parse_corruption


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 8, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=seeded(9))


@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_each_kind_changes_images_within_their_bounds_and_repeats_with_its_seed(kind: str) -> None:
    x = images()
    once, again, other = (apply_corruption(x, parse_corruption(kind), seeded(seed)) for seed in (1, 1, 2))
    assert once.shape == x.shape and once.min() >= 0 and once.max() <= 1
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert not torch.equal(once, x)


def test_a_mask_covers_about_its_share() -> None:
    masked = apply_corruption(torch.ones(200, 1, 32, 32), parse_corruption("mask=0.25"), seeded())
    assert (masked == 0.5).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_salt_and_pepper_are_black_and_white_in_equal_parts() -> None:
    x = apply_corruption(torch.full((50, 1, 32, 32), 0.5), parse_corruption("salt=0.2"), seeded())
    assert (x == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (x == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_noise_has_its_deviation() -> None:
    x = apply_corruption(torch.full((20, 1, 32, 32), 0.5), parse_corruption("noise=0.1"), seeded())
    assert x.std().item() == pytest.approx(0.1, abs=0.005)


def test_a_blur_leaves_the_mean_and_takes_detail() -> None:
    x = images()
    blurred = apply_corruption(x, parse_corruption("blur=2"), seeded())
    assert blurred.mean().item() == pytest.approx(x.mean().item(), abs=0.01)
    assert (blurred.std((2, 3)) < x.std((2, 3))).all()


def test_a_shift_of_a_flat_image_is_the_flat_image() -> None:
    x = torch.full((4, 1, 16, 16), 0.3)
    torch.testing.assert_close(apply_corruption(x, parse_corruption("shift=0.2"), seeded()), x)


def test_mirroring_all_mirrors_all() -> None:
    x = images()
    assert torch.equal(apply_corruption(x, parse_corruption("mirror=1"), seeded()), x.flip(3))


def test_several_corruptions_come_one_after_another() -> None:
    assert parse_corruption("noise=0.3, mask") == [("noise", 0.3), ("mask", 0.25)]
    assert parse_corruption("none") == []


@pytest.mark.parametrize("text", ["rust", "noise=", "noise=x", "noise=-1", "noise=0", "mask=2", "", "none,noise"])
def test_what_is_no_corruption_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadSetting, match="corrupt"):
        parse_corruption(text)
