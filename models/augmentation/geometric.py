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

from simile.models.augmentation.photometric import (
    RandomState,
    add_overlays,
    augment_colours,
    augment_sharpness,
    make_random_fills,
    simulate_jpeg,
)


@dataclass(frozen=True)
class AugmentationStrength:
    """How much is done to a view. Shares are probabilities per picture."""

    min_crop_area: float = 0.2  # of the area
    uncropped_rate: float = 0.3  # share that is not cropped
    quarter_turn_rate: float = 0.3  # share turned by 90, 180 or 270 degrees
    mirror_rate: float = 0.4  # share
    max_tilt_degrees: float = 22.0  # degrees, at most, to either side
    frame_rate: float = 0.3  # share with a border, bars or padding
    effect_rate: float = (
        0.12  # share of each thing done to sharpness or laid over; colours change up to four times as often
    )

    def scale(self, factor: float) -> AugmentationStrength:
        """So much of it: 0 leaves pictures as they are."""
        return AugmentationStrength(
            min_crop_area=self.min_crop_area**factor,
            uncropped_rate=1 - (1 - self.uncropped_rate) * factor,
            quarter_turn_rate=self.quarter_turn_rate * factor,
            mirror_rate=self.mirror_rate,
            max_tilt_degrees=self.max_tilt_degrees * factor,
            frame_rate=self.frame_rate * factor,
            effect_rate=self.effect_rate * factor,
        )


MILD_STRENGTH = AugmentationStrength(
    min_crop_area=0.4, uncropped_rate=0.5, effect_rate=0.06
)  # for the first view of a pair, where it is not clean


def resize_images(images: Tensor, size: int) -> Tensor:
    """(n, C, R, R) in [0, 1] to (n, C, size, size): shrunk, otherwise as they are."""
    if images.shape[-1] == size:
        return images
    smaller = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return smaller.clamp(0, 1)


def augment(
    images: Tensor, size: int, generator: torch.Generator, strength: AugmentationStrength | None = None
) -> Tensor:
    """One altered view (n, C, size, size) of each picture (n, C, R, R), C 1 or 3, all float32 in [0, 1].

    The same state of the generator (on the CPU) gives the same views.
    """
    draw, strength = RandomState(generator), strength or AugmentationStrength()
    frame = _sample_frames(len(images), strength, draw)  # (n, 4)
    x = _warp_images(images, size, frame, strength, draw)
    x = augment_colours(x, strength.effect_rate, draw)
    x = augment_sharpness(x, strength.effect_rate, draw)
    x = add_overlays(x, strength.effect_rate, draw)
    x = _fill_borders(x, frame, draw)
    return simulate_jpeg(x, strength.effect_rate, draw).clamp_(0, 1)


def _warp_images(
    images: Tensor, size: int, frame: Tensor, strength: AugmentationStrength, random_state: RandomState
) -> Tensor:
    """Crop, mirror, turn, shear and perspective, in one sampling, into the frames (n, 4)."""
    n, channels = images.shape[:2]
    turned = _sample_rotation_matrices(n, strength, random_state) @ _sample_shear_matrices(n, strength, random_state)
    matrix = _sample_crop_matrices(n, strength, random_state) @ turned @ _make_frame_matrices(frame)  # (n, 3, 3)
    axis = (torch.arange(size) + 0.5) * 2 / size - 1  # centres of pixels, in -1 to 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, size²)
    x_, y_, w = (matrix @ points).unbind(1)  # (n, size²) each
    grid = torch.stack([x_ / w, y_ / w], dim=2).view(n, size, size, 2)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(3) < 1)[:, None]
    # A turned picture does not reach everywhere: there its edge goes on, or a plain colour shows.
    inside[random_state.sample_rows(n, 0.2)] = True
    return torch.where(inside, sampled, make_random_fills(n, channels, random_state))


def _sample_crop_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """(n, 3, 3): from -1 to 1 to a rectangle of the picture, of 1 to `smallest_crop` of its area."""
    area = random_state.log_uniform(strength.min_crop_area, 1.0, n)
    aspect = random_state.log_uniform(0.7, 1 / 0.7, n).sqrt()
    whole = random_state.sample_rows(n, strength.uncropped_rate)
    area[whole], aspect[whole] = 1.0, 1.0
    scale = (area.sqrt()[:, None] * torch.stack([aspect, 1 / aspect], dim=1)).clamp_max(1.0)  # (n, 2)
    shift = (1 - scale) * random_state.uniform(-1, 1, n, 2)
    matrix = torch.diag_embed(torch.cat([scale, torch.ones(n, 1)], dim=1))
    matrix[:, :2, 2] = shift
    return matrix


