"""Histograms of oriented gradients (HOG), which describe an image by its edges and not by its brightness.

Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection" (CVPR 2005), made differentiable, so that a
decoder can learn to reproduce them. Neighbours by these features share their label more often than neighbours by
pixels, and they need no labels. As an input they save the encoder from learning edges; as a target they make images
with similar edges neighbours.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.core.errors import BadSetting

ContrastMode = Literal["none", "local", "both"]

HOG_BINS = 8
MIN_FEATURE_DEVIATION = 1e-4  # for features that are equal in every image
MIN_GRADIENT = 1e-4  # a weaker gradient has no direction; it also keeps roots away from their infinite slope at 0
MIN_CELL_ENERGY = 1e-6
MIN_CONTRAST = 0.1  # lower contrast is noise and is not amplified (unit: roots of mean gradients, so 0.1 is weak)


class HogFeatures(nn.Module):
    """HOG of images (n, C, S, S), plain and contrast-normalised, standardised to (n, num_features).

    Mean and scale come from a sample of the training images: `fit`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        # Cells of an eighth of the side, at least 4 pixels, are informative at any size.
        self.cell_size = max(4, -(-image_size // 8))
        self.num_features = 2 * HOG_BINS * (-(-image_size // self.cell_size)) ** 2
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("deviation", torch.ones(self.num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised features (n, num_features)."""
        return (self._compute_raw(x) - self.mean) / self.deviation

    def _compute_raw(self, x: Tensor) -> Tensor:
        return compute_hog(x, self.cell_size, HOG_BINS, contrast="both")

    @torch.no_grad()
    def fit(self, sample: Tensor) -> None:
        """Set mean and scale from images (m, C, S, S) in [0, 1]."""
        raw = torch.cat([self._compute_raw(chunk) for chunk in torch.split(sample, 500)])  # (m, k)
        self.mean.copy_(raw.mean(0))
        # One scale for all plain and one for all normalised features: a feature that hardly varies keeps a low weight.
        scale = raw.std(0).reshape(2, -1).mean(1).clamp_min(MIN_FEATURE_DEVIATION)
        self.deviation.copy_(scale.repeat_interleave(self.num_features // 2))


class HogHead(nn.Module):
    """A linear map from z to the HOG features of an image, scored as a Gaussian with the optimal variance.

    It is linear so that images with similar gradients are close to each other in z.
    """

    def __init__(self, latent_dim: int, image_size: int) -> None:
        super().__init__()
        self.edges = HogFeatures(image_size)
        self.linear = nn.Linear(latent_dim, self.edges.num_features)

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """Return log p(features | z), the batch mean in nats up to a constant, for z (n, d) and x (n, C, S, S)."""
        with torch.no_grad():
            target = self.edges(x)  # (n, k)
        error: Tensor = (self.linear(z).float() - target).square().mean()
        return -0.5 * self.edges.num_features * error.clamp_min(1e-8).log()


def compute_hog(x: Tensor, cell_size: int, bins: int = 8, contrast: ContrastMode = "local") -> Tensor:
    """Return histograms of gradient directions (n, k) of images x (n, C, S, S) in [0, 1]. Raises BadSetting.

    Directions are unsigned (a dark line on white equals a white line on dark); the first points right, the next ones
    turn downwards. With several channels each pixel uses its strongest gradient, as in the paper. A cell also counts
    its neighbours' pixels, with a weight that falls with distance (the paper's interpolation between cells), so a
    shift by a pixel changes little. Each value is the square root of a mean gradient, so that a strong edge does not
    hide weak ones. Values are float32, also under autocast, and differentiable everywhere.

    Args:
        x: Images; sides may differ, each is divided into cells separately.
        cell_size: Side of a cell in pixels, at most S.
        bins: Number of directions, at least 2.
        contrast: "none", "local" (each cell divided by the contrast in the 3×3 cells around it), or "both",
            concatenated in this order.

    Returns:
        k = bins · ⌈S / cell_size⌉² values by direction, then cell rows; twice as many for "both".
    """
    side = min(x.shape[-2:])
    if not 1 <= cell_size <= side or bins < 2:
        raise BadSetting(f"Cells of {cell_size} px in {bins} directions don't fit images of {side} px.")
    with torch.autocast(x.device.type, enabled=False):  # roots of small sums lose too much in bfloat16
        votes = _vote_for_bins(*_compute_strongest_gradient(x.float()), bins)  # (n, bins, S, S)
        plain = (_pool_cells(votes, cell_size) + MIN_CELL_ENERGY).sqrt()  # (n, bins, cells, cells)
        if contrast == "none":
            return plain.flatten(1)
        normalised = _normalise_contrast(plain).flatten(1)
        return normalised if contrast == "local" else torch.cat([plain.flatten(1), normalised], dim=1)


def _compute_strongest_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return central differences to the right and down, (n, S, S) each, of the channel where they are largest."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    right = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]  # (n, C, S, S)
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    if x.shape[1] == 1:
        return right[:, 0], down[:, 0]
    strongest = (right.square() + down.square()).argmax(1, keepdim=True)  # (n, 1, S, S)
    return right.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]


def _vote_for_bins(right: Tensor, down: Tensor, bins: int) -> Tensor:
    """Return the gradient's length, shared between the directions near its own, (n, bins, S, S).

    A direction at the angle a from a bin's centre gets max(0, cos 2a)^p. This is smooth and needs no arc tangent, which
    has an infinite slope in flat areas. p is a power of two, 4 for 8 bins: the bell is then about as wide as linear
    interpolation between two bins.
    """
    squared = right.square() + down.square() + MIN_GRADIENT**2  # (n, S, S)
    # Doubling the angle makes opposite directions equal.
    double = torch.stack([right.square() - down.square(), 2 * right * down], 1) / squared[:, None]  # (n, 2, S, S)
    centres = torch.arange(bins, device=right.device) * (2 * math.pi / bins)
    unit_vectors = torch.stack([centres.cos(), centres.sin()], 1)  # (bins, 2)
    share = F.conv2d(double, unit_vectors[:, :, None, None]).clamp_min(0)  # (n, bins, S, S)
    for _ in range(max(0, round(2 * math.log2(bins) - 4))):
        share = share.square()  # four times as fast as pow()
    return share * squared.sqrt()[:, None]


def _pool_cells(votes: Tensor, cell_size: int) -> Tensor:
    """Return weighted means over windows twice as wide as a cell and centred on it, (n, bins, rows, columns)."""
    down, across = (_make_tent_weights(side, cell_size, votes) for side in votes.shape[-2:])
    return down @ votes @ across.T


def _make_tent_weights(side: int, cell_size: int, like: Tensor) -> Tensor:
    """Return each pixel's weight in each cell along a side, (cells, side): highest in the middle, 0 a cell away."""
    cells = -(-side // cell_size)
    middles = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * cell_size
    pixels = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    return (1 - (middles[:, None] - pixels).abs() / cell_size).clamp_min(0) / cell_size


def _normalise_contrast(roots: Tensor) -> Tensor:
    """Divide every cell by the contrast around it, so that values do not depend on lighting."""
    energy = roots.square().sum(1, keepdim=True)  # (n, 1, cells, cells)
    around = F.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
    return roots / (around + MIN_CONTRAST**2).sqrt()
