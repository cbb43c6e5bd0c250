"""Whether a faster runtime gives what eager torch gives: measured on which inputs, and how far off is too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from simile.core.records import FloatArray

MAX_RELATIVE_DIFFERENCE = 2e-2
MIN_COSINE = 0.9999
# A search compares distances, so what counts is how far a vector moves against how far apart vectors are. In bfloat16
# they move by 3e-3 to 5e-3 of that, and about 1 % of nearest neighbours change; a tenth of it keeps 99.9 % of them.
MAX_DISPLACEMENT = 4e-4


@dataclass(frozen=True)
class RuntimeParity:
    """Outputs of two runtimes for the same inputs.

    difference: the largest |fast - eager| over the largest |eager|, the worst of all outputs. cosine: the lowest
    between a row of the first output and its eager twin. displacement: the furthest that a row of the first output
    moved, over the median distance between two rows.
    """

    difference: float
    cosine: float
    displacement: float

    def get_rejection_reason(self, exact: bool) -> str | None:
        """Why this is not good enough, or None. `exact`: nearest neighbours have to stay the same, too."""
        if not self.difference <= MAX_RELATIVE_DIFFERENCE:  # also NaN
            return f"differs from eager torch by {self.difference:.2g}, more than {MAX_RELATIVE_DIFFERENCE}"
        if not self.cosine >= MIN_COSINE:
            return f"has cosine {self.cosine:.6f} to eager torch, less than {MIN_COSINE}"
        if exact and not self.displacement <= MAX_DISPLACEMENT:
            return f"moves vectors by {self.displacement:.2g} of their distances, more than {MAX_DISPLACEMENT}"
        return None


def compare_outputs(eager: Sequence[FloatArray], fast: Sequence[FloatArray]) -> RuntimeParity:
    """Agreement of the outputs `fast` with `eager`, arrays (n, …) in the same order, n at least 2."""
    pairs = list(zip(eager, fast, strict=True))
    difference = max(_max_abs(one - other) / max(_max_abs(one), _EPSILON) for one, other in pairs)
    one, other = (array.reshape(len(array), -1).astype(np.float64, copy=False) for array in pairs[0])  # (n, k)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((one * other).sum(1) / np.maximum(lengths, _EPSILON)).min())
    moved = float(np.linalg.norm(other - one, axis=1).max())
    return RuntimeParity(float(difference), cosine, moved / max(_compute_median_distance(one), _EPSILON))


def make_smooth_images(count: int, channels: int, size: int) -> FloatArray:
    """(count, channels, size, size) smooth random pictures in [0, 1], always the same ones.

    Sums of noise at several scales whose amplitude falls as 1/frequency, as it does in photographs (Field 1987).
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, channels, size, size)
    for cells in (1, 2, 4, 8, 16):
        noise = torch.randn(count, channels, cells, cells, generator=generator)
        total += F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False) / cells**0.5
    pictures: FloatArray = torch.sigmoid(total).numpy()
    return pictures


_EPSILON = 1e-30  # instead of a division by zero where a network gives zeros


def _max_abs(array: FloatArray) -> float:
    return float(np.abs(array).max())


def _compute_median_distance(rows: NDArray[np.float64]) -> float:
    """Of all pairs among the first 256 rows (n, k)."""
    rows = rows[:256]
    squares = np.square(rows).sum(1)
    distances = squares[:, None] + squares - 2 * rows @ rows.T  # (n, n), squared
    return float(np.sqrt(np.median(np.maximum(distances[np.triu_indices(len(rows), 1)], 0))))
