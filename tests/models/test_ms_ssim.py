"""SSIM and MS-SSIM against the papers' formulas written a second time, in numpy and scipy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from simile.core.errors import BadSetting
from simile.models.losses.ssim import count_scales, ms_ssim, ssim

Doubles = NDArray[np.float64]


def maps_by_scipy(x: Doubles, y: Doubles) -> tuple[Doubles, Doubles]:
    """SSIM and its contrast-structure part at every place that the window fits into; x and y (H, W)."""

    def local_mean(values: Doubles) -> Doubles:
        filtered: Doubles = gaussian_filter(values, sigma=1.5, truncate=3.5)[5:-5, 5:-5]  # radius 5: a window of 11
        return filtered

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    structure = (2 * covariance + 0.0009) / (variance_x + variance_y + 0.0009)
    return structure * (2 * mean_x * mean_y + 0.0001) / (mean_x**2 + mean_y**2 + 0.0001), structure


def ms_ssim_by_scipy(x: Doubles, y: Doubles) -> float:
    product = 1.0
    for level, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        whole, structure = maps_by_scipy(x, y)
        product *= float((whole if level == 4 else structure).mean()) ** weight
        if level < 4:
            x, y = (image.reshape(len(image) // 2, 2, -1, 2).mean((1, 3)) for image in (x, y))
    return product


def blobs(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Smooth images with structure at every scale, in [0, 1]."""
    noise = np.random.default_rng(seed).standard_normal((count, channels, side, side))
    smooth = sum(gaussian_filter(noise, (0, 0, sigma, sigma)) * sigma for sigma in (1, 4, 12))
    return torch.tensor((smooth - smooth.min()) / (smooth.max() - smooth.min()), dtype=torch.float32)


def noisy(x: Tensor, amount: float = 0.1) -> Tensor:
    return (x + amount * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


@pytest.mark.parametrize(("channels", "side"), [(1, 11), (1, 28), (3, 32), (1, 65)])
def test_ssim_agrees_with_the_formula(channels: int, side: int) -> None:
    x = blobs(3, channels, side)
    y = noisy(x)
    expected = [
        np.mean([maps_by_scipy(a, b)[0].mean() for a, b in zip(first, second, strict=True)])
        for first, second in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("side", [176, 192, 256])
def test_ms_ssim_agrees_with_the_formula(side: int) -> None:
    x = blobs(2, 1, side)
    y = noisy(x)
    expected = [ms_ssim_by_scipy(a[0], b[0]) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    np.testing.assert_allclose(ms_ssim(x, y).numpy(), expected, atol=1e-4)


def test_flat_images_by_hand() -> None:
    """No structure on either side: only the luminance (2ab + c) / (a² + b² + c) remains."""
    x, y = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    assert ssim(x, y).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-4)


def test_scales_by_size() -> None:
    assert [count_scales(side) for side in (10, 11, 20, 21, 40, 41, 80, 81, 160, 161, 256)] == [
        0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5
    ]  # fmt: skip


@pytest.mark.parametrize("side", [11, 16, 21, 41, 64, 81, 161])
def test_every_size_down_to_the_window(side: int) -> None:
    x, other = torch.rand(2, 3, side, side), torch.rand(2, 3, side, side)
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2))
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert (ms_ssim(x, other) < 0.9).all()
    torch.testing.assert_close(ms_ssim(x, other), ms_ssim(other, x))


def test_small_images_have_one_scale() -> None:
    x, y = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(ms_ssim(x, y), ssim(x, y))


def test_worse_copies_are_less_alike() -> None:
    x = blobs(4, 1, 64)
    by_noise = torch.stack([ms_ssim(x, noisy(x, amount)) for amount in (0.02, 0.1, 0.3)])
    assert (by_noise.diff(dim=0) < 0).all()


def test_negatives_have_finite_slopes() -> None:
    x = blobs(2, 1, 64)
    y = (1 - x).requires_grad_()
    similarity = ms_ssim(x, y)
    similarity.sum().backward()  # type: ignore[no-untyped-call]
    assert y.grad is not None
    assert y.grad.isfinite().all()
    assert (similarity >= 0).all()


def test_climbing_it_restores_an_image() -> None:
    x = blobs(1, 1, 32)
    y = noisy(x, 0.2).requires_grad_()
    optimiser = torch.optim.Adam([y], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        (1 - ms_ssim(x, y).mean()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert ms_ssim(x, y).item() > 0.97


def test_stays_exact_under_autocast() -> None:
    x = blobs(2, 1, 64)
    y = noisy(x)
    expected = ms_ssim(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ms_ssim(x, y), expected)


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_refuses_what_can_not_be_compared(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(BadSetting, match="compared"):
        measure(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 31))
    with pytest.raises(BadSetting, match="11 px"):
        measure(torch.rand(1, 1, 10, 10), torch.rand(1, 1, 10, 10))
