"""What altered views of pictures look like: colours, sharpness, things laid over them, re-compression.

Everything is done to some rows of a batch (n, C, s, s) in [0, 1], drawn at random, in place; `share` is the
probability per picture of each thing, more or less. Tensors are float32; all random numbers come from a `Draw`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # what each of red, green, blue adds to lightness


@dataclass(frozen=True)
class Draw:
    """Random numbers, all from one generator on the CPU."""

    generator: torch.Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """low to high - 1."""
        return torch.randint(low, high, shape, generator=self.generator)

    def choice(self, *values: int) -> int:
        return values[int(self.integers(0, len(values), 1))]

    def some(self, n: int, share: float) -> Tensor:
        """The rows, of n, that something is done to: each with this probability."""
        return (torch.rand(n, generator=self.generator) < share).nonzero()[:, 0]

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))


def fills(n: int, channels: int, draw: Draw) -> Tensor:
    """(n, C, 1, 1): black, white, or any colour."""
    fill = draw.uniform(0, 1, n, channels, 1, 1)
    kind = draw.integers(0, 3, n)
    fill[kind == 0] = 0.0
    fill[kind == 1] = 1.0
    return fill


def recoloured(x: Tensor, share: float, draw: Draw) -> Tensor:
    """Light, contrast, colours, gamma, vignette, few levels, grey: each for some."""
    n, channels = x.shape[:2]
    rows = draw.some(n, 3 * share)
    gain, lift = draw.log_uniform(0.5, 1.8, len(rows), 1, 1, 1), draw.uniform(-0.15, 0.15, len(rows), 1, 1, 1)
    middle = x[rows].mean((1, 2, 3), keepdim=True)
    x[rows] = (x[rows] - middle) * gain + middle + lift
    if channels == 3:
        x = _in_other_colours(x, share, draw)
    rows = draw.some(n, 1.5 * share)
    x[rows] = x[rows].clamp(1e-3, 1).pow(draw.log_uniform(0.4, 2.5, len(rows), 1, 1, 1))
    rows = draw.some(n, share / 2)
    x[rows] = x[rows] * _light(len(rows), x.shape[-1], draw)
    rows = draw.some(n, share / 3)
    levels = draw.integers(2, 8, len(rows), 1, 1, 1).float()
    x[rows] = (x[rows].clamp(0, 1) * levels).round() / levels
    return x.clamp_(0, 1)


def _in_other_colours(x: Tensor, share: float, draw: Draw) -> Tensor:
    """(n, 3, s, s): channels mixed by a matrix near to one, some to grey or a tint of it."""
    rows = draw.some(len(x), 4 * share)  # most: of all things, an encoder forgets colours last
    m = len(rows)
    to_grey = torch.tensor(_GREY).expand(3, 3)
    saturation = draw.uniform(0.0, 1.8, m, 1, 1)
    saturation[draw.some(m, 0.4)] = 0.0
    mixing = saturation * torch.eye(3) + (1 - saturation) * to_grey
    gains = 1 + 0.2 * draw.normal(m, 3, 1)
    gains[draw.some(m, 0.4)] = 1.0
    hue = 0.12 * draw.normal(m, 3, 3)
    hue[draw.some(m, 0.6)] = 0.0
    mixing = mixing * gains + (hue - hue.mean(2, keepdim=True)) * (saturation > 0)
    x[rows] = torch.einsum("nij,njhw->nihw", mixing, x[rows])
    return x


def _light(n: int, size: int, draw: Draw) -> Tensor:
    """(n, 1, size, size) to multiply with: a slope of light, or less of it in the corners."""
    axis = torch.linspace(-1, 1, size)
    x, y, corners = axis.view(1, 1, -1), axis.view(1, -1, 1), draw.uniform(-0.1, 0.55, n, 1, 1)
    slope = draw.uniform(-0.25, 0.25, n, 2, 1, 1)
    return (1 - corners * (x.square() + y.square()) + slope[:, 0] * x + slope[:, 1] * y).clamp_min(0)[:, None]


def softened(x: Tensor, share: float, draw: Draw) -> Tensor:
    """Blur, sharpening, coarse pixels, noise: each for some."""
    n, channels, size = x.shape[0], x.shape[1], x.shape[-1]
    rows = draw.some(n, 1.5 * share)
    amount = draw.uniform(-1.5, 1.0, len(rows), 1, 1, 1)  # below zero: sharpened
    part = x[rows]
    x[rows] = part + amount * (_blurred(part, 0.015 * size * draw.choice(1, 2)) - part)
    rows = draw.some(n, share / 2)
    x[rows] = _blurred(x[rows], size / draw.choice(24, 32, 48))
    rows = draw.some(n, share / 2)
    coarse = F.adaptive_avg_pool2d(x[rows], size * draw.choice(3, 4, 5, 6, 8) // 12)
    mode = ("nearest", "bilinear")[draw.choice(0, 1)]
    x[rows] = F.interpolate(coarse, size=(size, size), mode=mode)
    rows = draw.some(n, share)
    x[rows] += draw.uniform(0.0, 0.12, len(rows), 1, 1, 1) * draw.normal(len(rows), channels, size, size)
    return x


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian, sigma in pixels: as products of matrices, many times faster here than as convolutions."""
    place = torch.arange(x.shape[-1])
    weights = torch.exp(-0.5 * ((place - place[:, None]) / sigma).square())
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x @ weights.mT


