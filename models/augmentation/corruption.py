"""Corruption of inputs for denoising: the network gets the corrupted image and must reconstruct the clean one.

Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders" (ICML 2008).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.core.errors import BadSetting

Corruption = list[tuple[str, float]]  # name and amount of each step

MASK_GRID_SIZE = 8  # a mask covers cells of a grid of 8 x 8


def parse_corruption(text: str) -> Corruption:
    """Parse names and amounts such as `noise=0.3,mask`; "none" gives an empty list. Raises BadSetting."""
    corruption = []
    for term in [] if text == "none" else text.split(","):
        name, equals, amount = term.strip().partition("=")
        if name not in CORRUPTION_KINDS:
            names = ", ".join(CORRUPTION_KINDS)
            raise BadSetting(f"corrupt can't be {text!r}. Use none, or some of {names}, such as noise=0.2,mask.")
        default, largest, _ = CORRUPTION_KINDS[name]
        try:
            value = float(amount) if equals else default
        except ValueError:
            value = -1.0
        if not 0 < value <= largest:
            raise BadSetting(f"corrupt can't have {term.strip()!r}. Use a number above zero, at most {largest:g}.")
        corruption.append((name, value))
    return corruption


def apply_corruption(x: Tensor, corruption: Corruption, generator: torch.Generator) -> Tensor:
    """Apply each corruption in turn to images (n, C, S, S) in [0, 1]; all noise comes from `generator`."""
    for name, amount in corruption:
        x = CORRUPTION_KINDS[name][2](x, amount, generator)
    return x


def _add_gaussian_noise(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return (x + deviation * noise).clamp(0, 1)


def _mask_patches(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cover about `share` of each image with grey patches."""
    is_covered = torch.rand(len(x), 1, MASK_GRID_SIZE, MASK_GRID_SIZE, generator=generator) < share
    mask = F.interpolate(is_covered.float(), x.shape[-2:], mode="nearest").to(x.device)
    return x * (1 - mask) + 0.5 * mask


def _add_salt_and_pepper(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Make this share of the pixels black or white."""
    noise = torch.rand(len(x), 1, *x.shape[-2:], generator=generator).to(x.device)
    return torch.where(noise < share / 2, 0.0, torch.where(noise > 1 - share / 2, 1.0, x))


def _blur_randomly(x: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Apply a Gaussian blur to each image, with a random standard deviation of up to `largest` pixels."""
    sigma = (0.1 + largest * torch.rand(len(x), 1, generator=generator)).to(x.device)
    radius = max(1, round(2 * largest))
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(x.shape[1], 0)  # (n·C, 2·radius + 1)
    planes = x.reshape(1, -1, *x.shape[-2:])  # each channel of each image has its own kernel
    padded = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    horizontal = F.conv2d(padded, kernel[:, None, None, :], groups=len(kernel))
    return F.conv2d(horizontal, kernel[:, None, :, None], groups=len(kernel)).reshape(x.shape)


def _shift_randomly(x: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Shift and scale each image by up to `largest` of its side; edges are repeated."""
    random = (2 * torch.rand(len(x), 3, generator=generator) - 1).to(x.device)
    scale, zero = 1 + largest * random[:, 0], torch.zeros(len(x), device=x.device)
    rows = [scale, zero, 2 * largest * random[:, 1], zero, scale, 2 * largest * random[:, 2]]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _mirror_randomly(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mirror this share of the images left to right."""
    is_mirrored = (torch.rand(len(x), 1, 1, 1, generator=generator) < share).to(x.device)
    return torch.where(is_mirrored, x.flip(3), x)


# Name to default amount, largest allowed amount, function.
CORRUPTION_KINDS: dict[str, tuple[float, float, Callable[[Tensor, float, torch.Generator], Tensor]]] = {
    "noise": (0.2, 2.0, _add_gaussian_noise),
    "mask": (0.25, 0.95, _mask_patches),
    "salt": (0.1, 1.0, _add_salt_and_pepper),
    "blur": (1.5, 8.0, _blur_randomly),
    "shift": (0.06, 0.5, _shift_randomly),
    "mirror": (0.5, 1.0, _mirror_randomly),
}
