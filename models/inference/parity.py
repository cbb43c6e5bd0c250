"""Compare the outputs of a faster runtime with those of eager torch, and decide whether it is accurate enough."""

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
# A search compares distances, so the movement of a vector is measured relative to the distances between vectors. In
# bfloat16 it is 3e-3 to 5e-3, and about 1 % of nearest neighbours change; a tenth of that keeps 99.9 % of them.
MAX_DISPLACEMENT = 4e-4
_EPSILON = 1e-30  # prevents a division by zero if a network gives zeros


@dataclass(frozen=True)
class RuntimeParity:
    """Differences between the outputs of two runtimes for the same inputs."""

    difference: float  # largest |fast - eager| over the largest |eager|, the maximum of all outputs
    cosine: float  # lowest cosine between a row of the first output and its eager counterpart
    displacement: float  # largest movement of a row of the first output over the median distance between rows

    def get_rejection_reason(self, exact: bool, reference: str = "eager torch") -> str | None:
        """Return why this is not accurate enough, or None.

        Args:
            exact: Nearest neighbours must stay the same, too.
            reference: Name of the other runtime, for the reason.
        """
        if not self.difference <= MAX_RELATIVE_DIFFERENCE:  # also NaN
            return f"differs from {reference} by {self.difference:.2g}, more than {MAX_RELATIVE_DIFFERENCE}"
        if not self.cosine >= MIN_COSINE:
            return f"has cosine {self.cosine:.6f} to {reference}, less than {MIN_COSINE}"
        if exact and not self.displacement <= MAX_DISPLACEMENT:
            return f"moves vectors by {self.displacement:.2g} of their distances, more than {MAX_DISPLACEMENT}"
        return None


def compare_outputs(eager: Sequence[FloatArray], fast: Sequence[FloatArray]) -> RuntimeParity:
    """Compare the outputs `fast` with `eager`, arrays (n, …) in the same order, n at least 2."""
    pairs = list(zip(eager, fast, strict=True))
    difference = max(_max_abs(fast_ - eager_) / max(_max_abs(eager_), _EPSILON) for eager_, fast_ in pairs)
    expected, actual = (array.reshape(len(array), -1).astype(np.float64, copy=False) for array in pairs[0])  # (n, k)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosine = float(((expected * actual).sum(1) / np.maximum(lengths, _EPSILON)).min())
    movement = float(np.linalg.norm(actual - expected, axis=1).max())
    return RuntimeParity(float(difference), cosine, movement / max(_compute_median_distance(expected), _EPSILON))


def make_smooth_images(count: int, channels: int, size: int) -> FloatArray:
    """Return smooth random images (count, channels, size, size) in [0, 1], the same in every call.

    They are sums of noise at several scales; its amplitude falls as 1/frequency, as in photographs (Field 1987).
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, channels, size, size)
    for cells in (1, 2, 4, 8, 16):
        noise = torch.randn(count, channels, cells, cells, generator=generator)
        total += F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False) / cells**0.5
    images: FloatArray = torch.sigmoid(total).numpy()
    return images


def _max_abs(array: FloatArray) -> float:
    return float(np.abs(array).max())


def _compute_median_distance(rows: NDArray[np.float64]) -> float:
    """Return the median distance of all pairs among the first 256 rows (n, k)."""
    rows = rows[:256]
    squares = np.square(rows).sum(1)
    distances = squares[:, None] + squares - 2 * rows @ rows.T  # (n, n), squared
    return float(np.sqrt(np.median(np.maximum(distances[np.triu_indices(len(rows), 1)], 0))))
