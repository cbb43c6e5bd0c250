"""Latents as whole numbers, and whole numbers as few bytes.

mu --Quantiser--> symbols (n, d) --range coder, a table for each dimension--> bytes

A step of a dimension is `delta` over how much the decoded picture changes with it, so that a step changes every
picture about as much in every dimension, and one that the decoder doesn't look at costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from core.errors import ArchiveDamaged
from core.records import FloatArray

Symbols = NDArray[np.int32]
Doubles = NDArray[np.float64]

LEAST_SCALE = 0.05  # of a table, in steps: a dimension that never leaves its centre
FARTHEST = 32_000  # symbols: what lies beyond is cut off
TOTAL = 1 << 16  # of the frequencies of a table


@dataclass(frozen=True, eq=False)
class Quantiser:
    """centre, steps (d,) float32. A step of 0: the dimension is left at its centre."""

    centre: FloatArray
    steps: FloatArray

    @classmethod
    def of(cls, centre: FloatArray, sensitivity: Doubles, delta: float) -> Quantiser:
        """sensitivity (d,): root of the summed squares by which a picture changes with one unit of each dimension."""
        steps = np.where(sensitivity > 0, delta / np.maximum(sensitivity, 1e-12), 0.0)
        return cls(centre.astype(np.float32), steps.astype(np.float32))

    def scaled(self, mu: FloatArray) -> Doubles:
        """mu (n, d) in steps from the centre, not yet rounded."""
        safe = np.where(self.steps > 0, self.steps, 1)
        found: Doubles = np.where(self.steps > 0, (mu.astype(np.float64) - self.centre) / safe, 0.0)
        return found

    def symbols(self, mu: FloatArray) -> Symbols:
        """The nearest whole numbers of steps, (n, d)."""
        return rounded(self.scaled(mu))

    def latents(self, symbols: Symbols) -> FloatArray:
        """mu (n, d) that symbols stand for."""
        found: FloatArray = (self.centre + symbols * self.steps).astype(np.float32)
        return found


@dataclass(frozen=True, eq=False)
class Tables:
    """How frequent symbols are: a discretised Laplace distribution for each dimension.

    scales (d,) float32 in steps; low, high (d,) int16: the symbols that occur.
    """

    scales: FloatArray
    low: NDArray[np.int16]
    high: NDArray[np.int16]

    @classmethod
    def of(cls, symbols: Symbols) -> Tables:
        """Fitted to symbols (n, d): the mean distance from 0 is what a Laplace distribution's scale is."""
        scales = np.maximum(np.abs(symbols).mean(axis=0), LEAST_SCALE).astype(np.float32)
        low, high = (limit.astype(np.int16) for limit in (symbols.min(axis=0), symbols.max(axis=0)))
        return cls(scales, low, high)

    def bits(self, symbols: Symbols) -> Doubles:
        """What each of symbols (n, d) costs, (n,), by their frequencies; without what the coder adds."""
        found = np.zeros(len(symbols))
        for dim in self._used():
            shares = self._shares(dim)
            found -= np.log2(shares[symbols[:, dim] - int(self.low[dim])])
        return found

    def encode(self, symbols: Symbols) -> bytes:
        """symbols (n, d), which these tables were fitted to, as bytes."""
        coder = constriction.stream.queue.RangeEncoder()
        for dim in self._used():
            coder.encode(symbols[:, dim] - int(self.low[dim]), self._model(dim))
        return bytes(coder.get_compressed().astype("<u4").tobytes())

    def decode(self, data: bytes, count: int) -> Symbols:
        """`count` rows of symbols. Raises ArchiveDamaged."""
        symbols = np.tile(self.low.astype(np.int32), (count, 1))
        if len(data) % 4:
            raise ArchiveDamaged("The archive's latents are cut short.")
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        try:
            for dim in self._used():
                symbols[:, dim] += decoder.decode(self._model(dim), count)
        except AssertionError as error:
            raise ArchiveDamaged("The archive's latents can't be decoded: they are damaged.") from error
        return symbols

    def _used(self) -> list[int]:
        """Dimensions in which anything differs."""
        found: list[int] = np.flatnonzero(self.high > self.low).tolist()
        return found

    def _shares(self, dim: int) -> Doubles:
        """The frequency of each symbol from low to high, as whole numbers of TOTAL: the same on every machine."""
        scale = float(self.scales[dim])
        edges = np.arange(int(self.low[dim]), int(self.high[dim]) + 2) - 0.5
        tails = 0.5 * np.exp(-np.abs(edges) / scale)
        below = np.where(edges < 0, tails, 1 - tails)
        counts = np.maximum(np.rint(np.diff(below) * TOTAL), 1)
        shares: Doubles = counts / counts.sum()
        return shares

    def _model(self, dim: int) -> constriction.stream.model.Categorical:
        return constriction.stream.model.Categorical(self._shares(dim).astype(np.float32), perfect=False)


def rounded(scaled: Doubles) -> Symbols:
    """The nearest whole numbers, none beyond FARTHEST."""
    return np.clip(np.rint(scaled), -FARTHEST, FARTHEST).astype(np.int32)
