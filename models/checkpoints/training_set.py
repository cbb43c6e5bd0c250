"""Hashes of the images that an encoder was trained on, stored in its folder.

A network reconstructs its training images better than other images, so calibration must not use them. A tenth of the
images is held out of every training and represents new images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays, write_arrays
from simile.core.atomic_write import write_atomically

TRAINING_DIGESTS_FILE = "trained_on.npz"

DigestArray = NDArray[np.uint8]  # SHA-256 sums, (n, 32)
DigestPrefixArray = NDArray[np.uint64]  # their first eight bytes: still unique, at a quarter of the size


@dataclass(frozen=True)
class TrainingDigests:
    """Hashes of the images of a training."""

    fitted: DigestPrefixArray  # (n,), sorted: images that weights were fitted to
    held_out: DigestArray  # (m, 32)

    @classmethod
    def from_rows(cls, digests: Sequence[str], fitted: NDArray[np.int64], held_out: NDArray[np.int64]) -> Self:
        """Return the hashes of a training, from the hexadecimal SHA-256 of each image and the rows of both splits."""
        table = _parse_digests(digests)
        return cls(np.unique(_get_prefixes(table[fitted])), np.unique(table[held_out], axis=0))._remove_overlap()

    def merge(self, other: TrainingDigests) -> TrainingDigests:
        """Return the hashes of two trainings of an encoder; an image is fitted if either training used it."""
        held_out = np.unique(np.concatenate([self.held_out, other.held_out]), axis=0)
        return TrainingDigests(np.union1d(self.fitted, other.fitted), held_out)._remove_overlap()

    def contains(self, digests: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether each of these images was in the training, fitted or held out, (n,)."""
        known = np.concatenate([self.fitted, _get_prefixes(self.held_out)])
        return np.isin(_get_prefixes(_parse_digests(digests)), known)

    @property
    def held_out_hex(self) -> list[str]:
        """The hexadecimal SHA-256 of the held-out images."""
        return [row.tobytes().hex() for row in self.held_out]

    def save(self, folder: Path) -> None:
        """Write the hashes into the encoder's folder, durably."""
        write_atomically(folder / TRAINING_DIGESTS_FILE, lambda path: write_arrays(path, **vars(self)))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the hashes; None for an encoder of an older version without them, or a damaged file."""
        try:
            stored = read_arrays(folder / TRAINING_DIGESTS_FILE)
            return cls(stored["fitted"].astype(np.uint64), stored["held_out"].astype(np.uint8).reshape(-1, 32))
        except ARRAY_FILE_ERRORS:
            return None

    def _remove_overlap(self) -> Self:
        """Remove held-out images that are copies of fitted ones."""
        return type(self)(self.fitted, self.held_out[~np.isin(_get_prefixes(self.held_out), self.fitted)])


def _parse_digests(digests: Sequence[str]) -> DigestArray:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)


def _get_prefixes(table: DigestArray) -> DigestPrefixArray:
    return np.ascontiguousarray(table[:, :8]).view(np.uint64)[:, 0]
