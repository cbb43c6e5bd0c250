"""Decoder networks: latent vectors to image logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simile.models.networks.architecture import Architecture
from simile.models.networks.blocks import ResidualBlock, _init_xavier


class ConvDecoder(nn.Module):
    """(n, d) to logits (n, C, S, S); their sigmoid is the mean picture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        widths, side = architecture.widths, architecture.bottleneck_side
        self.image_size = architecture.image_size
        self.root: nn.Module
        if architecture.bottleneck == "convolutional":
            shape = (architecture.bottleneck_channels, side, side)
            self.root = nn.Sequential(
                nn.Unflatten(1, shape), nn.Conv2d(architecture.bottleneck_channels, widths[-1], 1)
            )
        else:
            self.root = nn.Sequential(
                nn.Linear(architecture.latent_dim, widths[-1] * side**2), nn.Unflatten(1, (widths[-1], side, side))
            )
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.SiLU()]
        for width, narrower in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
            layers += [ResidualBlock(width)] if architecture.kind == "residual" else []
            layers += [nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower), nn.SiLU()]
        if architecture.full_resolution:
            layers += [nn.Conv2d(widths[0], architecture.channels, 3, padding=1)]
        else:  # four values in each place of the map before make the last doubling (Shi et al., arXiv 1609.05158)
            layers = layers[:-3]
            layers += [nn.Conv2d(widths[0], 4 * architecture.channels, 3, padding=1), nn.PixelShuffle(2)]
        self.trunk = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.root(z).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.trunk(hidden)[:, :, : self.image_size, : self.image_size]
        return logits.float()


class DenseDecoder(nn.Module):
    """(n, d) to logits (n, C, S, S) through two hidden layers of tanh units."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape = (architecture.channels, architecture.image_size, architecture.image_size)
        width, pixels = architecture.width, architecture.value_count
        first, second, last = (
            nn.Linear(architecture.latent_dim, width),
            nn.Linear(width, width),
            nn.Linear(width, pixels),
        )
        self.layers = nn.Sequential(_init_xavier(first), nn.Tanh(), _init_xavier(second), nn.Tanh(), _init_xavier(last))
        self.shape = nn.Unflatten(1, shape)

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.shape(self.layers(z))
        return logits.float()
