"""Photometric augmentations: colours, sharpness, overlays and re-compression.

Each function changes random rows of a batch (n, C, s, s) of float32 in [0, 1] in place and returns the batch.
`probability` is the base rate per image of each change. All random numbers come from a `RandomState`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA_COEFFICIENTS = (0.299, 0.587, 0.114)  # ITU-R 601 weights of red, green and blue


@dataclass(frozen=True)
class RandomState:
    """Random numbers of several distributions, all from one generator on the CPU."""

    generator: torch.Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers between `low` and `high`."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return uniform integers from `low` to `high` - 1."""
        return torch.randint(low, high, shape, generator=self.generator)

    def choice(self, *values: int) -> int:
        """Return one of the values."""
        return values[int(self.integers(0, len(values), 1))]

    def sample_rows(self, n: int, probability: float) -> Tensor:
        """Return some of the row numbers below n, each with this probability."""
        return (torch.rand(n, generator=self.generator) < probability).nonzero()[:, 0]

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers between `low` and `high` with a uniform logarithm."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))


def make_random_fills(n: int, channels: int, random_state: RandomState) -> Tensor:
    """Return plain colours (n, C, 1, 1): black, white, or random."""
    fill = random_state.uniform(0, 1, n, channels, 1, 1)
    kind = random_state.integers(0, 3, n)
    fill[kind == 0] = 0.0
    fill[kind == 1] = 1.0
    return fill


def augment_colours(x: Tensor, probability: float, random_state: RandomState) -> Tensor:
    """Change brightness, contrast, colours, gamma, shading and number of levels of random images."""
    n, channels = x.shape[:2]
    # Contrast and brightness.
    rows = random_state.sample_rows(n, 3 * probability)
    gain = random_state.log_uniform(0.5, 1.8, len(rows), 1, 1, 1)
    offset = random_state.uniform(-0.15, 0.15, len(rows), 1, 1, 1)
    mean = x[rows].mean((1, 2, 3), keepdim=True)
    x[rows] = (x[rows] - mean) * gain + mean + offset
    if channels == 3:
        x = _mix_channels(x, probability, random_state)
        rows = random_state.sample_rows(n, probability / 4)
        x[rows] = x[rows][:, [2, 0, 1]]  # another colour table
    rows = random_state.sample_rows(n, probability / 4)
    x[rows] = 1 - x[rows]  # a negative
    # Gamma.
    rows = random_state.sample_rows(n, 1.5 * probability)
    x[rows] = x[rows].clamp(1e-3, 1).pow(random_state.log_uniform(0.4, 2.5, len(rows), 1, 1, 1))
    # Shading, then posterisation.
    rows = random_state.sample_rows(n, probability / 2)
    x[rows] = x[rows] * _make_light_map(len(rows), x.shape[-1], random_state)
    rows = random_state.sample_rows(n, probability / 3)
    levels = random_state.integers(2, 8, len(rows), 1, 1, 1).float()
    x[rows] = (x[rows].clamp(0, 1) * levels).round() / levels
    return x.clamp_(0, 1)


def _mix_channels(x: Tensor, probability: float, random_state: RandomState) -> Tensor:
    """Mix the channels of (n, 3, s, s) by random matrices near the identity; some images become grey or tinted."""
    rows = random_state.sample_rows(len(x), 4 * probability)  # the highest rate: encoders rely on colours most
    m = len(rows)
    to_grey = torch.tensor(_LUMA_COEFFICIENTS).expand(3, 3)
    saturation = random_state.uniform(0.0, 1.8, m, 1, 1)
    saturation[random_state.sample_rows(m, 0.4)] = 0.0
    mixing = saturation * torch.eye(3) + (1 - saturation) * to_grey
    gains = 1 + 0.2 * random_state.normal(m, 3, 1)
    gains[random_state.sample_rows(m, 0.4)] = 1.0
    hue = 0.12 * random_state.normal(m, 3, 3)
    hue[random_state.sample_rows(m, 0.6)] = 0.0
    mixing = mixing * gains + (hue - hue.mean(2, keepdim=True)) * (saturation > 0)
    x[rows] = torch.einsum("nij,njhw->nihw", mixing, x[rows])
    return x


