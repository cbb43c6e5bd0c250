"""Oriented gradients: what a picture looks like when only its edges, and not its brightness, are asked for.

Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection" (CVPR 2005), made differentiable, so that a
decoder can be asked to give them back. Neighbours by these features share their label more often than neighbours by
pixels, and nobody has to name a label for it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.core.errors import BadSetting

ContrastMode = Literal["none", "local", "both"]

# A gradient below this has no direction worth a vote; it also keeps every root away from its infinite slope at 0.
MIN_GRADIENT = 1e-4
MIN_CELL_ENERGY = 1e-6
# Contrast below this is noise and is not enlarged to full strength (roots of mean gradients, so 0.1 is weak).
MIN_CONTRAST = 0.1


def compute_hog(x: Tensor, cell_size: int, bins: int = 8, contrast: ContrastMode = "local") -> Tensor:
    """Histograms of gradient directions in cells of `cell` pixels, (n, k), of pictures x (n, C, S, S) in [0, 1].

    k = bins · ⌈S / cell⌉², direction by direction, in each the cells row by row; twice that for contrast "both".
    (Of sides that differ, each is divided into cells by itself.)
    Unsigned directions (a dark line on white is a white line on dark), the first to the right, the others turning
    towards down; of several channels each pixel's strongest gradient counts, as in the paper. A cell also counts its
    neighbours' pixels, less with distance (the paper's linear interpolation between cells), so that a shift of a
    pixel changes little. Each value is the square root of a mean gradient, which keeps one strong edge from drowning
    the weak ones. contrast "none" leaves it at that, "local" divides each cell by the contrast in the 3×3 cells
    around it, "both" gives the first and then the second.

    Values are float32, under autocast too. Differentiable everywhere, at flat pictures as well. Raises BadSetting
    unless 1 <= cell <= S and bins >= 2.
    """
    side = min(x.shape[-2:])
    if not 1 <= cell_size <= side or bins < 2:
        raise BadSetting(f"Cells of {cell_size} px in {bins} directions don't fit pictures of {side} px.")
    with torch.autocast(x.device.type, enabled=False):  # roots of small sums lose too much in bfloat16
        votes = _vote_for_bins(*_compute_strongest_gradient(x.float()), bins)  # (n, bins, S, S)
        roots = (_pool_cells(votes, cell_size) + MIN_CELL_ENERGY).sqrt()  # (n, bins, cells, cells)
        parts = {"none": [roots], "local": [_normalise_contrast(roots)], "both": [roots, _normalise_contrast(roots)]}[
            contrast
        ]
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def _compute_strongest_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences to the right and down, (n, S, S) each, of the channel where they are largest."""
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    right = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]  # (n, C, S, S)
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    if x.shape[1] == 1:
        return right[:, 0], down[:, 0]
    strongest = (right.square() + down.square()).argmax(1, keepdim=True)  # (n, 1, S, S)
    return right.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]


def _vote_for_bins(right: Tensor, down: Tensor, bins: int) -> Tensor:
    """The gradient's length shared between the directions near its own, (n, bins, S, S).

    A direction that is off a bin's centre by a gets max(0, cos 2a)^p: smooth, without the arc tangent, whose slope
    explodes in flat places. p, a power of two and 4 for 8 bins, makes a bell about as wide as linear interpolation
    between two bins is.
    """
    squared = right.square() + down.square() + MIN_GRADIENT**2  # (n, S, S)
    # Twice the angle makes a direction and its opposite one.
    double = torch.stack([right.square() - down.square(), 2 * right * down], 1) / squared[:, None]  # (n, 2, S, S)
    centres = torch.arange(bins, device=right.device) * (2 * math.pi / bins)
    towards = torch.stack([centres.cos(), centres.sin()], 1)  # (bins, 2)
    share = F.conv2d(double, towards[:, :, None, None]).clamp_min(0)  # (n, bins, S, S)
    for _ in range(max(0, round(2 * math.log2(bins) - 4))):
        share = share.square()  # four times as fast as pow()
    return share * squared.sqrt()[:, None]


def _pool_cells(votes: Tensor, cell_size: int) -> Tensor:
    """Weighted means over windows twice as wide as a cell and centred on it, (n, bins, cells down, cells across)."""
    down, across = (_make_tent_weights(side, cell_size, votes) for side in votes.shape[-2:])
    return down @ votes @ across.T


def _make_tent_weights(side: int, cell_size: int, like: Tensor) -> Tensor:
    """What each pixel along a side counts in each cell, (cells, side): most in the middle, 0 a cell away from it."""
    cells = -(-side // cell_size)
    middles = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * cell_size
    pixels = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    return (1 - (middles[:, None] - pixels).abs() / cell_size).clamp_min(0) / cell_size


def _normalise_contrast(roots: Tensor) -> Tensor:
    """Every cell divided by the contrast around it: values are free of lighting."""
    energy = roots.square().sum(1, keepdim=True)  # (n, 1, cells, cells)
    around = F.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
    return roots / (around + MIN_CONTRAST**2).sqrt()
