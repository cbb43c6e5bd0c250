"""Oriented gradients against edges whose direction is known, and a slow loop over pixels in numpy."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from simile.core.errors import BadSetting
from simile.models.networks.hog import ContrastMode, compute_hog

Doubles = NDArray[np.float64]


def stripes(degrees: float, side: int = 32) -> Tensor:
    """A wave (1, 1, S, S) that rises in one direction, measured from right towards down."""
    down, right = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    along = right * math.cos(math.radians(degrees)) + down * math.sin(math.radians(degrees))
    return (0.5 + 0.5 * torch.sin(0.3 * along))[None, None]


def by_hand(image: Doubles, cell: int, bins: int) -> Doubles:
    """The square roots of the histograms of one grey image (S, S), pixel by pixel, (bins, cells, cells)."""
    side = len(image)
    cells, sharpness = math.ceil(side / cell), {4: 1, 6: 2, 8: 4}[bins]
    around = np.pad(image, 1, mode="edge")
    sums = np.zeros((bins, cells, cells))
    for row in range(side):
        for column in range(side):
            right = around[row + 1, column + 2] - around[row + 1, column]
            down = around[row + 2, column + 1] - around[row, column + 1]
            length, angle = math.hypot(right, down), math.atan2(down, right)
            for at in np.ndindex(bins, cells, cells):
                vertical = abs(row + 0.5 - (at[1] + 0.5) * cell) / cell
                horizontal = abs(column + 0.5 - (at[2] + 0.5) * cell) / cell
                if max(vertical, horizontal) < 1:
                    share = max(0.0, math.cos(2 * (angle - at[0] * math.pi / bins))) ** sharpness
                    sums[at] += length * share * (1 - vertical) * (1 - horizontal) / cell**2
    return np.sqrt(sums)


@pytest.mark.parametrize(("side", "cell", "bins"), [(16, 4, 8), (17, 4, 8), (16, 3, 8), (18, 5, 6), (16, 4, 4)])
def test_agrees_with_a_loop_over_pixels(side: int, cell: int, bins: int) -> None:
    image = np.random.default_rng(0).random((side, side))
    found = compute_hog(torch.tensor(image, dtype=torch.float32)[None, None], cell, bins, "none")
    np.testing.assert_allclose(found[0].numpy(), by_hand(image, cell, bins).ravel(), atol=2e-3)


@pytest.mark.parametrize("side", [16, 28, 45, 64, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_and_both_kinds_of_colour(side: int, channels: int) -> None:
    found = compute_hog(torch.rand(2, channels, side, side), 8)
    assert found.shape == (2, 8 * math.ceil(side / 8) ** 2)
    assert found.isfinite().all()


def test_sides_may_differ() -> None:
    x = torch.rand(1, 1, 32, 32)
    tall = compute_hog(torch.cat([x, x.flip(2)], 2)[:, :, :48], 4, contrast="none").view(8, 12, 8)
    torch.testing.assert_close(tall[:, :6], compute_hog(x, 4, contrast="none").view(8, 8, 8)[:, :6])


@pytest.mark.parametrize("bin_", range(8))
def test_an_edge_falls_into_the_bin_of_its_direction(bin_: int) -> None:
    found = compute_hog(stripes(bin_ * 180 / 8), 8).view(8, 4, 4)
    assert (found.argmax(0) == bin_).all()


def test_directions_have_no_sign() -> None:
    torch.testing.assert_close(compute_hog(1 - stripes(20), 4), compute_hog(stripes(20), 4))


def test_total_of_the_bins_does_not_depend_on_the_direction() -> None:
    totals = [
        compute_hog(stripes(degrees), 8, contrast="none").square().view(8, 4, 4)[:, 1:3, 1:3].sum()
        for degrees in (0, 7, 11.25, 16, 45)
    ]
    assert max(totals) / min(totals) < 1.08  # the wave itself differs a little in what the cells see of it


def test_local_contrast_forgets_the_lighting() -> None:
    x = torch.rand(1, 1, 32, 32)
    bright, dark = (compute_hog(x * light, 8) for light in (1.0, 0.5))
    assert (bright - dark).abs().max() < 0.02 * bright.abs().max()
    bright, dark = (compute_hog(x * light, 8, contrast="none") for light in (1.0, 0.5))
    torch.testing.assert_close(dark, bright * math.sqrt(0.5), rtol=1e-2, atol=1e-4)


def test_both_is_one_after_the_other() -> None:
    x = torch.rand(2, 1, 32, 32)
    parts: list[ContrastMode] = ["none", "local"]
    expected = torch.cat([compute_hog(x, 4, contrast=part) for part in parts], 1)
    torch.testing.assert_close(compute_hog(x, 4, contrast="both"), expected)


def test_the_strongest_channel_counts() -> None:
    coloured = torch.cat([stripes(90) * 0.2, stripes(0), torch.full((1, 1, 32, 32), 0.5)], 1)
    torch.testing.assert_close(compute_hog(coloured, 4)[0, :64], compute_hog(stripes(0), 4)[0, :64], atol=0.05, rtol=0)


def test_a_grey_image_in_three_channels_is_the_same() -> None:
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(compute_hog(x.expand(-1, 3, -1, -1), 4), compute_hog(x, 4))


def test_a_shift_of_a_pixel_changes_little() -> None:
    x = stripes(30, 40)
    here, there = (compute_hog(x[:, :, :32, start : start + 32], 8) for start in (0, 1))
    assert (here - there).norm() < 0.1 * here.norm()


@pytest.mark.parametrize("contrast", ["none", "local", "both"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_image_has_finite_slopes(contrast: ContrastMode, value: float) -> None:
    x = torch.full((1, 3, 16, 16), value, requires_grad=True)
    features = compute_hog(x, 4, contrast=contrast)
    assert features.max() < 0.05
    features.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_slopes_agree_with_differences() -> None:
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    direction = torch.randn(16, 16)
    direction = direction / direction.norm()
    weights = torch.randn(8 * 16)
    (slope,) = torch.autograd.grad(compute_hog(x, 4)[0] @ weights, x)
    with torch.no_grad():
        ahead, behind = ((compute_hog(x + step * direction, 4)[0] @ weights) for step in (5e-3, -5e-3))
    assert (slope[0, 0] * direction).sum().item() == pytest.approx((ahead - behind).item() / 1e-2, rel=0.05, abs=0.01)


def test_stays_exact_under_autocast() -> None:
    x = torch.rand(2, 1, 32, 32)
    expected = compute_hog(x, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compute_hog(x, 4), expected)


def test_an_image_alone_is_as_in_a_batch() -> None:
    x = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(compute_hog(x[2:3], 4)[0], compute_hog(x, 4)[2])


def test_a_batch_takes_well_under_a_second() -> None:
    x = torch.rand(256, 1, 32, 32)
    started = time.process_time()
    compute_hog(x, 4)
    assert time.process_time() - started < 1.0  # 0.03 s on one quiet core


@pytest.mark.parametrize(("cell", "bins"), [(0, 8), (17, 8), (4, 1)])
def test_refuses_what_does_not_fit(cell: int, bins: int) -> None:
    with pytest.raises(BadSetting, match="px"):
        compute_hog(torch.rand(1, 1, 16, 16), cell, bins)
