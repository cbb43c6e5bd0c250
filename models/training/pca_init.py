"""Initialise the linear path of a network with probabilistic PCA.

Tipping & Bishop, "Probabilistic Principal Component Analysis" (1999), gives the closed form.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from simile.models.networks.decoders import LinearPathDecoder
from simile.models.networks.vae import Network

INITIAL_WEIGHT_SCALE = 0.1  # factor for the weights of the other layers, so that the linear path dominates at first
MIN_MEAN_BRIGHTNESS = 0.1  # the mean image is clamped to [0.1, 0.9], where a sigmoid is still steep
MIN_POSTERIOR_VARIANCE = 1e-4
SKETCH_OVERSAMPLING = 8  # extra components of the random sketch, which make the last ones exact


@torch.no_grad()
def fit_linear_path(network: Network, sample: Tensor, variance: float | None) -> None:
    """Set the linear path of a network to probabilistic PCA of a sample.

    Args:
        sample: Images (m, C, S, S) in [0, 1]. Dimensions beyond their number start at 0.
        variance: Of the Gaussian p(x|z); None for the maximum-likelihood one, the mean variance of the components
            that are left out. Components with a smaller variance start at 0.
    """
    x = sample.flatten(1)
    mean = x.mean(0)
    count = min(network.architecture.latent_dim, len(x) - 1, x.shape[1])
    rank = min(count + SKETCH_OVERSAMPLING, *x.shape)
    _, singular_values, directions = torch.pca_lowrank(x - mean, rank, center=False, niter=4)
    component_variance, directions = singular_values[:count].square() / len(x), directions[:, :count]  # (k,), (D, k)
    if variance is None:
        residual = (x - mean).square().sum() / len(x) - component_variance.sum()
        variance = float(residual / max(1, x.shape[1] - count))
    # Share of each component's variance that z explains.
    explained = (1 - variance / component_variance.clamp_min(1e-12)).clamp_min(0)
    weights = directions * (explained / component_variance.clamp_min(1e-12)).sqrt()
    _initialise_encoder(network, weights, mean, variance / component_variance)
    _initialise_decoder(network, directions * (explained * component_variance).sqrt(), mean)


def _initialise_encoder(network: Network, weights: Tensor, mean: Tensor, posterior: Tensor) -> None:
    """Set mu = weights' (x - mean), with sigma² of each component from `posterior` (k,)."""
    encoder, count = network.encoder, weights.shape[1]
    encoder.linear.weight.zero_()
    encoder.linear.weight[:count] = weights.T
    encoder.linear.bias.copy_(-encoder.linear.weight @ mean)
    head = cast(nn.Linear, cast(nn.Sequential, encoder.head)[-1])
    head.weight.mul_(INITIAL_WEIGHT_SCALE)
    head.bias.zero_()
    if encoder.variational:
        dims = network.architecture.latent_dim
        head.bias[dims : dims + count] = posterior.clamp(MIN_POSTERIOR_VARIANCE, 1).log()


def _initialise_decoder(network: Network, weights: Tensor, mean: Tensor) -> None:
    """Set logits so that their sigmoid is near mean + weights z, with the sigmoid's slope at the mean image."""
    if not isinstance(network.decoder, LinearPathDecoder):
        return
    clamped = mean.clamp(MIN_MEAN_BRIGHTNESS, 1 - MIN_MEAN_BRIGHTNESS)
    linear = network.decoder.linear
    linear.weight.zero_()
    linear.weight[:, : weights.shape[1]] = weights / (clamped * (1 - clamped))[:, None]
    linear.bias.copy_(torch.logit(clamped))
    last = [layer for layer in network.decoder.decoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-1]
    last.weight.mul_(INITIAL_WEIGHT_SCALE)
    if last.bias is not None:
        last.bias.zero_()
