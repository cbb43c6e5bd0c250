"""Compression of images: their latents, quantised and entropy-coded. The lecture calls this a non-linear PCA.

A decompressed image is its reconstruction: details that are not in the latent are lost at any bit rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Failure, Float64Array, FloatArray
from simile.explore.arrays import OnProgress
from simile.explore.compression.quantization import (
    BIT_PRICE,
    FrequencyTables,
    LatentQuantiser,
    Symbols,
    round_to_symbols,
)
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder

# From a delta to the quantiser, the symbols (n, d), and the mean bytes of an image.
FitFunction = Callable[[float], tuple[LatentQuantiser, Symbols, float]]

SENSITIVITY_SAMPLE_SIZE = 32  # images that measure the influence of each dimension
DELTA_SAMPLE_SIZE = 128  # images for the search of delta
BISECTION_STEPS = 9  # over six decades: within 3 %
REFINED_BISECTION_STEPS = 4  # over the small interval around a first result
REFINE_BATCH_SIZE = 128  # images refined together
LEARNING_RATE, MOMENTUM = 0.05, 0.9  # the rate as a fraction of the step that would reach the minimum at once
MAX_ROUNDING_OFFSET = 0.45  # steps from a symbol at most, so that rounding gives the symbol again
MAX_DELTA_CORRECTIONS = 4
BUDGET_TOLERANCE, BUDGET_AIM = 0.985, 0.995  # fractions of the budget: close enough, and target of a correction
DELTA_GROWTH, MAX_DELTA = 1.1, 1e3  # if no correction is within the budget
DEFAULT_DELTA = 1.0  # a step changes an image of values in [0, 1] by 1 in all


@dataclass(frozen=True, eq=False, kw_only=True)
class CompressedImages:
    """The content of an archive."""

    encoder: str  # fingerprint of the encoder
    quantiser: LatentQuantiser
    tables: FrequencyTables
    symbols: Symbols  # (n, d)
    names: Sequence[str]  # file names
    sizes: Sequence[tuple[int, int]]  # (width, height) of each image
    failures: Sequence[Failure] = ()  # files that could not be read; not in the archive

    def encode_latents(self) -> bytes:
        """Entropy-code the latents of all images."""
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
    """Compress images to a budget of bytes, or with a given quality. Raises NoDecoder, BadSetting, TooFewPictures.

    Args:
        bytes_per_image: Budget on average; None to use `delta`.
        delta: Change of an image by one step; None for the default.
        effort: Steps of gradient descent on each latent, which reduce error and bits together.
    """
    if bytes_per_image is not None and not 1 <= bytes_per_image <= 65536:
        raise BadSetting(f"bytes can't be {bytes_per_image:g}. Give 1 to 65536 for each image.")
    if delta is not None and not 1e-3 <= delta <= 1e3:
        raise BadSetting(f"step can't be {delta:g}. Give 0.001 to 1000; 1 is usual.")
    # Encode the images, and measure the influence of each dimension.
    images, names, sizes, failures = _read_images(encoder, paths, limits, workers, on_progress)
    mu = encoder.encode(images).mu
    centre, sensitivity = mu.mean(axis=0), measure_sensitivity(encoder, mu[:SENSITIVITY_SAMPLE_SIZE])
    fit = _make_fit(encoder, images, mu, centre, sensitivity, effort)
    if bytes_per_image is None:
        quantiser, symbols, _ = fit(DEFAULT_DELTA if delta is None else delta)
    else:
        # Find delta on a sample, first without refinement. Refined symbols cost less, so delta can be smaller.
        sample = images[:DELTA_SAMPLE_SIZE], mu[:DELTA_SAMPLE_SIZE], centre, sensitivity
        fit_plain, fit_refined = (_make_fit(encoder, *sample, steps) for steps in (0, effort))
        delta = find_delta(lambda candidate: fit_plain(candidate)[2], bytes_per_image)
        if effort:
            bounds = (delta / 2, 1.2 * delta)
            measure_bytes: Callable[[float], float] = lambda candidate: fit_refined(candidate)[2]  # noqa: E731
            delta = find_delta(measure_bytes, bytes_per_image, bounds, REFINED_BISECTION_STEPS)
        quantiser, symbols = _fit_to_budget(fit, delta, bytes_per_image)
    return CompressedImages(
        encoder=encoder.fingerprint,
        quantiser=quantiser,
        tables=FrequencyTables.fit(symbols),
        symbols=symbols,
        names=names,
        sizes=sizes,
        failures=failures,
    )


def measure_sensitivity(encoder: TrainedEncoder, mu: FloatArray) -> Float64Array:
    """Measure the change (d,) of an image with one unit of each dimension: root of the summed squares, on average.

    From latents mu (n, d) of some images, by central differences over a tenth of each dimension's deviation.
    """
    content = encoder.preprocessing.content_slices
    sensitivity = np.zeros(mu.shape[1])
    for dim, deviation in enumerate(mu.std(axis=0)):
        if deviation < 1e-6:  # the encoder does not use this dimension
            continue
        step = np.float32(0.1 * deviation)
        ends = np.concatenate([mu, mu])
        ends[: len(mu), dim] += step
        ends[len(mu) :, dim] -= step
        decoded = encoder.decode(ends)[:, :, *content].astype(np.float64)
        gradient = (decoded[: len(mu)] - decoded[len(mu) :]) / (2 * float(step))
        sensitivity[dim] = np.sqrt(np.square(gradient).sum(axis=(1, 2, 3)).mean())
    return sensitivity


def find_delta(
    measure_bytes: Callable[[float], float],
    budget: float,
    bounds: tuple[float, float] = (1e-3, 1e3),
    bisection_steps: int = BISECTION_STEPS,
) -> float:
    """Find by bisection the smallest delta whose mean bytes of an image are within the budget."""
    low, high = np.log(bounds)
    for _ in range(bisection_steps):
        middle = (low + high) / 2
        if measure_bytes(float(np.exp(middle))) > budget:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def _fit_to_budget(fit: FitFunction, delta: float, budget: float) -> tuple[LatentQuantiser, Symbols]:
    """Fit all images, starting with a delta that was found on a sample.

    Of the fits within the budget, the one with the most bytes is returned.
    """
    best: tuple[float, LatentQuantiser, Symbols] | None = None  # (bytes, quantiser, symbols)
    for _ in range(MAX_DELTA_CORRECTIONS):
        quantiser, symbols, size = fit(delta)
        if size <= budget and (best is None or size > best[0]):
            best = size, quantiser, symbols
        if BUDGET_TOLERANCE * budget <= size <= budget:
            break
        delta *= min(2.0, max(0.5, size / (BUDGET_AIM * budget)))  # bytes are about proportional to 1 / delta
    while best is None:
        delta *= DELTA_GROWTH
        quantiser, symbols, size = fit(delta)
        if size <= budget or delta > MAX_DELTA:
            best = size, quantiser, symbols
    return best[1], best[2]


def _make_fit(
    encoder: TrainedEncoder, images: Pixels, mu: FloatArray, centre: FloatArray, sensitivity: Float64Array, effort: int
) -> FitFunction:
    """Make the function that quantises these images with a given delta."""

    def fit(delta: float) -> tuple[LatentQuantiser, Symbols, float]:
        quantiser = LatentQuantiser.from_sensitivity(centre, sensitivity, delta)
        symbols = quantiser.quantise(mu)
        if effort:
            tables = FrequencyTables.fit(symbols)
            batches = [slice(start, start + REFINE_BATCH_SIZE) for start in range(0, len(mu), REFINE_BATCH_SIZE)]
            refined = [
                _refine_symbols(encoder, images[rows], mu[rows], quantiser, symbols[rows], tables, delta, effort)
                for rows in batches
            ]
            symbols = np.concatenate(refined)
        return quantiser, symbols, float(FrequencyTables.fit(symbols).count_bits(symbols).mean() / 8)

    return fit


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
    """Reduce squared error + price x bits of symbols (n, d); symbols without a better alternative stay.

    Gradient descent on each latent (Yang et al., arXiv 2006.04240); the gradient ignores the rounding. A quantiser step
    changes an image by delta, so the curvature of the error is 2 delta² in each dimension.
    """
    device = encoder.network.variance.device
    content = encoder.preprocessing.content_slices
    target = torch.from_numpy(scale_to_unit(images)).to(device)[:, :, *content]
    centre, steps = (torch.from_numpy(array).to(device) for array in (quantiser.centre, quantiser.steps))
    rates, powers = (torch.from_numpy(array).float().to(device) for array in tables.get_rates_and_powers())
    # Start near the exact latents, but at positions that round to the given symbols.
    start = symbols + np.clip(quantiser.scale(mu) - symbols, -MAX_ROUNDING_OFFSET, MAX_ROUNDING_OFFSET)
    positions = torch.from_numpy(start).float().to(device).requires_grad_(True)
    best, lowest = torch.round(positions.detach()), torch.full((len(symbols),), torch.inf, device=device)
    optimiser = torch.optim.SGD([positions], momentum=MOMENTUM)
    with torch.enable_grad():
        for step in range(effort + 1):
            # Cost of the rounded positions.
            rounded = positions + (torch.round(positions) - positions).detach()
            decoded = torch.sigmoid(encoder.network.decode(centre + rounded * steps))[:, :, *content]
            error = (decoded - target).square().sum((1, 2, 3))
            cost = error + BIT_PRICE * delta**2 * _estimate_bits(rounded, rates, powers).sum(1)  # (n,)
            # Keep the best symbols of each image.
            is_better = cost.detach() < lowest
            lowest[is_better], best[is_better] = cost.detach()[is_better], rounded.detach()[is_better]
            # Descend, with a learning rate that falls along a cosine to a tenth.
            (positions.grad,) = torch.autograd.grad(cost.sum(), [positions])
            cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / effort))
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * cosine / (2 * delta**2)
            optimiser.step()
    return round_to_symbols(cast(Float64Array, best.cpu().double().numpy()))


def _estimate_bits(positions: Tensor, rates: Tensor, powers: Tensor) -> Tensor:
    """Estimate the bits of positions (n, d) beyond those of 0, by tables with these rates and powers (d,).

    It is linear between 0 and 1, where a power below 1 would have an infinite gradient.
    """
    magnitudes = positions.abs()
    bits: Tensor = torch.where(magnitudes < 1, magnitudes, magnitudes.clamp_min(1) ** powers) * rates / math.log(2)
    return bits


def _read_images(
    encoder: TrainedEncoder, paths: Sequence[str], limits: Limits, workers: int, on_progress: OnProgress
) -> tuple[Pixels, list[str], list[tuple[int, int]], list[Failure]]:
    """Read all images. Returns their arrays (n, S, S, C), names, sizes, and the failures. Raises TooFewPictures."""
    arrays: list[Pixels] = []
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    failures: list[Failure] = []
    for path, result in zip(paths, prepare_files(paths, encoder.preprocessing, limits, workers), strict=True):
        if isinstance(result, PreparedImage):
            arrays.append(result.array)
            names.append(Path(path).name)
            sizes.append((result.width, result.height))
        else:
            failures.append(result)
        on_progress("reading", len(arrays) + len(failures), len(paths))
    if not arrays:
        raise TooFewPictures("No image can be read. Name other files or folders.")
    return np.stack(arrays), names, sizes, failures