def _make_light_map(n: int, size: int, random_state: RandomState) -> Tensor:
    """Return factors (n, 1, size, size): a gradient of light and darker corners (vignette)."""
    axis = torch.linspace(-1, 1, size)
    x, y, corners = axis.view(1, 1, -1), axis.view(1, -1, 1), random_state.uniform(-0.1, 0.55, n, 1, 1)
    slope = random_state.uniform(-0.25, 0.25, n, 2, 1, 1)
    return (1 - corners * (x.square() + y.square()) + slope[:, 0] * x + slope[:, 1] * y).clamp_min(0)[:, None]


def augment_sharpness(x: Tensor, probability: float, random_state: RandomState) -> Tensor:
    """Blur, sharpen, pixelate or add noise to random images."""
    n, channels, size = x.shape[0], x.shape[1], x.shape[-1]
    # Weak blur or sharpening.
    rows = random_state.sample_rows(n, 1.5 * probability)
    amount = random_state.uniform(-1.5, 1.0, len(rows), 1, 1, 1)  # below zero: sharpened
    images = x[rows]
    x[rows] = images + amount * (_gaussian_blur(images, 0.015 * size * random_state.choice(1, 2)) - images)
    # Strong blur.
    rows = random_state.sample_rows(n, probability / 2)
    x[rows] = _gaussian_blur(x[rows], size / random_state.choice(24, 32, 48))
    # Lower resolution.
    rows = random_state.sample_rows(n, probability / 2)
    coarse = F.adaptive_avg_pool2d(x[rows], size * random_state.choice(3, 4, 5, 6, 8) // 12)
    mode = ("nearest", "bilinear")[random_state.choice(0, 1)]
    x[rows] = F.interpolate(coarse, size=(size, size), mode=mode)
    rows = random_state.sample_rows(n, probability)
    deviation = random_state.uniform(0.0, 0.12, len(rows), 1, 1, 1)
    x[rows] += deviation * random_state.normal(len(rows), channels, size, size)
    return x


def _gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Apply a Gaussian blur, sigma in pixels; for small images matrix products are much faster than convolutions."""
    positions = torch.arange(x.shape[-1])
    weights = torch.exp(-0.5 * ((positions - positions[:, None]) / sigma).square())
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x @ weights.mT


def add_overlays(x: Tensor, probability: float, random_state: RandomState) -> Tensor:
    """Draw up to three overlays on random images: rectangles, discs, lines of fake letters, patches of other images."""
    n, channels = x.shape[:2]
    for factor in (1.4, 0.6, 0.4):
        rows = random_state.sample_rows(n, factor * probability)
        mask = _make_shape_masks(len(rows), x.shape[-1], random_state)  # (m, 1, s, s)
        opacity = random_state.uniform(0.4, 1.4, len(rows), 1, 1, 1).clamp_max(1)
        fill = make_random_fills(len(rows), channels, random_state).expand_as(x[rows]).clone()
        patched = random_state.sample_rows(len(rows), 0.25)
        fill[patched] = x[rows[patched] - 1]  # the previous image of the batch
        x[rows] = torch.lerp(x[rows], fill, mask * opacity)
    return x


def _make_shape_masks(n: int, size: int, random_state: RandomState) -> Tensor:
    """Return masks (n, 1, size, size) of 0 and 1: a tilted rectangle, an ellipse, or lines of letters."""
    axis = torch.linspace(-1, 1, size)
    centre = random_state.uniform(-0.9, 0.9, n, 2, 1, 1)
    angle = 0.4 * random_state.normal(n, 1, 1)
    angle[random_state.sample_rows(n, 0.5)] = 0.0
    x, y = axis.view(1, 1, -1) - centre[:, 0], axis.view(1, -1, 1) - centre[:, 1]
    kind = random_state.integers(0, 5, n)  # 0 rectangle, 1 ellipse, 2 to 4 letters
    half = random_state.uniform(0.12, 0.42, n, 2, 1, 1)
    half[kind > 1, 0] = half[kind > 1, 0] * 2.4  # lines are long
    # Coordinates in the shape's own axes, -1 to 1 inside.
    u = (x * angle.cos() + y * angle.sin()) / half[:, 0]
    v = (y * angle.cos() - x * angle.sin()) / half[:, 1]
    inside = (u.abs() < 1) & (v.abs() < 1)
    inside = torch.where((kind == 1)[:, None, None], u.square() + v.square() < 1, inside)
    text = (kind > 1).nonzero()[:, 0]
    inside[text] &= _make_letter_masks(u[text], v[text], random_state)
    return inside[:, None].float()


def _make_letter_masks(u: Tensor, v: Tensor, random_state: RandomState) -> Tensor:
    """Return (n, s, s) bool for coordinates u, v in -1 to 1: one to four lines of random strokes and gaps."""
    n = len(u)
    strokes = torch.rand(n, 4, 3, 32, generator=random_state.generator) < 0.55  # (lines, rows, columns)
    lines = random_state.integers(1, 5, n)[:, None, None]
    down = (v.clamp(-1, 0.999) + 1) / 2 * lines  # line number, and position in the line
    row = ((down % 1) * 4).long()  # 3 is the gap between lines
    column = ((u.clamp(-1, 0.999) + 1) * 16).long()
    index = (down.long() * 3 + row.clamp_max(2)) * 32 + column
    return strokes.flatten(1).gather(1, index.flatten(1)).view_as(index) & (row < 3)


def simulate_jpeg(x: Tensor, probability: float, random_state: RandomState) -> Tensor:
    """Quantise the frequencies of blocks as JPEG does, in random images; small blocks imitate a large file, shrunk."""
    rows = random_state.sample_rows(len(x), probability)
    block = random_state.choice(2, 4, 8)
    size = x.shape[-1]
    padded = F.pad(x[rows], (0, -size % block, 0, -size % block), mode="replicate")
    planes = _rgb_to_luma_chroma(padded)
    m, channels, height, width = planes.shape
    blocks = planes.view(m, channels, height // block, block, width // block, block).transpose(3, 4)
    frequencies = _make_dct_matrix(block) @ blocks @ _make_dct_matrix(block).mT
    # The quantisation step grows with the frequency, and is larger for chroma.
    order = torch.arange(block)
    base = 1 + 6 / block * (order[:, None] + order)
    step = base * random_state.log_uniform(0.01, 0.07, m, 1, 1, 1, 1, 1) * block / 2
    step = step * torch.tensor([1.0, 1.6, 1.6][:channels]).view(-1, 1, 1, 1, 1)
    blocks = _make_dct_matrix(block).mT @ ((frequencies / step).round() * step) @ _make_dct_matrix(block)
    planes = blocks.transpose(3, 4).reshape(m, channels, height, width)
    x[rows] = _luma_chroma_to_rgb(planes)[:, :, :size, :size]
    return x


@lru_cache(maxsize=8)
def _make_dct_matrix(block: int) -> Tensor:
    """Return the orthogonal matrix (block, block) of the discrete cosine transform, one frequency per row."""
    k, i = torch.arange(block)[:, None], torch.arange(block)
    matrix = torch.cos(math.pi * (2 * i + 1) * k / (2 * block)) * math.sqrt(2 / block)
    matrix[0] /= math.sqrt(2)
    return matrix


def _rgb_to_luma_chroma(x: Tensor) -> Tensor:
    """Convert red, green, blue to luma and two colour differences; grey stays."""
    if x.shape[1] == 1:
        return x
    luma = (x * torch.tensor(_LUMA_COEFFICIENTS).view(3, 1, 1)).sum(1)
    return torch.stack([luma, x[:, 2] - luma, x[:, 0] - luma], dim=1)


def _luma_chroma_to_rgb(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    luma, blue, red = x.unbind(1)
    green = luma - (_LUMA_COEFFICIENTS[0] * red + _LUMA_COEFFICIENTS[2] * blue) / _LUMA_COEFFICIENTS[1]
    return torch.stack([luma + red, green, luma + blue], dim=1)
