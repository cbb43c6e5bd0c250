"""What an encoder was trained on, by content: kept beside it, so that others can tell what is new to it.

A network knows the pictures it was fitted to better than others of their kind: measured on those alone, a usual
reconstruction error is too small. A tenth is held out of every training; they stand for what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_atomically

TRAINING_DIGESTS_FILE = "trained_on.npz"

DigestArray = NDArray[np.uint8]  # SHA-256 sums, (n, 32)
DigestPrefixArray = NDArray[
    np.uint64
]  # their first eight bytes: enough to tell pictures apart, at a quarter of the room


@dataclass(frozen=True)
class TrainingDigests:
    """fitted: heads (n,), ascending, of what weights were fitted to. held_out: sums (m, 32) of what was not."""

    fitted: DigestPrefixArray
    held_out: DigestArray

    @classmethod
    def from_rows(cls, digests: Sequence[str], fitted: NDArray[np.int64], held_out: NDArray[np.int64]) -> Self:
        """From the SHA-256 of each picture in hexadecimal digits, and the rows of both parts."""
        table = _parse_digests(digests)
        return cls(np.unique(_get_prefixes(table[fitted])), np.unique(table[held_out], axis=0))._remove_overlap()

    def merge(self, other: TrainingDigests) -> TrainingDigests:
        """Of an encoder with two trainings behind it: what either was fitted to is known to it."""
        held_out = np.unique(np.concatenate([self.held_out, other.held_out]), axis=0)
        return TrainingDigests(np.union1d(self.fitted, other.fitted), held_out)._remove_overlap()

    def contains(self, digests: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of these was among the pictures, fitted to or held out, (n,)."""
        return np.isin(
            _get_prefixes(_parse_digests(digests)), np.concatenate([self.fitted, _get_prefixes(self.held_out)])
        )

    @property
    def held_out_hex(self) -> list[str]:
        """The SHA-256 in hexadecimal digits of those that were held out."""
        return [row.tobytes().hex() for row in self.held_out]

    def save(self, folder: Path) -> None:
        """Writes it into the encoder's folder, durably."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, fitted=self.fitted, held_out=self.held_out)

        write_atomically(folder / TRAINING_DIGESTS_FILE, write)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Reads it; None where nothing is known: an encoder of before it was kept, or a damaged file."""
        try:
            with (folder / TRAINING_DIGESTS_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls(stored["fitted"].astype(np.uint64), stored["held_out"].astype(np.uint8).reshape(-1, 32))
        except (OSError, EOFError, KeyError, ValueError, BadZipFile):
            return None

    def _remove_overlap(self) -> Self:
        """Without those held out that were fitted to as well, as copies under another name."""
        return type(self)(self.fitted, self.held_out[~np.isin(_get_prefixes(self.held_out), self.fitted)])


def _parse_digests(digests: Sequence[str]) -> DigestArray:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)


def _get_prefixes(table: DigestArray) -> DigestPrefixArray:
    return np.ascontiguousarray(table[:, :8]).view(np.uint64)[:, 0]
