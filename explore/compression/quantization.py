"""Quantisation of latents to symbols (integers), and entropy coding of the symbols.

mu --LatentQuantiser--> symbols (n, d) --range coder with a table for each dimension--> bytes

The step of a dimension is `delta` divided by how much the decoded image changes with the dimension. So one step changes
an image about equally in every dimension, and dimensions without influence cost nothing. A symbol is replaced by one
nearer to 0 if that saves more bits than it costs in error.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from simile.core.errors import ArchiveDamaged
from simile.core.records import Float64Array, FloatArray

Symbols = NDArray[np.int32]

TABLE_POWERS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
BIT_PRICE = 2 * np.log(2) / 12  # squared steps for each bit: slope of a uniform quantiser's rate-distortion curve
SYMBOL_ROUNDS = 2  # cheaper symbols change the tables, and these the symbols
RATES_PER_OCTAVE = 8  # tables store log2 of the rate in eighths
# From a spread of thousands of steps to nearly no symbol other than 0.
MIN_RATE, MAX_RATE = -32 * RATES_PER_OCTAVE, 4 * RATES_PER_OCTAVE
MAX_SYMBOL = 32_000  # larger symbols are clipped: tables store 16 bits
TOTAL_FREQUENCY = 1 << 16  # of all symbols of a table


@dataclass(frozen=True, eq=False)
class LatentQuantiser:
    """Centre and step (d,), float32, of each dimension. With a step of 0 the dimension is constant."""

    centre: FloatArray
    steps: FloatArray

    @classmethod
    def from_sensitivity(cls, centre: FloatArray, sensitivity: Float64Array, delta: float) -> LatentQuantiser:
        """Make a quantiser with steps that change an image by `delta`; see `measure_sensitivity`. centre: (d,)."""
        steps = np.where(sensitivity > 0, delta / np.maximum(sensitivity, 1e-12), 0.0)
        return cls(centre.astype(np.float32), steps.astype(np.float32))

    def scale(self, mu: FloatArray) -> Float64Array:
        """Return mu (n, d) in steps from the centre, not rounded."""
        divisor = np.where(self.steps > 0, self.steps, 1)
        scaled: Float64Array = np.where(self.steps > 0, (mu.astype(np.float64) - self.centre) / divisor, 0.0)
        return scaled

    def quantise(self, mu: FloatArray) -> Symbols:
        """Return symbols (n, d): the nearest, or one nearer to 0 where bits and error together are smaller."""
        scaled = self.scale(mu)
        symbols = round_to_symbols(scaled)
        for _ in range(SYMBOL_ROUNDS):
            symbols = FrequencyTables.fit(symbols).choose_symbols(scaled)
        return symbols

    def dequantise(self, symbols: Symbols) -> FloatArray:
        """Return the mu (n, d) of symbols."""
        mu: FloatArray = (self.centre + symbols * self.steps).astype(np.float32)
        return mu


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """The distribution of symbols in each dimension: p(k) ~ exp(-rate |k|^power), for k from low to high.

    Power 1 is a Laplace distribution, 2 a Gaussian. A smaller power has most mass at 0 and a few distant symbols, as
    most dimensions have at low bit rates.
    """

    powers: NDArray[np.uint8]  # index (d,) into TABLE_POWERS, uint8
    rates: NDArray[np.int16]  # log2 of the rate (d,), in steps of 1 / RATES_PER_OCTAVE, int16
    low: NDArray[np.int16]  # smallest symbol (d,), int16
    high: NDArray[np.int16]  # largest symbol (d,), int16

    @classmethod
    def fit(cls, symbols: Symbols) -> FrequencyTables:
        """Return the most likely tables for symbols (n, d)."""
        low, high = (limit.astype(np.int16) for limit in (symbols.min(axis=0), symbols.max(axis=0)))
        powers, rates = np.zeros(len(low), np.uint8), np.zeros(len(low), np.int16)
        for dim in np.flatnonzero(high > low):
            powers[dim], rates[dim] = _fit_table(symbols[:, dim])
        return cls(powers, rates, low, high)

    def get_rates_and_powers(self) -> tuple[Float64Array, Float64Array]:
        """Return the rates (d,) in nats, and the powers (d,)."""
        return np.exp2(self.rates / RATES_PER_OCTAVE), np.array(TABLE_POWERS)[self.powers]

    def count_bits(self, symbols: Symbols) -> Float64Array:
        """Return the bits (n,) of each row of symbols (n, d), without the overhead of the coder."""
        bits = np.zeros(len(symbols))
        for dim in self._find_varying_dimensions():
            bits -= np.log2(self._compute_frequencies(dim)[symbols[:, dim] - int(self.low[dim])])
        return bits

    def choose_symbols(self, scaled: Float64Array) -> Symbols:
        """Choose for each of scaled (n, d) the symbol with the smallest squared error + BIT_PRICE x bits.

        The candidates are the nearest symbol, the next one nearer to 0, and 0.
        """
        nearest = np.clip(round_to_symbols(scaled), self.low, self.high)
        candidates = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
        candidates = np.clip(candidates, self.low, self.high)  # (3, n, d)
        costs = np.square(candidates - scaled)
        for dim in self._find_varying_dimensions():
            log_frequencies = np.log2(self._compute_frequencies(dim))
            costs[:, :, dim] -= BIT_PRICE * log_frequencies[candidates[:, :, dim] - int(self.low[dim])]
        best = costs.argmin(axis=0)[None]
        symbols: Symbols = np.take_along_axis(candidates, best, axis=0)[0].astype(np.int32)
        return symbols

    def encode(self, symbols: Symbols) -> bytes:
        """Encode symbols (n, d), which these tables were fitted to."""
        coder = constriction.stream.queue.RangeEncoder()
        for dim in self._find_varying_dimensions():
            coder.encode(symbols[:, dim] - int(self.low[dim]), self._make_model(dim))
        return bytes(coder.get_compressed().astype("<u4").tobytes())

    def decode(self, data: bytes, count: int) -> Symbols:
        """Decode symbols (count, d). Raises ArchiveDamaged."""
        symbols = np.tile(self.low.astype(np.int32), (count, 1))
        if len(data) % 4:
            raise ArchiveDamaged("The latents of the archive are cut short.")
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        try:
            for dim in self._find_varying_dimensions():
                symbols[:, dim] += decoder.decode(self._make_model(dim), count)
        except AssertionError as error:
            raise ArchiveDamaged("The latents of the archive are damaged and can't be decoded.") from error
        return symbols

    def _find_varying_dimensions(self) -> list[int]:
        """Return the dimensions with more than one symbol."""
        dims: list[int] = np.flatnonzero(self.high > self.low).tolist()
        return dims

    def _compute_frequencies(self, dim: int) -> Float64Array:
        """Return the frequency of each symbol from low to high, from integer counts: the same on every machine."""
        rate, power = np.exp2(self.rates[dim] / RATES_PER_OCTAVE), TABLE_POWERS[self.powers[dim]]
        symbols = np.arange(int(self.low[dim]), int(self.high[dim]) + 1)
        weights = np.exp(-rate * np.abs(symbols) ** power)
        counts = np.maximum(np.rint(weights / weights.sum() * TOTAL_FREQUENCY), 1)
        frequencies: Float64Array = counts / counts.sum()
        return frequencies

    def _make_model(self, dim: int) -> constriction.stream.model.Categorical:
        return constriction.stream.model.Categorical(self._compute_frequencies(dim).astype(np.float32), perfect=False)


def round_to_symbols(scaled: Float64Array) -> Symbols:
    """Return the nearest integers, clipped to MAX_SYMBOL."""
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


def _fit_table(symbols: Symbols) -> tuple[int, int]:
    """Return (power, rate), as FrequencyTables stores them, of one dimension (n,).

    For each power, the best rate is found by bisection: the likelihood of an exponential family is concave in its rate,
    and highest where the expected |k|^power is equal to the mean |k|^power.
    """
    magnitudes = np.abs(np.arange(int(symbols.min()), int(symbols.max()) + 1))
    counts = np.bincount(symbols - symbols.min(), minlength=len(magnitudes))
    best = (-np.inf, 0, 0)  # (log likelihood, power, rate)
    for power_index, power in enumerate(TABLE_POWERS):
        raised = magnitudes**power
        mean = float(counts @ raised) / len(symbols)
        low, high = MIN_RATE, MAX_RATE
        while high - low > 1:
            middle = (low + high) // 2
            weights = np.exp(-(2.0 ** (middle / RATES_PER_OCTAVE)) * raised)
            low, high = (middle, high) if weights @ raised > mean * weights.sum() else (low, middle)
        rate = 2.0 ** (high / RATES_PER_OCTAVE)
        log_likelihood = -rate * mean - float(np.log(np.exp(-rate * raised).sum()))
        best = max(best, (log_likelihood, power_index, high))
    return best[1:]