def overlaid(x: Tensor, share: float, draw: Draw) -> Tensor:
    """Labels, discs, lines of something like letters, and patches of other pictures, up to three on one view."""
    n, channels = x.shape[:2]
    for times in (1.4, 0.6, 0.4):
        rows = draw.some(n, times * share)
        mask = _shapes(len(rows), x.shape[-1], draw)  # (m, 1, s, s)
        opacity = draw.uniform(0.4, 1.4, len(rows), 1, 1, 1).clamp_max(1)
        ink = fills(len(rows), channels, draw).expand_as(x[rows]).clone()
        patched = draw.some(len(rows), 0.25)
        ink[patched] = x[rows[patched] - 1]  # of the picture before it in the batch
        x[rows] = torch.lerp(x[rows], ink, mask * opacity)
    return x


def _shapes(n: int, size: int, draw: Draw) -> Tensor:
    """(n, 1, size, size) of 0 and 1: a tilted rectangle, an ellipse, or rows of letters."""
    axis = torch.linspace(-1, 1, size)
    centre = draw.uniform(-0.9, 0.9, n, 2, 1, 1)
    angle = 0.4 * draw.normal(n, 1, 1)
    angle[draw.some(n, 0.5)] = 0.0
    x, y = axis.view(1, 1, -1) - centre[:, 0], axis.view(1, -1, 1) - centre[:, 1]
    kind = draw.integers(0, 5, n)  # 0 rectangle, 1 ellipse, others letters
    half = draw.uniform(0.12, 0.42, n, 2, 1, 1)
    half[kind > 1, 0] = half[kind > 1, 0] * 2.4  # lines are long
    u = (x * angle.cos() + y * angle.sin()) / half[:, 0]
    v = (y * angle.cos() - x * angle.sin()) / half[:, 1]
    inside = (u.abs() < 1) & (v.abs() < 1)
    inside = torch.where((kind == 1)[:, None, None], u.square() + v.square() < 1, inside)
    written = (kind > 1).nonzero()[:, 0]
    inside[written] &= _letters(u[written], v[written], draw)
    return inside[:, None].float()


def _letters(u: Tensor, v: Tensor, draw: Draw) -> Tensor:
    """(n, s, s) bool at places u, v in a box of -1 to 1: one to four lines of strokes and gaps."""
    n = len(u)
    strokes = torch.rand(n, 4, 3, 32, generator=draw.generator) < 0.55  # lines, heights in a line, places
    lines = draw.integers(1, 5, n)[:, None, None]
    down = (v.clamp(-1, 0.999) + 1) / 2 * lines  # line number and place in it
    height = ((down % 1) * 4).long()  # 3 is the gap between lines
    place = ((u.clamp(-1, 0.999) + 1) * 16).long()
    index = (down.long() * 3 + height.clamp_max(2)) * 32 + place
    return strokes.flatten(1).gather(1, index.flatten(1)).view_as(index) & (height < 3)


def recompressed(x: Tensor, share: float, draw: Draw) -> Tensor:
    """What JPEG loses, for some: frequencies of blocks, rounded. Small blocks stand for a large file's, shrunk."""
    rows = draw.some(len(x), share)
    block = draw.choice(2, 4, 8)
    size = x.shape[-1]
    padded = F.pad(x[rows], (0, -size % block, 0, -size % block), mode="replicate")
    light = _to_light(padded)
    m, channels, height, width = light.shape
    blocks = light.view(m, channels, height // block, block, width // block, block).transpose(3, 4)
    frequencies = _cosines(block) @ blocks @ _cosines(block).mT
    order = torch.arange(block)
    step = (1 + 6 / block * (order[:, None] + order)) * draw.log_uniform(0.01, 0.07, m, 1, 1, 1, 1, 1) * block / 2
    step = step * torch.tensor([1.0, 1.6, 1.6][:channels]).view(-1, 1, 1, 1, 1)  # colours are rounded more
    blocks = _cosines(block).mT @ ((frequencies / step).round() * step) @ _cosines(block)
    light = blocks.transpose(3, 4).reshape(m, channels, height, width)
    x[rows] = _from_light(light)[:, :, :size, :size]
    return x


@lru_cache(maxsize=8)
def _cosines(block: int) -> Tensor:
    """(block, block), orthogonal: the discrete cosine transform, a frequency in each row."""
    k, i = torch.arange(block)[:, None], torch.arange(block)
    matrix = torch.cos(math.pi * (2 * i + 1) * k / (2 * block)) * math.sqrt(2 / block)
    matrix[0] /= math.sqrt(2)
    return matrix


def _to_light(x: Tensor) -> Tensor:
    """Red, green, blue to lightness and two colour differences; grey stays."""
    if x.shape[1] == 1:
        return x
    light = (x * torch.tensor(_GREY).view(3, 1, 1)).sum(1)
    return torch.stack([light, x[:, 2] - light, x[:, 0] - light], dim=1)


def _from_light(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    light, blue, red = x.unbind(1)
    green = light - (_GREY[0] * red + _GREY[2] * blue) / _GREY[1]
    return torch.stack([light + red, green, light + blue], dim=1)
