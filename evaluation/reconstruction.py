"""How much of a picture a vector keeps: error, PSNR and SSIM, and what the network says of its likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simile.core.records import FloatArray
from simile.evaluation.baselines import EmbeddingMethod, make_chunks, make_reconstruction_targets
from simile.evaluation.neighbours import Float64Array, RowIndices
from simile.images.formats import Pixels
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.elbo import count_active_units
from simile.models.losses.likelihood import Density, bits_per_dimension, elbo, importance_weighted_log_likelihood
from simile.models.losses.ssim import SSIM_WINDOW, ssim

MAX_LIKELIHOOD_IMAGES = 128  # that log p(x) is estimated on; each costs `samples` decoded pictures
DECODE_BATCH_SIZE = 256
MIN_SQUARED_ERROR = 1e-10  # a perfect reconstruction has no PSNR; this one has 100 dB


@dataclass(frozen=True)
class ReconstructionScores:
    """For each picture (n,): mean squared error and PSNR (dB) of values in [0, 1], SSIM (NaN below 11 px)."""

    squared_error: Float64Array
    psnr: Float64Array
    ssim: Float64Array


@dataclass(frozen=True)
class LikelihoodScores:
    """Means over pictures in nats, with standard errors; bits by simile.models.losses.likelihood.bits_per_dimension."""

    elbo: float
    elbo_error: float
    bits: float
    log_likelihood: float | None
    log_likelihood_error: float | None
    active_units: int
    binarised: bool


def score_reconstruction(method: EmbeddingMethod, images: Pixels) -> ReconstructionScores | None:
    """What `method` keeps of pictures (n, S, S, C), or None where there is no way back."""
    if method.reconstruct(images[:1]) is None:
        return None
    parts = [_score_reconstruction_batch(method, images[part]) for part in make_chunks(len(images), DECODE_BATCH_SIZE)]
    error, likeness = (np.concatenate(values).astype(np.float64) for values in zip(*parts, strict=True))
    return ReconstructionScores(error, -10 * np.log10(np.maximum(error, MIN_SQUARED_ERROR)), likeness)


def _score_reconstruction_batch(method: EmbeddingMethod, images: Pixels) -> tuple[FloatArray, FloatArray]:
    before, after = make_reconstruction_targets(images, method.preprocessing), method.reconstruct(images)
    assert after is not None
    error = np.square(after - before).mean(axis=(1, 2, 3))
    if min(before.shape[2:]) < SSIM_WINDOW:
        return error, np.full(len(before), np.nan, np.float32)
    with torch.inference_mode():
        return error, ssim(torch.from_numpy(before), torch.from_numpy(after)).numpy()


def estimate_likelihood(encoder: TrainedEncoder, images: Pixels, samples: int, seed: int) -> LikelihoodScores | None:
    """ELBO of pictures (n, S, S, C), one sample each, and log p(x) of a few; None where there is no density.

    An encoder trained on dynamically binarised pictures is judged on pictures binarised once with `seed`.
    """
    likelihood = cast(Density, encoder.description.likelihood)
    if not (encoder.has_variance and encoder.has_decoder) or likelihood not in ("gaussian", "bernoulli"):
        return None
    binarise, generator = encoder.description.is_binarised, torch.Generator().manual_seed(seed)
    bounds: list[Tensor] = []
    for part in make_chunks(len(images), DECODE_BATCH_SIZE):
        x = _to_input_tensor(images[part], binarise, generator)
        bounds.append(
            elbo(
                encoder.network,
                x,
                likelihood=likelihood,
                generator=generator,
                content_box=encoder.preprocessing.content_box(),
                chunk=DECODE_BATCH_SIZE,
            )
        )
    bound = torch.cat(bounds).numpy()
    mean = float(bound.mean())
    _, _, height, width = encoder.preprocessing.content_box()
    tighter = _estimate_log_likelihood(encoder, images, likelihood, samples, binarise, seed) if samples else None
    return LikelihoodScores(
        elbo=mean,
        elbo_error=compute_standard_error(bound),
        bits=bits_per_dimension(mean, height * width * encoder.preprocessing.channels, likelihood),
        log_likelihood=None if tighter is None else float(tighter.mean()),
        log_likelihood_error=None if tighter is None else compute_standard_error(tighter),
        active_units=count_active_units(torch.from_numpy(encoder.encode(images).mu)),
        binarised=binarise,
    )


def _estimate_log_likelihood(
    encoder: TrainedEncoder, images: Pixels, likelihood: Density, samples: int, binarise: bool, seed: int
) -> Float64Array:
    """log p̂(x) of at most LIKELIHOOD_PICTURES of the pictures, drawn with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    x = _to_input_tensor(images[choose_likelihood_rows(len(images), seed)], binarise, generator)
    found = importance_weighted_log_likelihood(
        encoder.network,
        x,
        likelihood=likelihood,
        samples=samples,
        generator=generator,
        content_box=encoder.preprocessing.content_box(),
        chunk=DECODE_BATCH_SIZE,
    )
    return found.numpy()


def choose_likelihood_rows(count: int, seed: int) -> RowIndices:
    """Which of `count` pictures log p(x) is estimated on."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:MAX_LIKELIHOOD_IMAGES])


def compute_standard_error(values: Float64Array) -> float:
    """Of the mean of values (n,)."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _to_input_tensor(images: Pixels, binarise: bool, generator: torch.Generator) -> Tensor:
    """(n, C, S, S) in [0, 1]; with `binarise` zeros and ones drawn with these values as probabilities."""
    x = torch.from_numpy(scale_to_unit(images))
    return (torch.rand(x.shape, generator=generator) < x).float() if binarise else x
