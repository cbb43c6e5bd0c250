"""How much of a picture a vector keeps: error, PSNR and SSIM, and what the network says of its likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simile.core.records import FloatArray
from simile.evaluation.baselines import Method, chunks, originals
from simile.evaluation.neighbours import Doubles, Rows
from simile.images.transforms import Pixels, to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.elbo import active_units
from simile.models.losses.likelihood import Density, bits_per_dimension, elbo, importance_weighted_log_likelihood
from simile.models.losses.ssim import WINDOW, ssim

LIKELIHOOD_PICTURES = 128  # that log p(x) is estimated on; each costs `samples` decoded pictures
DECODED_TOGETHER = 256
WORST_ERROR = 1e-10  # a perfect reconstruction has no PSNR; this one has 100 dB


@dataclass(frozen=True)
class Kept:
    """For each picture (n,): mean squared error and PSNR (dB) of values in [0, 1], SSIM (NaN below 11 px)."""

    squared_error: Doubles
    psnr: Doubles
    ssim: Doubles


@dataclass(frozen=True)
class Likelihood:
    """Means over pictures in nats, with standard errors; bits by simile.models.losses.likelihood.bits_per_dimension."""

    elbo: float
    elbo_error: float
    bits: float
    log_likelihood: float | None
    log_likelihood_error: float | None
    active_units: int
    binarised: bool


def measure_reconstruction(method: Method, pictures: Pixels) -> Kept | None:
    """What `method` keeps of pictures (n, S, S, C), or None where there is no way back."""
    if method.reconstruct(pictures[:1]) is None:
        return None
    parts = [_compare(method, pictures[part]) for part in chunks(len(pictures), DECODED_TOGETHER)]
    error, likeness = (np.concatenate(values).astype(np.float64) for values in zip(*parts, strict=True))
    return Kept(error, -10 * np.log10(np.maximum(error, WORST_ERROR)), likeness)


def _compare(method: Method, pictures: Pixels) -> tuple[FloatArray, FloatArray]:
    before, after = originals(pictures, method.preprocessing), method.reconstruct(pictures)
    assert after is not None
    error = np.square(after - before).mean(axis=(1, 2, 3))
    if min(before.shape[2:]) < WINDOW:
        return error, np.full(len(before), np.nan, np.float32)
    with torch.inference_mode():
        return error, ssim(torch.from_numpy(before), torch.from_numpy(after)).numpy()


def measure_likelihood(encoder: TrainedEncoder, pictures: Pixels, samples: int, seed: int) -> Likelihood | None:
    """ELBO of pictures (n, S, S, C), one sample each, and log p(x) of a few; None where there is no density.

    An encoder trained on dynamically binarised pictures is judged on pictures binarised once with `seed`.
    """
    recipe: dict[str, Any] = encoder.description["recipe"]
    likelihood: Density = recipe["likelihood"]
    if not (encoder.has_variance and encoder.has_decoder) or likelihood not in ("gaussian", "bernoulli"):
        return None
    binarise, generator = bool(recipe.get("binarise", False)), torch.Generator().manual_seed(seed)
    bounds: list[Tensor] = []
    for part in chunks(len(pictures), DECODED_TOGETHER):
        x = _tensor(pictures[part], binarise, generator)
        bounds.append(
            elbo(
                encoder.network,
                x,
                likelihood=likelihood,
                generator=generator,
                content_box=encoder.preprocessing.content_box(),
                chunk=DECODED_TOGETHER,
            )
        )
    bound = torch.cat(bounds).numpy()
    mean = float(bound.mean())
    _, _, height, width = encoder.preprocessing.content_box()
    tighter = _log_likelihood(encoder, pictures, likelihood, samples, binarise, seed) if samples else None
    return Likelihood(
        elbo=mean,
        elbo_error=standard_error(bound),
        bits=bits_per_dimension(mean, height * width * encoder.preprocessing.channels, likelihood),
        log_likelihood=None if tighter is None else float(tighter.mean()),
        log_likelihood_error=None if tighter is None else standard_error(tighter),
        active_units=active_units(torch.from_numpy(encoder.encode(pictures).mu)),
        binarised=binarise,
    )


def _log_likelihood(
    encoder: TrainedEncoder, pictures: Pixels, likelihood: Density, samples: int, binarise: bool, seed: int
) -> Doubles:
    """log p̂(x) of at most LIKELIHOOD_PICTURES of the pictures, drawn with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    x = _tensor(pictures[likelihood_rows(len(pictures), seed)], binarise, generator)
    found = importance_weighted_log_likelihood(
        encoder.network,
        x,
        likelihood=likelihood,
        samples=samples,
        generator=generator,
        content_box=encoder.preprocessing.content_box(),
        chunk=DECODED_TOGETHER,
    )
    return found.numpy()


def likelihood_rows(count: int, seed: int) -> Rows:
    """Which of `count` pictures log p(x) is estimated on."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:LIKELIHOOD_PICTURES])


def standard_error(values: Doubles) -> float:
    """Of the mean of values (n,)."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _tensor(pictures: Pixels, binarise: bool, generator: torch.Generator) -> Tensor:
    """(n, C, S, S) in [0, 1]; with `binarise` zeros and ones drawn with these values as probabilities."""
    x = torch.from_numpy(to_unit(pictures))
    return (torch.rand(x.shape, generator=generator) < x).float() if binarise else x
