"""Latents as whole numbers, and whole numbers as few bytes.

mu --Quantiser--> symbols (n, d) --range coder, a table for each dimension--> bytes

A step of a dimension is `delta` over how much the decoded picture changes with it, so that a step changes every
picture about as much in every dimension, and one that the decoder doesn't look at costs nothing. Where a symbol nearer
to 0 saves more bits than it costs in error, it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import constriction
import numpy as np
from numpy.typing import NDArray

from simile.core.errors import ArchiveDamaged
from simile.core.records import FloatArray

Symbols = NDArray[np.int32]
Float64Array = NDArray[np.float64]

TABLE_POWERS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
BIT_PRICE = 2 * np.log(2) / 12  # of a bit, in squared steps: the slope of a uniform quantiser's rate and distortion
SYMBOL_ROUNDS = 2  # cheaper symbols make other tables, and those other symbols
RATES_PER_OCTAVE = 8  # rates between a rate and its double
MIN_RATE, MAX_RATE = (
    -32 * RATES_PER_OCTAVE,
    4 * RATES_PER_OCTAVE,
)  # rates: a spread of thousands of steps, and next to nothing beside 0
MAX_SYMBOL = 32_000  # symbols: what lies beyond is cut off
TOTAL_FREQUENCY = 1 << 16  # of the frequencies of a table


@dataclass(frozen=True, eq=False)
class LatentQuantiser:
    """centre, steps (d,) float32. A step of 0: the dimension is left at its centre."""

    centre: FloatArray
    steps: FloatArray

    @classmethod
    def from_sensitivity(cls, centre: FloatArray, sensitivity: Float64Array, delta: float) -> LatentQuantiser:
        """sensitivity (d,): root of the summed squares by which a picture changes with one unit of each dimension."""
        steps = np.where(sensitivity > 0, delta / np.maximum(sensitivity, 1e-12), 0.0)
        return cls(centre.astype(np.float32), steps.astype(np.float32))

    def scale(self, mu: FloatArray) -> Float64Array:
        """mu (n, d) in steps from the centre, not yet rounded."""
        safe = np.where(self.steps > 0, self.steps, 1)
        found: Float64Array = np.where(self.steps > 0, (mu.astype(np.float64) - self.centre) / safe, 0.0)
        return found

    def quantise(self, mu: FloatArray) -> Symbols:
        """Whole numbers of steps, (n, d): the nearest, or one nearer to 0 where that is cheaper in all."""
        scaled = self.scale(mu)
        found = round_to_symbols(scaled)
        for _ in range(SYMBOL_ROUNDS):
            found = FrequencyTables.fit(found).choose_symbols(scaled)
        return found

    def dequantise(self, symbols: Symbols) -> FloatArray:
        """mu (n, d) that symbols stand for."""
        found: FloatArray = (self.centre + symbols * self.steps).astype(np.float32)
        return found


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """How frequent symbols are: for each dimension p(k) ~ exp(-rate |k|^power), from low to high.

    Power 1 is a Laplace distribution, 2 a Gaussian; a smaller one has its mass at 0 and few symbols far away, as most
    dimensions do where bytes are few. powers (d,) uint8: places in POWERS; rates (d,) int16: log2 of the rate in
    steps of 1/OCTAVE; low, high (d,) int16: the symbols that occur.
    """

    powers: NDArray[np.uint8]
    rates: NDArray[np.int16]
    low: NDArray[np.int16]
    high: NDArray[np.int16]

    @classmethod
    def fit(cls, symbols: Symbols) -> FrequencyTables:
        """The likeliest for symbols (n, d)."""
        low, high = (limit.astype(np.int16) for limit in (symbols.min(axis=0), symbols.max(axis=0)))
        powers, rates = np.zeros(len(low), np.uint8), np.zeros(len(low), np.int16)
        for dim in np.flatnonzero(high > low):
            powers[dim], rates[dim] = _fit_table(symbols[:, dim])
        return cls(powers, rates, low, high)

    def get_rates_and_powers(self) -> tuple[Float64Array, Float64Array]:
        """rates (d,) in nats, powers (d,)."""
        return np.exp2(self.rates / RATES_PER_OCTAVE), np.array(TABLE_POWERS)[self.powers]

    def count_bits(self, symbols: Symbols) -> Float64Array:
        """What each of symbols (n, d) costs, (n,), by their frequencies; without what the coder adds."""
        found = np.zeros(len(symbols))
        for dim in self._find_varying_dimensions():
            shares = self._compute_frequencies(dim)
            found -= np.log2(shares[symbols[:, dim] - int(self.low[dim])])
        return found

    def choose_symbols(self, scaled: Float64Array) -> Symbols:
        """Symbols (n, d) near scaled (n, d) for which squared error + PRICE x bits is smallest.

        Those tried: the nearest, the next one nearer to 0, and 0 itself.
        """
        nearest = np.clip(round_to_symbols(scaled), self.low, self.high)
        tried = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
        tried = np.clip(tried, self.low, self.high)  # (3, n, d)
        costs = np.square(tried - scaled)
        for dim in self._find_varying_dimensions():
            costs[:, :, dim] -= (
                BIT_PRICE * np.log2(self._compute_frequencies(dim))[tried[:, :, dim] - int(self.low[dim])]
            )
        found: Symbols = np.take_along_axis(tried, costs.argmin(axis=0)[None], axis=0)[0].astype(np.int32)
        return found

    def encode(self, symbols: Symbols) -> bytes:
        """symbols (n, d), which these tables were fitted to, as bytes."""
        coder = constriction.stream.queue.RangeEncoder()
        for dim in self._find_varying_dimensions():
            coder.encode(symbols[:, dim] - int(self.low[dim]), self._make_model(dim))
        return bytes(coder.get_compressed().astype("<u4").tobytes())

    def decode(self, data: bytes, count: int) -> Symbols:
        """`count` rows of symbols. Raises ArchiveDamaged."""
        symbols = np.tile(self.low.astype(np.int32), (count, 1))
        if len(data) % 4:
            raise ArchiveDamaged("The archive's latents are cut short.")
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        try:
            for dim in self._find_varying_dimensions():
                symbols[:, dim] += decoder.decode(self._make_model(dim), count)
        except AssertionError as error:
            raise ArchiveDamaged("The archive's latents can't be decoded: they are damaged.") from error
        return symbols

    def _find_varying_dimensions(self) -> list[int]:
        """Dimensions in which anything differs."""
        found: list[int] = np.flatnonzero(self.high > self.low).tolist()
        return found

    def _compute_frequencies(self, dim: int) -> Float64Array:
        """The frequency of each symbol from low to high, as whole numbers of TOTAL: the same on every machine."""
        rate, power = (
            np.exp2(self.rates[dim] / RATES_PER_OCTAVE),
            TABLE_POWERS[self.powers[dim]],
        )  # as in shapes, of this one alone
        symbols = np.arange(int(self.low[dim]), int(self.high[dim]) + 1)
        found = np.exp(-rate * np.abs(symbols) ** power)
        counts = np.maximum(np.rint(found / found.sum() * TOTAL_FREQUENCY), 1)
        shares: Float64Array = counts / counts.sum()
        return shares

    def _make_model(self, dim: int) -> constriction.stream.model.Categorical:
        return constriction.stream.model.Categorical(self._compute_frequencies(dim).astype(np.float32), perfect=False)


def round_to_symbols(scaled: Float64Array) -> Symbols:
    """The nearest whole numbers, none beyond FARTHEST."""
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


def _fit_table(symbols: Symbols) -> tuple[int, int]:
    """(power, rate) as Tables write them, for one dimension (n,): for each power the rate, by halving.

    The likelihood of an exponential family is concave in its rate: it is highest where the expected |k|^power is the
    mean one.
    """
    size = np.abs(np.arange(int(symbols.min()), int(symbols.max()) + 1))
    counts = np.bincount(symbols - symbols.min(), minlength=len(size))
    best = (-np.inf, 0, 0)
    for at, power in enumerate(TABLE_POWERS):
        away = size**power
        wanted = float(counts @ away) / len(symbols)
        low, high = MIN_RATE, MAX_RATE
        while high - low > 1:
            middle = (low + high) // 2
            shares = np.exp(-(2.0 ** (middle / RATES_PER_OCTAVE)) * away)
            low, high = (middle, high) if shares @ away > wanted * shares.sum() else (low, middle)
        rate = 2.0 ** (high / RATES_PER_OCTAVE)
        likelihood = -rate * wanted - float(np.log(np.exp(-rate * away).sum()))
        best = max(best, (likelihood, at, high))
    return best[1:]