def _sample_rotation_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """(n, 3, 3): tilts, quarter turns, mirror images."""
    degrees = random_state.uniform(-1, 1, n).pow(3) * strength.max_tilt_degrees  # most are small
    degrees[random_state.sample_rows(n, 0.15)] = 0.0  # exactly upright is the commonest of all
    quarters = torch.zeros(n)
    turned = random_state.sample_rows(n, strength.quarter_turn_rate)
    quarters[turned] = random_state.integers(1, 4, len(turned)).float()
    angle = torch.deg2rad(degrees + 90 * quarters)
    mirror = torch.ones(n)
    mirror[random_state.sample_rows(n, strength.mirror_rate)] = -1.0
    # A tilted picture is either enlarged until no corner shows, or not.
    inside = (torch.deg2rad(degrees).cos() + torch.deg2rad(degrees).sin().abs()).reciprocal()
    zoom = torch.where(torch.rand(n, generator=random_state.generator) < 0.3, inside, torch.ones(n))
    cos, sin, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros(n)
    rows = [torch.stack(row, dim=1) for row in ((cos * mirror, -sin, zero), (sin * mirror, cos, zero))]
    rows.append(torch.tensor([0.0, 0.0, 1.0]).expand(n, 3))
    return torch.stack(rows, dim=1)


def _sample_shear_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """(n, 3, 3): shear and perspective for some, nothing for the others."""
    matrix = torch.eye(3).repeat(n, 1, 1)
    sheared, seen_aslant = (
        random_state.sample_rows(n, strength.effect_rate / 2),
        random_state.sample_rows(n, strength.effect_rate),
    )
    matrix[sheared, 0, 1] = random_state.uniform(-0.25, 0.25, len(sheared))
    matrix[seen_aslant, 2, :2] = random_state.uniform(-0.2, 0.2, len(seen_aslant), 2)
    # Scaled so that the corners, on the whole, still lie inside the picture.
    matrix[seen_aslant, 2, 2] = 1 + matrix[seen_aslant, 2, :2].abs().sum(1) / 2
    return matrix


def _sample_frames(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """(n, 4): left, top, right, bottom of the picture in the view, -1 to 1; some have borders, bars or padding."""
    margins = torch.zeros(n, 4)
    even, bars, loose = (random_state.sample_rows(n, part * strength.frame_rate) for part in (0.4, 0.4, 0.2))
    margins[even] = random_state.uniform(0.04, 0.3, len(even), 1)
    across = random_state.integers(0, 2, len(bars))  # 0: bars left and right, 1: above and below
    margins[bars, across] = random_state.uniform(0.0, 0.5, len(bars))
    margins[bars, across + 2] = random_state.uniform(0.0, 0.5, len(bars))
    margins[loose] = random_state.uniform(0.0, 0.4, len(loose), 4)
    return torch.cat([margins[:, :2] - 1, 1 - margins[:, 2:]], dim=1)


def _make_frame_matrices(frame: Tensor) -> Tensor:
    """(n, 3, 3): the frame (n, 4) to -1 to 1."""
    centre, half = (frame[:, :2] + frame[:, 2:]) / 2, (frame[:, 2:] - frame[:, :2]) / 2
    matrix = torch.diag_embed(torch.cat([1 / half, torch.ones(len(frame), 1)], dim=1))
    matrix[:, :2, 2] = -centre / half
    return matrix


def _fill_borders(x: Tensor, frame: Tensor, random_state: RandomState) -> Tensor:
    """Plain colour outside the frames; the later bars come on top, as on a screen."""
    rows = (frame.abs() < 1).any(1).nonzero()[:, 0]
    fill = make_random_fills(len(rows), x.shape[1], random_state)
    axis = (torch.arange(x.shape[-1]) + 0.5) * 2 / x.shape[-1] - 1
    left, top, right, bottom = (edge[:, None] for edge in frame[rows].unbind(1))
    across, down = (axis > left) & (axis < right), (axis > top) & (axis < bottom)  # (m, size) each
    inside = (down[:, :, None] & across[:, None, :])[:, None]  # (m, 1, size, size)
    x[rows] = torch.where(inside, x[rows], fill)
    return x
