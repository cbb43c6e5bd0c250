"""ELBO and importance-weighted likelihood against a model whose log p(x) is known, and against integration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simile.core.errors import BadSetting
from simile.models.losses.likelihood import bits_per_dimension, elbo, importance_weighted_log_likelihood
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network

VARIANCE = 0.01
SIDE = 16


class Scripted(nn.Module):
    """An encoder or decoder that gives what a function says."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator,no-any-return]


def network_with(latent_dim: int, encode: object, decode: object) -> Network:
    network = Network(Architecture(image_size=SIDE, channels=1, latent_dim=latent_dim, width=4)).eval()
    network.encoder = Scripted(encode)  # type: ignore[assignment]
    network.decoder = Scripted(decode)
    network.variance.fill_(VARIANCE)
    return network


def placed(values: Tensor) -> Tensor:
    """(n, 4) values in the corner of (n, 1, S, S) images."""
    image = torch.zeros(len(values), 1, SIDE, SIDE)
    image[:, 0, :2, :2] = values.unflatten(1, (2, 2))
    return image


BOX = (0, 0, 2, 2)
WEIGHTS = 0.35 * torch.tensor([[0.3, -0.2], [0.1, 0.25], [-0.15, 0.2], [0.05, 0.3]])  # (D, d)
OFFSET = torch.tensor([0.5, 0.4, 0.6, 0.45])


def linear_gaussian(widened: float) -> Network:
    """x = Wz + b + noise, with its own posterior as encoder, its variance `widened` by a factor.

    The mean must pass through the sigmoid that decoders end with, so it is kept in (0, 1) by clamping far out.
    """
    precision = torch.eye(2) + WEIGHTS.T @ WEIGHTS / VARIANCE
    covariance = torch.linalg.inv(precision)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        values = x[:, 0, :2, :2].flatten(1)
        mu = (values - OFFSET) @ WEIGHTS @ covariance / VARIANCE
        return mu, torch.log(widened * covariance.diagonal()).expand(len(x), 2)

    def decode(z: Tensor) -> Tensor:
        return placed(torch.logit((z @ WEIGHTS.T + OFFSET).clamp(1e-6, 1 - 1e-6)))

    return network_with(2, encode, decode)


def exact(x: Tensor) -> Tensor:
    """log N(x; b, WWᵀ + variance·I)."""
    covariance = WEIGHTS @ WEIGHTS.T + VARIANCE * torch.eye(4)
    normal = torch.distributions.MultivariateNormal(OFFSET, covariance)
    return normal.log_prob(x[:, 0, :2, :2].flatten(1)).double()


IMAGES = placed(torch.tensor([[0.5, 0.4, 0.6, 0.5], [0.6, 0.45, 0.5, 0.5], [0.4, 0.45, 0.7, 0.55]]))


def gaussian(samples: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"likelihood": "gaussian", "samples": samples, "generator": generator, "content_box": BOX}


def estimate(network: Network, samples: int, chunk: int = 1024) -> Tensor:
    return importance_weighted_log_likelihood(network, IMAGES, **gaussian(samples), chunk=chunk)


def test_many_samples_give_the_exact_likelihood_of_a_linear_gaussian_model() -> None:
    found = estimate(linear_gaussian(widened=1.5), 20_000)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact(IMAGES), atol=0.02, rtol=0)


def test_memory_is_bounded_by_chunks_that_do_not_change_what_is_estimated() -> None:
    network, decoded = linear_gaussian(widened=1.5), []
    script = network.decoder.function  # type: ignore[union-attr]
    network.decoder.function = lambda z: decoded.append(len(z)) or script(z)  # type: ignore[union-attr]
    for chunk in (64, 700, 5000):
        decoded.clear()
        torch.testing.assert_close(estimate(network, 4000, chunk), exact(IMAGES), atol=0.05, rtol=0)
        assert max(decoded) <= chunk
        assert sum(decoded) == 3 * 4000
    decoded.clear()
    estimate(network, 10, chunk=1024)
    assert decoded == [30]  # all samples of all images at once


