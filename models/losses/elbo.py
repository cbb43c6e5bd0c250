"""The evidence lower bound: reconstruction log-likelihood − β·KL, in nats per image."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Likelihood = Literal["gaussian", "bernoulli", "l2", "l1"]

# The variance of rounding to 8 bits: no image is known more precisely, and it prevents log(0).
MIN_VARIANCE = (1 / 255) ** 2 / 12


def kl_per_dimension(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mu, sigma²) || N(0, 1)) of each dimension, (n, d), in nats: arXiv 1312.6114, appendix B."""
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance)


def kl_divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mu, sigma²) || N(0, 1)) per image, (n,), in nats."""
    return kl_per_dimension(mu, log_variance).sum(1)


def apply_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """Return the KL penalty, a scalar: each dimension of `kl` (n, d) counts at least `free_bits` nats on average.

    Kingma et al., arXiv 1606.04934, appendix C.8, with every dimension as a separate group.
    """
    return kl.mean(0).clamp_min(free_bits).sum()


def optimal_variance(x: Tensor, mean: Tensor) -> Tensor:
    """Return the variance that maximises the likelihood of x, the mean squared error (arXiv 2006.13202)."""
    return (x - mean).square().mean().clamp_min(MIN_VARIANCE)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return log N(x; mean, variance) per image, (n,), in nats, summed over its values."""
    squared_error = (x - mean).square().flatten(1)
    return -0.5 * (squared_error.sum(1) / variance + squared_error.shape[1] * torch.log(2 * math.pi * variance))


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Return log Bernoulli(x; sigmoid(logits)) per image, (n,), in nats; x in [0, 1] counts as a probability."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def reconstruction_log_likelihood(
    x: Tensor, logits: Tensor, likelihood: Likelihood, variance: Tensor | None = None
) -> Tensor:
    """Return log p(x|z) per image, (n,), for images x and decoder logits (n, C, S, S).

    Args:
        likelihood: "l2" and "l1" are the plain losses of an autoencoder (minus the sum of squared or absolute
            differences) and not densities.
        variance: Of the Gaussian; None for the optimal one of this batch.
    """
    if likelihood == "bernoulli":
        return bernoulli_log_likelihood(x, logits)
    mean = torch.sigmoid(logits)
    if likelihood == "l2":
        return -(x - mean).square().flatten(1).sum(1)
    if likelihood == "l1":
        return -(x - mean).abs().flatten(1).sum(1)
    return gaussian_log_likelihood(x, mean, optimal_variance(x, mean) if variance is None else variance)


def count_active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Count the latent dimensions that differ between images: variance of mu > threshold (arXiv 1509.00519)."""
    return int((mu.var(dim=0) > threshold).sum())
