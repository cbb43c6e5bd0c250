"""The likelihood of an image under a trained network: the evidence lower bound, and a tighter estimate of log p(x).

    ELBO(x)    = E_q(z|x)[ log p(x|z) ] - KL(q(z|x) || p(z))                          arXiv 1312.6114
    log p̂(x)  = log 1/k · Σ_i p(x, z_i) / q(z_i|x),   z_1 … z_k from q(z|x)          arXiv 1509.00519

Both are lower bounds of log p(x) on average; the second is tighter for larger k. All values are nats per image in
float64. A Gaussian p(x|z) is a density of values in [0, 1], so its logarithm may be positive. A Bernoulli p(x|z) is the
probability of zeros and ones; for values in between it is not a probability, and results are comparable only with
results of the same kind. For dynamic binarisation, binarise the images first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from simile.core.errors import BadSetting
from simile.models.losses.elbo import MIN_VARIANCE, kl_divergence
from simile.models.networks.vae import Network

Density = Literal["gaussian", "bernoulli"]
ContentBox = tuple[int, int, int, int]  # (top, left, height, width) of the scored area: Preprocessing.content_box()

DECODE_CHUNK_SIZE = 1024  # images decoded in one forward pass
PIXEL_LEVELS = 256  # values of an 8-bit pixel


def importance_weighted_log_likelihood(
    network: Network,
    x: Tensor,
    *,
    likelihood: Density,
    samples: int,
    generator: torch.Generator,
    content_box: ContentBox | None = None,
    chunk: int = DECODE_CHUNK_SIZE,
) -> Tensor:
    """Estimate log p(x) by importance sampling: (n,) float64 in nats.

    Args:
        x: Images (n, C, S, S) in [0, 1].
        likelihood: The density p(x|z) that the network was trained with.
        samples: Samples of z per image, k in the formula.
        generator: CPU generator of the noise.
        content_box: Area to score; None for the whole image.
        chunk: Largest number of images to decode in one pass.

    Raises:
        BadSetting: The encoder has no variance, or `likelihood` is not a density.
        NoDecoder.
    """
    total = torch.full((len(x),), -math.inf, dtype=torch.float64)
    images_per_pass = max(1, chunk // samples)  # several images if all their samples fit into a chunk
    for rows, mu, log_variance in _iterate_posteriors(network, x, images_per_pass):
        values = _select_values(network, x[rows], likelihood, content_box)
        for count in _split_samples(samples, max(1, chunk // len(mu))):
            with torch.inference_mode():
                z, noise = _sample_posterior(mu, log_variance, count, generator)
                # log p(z) - log q(z|x); the constants cancel.
                ratio = 0.5 * (noise.square() + log_variance[:, None] - z.square()).sum(2).double()  # (g, s)
                log_weights = (_compute_log_likelihood(network, values, z, likelihood, content_box) + ratio).cpu()
                total[rows] = torch.logaddexp(total[rows], torch.logsumexp(log_weights, dim=1))
    return total - math.log(samples)


def elbo(
    network: Network,
    x: Tensor,
    *,
    likelihood: Density,
    generator: torch.Generator,
    samples: int = 1,
    content_box: ContentBox | None = None,
    chunk: int = DECODE_CHUNK_SIZE,
) -> Tensor:
    """Compute the evidence lower bound of images (n, C, S, S) in [0, 1], (n,) float64 in nats.

    The reconstruction term is the mean over `samples` samples of q(z|x); the KL term is exact. Arguments and errors
    are those of `importance_weighted_log_likelihood`.
    """
    bound = torch.zeros(len(x), dtype=torch.float64)
    for rows, mu, log_variance in _iterate_posteriors(network, x, chunk):
        bound[rows] = -kl_divergence(mu, log_variance).double().cpu()
        values = _select_values(network, x[rows], likelihood, content_box)
        for count in _split_samples(samples, max(1, chunk // len(mu))):
            z = _sample_posterior(mu, log_variance, count, generator)[0]
            bound[rows] += _compute_log_likelihood(network, values, z, likelihood, content_box).sum(1).cpu() / samples
    return bound


def bits_per_dimension(nats: float, dimensions: int, likelihood: Density) -> float:
    """Convert nats per image to bits per value.

    Gaussian: values in [0, 1] stand for 256 levels, so a density of 1 is 8 bits a value: 8 - nats / (D ln 2).
    Bernoulli: - nats / (D ln 2).
    """
    bits = -nats / (dimensions * math.log(2))
    return bits + math.log2(PIXEL_LEVELS) if likelihood == "gaussian" else bits


def _iterate_posteriors(network: Network, x: Tensor, batch_size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the images with mu and log sigma², (g, d) each."""
    for start in range(0, len(x), batch_size):
        rows = slice(start, min(start + batch_size, len(x)))
        with torch.inference_mode():
            mu, log_variance = network.encode(x[rows].to(network.variance.device))
        if log_variance is None:
            raise BadSetting("This encoder has no variance: it has neither an ELBO nor a likelihood.")
        yield rows, mu.float(), log_variance.float()


def _sample_posterior(
    mu: Tensor, log_variance: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `count` samples z of q(z|x) for each image, and their noise: (g, s, d) each."""
    noise = torch.randn((len(mu), count, mu.shape[1]), generator=generator).to(mu.device)
    return mu[:, None] + noise * torch.exp(0.5 * log_variance)[:, None], noise


def _select_values(network: Network, x: Tensor, likelihood: Density, box: ContentBox | None) -> Tensor:
    """Return the scored values, (g, D), of images (g, C, S, S)."""
    if likelihood not in ("gaussian", "bernoulli"):
        raise BadSetting(f"likelihood can't be {likelihood!r} here: it is not a density. Use gaussian or bernoulli.")
    return _crop_to_box(x.to(network.variance.device), box).flatten(1)


def _compute_log_likelihood(
    network: Network, x: Tensor, z: Tensor, likelihood: Density, box: ContentBox | None
) -> Tensor:
    """Return log p(x|z), (g, s) float64, of scored values x (g, D) for samples z (g, s, d)."""
    with torch.inference_mode():
        logits = _crop_to_box(network.decode(z.flatten(0, 1)), box).reshape(*z.shape[:2], -1)  # (g, s, D)
        if likelihood == "bernoulli":
            # x·log p + (1 - x)·log(1 - p) = x·l - log(1 + e^l)
            products = torch.bmm(logits, x[:, :, None])[:, :, 0]  # (g, s)
            return products.double() - F.softplus(logits).sum(2).double()
        variance = network.variance.double().clamp_min(MIN_VARIANCE)
        squared_error = (torch.sigmoid(logits) - x[:, None]).square_().sum(2).double()
        return -0.5 * (squared_error / variance + x.shape[1] * torch.log(2 * math.pi * variance))


def _crop_to_box(images: Tensor, box: ContentBox | None) -> Tensor:
    if box is None:
        return images
    top, left, height, width = box
    return images[:, :, top : top + height, left : left + width]


def _split_samples(samples: int, max_size: int) -> Iterator[int]:
    """Yield the sizes of parts of `samples`, at most `max_size` each."""
    return (min(max_size, samples - start) for start in range(0, samples, max_size))
