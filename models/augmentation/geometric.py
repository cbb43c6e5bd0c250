"""Altered views of a batch of pictures, for training: small tensors, quick, and every draw from one generator.

What people do to a picture's file is in models/alterations.py. Here it is imitated more widely than that list, so
that an encoder learns what an alteration is, and not the list. Pictures should come at twice the network's size:
a crop of them is then as sharp as a crop of the original would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.models.augmentation.photometric import Draw, fills, overlaid, recoloured, recompressed, softened


@dataclass(frozen=True)
class Strength:
    """How much is done to a view. Shares are probabilities per picture."""

    smallest_crop: float = 0.2  # of the area
    whole: float = 0.3  # share that is not cropped
    quarter_turns: float = 0.3  # share turned by 90, 180 or 270 degrees
    mirrored: float = 0.4  # share
    tilt: float = 22.0  # degrees, at most, to either side
    framed: float = 0.3  # share with a border, bars or padding
    each: float = 0.12  # share of each thing done to sharpness or laid over; colours change up to four times as often

    def scaled(self, factor: float) -> Strength:
        """So much of it: 0 leaves pictures as they are."""
        return Strength(
            smallest_crop=self.smallest_crop**factor,
            whole=1 - (1 - self.whole) * factor,
            quarter_turns=self.quarter_turns * factor,
            mirrored=self.mirrored,
            tilt=self.tilt * factor,
            framed=self.framed * factor,
            each=self.each * factor,
        )


MILD = Strength(smallest_crop=0.4, whole=0.5, each=0.06)  # for the first view of a pair, where it is not clean


def clean(pictures: Tensor, size: int) -> Tensor:
    """(n, C, R, R) in [0, 1] to (n, C, size, size): shrunk, otherwise as they are."""
    if pictures.shape[-1] == size:
        return pictures
    smaller = F.interpolate(pictures, size=(size, size), mode="bicubic", antialias=True)
    return smaller.clamp(0, 1)


def views(pictures: Tensor, size: int, generator: torch.Generator, strength: Strength | None = None) -> Tensor:
    """One altered view (n, C, size, size) of each picture (n, C, R, R), C 1 or 3, all float32 in [0, 1].

    The same state of the generator (on the CPU) gives the same views.
    """
    draw, strength = Draw(generator), strength or Strength()
    frame = _frames(len(pictures), strength, draw)  # (n, 4)
    x = _reframed(pictures, size, frame, strength, draw)
    x = recoloured(x, strength.each, draw)
    x = softened(x, strength.each, draw)
    x = overlaid(x, strength.each, draw)
    x = _bordered(x, frame, draw)
    return recompressed(x, strength.each, draw).clamp_(0, 1)


def _reframed(pictures: Tensor, size: int, frame: Tensor, strength: Strength, draw: Draw) -> Tensor:
    """Crop, mirror, turn, shear and perspective, in one sampling, into the frames (n, 4)."""
    n, channels = pictures.shape[:2]
    turned = _turns(n, strength, draw) @ _slants(n, strength, draw)
    matrix = _crops(n, strength, draw) @ turned @ _into_frames(frame)  # (n, 3, 3)
    axis = (torch.arange(size) + 0.5) * 2 / size - 1  # centres of pixels, in -1 to 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, size²)
    x_, y_, w = (matrix @ points).unbind(1)  # (n, size²) each
    grid = torch.stack([x_ / w, y_ / w], dim=2).view(n, size, size, 2)
    sampled = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(3) < 1)[:, None]
    # A turned picture does not reach everywhere: there its edge goes on, or a plain colour shows.
    inside[draw.some(n, 0.2)] = True
    return torch.where(inside, sampled, fills(n, channels, draw))


def _crops(n: int, strength: Strength, draw: Draw) -> Tensor:
    """(n, 3, 3): from -1 to 1 to a rectangle of the picture, of 1 to `smallest_crop` of its area."""
    area = draw.log_uniform(strength.smallest_crop, 1.0, n)
    aspect = draw.log_uniform(0.7, 1 / 0.7, n).sqrt()
    whole = draw.some(n, strength.whole)
    area[whole], aspect[whole] = 1.0, 1.0
    scale = (area.sqrt()[:, None] * torch.stack([aspect, 1 / aspect], dim=1)).clamp_max(1.0)  # (n, 2)
    shift = (1 - scale) * draw.uniform(-1, 1, n, 2)
    matrix = torch.diag_embed(torch.cat([scale, torch.ones(n, 1)], dim=1))
    matrix[:, :2, 2] = shift
    return matrix


def _turns(n: int, strength: Strength, draw: Draw) -> Tensor:
    """(n, 3, 3): tilts, quarter turns, mirror images."""
    degrees = draw.uniform(-1, 1, n).pow(3) * strength.tilt  # most are small
    degrees[draw.some(n, 0.15)] = 0.0  # exactly upright is the commonest of all
    quarters = torch.zeros(n)
    turned = draw.some(n, strength.quarter_turns)
    quarters[turned] = draw.integers(1, 4, len(turned)).float()
    angle = torch.deg2rad(degrees + 90 * quarters)
    mirror = torch.ones(n)
    mirror[draw.some(n, strength.mirrored)] = -1.0
    # A tilted picture is either enlarged until no corner shows, or not.
    inside = (torch.deg2rad(degrees).cos() + torch.deg2rad(degrees).sin().abs()).reciprocal()
    zoom = torch.where(torch.rand(n, generator=draw.generator) < 0.3, inside, torch.ones(n))
    cos, sin, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros(n)
    rows = [torch.stack(row, dim=1) for row in ((cos * mirror, -sin, zero), (sin * mirror, cos, zero))]
    rows.append(torch.tensor([0.0, 0.0, 1.0]).expand(n, 3))
    return torch.stack(rows, dim=1)


def _slants(n: int, strength: Strength, draw: Draw) -> Tensor:
    """(n, 3, 3): shear and perspective for some, nothing for the others."""
    matrix = torch.eye(3).repeat(n, 1, 1)
    sheared, seen_aslant = draw.some(n, strength.each / 2), draw.some(n, strength.each)
    matrix[sheared, 0, 1] = draw.uniform(-0.25, 0.25, len(sheared))
    matrix[seen_aslant, 2, :2] = draw.uniform(-0.2, 0.2, len(seen_aslant), 2)
    # Scaled so that the corners, on the whole, still lie inside the picture.
    matrix[seen_aslant, 2, 2] = 1 + matrix[seen_aslant, 2, :2].abs().sum(1) / 2
    return matrix


def _frames(n: int, strength: Strength, draw: Draw) -> Tensor:
    """(n, 4): left, top, right, bottom of the picture in the view, -1 to 1; some have borders, bars or padding."""
    margins = torch.zeros(n, 4)
    even, bars, loose = (draw.some(n, part * strength.framed) for part in (0.4, 0.4, 0.2))
    margins[even] = draw.uniform(0.04, 0.3, len(even), 1)
    across = draw.integers(0, 2, len(bars))  # 0: bars left and right, 1: above and below
    margins[bars, across] = draw.uniform(0.0, 0.5, len(bars))
    margins[bars, across + 2] = draw.uniform(0.0, 0.5, len(bars))
    margins[loose] = draw.uniform(0.0, 0.4, len(loose), 4)
    return torch.cat([margins[:, :2] - 1, 1 - margins[:, 2:]], dim=1)


def _into_frames(frame: Tensor) -> Tensor:
    """(n, 3, 3): the frame (n, 4) to -1 to 1."""
    centre, half = (frame[:, :2] + frame[:, 2:]) / 2, (frame[:, 2:] - frame[:, :2]) / 2
    matrix = torch.diag_embed(torch.cat([1 / half, torch.ones(len(frame), 1)], dim=1))
    matrix[:, :2, 2] = -centre / half
    return matrix


def _bordered(x: Tensor, frame: Tensor, draw: Draw) -> Tensor:
    """Plain colour outside the frames; the later bars come on top, as on a screen."""
    rows = (frame.abs() < 1).any(1).nonzero()[:, 0]
    fill = fills(len(rows), x.shape[1], draw)
    axis = (torch.arange(x.shape[-1]) + 0.5) * 2 / x.shape[-1] - 1
    left, top, right, bottom = (edge[:, None] for edge in frame[rows].unbind(1))
    across, down = (axis > left) & (axis < right), (axis > top) & (axis < bottom)  # (m, size) each
    inside = (down[:, :, None] & across[:, None, :])[:, None]  # (m, 1, size, size)
    x[rows] = torch.where(inside, x[rows], fill)
    return x
