"""Compression: the latents of pictures, quantised and entropy-coded; what the lecture calls a non-linear PCA.

A picture comes back as its encoder remembers it: what the latent does not hold is lost, at any number of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Failure, FloatArray
from simile.explore.compression.quantization import (
    BIT_PRICE,
    FrequencyTables,
    LatentQuantiser,
    Symbols,
    round_to_symbols,
)
from simile.explore.latent.measurements import OnProgress
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder

Float64Array = NDArray[np.float64]
FitFunction = Callable[[float], tuple[LatentQuantiser, Symbols, float]]

SENSITIVITY_SAMPLE_SIZE = 32  # pictures on which a dimension's effect is measured
DELTA_SAMPLE_SIZE = 128  # pictures on which delta is looked for
BISECTION_STEPS = 9
REFINED_BISECTION_STEPS = 4
REFINE_BATCH_SIZE = 128  # pictures refined together
LEARNING_RATE, MOMENTUM = 0.05, 0.9  # in units of what would reach the bottom in one step
MAX_ROUNDING_OFFSET = 0.45  # of a step: what is farther from its symbol was moved there for its bits
MAX_DELTA_CORRECTIONS = 4  # of delta, by what all pictures take
BUDGET_TOLERANCE, BUDGET_AIM = 0.985, 0.995  # of the bytes wanted: near enough, and what a correction is for
DELTA_GROWTH, MAX_DELTA = 1.1, 1e3  # where no correction was enough
DEFAULT_DELTA = 1.0  # where nothing else is asked for: a step changes a picture of values in [0, 1] by 1 in all


@dataclass(frozen=True, eq=False)
class CompressedImages:
    """Pictures as an archive holds them. sizes: (width, height) of each. failures: files that could not be read."""

    encoder: str
    quantiser: LatentQuantiser
    tables: FrequencyTables
    symbols: Symbols
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    failures: Sequence[Failure] = ()

    def encode_latents(self) -> bytes:
        """The latents of all pictures, coded."""
        return self.tables.encode(self.symbols)


def compress_images(
    encoder: TrainedEncoder,
    paths: Sequence[str],
    limits: Limits,
    workers: int,
    on_progress: OnProgress,
    *,
    bytes_per_image: float | None = None,
    delta: float | None = None,
    effort: int = 0,
) -> CompressedImages:
    """The pictures in at most `per_picture` bytes each on average, or with a step that changes a picture by `delta`.

    effort: so many steps of gradient descent on each latent, for what it costs and what is lost together.
    Raises NoDecoder (from decoding), TooFewPictures where no picture can be read, BadSetting.
    """
    if bytes_per_image is not None and not 1 <= bytes_per_image <= 65536:
        raise BadSetting(f"bytes can't be {bytes_per_image:g}. Give 1 to 65536 for each picture.")
    if delta is not None and not 1e-3 <= delta <= 1e3:
        raise BadSetting(f"step can't be {delta:g}. Give 0.001 to 1000; 1 is usual.")
    pictures, names, sizes, failures = _read_images(encoder, paths, limits, workers, on_progress)
    mu = encoder.encode(pictures).mu
    centre, sensitivity = mu.mean(axis=0), measure_sensitivity(encoder, mu[:SENSITIVITY_SAMPLE_SIZE])
    if bytes_per_image is not None:
        sample = slice(None, DELTA_SAMPLE_SIZE)
        plain = _make_fit(encoder, pictures[sample], mu[sample], centre, sensitivity, 0)
        delta = find_delta(lambda step: plain(step)[2], bytes_per_image)
        if effort:  # what is refined costs less, at a finer step
            tried = _make_fit(encoder, pictures[sample], mu[sample], centre, sensitivity, effort)
            delta = find_delta(
                lambda step: tried(step)[2], bytes_per_image, (delta / 2, 1.2 * delta), REFINED_BISECTION_STEPS
            )
    fit = _make_fit(encoder, pictures, mu, centre, sensitivity, effort)
    if bytes_per_image is None:
        quantiser, symbols, _ = fit(DEFAULT_DELTA if delta is None else delta)
    else:
        assert delta is not None
        quantiser, symbols = _fit_to_budget(fit, delta, bytes_per_image)
    return CompressedImages(
        encoder.fingerprint, quantiser, FrequencyTables.fit(symbols), symbols, names, sizes, failures
    )


def measure_sensitivity(encoder: TrainedEncoder, mu: FloatArray) -> Float64Array:
    """By how much a picture changes with one unit of each dimension, (d,): the root of the summed squares, on average.

    mu: (n, d) of some pictures; central differences over a tenth of the deviation of each dimension.
    """
    top, left, height, width = encoder.preprocessing.content_box()
    found = np.zeros(mu.shape[1])
    for dim, deviation in enumerate(mu.std(axis=0)):
        if deviation < 1e-6:
            continue
        ends = np.concatenate([mu, mu])
        step = np.float32(0.1 * deviation)
        ends[: len(mu), dim] += step
        ends[len(mu) :, dim] -= step
        seen = encoder.decode(ends)[:, :, top : top + height, left : left + width].astype(np.float64)
        change = (seen[: len(mu)] - seen[len(mu) :]) / (2 * float(step))
        found[dim] = np.sqrt(np.square(change).sum(axis=(1, 2, 3)).mean())
    return found


def find_delta(
    measure_bytes: Callable[[float], float],
    budget: float,
    bounds: tuple[float, float] = (1e-3, 1e3),
    bisection_steps: int = BISECTION_STEPS,
) -> float:
    """The smallest step of those tried by halving at which pictures take at most `wanted` bytes."""
    low, high = np.log(bounds)
    for _ in range(bisection_steps):
        middle = (low + high) / 2
        if measure_bytes(float(np.exp(middle))) > budget:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def _fit_to_budget(fit: FitFunction, delta: float, budget: float) -> tuple[LatentQuantiser, Symbols]:
    """The best of the steps tried from delta on, which a sample says roughly: all take at most `wanted` bytes each."""
    kept: tuple[float, LatentQuantiser, Symbols] | None = None
    for _ in range(MAX_DELTA_CORRECTIONS):
        quantiser, symbols, used = fit(delta)
        if used <= budget and (kept is None or used > kept[0]):
            kept = used, quantiser, symbols
        if BUDGET_TOLERANCE * budget <= used <= budget:
            break
        delta *= min(2.0, max(0.5, used / (BUDGET_AIM * budget)))  # bytes are about as 1 / delta
    while kept is None:
        delta *= DELTA_GROWTH
        quantiser, symbols, used = fit(delta)
        if used <= budget or delta > MAX_DELTA:
            kept = used, quantiser, symbols
    return kept[1], kept[2]


def _make_fit(
    encoder: TrainedEncoder, images: Pixels, mu: FloatArray, centre: FloatArray, sensitivity: Float64Array, effort: int
) -> FitFunction:
    """What comes of a delta: the quantiser, symbols (n, d), and bytes of a picture on average."""

    def at(delta: float) -> tuple[LatentQuantiser, Symbols, float]:
        quantiser = LatentQuantiser.from_sensitivity(centre, sensitivity, delta)
        symbols = quantiser.quantise(mu)
        if effort:
            tables, parts = (
                FrequencyTables.fit(symbols),
                [slice(at, at + REFINE_BATCH_SIZE) for at in range(0, len(mu), REFINE_BATCH_SIZE)],
            )
            found = (
                _refine_symbols(encoder, images[part], mu[part], quantiser, symbols[part], tables, delta, effort)
                for part in parts
            )
            symbols = np.concatenate(list(found))
        return quantiser, symbols, float(FrequencyTables.fit(symbols).count_bits(symbols).mean() / 8)

    return at


def _refine_symbols(
    encoder: TrainedEncoder,
    images: Pixels,
    mu: FloatArray,
    quantiser: LatentQuantiser,
    symbols: Symbols,
    tables: FrequencyTables,
    delta: float,
    effort: int,
) -> Symbols:
    """Symbols (n, d) for which squared error + price x bits is smaller: those given, where nothing better is found.

    Gradient descent on each latent (Yang et al., arXiv 2006.04240); the gradient passes rounding as if it were not
    there. A step of the quantiser changes a picture by delta, so the error's curvature is 2 delta² in each dimension.
    """
    device = encoder.network.variance.device
    top, left, height, width = encoder.preprocessing.content_box()
    wanted = torch.from_numpy(scale_to_unit(images)).to(device)[:, :, top : top + height, left : left + width]
    centre, steps = (torch.from_numpy(part).to(device) for part in (quantiser.centre, quantiser.steps))
    rates, powers = (torch.from_numpy(part).float().to(device) for part in tables.get_rates_and_powers())
    start = symbols + np.clip(
        quantiser.scale(mu) - symbols, -MAX_ROUNDING_OFFSET, MAX_ROUNDING_OFFSET
    )  # rounded, it is these symbols
    place = torch.from_numpy(start).float().to(device).requires_grad_(True)
    best, lowest = torch.round(place.detach()), torch.full((len(symbols),), torch.inf, device=device)
    optimiser = torch.optim.SGD([place], momentum=MOMENTUM)
    with torch.enable_grad():
        for step in range(effort + 1):
            whole = place + (torch.round(place) - place).detach()
            seen = torch.sigmoid(encoder.network.decode(centre + whole * steps))
            lost = (seen[:, :, top : top + height, left : left + width] - wanted).square().sum((1, 2, 3))
            cost = lost + BIT_PRICE * delta**2 * _estimate_bits(whole, rates, powers).sum(1)  # (n,)
            is_better = cost.detach() < lowest
            lowest[is_better], best[is_better] = cost.detach()[is_better], whole.detach()[is_better]
            (place.grad,) = torch.autograd.grad(cost.sum(), [place])
            cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / effort))
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * cosine / (2 * delta**2)
            optimiser.step()
    return round_to_symbols(cast(Float64Array, best.cpu().double().numpy()))


def _estimate_bits(positions: Tensor, rates: Tensor, powers: Tensor) -> Tensor:
    """What places (n, d) cost beyond 0 by tables of these rates and powers (d,): straight from 0 to 1."""
    away = positions.abs()
    found: Tensor = torch.where(away < 1, away, away.clamp_min(1) ** powers) * rates / math.log(2)
    return found


def _read_images(
    encoder: TrainedEncoder, paths: Sequence[str], limits: Limits, workers: int, on_progress: OnProgress
) -> tuple[Pixels, list[str], list[tuple[int, int]], list[Failure]]:
    arrays: list[Pixels] = []
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    failures: list[Failure] = []
    for path, found in zip(paths, prepare_files(paths, encoder.preprocessing, limits, workers), strict=True):
        if isinstance(found, PreparedImage):
            arrays.append(found.array)
            names.append(Path(path).name)
            sizes.append((found.width, found.height))
        else:
            failures.append(found)
        on_progress("reading", len(arrays) + len(failures), len(paths))
    if not arrays:
        raise TooFewPictures("No picture can be read. Name other files or folders.")
    return np.stack(arrays), names, sizes, failures
