"""Structural similarity (SSIM) of two images, from -1 to 1, at one scale and at several.

SSIM: Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity"
(2004). Multi-scale SSIM: Wang, Simoncelli & Bovik, "Multiscale Structural Similarity for Image Quality Assessment"
(2003). Both are differentiable, so 1 - MS-SSIM is a loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.core.errors import BadSetting

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels
SSIM_STABILISERS = (0.01**2, 0.03**2)  # (K·L)² with L = 1, the range of the pixels
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the 2003 paper's, finest scale first
MIN_STRUCTURE = 1e-4  # negative values have no real power, and 0 has no finite slope


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return SSIM per image, (n,), of images x and y (n, C, S, S) in [0, 1]: the mean over pixels and channels.

    The Gaussian window of 11 px (sigma 1.5) is used only where it is fully inside the images, with population
    variances: the values of scikit-image with gaussian_weights=True, use_sample_covariance=False. Raises BadSetting.
    """
    _check_image_shapes(x, y)
    with torch.autocast(x.device.type, enabled=False):  # differences of squares need more digits than bfloat16 has
        luminance, structure = _compute_luminance_and_structure(x.float(), y.float())
        return (luminance * structure).flatten(1).mean(1)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return MS-SSIM per image, (n,), of images x and y (n, C, S, S) in [0, 1]: the mean over channels.

    From 161 pixels on it has the paper's five scales. Smaller images have as many scales as the window fits into, with
    weights that are rescaled to sum 1: 4 from 81, 3 from 41, 2 from 21, 1 (which is SSIM) from 11 pixels. Structure
    below 0.0001 counts as 0.0001. Raises BadSetting if the shapes differ, or for fewer than 11 pixels.
    """
    _check_image_shapes(x, y)
    count = count_scales(min(x.shape[-2:]))
    if count == 1:
        return ssim(x, y)
    weights = [weight / sum(SCALE_WEIGHTS[:count]) for weight in SCALE_WEIGHTS[:count]]
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        product = torch.ones(x.shape[:2], device=x.device)  # (n, C)
        for level, weight in enumerate(weights):
            luminance, structure = _compute_luminance_and_structure(x, y)  # (n, C, S', S') each
            factor = structure if level < count - 1 else luminance * structure
            product = product * factor.mean((2, 3)).clamp_min(MIN_STRUCTURE).pow(weight)
            x, y = _downsample(x), _downsample(y)
        return product.mean(1)


def count_scales(side: int) -> int:
    """Return the number of scales of MS-SSIM, 0 to 5, for images with a shorter side of `side` pixels."""
    # After k halvings, rounded up, the window must still fit.
    return sum((side - 1 >> level) + 1 >= SSIM_WINDOW for level in range(len(SCALE_WEIGHTS)))


def _check_image_shapes(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise BadSetting(f"Images of shape {tuple(x.shape)} can't be compared with {tuple(y.shape)}.")
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise BadSetting(f"SSIM needs images of {SSIM_WINDOW} px or more, but these have {tuple(x.shape[-2:])}.")


def _compute_luminance_and_structure(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance and contrast-structure at every window position, (n, C, S-10, S-10) each."""
    # Five local means in one convolution: x, y, x², y², xy.
    means = _compute_gaussian_means(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, square_x, square_y, product = means.chunk(5, dim=1)
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    c1, c2 = SSIM_STABILISERS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _compute_gaussian_means(maps: Tensor) -> Tensor:
    """Return Gaussian means of (n, m, S, S) where the window is fully inside, (n, m, S-10, S-10)."""
    offsets = torch.arange(SSIM_WINDOW, device=maps.device, dtype=maps.dtype) - SSIM_WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    count = maps.shape[1]
    rows = F.conv2d(maps, kernel.view(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)


def _downsample(images: Tensor) -> Tensor:
    """Return means of 2×2 pixels; an odd last row or column counts twice, so that the border does not darken."""
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(images, 2)
