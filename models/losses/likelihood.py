"""How likely a picture is under a trained network: the evidence lower bound, and a tighter estimate of log p(x).

    ELBO(x)    = E_q(z|x)[ log p(x|z) ] - KL(q(z|x) || p(z))                          arXiv 1312.6114
    log p̂(x)  = log 1/k · Σ_i p(x, z_i) / q(z_i|x),   z_1 … z_k from q(z|x)          arXiv 1509.00519

Both are lower bounds of log p(x) on average, the second the tighter the larger k is. All in nats per picture, float64.
A Gaussian p(x|z) is a density of values in [0, 1]: its logarithm may well be above zero. A Bernoulli p(x|z) is the
probability of zeros and ones; of values in between it is no probability, and figures are comparable only with others
of the same kind. The pictures are taken as they are: who wants dynamic binarisation draws the zeros and ones first.
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
ContentBox = tuple[int, int, int, int]  # (top, left, height, width) of what is scored, as Preprocessing.content_box()

DECODE_CHUNK_SIZE = 1024  # pictures decoded together
PIXEL_LEVELS = 256  # of a pixel


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
    """log p̂(x) of pictures (n, C, S, S) in [0, 1], (n,) float64 in nats; the noise comes from a CPU generator.

    At most `chunk` pictures are decoded at a time, of one picture or of several. Raises BadSetting for an encoder
    without a variance, NoDecoder for one without a decoder.
    """
    found = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for rows, log_weights in _iterate_log_weights(network, x, likelihood, samples, generator, content_box, chunk):
        found[rows] = torch.logaddexp(found[rows], torch.logsumexp(log_weights, dim=1))
    return found - math.log(samples)


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
    """The evidence lower bound of pictures (n, C, S, S) in [0, 1], (n,) float64 in nats.

    The reconstruction term is averaged over `samples` draws from q(z|x), the KL term is exact. Raises as above.
    """
    found = torch.zeros(len(x), dtype=torch.float64)
    for rows, mu, log_variance in _iterate_posteriors(network, x, chunk):
        found[rows] = -kl_divergence(mu, log_variance).double().cpu()
        scored = _select_values(network, x[rows], likelihood, content_box)
        for count in _split_samples(samples, max(1, chunk // len(mu))):
            z = _sample_posterior(mu, log_variance, count, generator)[0]
            found[rows] += _compute_log_likelihood(network, scored, z, likelihood, content_box).sum(1).cpu() / samples
    return found


def bits_per_dimension(nats: float, dimensions: int, likelihood: Density) -> float:
    """Nats per picture as the bits that one value of it costs.

    Gaussian: values in [0, 1] stand for 256 levels, so a density of 1 is 8 bits a value: 8 - nats / (D ln 2).
    Bernoulli: - nats / (D ln 2).
    """
    bits = -nats / (dimensions * math.log(2))
    return bits + math.log2(PIXEL_LEVELS) if likelihood == "gaussian" else bits


def _iterate_log_weights(
    network: Network,
    x: Tensor,
    likelihood: Density,
    samples: int,
    generator: torch.Generator,
    content_box: ContentBox | None,
    chunk: int,
) -> Iterator[tuple[slice, Tensor]]:
    """log p(x, z) - log q(z|x) of some pictures and some of their samples at a time: (g, s) float64."""
    together = max(1, chunk // samples)  # pictures, where all samples of several fit
    for rows, mu, log_variance in _iterate_posteriors(network, x, together):
        scored = _select_values(network, x[rows], likelihood, content_box)
        for count in _split_samples(samples, max(1, chunk // len(mu))):
            with torch.inference_mode():
                z, noise = _sample_posterior(mu, log_variance, count, generator)
                # log p(z) - log q(z|x); the constants cancel.
                ratio = 0.5 * (noise.square() + log_variance[:, None] - z.square()).sum(2).double()  # (g, s)
                log_weights = (_compute_log_likelihood(network, scored, z, likelihood, content_box) + ratio).cpu()
            yield rows, log_weights  # not inside: the mode would reach the caller


def _iterate_posteriors(network: Network, x: Tensor, batch_size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of the pictures with mu and log sigma², (g, d) each."""
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
    """`count` samples z of q(z|x) for each picture, and the noise they are made of: (g, s, d) each."""
    noise = torch.randn((len(mu), count, mu.shape[1]), generator=generator).to(mu.device)
    return mu[:, None] + noise * torch.exp(0.5 * log_variance)[:, None], noise


def _select_values(network: Network, x: Tensor, likelihood: Density, box: ContentBox | None) -> Tensor:
    """The values that count, (g, D), of pictures (g, C, S, S)."""
    if likelihood not in ("gaussian", "bernoulli"):
        raise BadSetting(f"likelihood can't be {likelihood!r} here: it is no density. Use gaussian or bernoulli.")
    return _crop_to_box(x.to(network.variance.device), box).flatten(1)


def _compute_log_likelihood(
    network: Network, x: Tensor, z: Tensor, likelihood: Density, box: ContentBox | None
) -> Tensor:
    """log p(x|z) of pictures (g, D) for samples (g, s, d), (g, s) float64."""
    with torch.inference_mode():
        logits = _crop_to_box(network.decode(z.flatten(0, 1)), box).reshape(*z.shape[:2], -1)  # (g, s, D)
        if likelihood == "bernoulli":
            # x·log p + (1 - x)·log(1 - p) = x·l - log(1 + e^l)
            shown = torch.bmm(logits, x[:, :, None])[:, :, 0]  # (g, s)
            return shown.double() - F.softplus(logits).sum(2).double()
        variance = network.variance.double().clamp_min(MIN_VARIANCE)
        squared_error = (torch.sigmoid(logits) - x[:, None]).square_().sum(2).double()
        return -0.5 * (squared_error / variance + x.shape[1] * torch.log(2 * math.pi * variance))


def _crop_to_box(images: Tensor, box: ContentBox | None) -> Tensor:
    if box is None:
        return images
    top, left, height, width = box
    return images[:, :, top : top + height, left : left + width]


def _split_samples(samples: int, max_size: int) -> Iterator[int]:
    """`samples` in parts of at most `most`."""
    return (min(max_size, samples - start) for start in range(0, samples, max_size))
