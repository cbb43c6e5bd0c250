"""Augmented views of a batch of training images; the geometric augmentations, on small tensors.

`augment` imitates what people do to images (images/distortions.py), but more widely than that list, so that an encoder
learns to ignore alterations in general. Images should have twice the network's size: a crop of them is then as sharp
as a crop of the original file. All random numbers come from one generator.
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

NESTED_IMAGE_RATE = 0.3  # share of frames that show another image


@dataclass(frozen=True, kw_only=True)
class AugmentationStrength:
    """How much a view is augmented. Rates are probabilities per image."""

    min_crop_area: float = 0.2  # smallest area of a crop, as a share of the image
    uncropped_rate: float = 0.3
    quarter_turn_rate: float = 0.3  # turned by 90, 180 or 270 degrees
    mirror_rate: float = 0.4
    max_tilt_degrees: float = 22.0  # to either side
    frame_rate: float = 0.3  # with a border, bars or padding
    effect_rate: float = 0.12  # base rate of sharpness, overlays and others; colours change up to four times as often

    def scale(self, factor: float) -> AugmentationStrength:
        """Return a weaker strength: 1 keeps it, 0 leaves images unchanged except for mirroring."""
        return AugmentationStrength(
            min_crop_area=self.min_crop_area**factor,
            uncropped_rate=1 - (1 - self.uncropped_rate) * factor,
            quarter_turn_rate=self.quarter_turn_rate * factor,
            mirror_rate=self.mirror_rate,
            max_tilt_degrees=self.max_tilt_degrees * factor,
            frame_rate=self.frame_rate * factor,
            effect_rate=self.effect_rate * factor,
        )


# For the first view of a pair, if it is augmented at all.
MILD_STRENGTH = AugmentationStrength(min_crop_area=0.4, uncropped_rate=0.5, effect_rate=0.06)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Shrink images (n, C, R, R) in [0, 1] to (n, C, size, size)."""
    if images.shape[-1] == size:
        return images
    smaller = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return smaller.clamp(0, 1)


def augment(
    images: Tensor, size: int, generator: torch.Generator, strength: AugmentationStrength | None = None
) -> Tensor:
    """Return one augmented view (n, C, size, size) float32 in [0, 1] of each image.

    Args:
        images: (n, C, R, R) float32 in [0, 1], C 1 or 3.
        generator: CPU generator; the same state gives the same views.
    """
    random_state, strength = RandomState(generator), strength or AugmentationStrength()
    frame = _sample_frames(len(images), strength, random_state)  # (n, 4)
    x = _warp_images(images, size, frame, strength, random_state)
    x = augment_colours(x, strength.effect_rate, random_state)
    x = augment_sharpness(x, strength.effect_rate, random_state)
    x = add_overlays(x, strength.effect_rate, random_state)
    x = _fill_borders(x, frame, random_state)
    return simulate_jpeg(x, strength.effect_rate, random_state).clamp_(0, 1)


def _warp_images(
    images: Tensor, size: int, frame: Tensor, strength: AugmentationStrength, random_state: RandomState
) -> Tensor:
    """Crop, mirror, rotate, shear and distort the perspective, in one resampling, into the frames (n, 4)."""
    n, channels = images.shape[:2]
    # One matrix per image maps pixels of the view to positions in the image.
    rotation = _sample_rotation_matrices(n, strength, random_state)
    linear = rotation @ _sample_shear_matrices(n, strength, random_state)
    matrix = _sample_crop_matrices(n, strength, random_state) @ linear @ _make_frame_matrices(frame)  # (n, 3, 3)
    axis = (torch.arange(size) + 0.5) * 2 / size - 1  # centres of pixels, in -1 to 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, size²)
    x_, y_, w = (matrix @ points).unbind(1)  # (n, size²) each
    grid = torch.stack([x_ / w, y_ / w], dim=2).view(n, size, size, 2)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Outside the rotated image, a fifth of the views repeats the edge and the others show a plain colour.
    inside = (grid.abs().amax(3) < 1)[:, None]
    inside[random_state.sample_rows(n, 0.2)] = True
    return torch.where(inside, sampled, make_random_fills(n, channels, random_state))


def _sample_crop_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """Return (n, 3, 3): from -1 to 1 to a rectangle with `min_crop_area` to 1 of the image's area."""
    area = random_state.log_uniform(strength.min_crop_area, 1.0, n)
    aspect = random_state.log_uniform(0.7, 1 / 0.7, n).sqrt()
    uncropped = random_state.sample_rows(n, strength.uncropped_rate)
    area[uncropped], aspect[uncropped] = 1.0, 1.0
    scale = (area.sqrt()[:, None] * torch.stack([aspect, 1 / aspect], dim=1)).clamp_max(1.0)  # (n, 2)
    shift = (1 - scale) * random_state.uniform(-1, 1, n, 2)
    matrix = torch.diag_embed(torch.cat([scale, torch.ones(n, 1)], dim=1))
    matrix[:, :2, 2] = shift
    return matrix


