"""The loss against formulas worked out by hand and by torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as reference_kl

from simile.models.losses.elbo import (
    MIN_VARIANCE,
    apply_free_bits,
    bernoulli_log_likelihood,
    count_active_units,
    gaussian_log_likelihood,
    kl_divergence,
    optimal_variance,
    reconstruction_log_likelihood,
)


def test_kl_agrees_with_torch_distributions() -> None:
    mu, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    expected = reference_kl(Normal(mu, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu, log_variance), expected)


def test_kl_of_the_prior_is_zero() -> None:
    assert kl_divergence(torch.zeros(2, 4), torch.zeros(2, 4)).tolist() == [0.0, 0.0]


def test_gaussian_log_likelihood_is_summed_over_values_in_nats() -> None:
    x, mean, variance = torch.rand(4, 1, 3, 3), torch.rand(4, 1, 3, 3), torch.tensor(0.3)
    expected = Normal(mean, variance.sqrt()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_log_likelihood(x, mean, variance), expected)


def test_bernoulli_log_likelihood_agrees_with_torch_distributions() -> None:
    x, logits = torch.randint(0, 2, (4, 1, 3, 3)).float(), torch.randn(4, 1, 3, 3)
    expected = Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_log_likelihood(x, logits), expected)


def test_no_other_variance_is_likelier_than_the_optimal_one() -> None:
    x, mean = torch.rand(8, 1, 4, 4), torch.rand(8, 1, 4, 4)
    best = optimal_variance(x, mean)
    likelihood = gaussian_log_likelihood(x, mean, best).mean()
    for factor in (0.8, 1.25):
        assert gaussian_log_likelihood(x, mean, best * factor).mean() < likelihood


def test_a_perfect_reconstruction_stays_finite() -> None:
    x = torch.rand(2, 1, 4, 4).clamp(0.1, 0.9)
    assert optimal_variance(x, x).item() == pytest.approx(MIN_VARIANCE)
    assert math.isfinite(reconstruction_log_likelihood(x, torch.logit(x), "gaussian").sum().item())


def test_active_units_are_the_dimensions_that_tell_images_apart() -> None:
    mu = torch.zeros(100, 4)
    mu[:, 1] = torch.linspace(-1, 1, 100)
    mu[:, 2] = 5.0  # far from zero but the same for all
    assert count_active_units(mu) == 1


def test_free_bits_charge_no_dimension_for_less_than_its_share() -> None:
    kl = torch.tensor([[0.0, 2.0, 0.1], [0.2, 4.0, 0.1]])  # means 0.1, 3, 0.1
    assert apply_free_bits(kl, 0.0).item() == pytest.approx(kl.sum(1).mean().item())
    assert apply_free_bits(kl, 0.5).item() == pytest.approx(0.5 + 3 + 0.5)


def test_plain_losses_are_sums_of_squared_and_absolute_differences() -> None:
    x, logits = torch.rand(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    difference = (x - torch.sigmoid(logits)).flatten(1)
    torch.testing.assert_close(reconstruction_log_likelihood(x, logits, "l2"), -difference.square().sum(1))
    torch.testing.assert_close(reconstruction_log_likelihood(x, logits, "l1"), -difference.abs().sum(1))
