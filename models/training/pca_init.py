"""Initialise the linear path of a network with probabilistic PCA (Tipping & Bishop 1999)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from simile.models.networks.vae import Network
from simile.models.networks.linear_path import LinearPathDecoder

INITIAL_WEIGHT_SCALE = 0.1  # of their first size: the weights by which everything but the path adds to the result
MIN_MEAN_BRIGHTNESS = 0.1  # and 1 less it, the brightest: of the mean picture, where a sigmoid is still steep
MIN_POSTERIOR_VARIANCE = 1e-4  # of a component's variance that its posterior keeps
SKETCH_OVERSAMPLING = 8  # make the last ones of a random sketch exact


@torch.no_grad()
def fit_linear_path(network: Network, sample: Tensor, variance: float | None) -> None:
    """Starts the path of a network as probabilistic PCA of pictures (m, C, S, S) in [0, 1].

    variance: of the Gaussian p(x|z), or None for the likeliest, the mean of the variances that are left out. Dimensions
    beyond the pictures, or whose variance is below it, start at 0.
    """
    x = sample.flatten(1)
    mean = x.mean(0)
    count = min(network.architecture.latent_dim, len(x) - 1, x.shape[1])
    _, singular, directions = torch.pca_lowrank(
        x - mean, min(count + SKETCH_OVERSAMPLING, *x.shape), center=False, niter=4
    )
    spread, directions = singular[:count].square() / len(x), directions[:, :count]  # (k,), (pixels, k)
    if variance is None:
        left = (x - mean).square().sum() / len(x) - spread.sum()
        variance = float(left / max(1, x.shape[1] - count))
    kept = (1 - variance / spread.clamp_min(1e-12)).clamp_min(0)  # of a component's variance, by z
    _initialise_encoder(network, directions * (kept / spread.clamp_min(1e-12)).sqrt(), mean, variance / spread)
    _initialise_decoder(network, directions * (kept * spread).sqrt(), mean)


def _initialise_encoder(network: Network, weights: Tensor, mean: Tensor, posterior: Tensor) -> None:
    """mu = weights' (x - mean); posterior (k,): sigma² of each component."""
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
    """Logits whose sigmoid is near mean + weights z, by the sigmoid's slope at the mean picture."""
    if not isinstance(network.decoder, LinearPathDecoder):
        return
    middle = mean.clamp(MIN_MEAN_BRIGHTNESS, 1 - MIN_MEAN_BRIGHTNESS)
    path = network.decoder.linear
    path.weight.zero_()
    path.weight[:, : weights.shape[1]] = weights / (middle * (1 - middle))[:, None]
    path.bias.copy_(torch.logit(middle))
    last = [part for part in network.decoder.decoder.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1]
    last.weight.mul_(INITIAL_WEIGHT_SCALE)
    if last.bias is not None:
        last.bias.zero_()
