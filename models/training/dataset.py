"""The dataset that a network is trained on, and the batches made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simile.core.records import FloatArray
from simile.images.formats import Pixels
from simile.images.loading.loader import empty_images, is_in_file
from simile.models.augmentation.geometric import resize_images

ClassNumbers = NDArray[np.int64]
RowIndices = NDArray[np.int64]
CPU_DEVICE = torch.device("cpu")
RESIZE_CHUNK_SIZE = 500  # images resized together


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Images of one training step."""

    images: Tensor  # (b, C, S, S) in [0, 1], at the network's size
    labels: Tensor | None = None  # class numbers (b,), if there are labels
    rows: Tensor | None = None  # row numbers (b,) in the training dataset; None for images outside it
    # (b, C, R, R), the same images at a larger size for augmentation, if the dataset has them.
    large_images: Tensor | None = None
    latents: Tensor | None = None  # mu (b, d), if the encoder stays as it is
    teacher: Tensor | None = None  # the teacher's vectors (b, d), if there is one


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images in memory or in a file, like a torch `Dataset` that returns whole batches."""

    images: Pixels  # (n, S, S, C) uint8, S the network's size
    labels: ClassNumbers | None = None  # class numbers (n,), if there are labels
    # (n, R, R, C) uint8, if augmentation needs images that are larger than the network's input.
    large_images: Pixels | None = None
    latents: FloatArray | None = None  # mu (n, d), if the encoder stays as it is
    teacher: FloatArray | None = None  # the teacher's vectors (n, d), if there is one

    @classmethod
    def from_images(cls, images: Pixels, size: int, folder: Path, **values: NDArray[Any] | None) -> ImageDataset:
        """Make a dataset of images (n, R, R, C); if R is larger than `size`, it also has the resized images.

        The resized images are stored in a file in `folder` if `images` are in a file. `values` are the other fields.
        """
        resized = resize_to_input(images, size, folder)
        return cls(images=resized, large_images=None if resized is images else images, **values)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: RowIndices) -> ImageDataset:
        """Return a copy of these rows."""
        others = {
            name: None if array is None else array[rows] for name, array in vars(self).items() if name != "images"
        }
        return ImageDataset(images=self.images[rows], **others)

    def get_batch(
        self, rows: RowIndices, device: torch.device = CPU_DEVICE, binarise_generator: torch.Generator | None = None
    ) -> TrainingBatch:
        """Return the batch of these rows; with a generator each value becomes 0 or 1 at random (binarisation)."""
        x = _to_unit_tensor(self.images, rows).to(device)
        if binarise_generator is not None:
            x = (torch.rand(x.shape, generator=binarise_generator).to(device) < x).float()
        return TrainingBatch(
            images=x,
            labels=None if self.labels is None else torch.from_numpy(self.labels[rows]).to(device),
            rows=torch.from_numpy(rows).to(device),
            large_images=None if self.large_images is None else _to_unit_tensor(self.large_images, rows),
            latents=None if self.latents is None else torch.from_numpy(self.latents[rows]).to(device),
            teacher=None if self.teacher is None else torch.from_numpy(self.teacher[rows]).to(device),
        )


def _to_unit_tensor(images: Pixels, rows: RowIndices | slice) -> Tensor:
    """Return the rows of images (n, S, S, C) uint8 as (b, C, S, S) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images[rows])).permute(0, 3, 1, 2).float() / 255


def resize_to_input(images: Pixels, size: int, folder: Path) -> Pixels:
    """Resize images (n, R, R, C) uint8 to (n, size, size, C), in a file in `folder` if they are in a file."""
    if images.shape[1] == size:
        return images
    resized = empty_images((len(images), size, size, images.shape[3]), folder if is_in_file(images) else None)
    for start in range(0, len(images), RESIZE_CHUNK_SIZE):
        rows = slice(start, start + RESIZE_CHUNK_SIZE)
        x = _to_unit_tensor(images, rows)
        resized[rows] = (resize_images(x, size) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return resized