def test_more_samples_tighten_the_bound_and_one_sample_is_the_elbo() -> None:
    network, often = linear_gaussian(widened=2.5), IMAGES.repeat(4000, 1, 1, 1)
    means = []
    for samples in (1, 5, 50):
        found = importance_weighted_log_likelihood(network, often, **gaussian(samples))
        means.append(found.unflatten(0, (4000, 3)).mean(0))
    assert (means[0] < means[1]).all() and (means[1] < means[2]).all() and (means[2] < exact(IMAGES) + 0.02).all()
    bound = elbo(network, IMAGES, **gaussian(20_000, seed=1))
    torch.testing.assert_close(means[0], bound, atol=0.12, rtol=0)


def test_elbo_of_the_true_posterior_falls_short_by_its_distance_from_independence() -> None:
    """ELBO = log p(x) - KL(q || posterior), and both of those are Gaussians."""
    bound = elbo(linear_gaussian(widened=1.0), IMAGES, **gaussian(20_000, seed=1))
    precision = torch.eye(2) + WEIGHTS.T @ WEIGHTS / VARIANCE
    covariance = torch.linalg.inv(precision)
    q = torch.distributions.MultivariateNormal(torch.zeros(2), torch.diag(covariance.diagonal()))
    gap = torch.distributions.kl_divergence(q, torch.distributions.MultivariateNormal(torch.zeros(2), covariance))
    torch.testing.assert_close(bound, exact(IMAGES) - gap.double(), atol=0.03, rtol=0)


def test_bernoulli_likelihood_agrees_with_numerical_integration() -> None:
    slope, offset = torch.tensor([3.0, -2.0, 1.0, 4.0]), torch.tensor([0.5, 0.0, -1.0, 1.0])

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(x), 1), 0.3), torch.full((len(x), 1), -0.5)

    network = network_with(1, encode, lambda z: placed(z * slope + offset))
    x = placed(torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))
    found = importance_weighted_log_likelihood(
        network, x, likelihood="bernoulli", samples=50_000, generator=torch.Generator().manual_seed(0), content_box=BOX
    )
    z = np.linspace(-8, 8, 20_001)
    logits = z[:, None] * slope.numpy() + offset.numpy()
    for row, image in enumerate(x[:, 0, :2, :2].flatten(1).numpy()):
        log_p = (image * logits - np.logaddexp(0, logits)).sum(1) - 0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        assert found[row].item() == pytest.approx(math.log(np.trapezoid(np.exp(log_p), z)), abs=0.02)


def test_padding_outside_the_content_box_is_not_scored() -> None:
    network = linear_gaussian(widened=1.5)
    elsewhere = IMAGES.clone()
    elsewhere[:, :, 8:, 8:] = 1.0
    found = importance_weighted_log_likelihood(network, elsewhere, **gaussian(50))
    torch.testing.assert_close(found, estimate(network, 50))


def test_bits_per_dimension_count_256_levels_for_densities_only() -> None:
    assert bits_per_dimension(0.0, 100, "gaussian") == 8.0  # uniform in [0, 1]: every level is equally likely
    assert bits_per_dimension(-100 * math.log(2), 100, "bernoulli") == pytest.approx(1.0)  # a fair coin a pixel


def test_an_encoder_without_a_variance_has_no_likelihood() -> None:
    network = Network(Architecture(image_size=SIDE, channels=1, latent_dim=2, width=4, variational=False)).eval()
    with pytest.raises(BadSetting, match="no variance"):
        elbo(network, IMAGES, likelihood="gaussian", generator=torch.Generator())


def test_a_real_network_gives_one_finite_number_an_image() -> None:
    for kind in ("convolutional", "dense"):
        torch.manual_seed(0)
        network = Network(Architecture(image_size=SIDE, channels=1, latent_dim=3, width=8, kind=kind)).eval()
        found = importance_weighted_log_likelihood(
            network, torch.rand(5, 1, SIDE, SIDE), likelihood="gaussian", samples=7, generator=torch.Generator()
        )
        assert found.shape == (5,) and torch.isfinite(found).all() and not found.requires_grad