def _sample_rotation_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """Return (n, 3, 3): tilts, quarter turns and mirroring."""
    degrees = random_state.uniform(-1, 1, n).pow(3) * strength.max_tilt_degrees  # the power makes most tilts small
    degrees[random_state.sample_rows(n, 0.15)] = 0.0  # exactly upright is the most frequent case in practice
    quarters = torch.zeros(n)
    turned = random_state.sample_rows(n, strength.quarter_turn_rate)
    quarters[turned] = random_state.integers(1, 4, len(turned)).float()
    angle = torch.deg2rad(degrees + 90 * quarters)
    mirror = torch.ones(n)
    mirror[random_state.sample_rows(n, strength.mirror_rate)] = -1.0
    # Some tilted images are enlarged until no corner is visible.
    inside = (torch.deg2rad(degrees).cos() + torch.deg2rad(degrees).sin().abs()).reciprocal()
    zoom = torch.where(torch.rand(n, generator=random_state.generator) < 0.3, inside, torch.ones(n))
    cos, sin, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros(n)
    rows = [torch.stack(row, dim=1) for row in ((cos * mirror, -sin, zero), (sin * mirror, cos, zero))]
    rows.append(torch.tensor([0.0, 0.0, 1.0]).expand(n, 3))
    return torch.stack(rows, dim=1)


def _sample_shear_matrices(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """Return (n, 3, 3): shear and perspective for some images, the identity for the others."""
    matrix = torch.eye(3).repeat(n, 1, 1)
    sheared = random_state.sample_rows(n, strength.effect_rate / 2)
    tilted = random_state.sample_rows(n, strength.effect_rate)  # perspective
    matrix[sheared, 0, 1] = random_state.uniform(-0.25, 0.25, len(sheared))
    matrix[tilted, 2, :2] = random_state.uniform(-0.3, 0.3, len(tilted), 2)
    # Scaled so that most corners stay inside the image.
    matrix[tilted, 2, 2] = 1 + matrix[tilted, 2, :2].abs().sum(1) / 2
    return matrix


def _sample_frames(n: int, strength: AugmentationStrength, random_state: RandomState) -> Tensor:
    """Return (n, 4): left, top, right, bottom of the image in the view, -1 to 1, for borders, bars or padding."""
    margins = torch.zeros(n, 4)
    bordered, barred, padded = (random_state.sample_rows(n, part * strength.frame_rate) for part in (0.4, 0.4, 0.2))
    margins[bordered] = random_state.uniform(0.04, 0.3, len(bordered), 1)
    side = random_state.integers(0, 2, len(barred))  # 0: bars left and right, 1: top and bottom
    margins[barred, side] = random_state.uniform(0.0, 0.5, len(barred))
    margins[barred, side + 2] = random_state.uniform(0.0, 0.5, len(barred))
    margins[padded] = random_state.uniform(0.0, 1.0, len(padded), 4) * random_state.uniform(0.2, 0.8, len(padded), 1)
    return torch.cat([margins[:, :2] - 1, 1 - margins[:, 2:]], dim=1)


def _make_frame_matrices(frame: Tensor) -> Tensor:
    """Return (n, 3, 3), which map the frames (n, 4) to -1 to 1."""
    centre, half = (frame[:, :2] + frame[:, 2:]) / 2, (frame[:, 2:] - frame[:, :2]) / 2
    matrix = torch.diag_embed(torch.cat([1 / half, torch.ones(len(frame), 1)], dim=1))
    matrix[:, :2, 2] = -centre / half
    return matrix


def _fill_borders(x: Tensor, frame: Tensor, random_state: RandomState) -> Tensor:
    """Fill the area outside the frames, also over overlays, as the bars of a screen are.

    The fill is a plain colour, or another image, as in collages and on pages.
    """
    rows = (frame.abs() < 1).any(1).nonzero()[:, 0]
    fill = make_random_fills(len(rows), x.shape[1], random_state).expand_as(x[rows]).clone()
    nested = random_state.sample_rows(len(rows), NESTED_IMAGE_RATE)
    fill[nested] = x[rows[nested] - 1]  # the previous image of the batch
    axis = (torch.arange(x.shape[-1]) + 0.5) * 2 / x.shape[-1] - 1
    left, top, right, bottom = (edge[:, None] for edge in frame[rows].unbind(1))
    columns_inside, rows_inside = (axis > left) & (axis < right), (axis > top) & (axis < bottom)  # (m, size) each
    inside = (rows_inside[:, :, None] & columns_inside[:, None, :])[:, None]  # (m, 1, size, size)
    x[rows] = torch.where(inside, x[rows], fill)
    return x
