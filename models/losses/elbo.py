"""The evidence lower bound: reconstruction log-likelihood − β·KL, in nats per picture."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Likelihood = Literal["gaussian", "bernoulli", "l2", "l1"]

# The variance of rounding to 8 bits: no picture is known better than this, and log(0) is never taken.
MIN_VARIANCE = (1 / 255) ** 2 / 12


def kl_per_dimension(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) of each dimension, (n, d), in nats: arXiv 1312.6114, appendix B."""
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance)


def kl_divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) per picture, (n,), in nats."""
    return kl_per_dimension(mu, log_variance).sum(1)


def apply_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """What of KL terms (n, d) is charged for, a scalar: no dimension pays for less than `free` nats on average.

    Kingma et al., arXiv 1606.04934, appendix C.8, with every dimension a group of its own.
    """
    return kl.mean(0).clamp_min(free_bits).sum()


def optimal_variance(x: Tensor, mean: Tensor) -> Tensor:
    """The one variance under which x is likeliest: the mean squared error (Rybkin et al., arXiv 2006.13202)."""
    return (x - mean).square().mean().clamp_min(MIN_VARIANCE)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, variance) per picture, (n,), in nats, summed over its values."""
    squared_error = (x - mean).square().flatten(1)
    return -0.5 * (squared_error.sum(1) / variance + squared_error.shape[1] * torch.log(2 * math.pi * variance))


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log Bernoulli(x; sigmoid(logits)) per picture, (n,), in nats; x in [0, 1] counts as a probability."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def reconstruction_log_likelihood(
    x: Tensor, logits: Tensor, likelihood: Likelihood, variance: Tensor | None = None
) -> Tensor:
    """log p(x|z) per picture, (n,). A Gaussian without a `variance` takes the optimal one of this batch.

    "l2" and "l1" are an autoencoder's plain losses, minus the sum of squared or absolute differences: no densities.
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
    """How many latent dimensions tell pictures apart: variance of mu above `threshold` (arXiv 1509.00519)."""
    return int((mu.var(dim=0) > threshold).sum())
