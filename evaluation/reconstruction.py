"""Reconstruction metrics (error, PSNR, SSIM) and likelihood estimates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simile.core.records import Float64Array, FloatArray
from simile.evaluation.baselines import EmbeddingMethod, crop_padding, make_chunks
from simile.images.formats import Pixels
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.elbo import count_active_units
from simile.models.losses.likelihood import Density, bits_per_dimension, elbo, importance_weighted_log_likelihood
from simile.models.losses.ssim import SSIM_WINDOW, ssim

MAX_LIKELIHOOD_IMAGES = 128  # images to estimate log p(x) on; each needs `samples` decodings
DECODE_BATCH_SIZE = 256
MIN_SQUARED_ERROR = 1e-10  # limits PSNR to 100 dB for a perfect reconstruction


@dataclass(frozen=True)
class ReconstructionScores:
    """For each image (n,): mean squared error and PSNR (dB) for values in [0, 1], SSIM (NaN below 11 px)."""

    squared_error: Float64Array
    psnr: Float64Array
    ssim: Float64Array


@dataclass(frozen=True, kw_only=True)
class LikelihoodScores:
    """Means over images in nats, with standard errors; `bits`: see simile.models.losses.likelihood."""

    elbo: float
    elbo_error: float
    bits: float
    log_likelihood: float | None
    log_likelihood_error: float | None
    active_units: int
    binarised: bool


def score_reconstruction(method: EmbeddingMethod, images: Pixels) -> ReconstructionScores | None:
    """Score the reconstructions of images (n, S, S, C); None if the method has none."""
    if method.reconstruct(images[:1]) is None:
        return None
    chunks = make_chunks(len(images), DECODE_BATCH_SIZE)
    scores = [_score_reconstruction_batch(method, images[chunk]) for chunk in chunks]
    error, similarity = (np.concatenate(values).astype(np.float64) for values in zip(*scores, strict=True))
    return ReconstructionScores(error, -10 * np.log10(np.maximum(error, MIN_SQUARED_ERROR)), similarity)


def _score_reconstruction_batch(method: EmbeddingMethod, images: Pixels) -> tuple[FloatArray, FloatArray]:
    targets, outputs = scale_to_unit(crop_padding(images, method.preprocessing)), method.reconstruct(images)
    assert outputs is not None
    error = np.square(outputs - targets).mean(axis=(1, 2, 3))
    if min(targets.shape[2:]) < SSIM_WINDOW:
        return error, np.full(len(targets), np.nan, np.float32)
    with torch.inference_mode():
        return error, ssim(torch.from_numpy(targets), torch.from_numpy(outputs)).numpy()


def estimate_likelihood(encoder: TrainedEncoder, images: Pixels, samples: int, seed: int) -> LikelihoodScores | None:
    """Estimate the ELBO of images (n, S, S, C), one sample each, and log p(x) of some of them.

    An encoder that was trained on dynamically binarised images gets images binarised once with `seed`.

    Returns:
        None for an encoder without a density.
    """
    likelihood = cast(Density, encoder.description.likelihood)
    if not (encoder.has_variance and encoder.has_decoder) or likelihood not in ("gaussian", "bernoulli"):
        return None
    binarise, generator = encoder.description.is_binarised, torch.Generator().manual_seed(seed)
    content_box = encoder.preprocessing.content_box()
    estimate = partial(
        elbo,
        encoder.network,
        likelihood=likelihood,
        generator=generator,
        content_box=content_box,
        chunk=DECODE_BATCH_SIZE,
    )
    chunks = make_chunks(len(images), DECODE_BATCH_SIZE)
    elbos = torch.cat([estimate(_to_input_tensor(images[chunk], binarise, generator)) for chunk in chunks]).numpy()
    mean = float(elbos.mean())
    log_likelihoods = (
        _estimate_log_likelihood(encoder, images, likelihood, samples, binarise, seed) if samples else None
    )
    return LikelihoodScores(
        elbo=mean,
        elbo_error=_compute_standard_error(elbos),
        bits=bits_per_dimension(mean, content_box[2] * content_box[3] * encoder.preprocessing.channels, likelihood),
        log_likelihood=None if log_likelihoods is None else float(log_likelihoods.mean()),
        log_likelihood_error=None if log_likelihoods is None else _compute_standard_error(log_likelihoods),
        active_units=count_active_units(torch.from_numpy(encoder.encode(images).mu)),
        binarised=binarise,
    )


def _estimate_log_likelihood(
    encoder: TrainedEncoder, images: Pixels, likelihood: Density, samples: int, binarise: bool, seed: int
) -> Float64Array:
    """Estimate log p(x) of at most MAX_LIKELIHOOD_IMAGES random images."""
    generator = torch.Generator().manual_seed(seed)
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:MAX_LIKELIHOOD_IMAGES])
    x = _to_input_tensor(images[rows], binarise, generator)
    estimates = importance_weighted_log_likelihood(
        encoder.network,
        x,
        likelihood=likelihood,
        samples=samples,
        generator=generator,
        content_box=encoder.preprocessing.content_box(),
        chunk=DECODE_BATCH_SIZE,
    )
    return estimates.numpy()


def _compute_standard_error(values: Float64Array) -> float:
    """Compute the standard error of the mean of values (n,)."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _to_input_tensor(images: Pixels, binarise: bool, generator: torch.Generator) -> Tensor:
    """Convert images to (n, C, S, S) in [0, 1]; `binarise` samples 0 or 1 with these probabilities."""
    x = torch.from_numpy(scale_to_unit(images))
    return (torch.rand(x.shape, generator=generator) < x).float() if binarise else x
