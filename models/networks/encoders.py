"""Encoder networks: images to mu and log sigma²."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.models.networks.architecture import (
    EXTERNAL_KINDS,
    LOG_VARIANCE_RANGE,
    NETWORK_KINDS,
    SPATIAL_KINDS,
    Architecture,
)
from simile.models.networks.backbones import Backbone
from simile.models.networks.external import ExternalModel
from simile.models.networks.hog import HogFeatures


class ResidualBlock(nn.Module):
    """x + f(x) with two 3x3 convolutions (pre-activation: He et al., arXiv 1603.05027)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x, (n, width, h, w)."""
        residual: Tensor = self.body(x)
        return x + residual


def init_xavier(layer: nn.Linear) -> nn.Linear:
    """Set Glorot and Bengio's initial weights, which suit tanh, and return the layer."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PatchTrunk(nn.Module):
    """Images (n, C, S, S) to features (n, num_features): finds altered copies at a low cost.

    The first layer takes 4 x 4 pixels at once, because feature maps at half the image's size would take most of the
    time. Colour images get a fourth channel, the luma relative to the image's own mean and contrast, which changes of
    colour or contrast hardly affect. The output is the last feature map (positions matter) with its mean and maximum
    (positions do not matter).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.has_colour = architecture.channels == 3
        channels, *widths = architecture.widths[1:]
        layers: list[nn.Module] = [nn.Conv2d(architecture.channels + self.has_colour, channels, 4, 4, bias=False)]
        for width in widths:
            layers += [nn.BatchNorm2d(channels), nn.SiLU(), nn.Conv2d(channels, width, 3, 2, 1, bias=False)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.SiLU())
        self.num_features = channels * (architecture.bottleneck_side**2 + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (n, num_features)."""
        inputs = torch.cat([x, _compute_relative_luma(x)], 1) if self.has_colour else x
        hidden = self.layers(inputs)  # (n, width, side, side)
        return torch.cat([hidden.flatten(1), hidden.mean((2, 3)), hidden.amax((2, 3))], 1)


def _compute_relative_luma(x: Tensor) -> Tensor:
    """Return ITU-R 601 luma (n, 1, S, S) of colours (n, 3, S, S), with the same mean and deviation in every image."""
    luma = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    centred = luma - luma.mean((2, 3), keepdim=True)
    deviation = (centred.square().mean((2, 3), keepdim=True) + 1e-3).sqrt()  # 1e-3: flat images stay flat
    return 0.5 + 0.3 * centred / deviation


class Encoder(nn.Module):
    """Images (n, C, S, S) in [0, 1] to mu (n, d) and log sigma² (n, d), or None without a variance."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.trunk, features = _build_trunk(architecture)  # to (n, width, side, side), or (n, width)
        outputs = architecture.latent_dim * (2 if architecture.variational else 1)
        # The head maps features to mu, and to log sigma² after it.
        self.head: nn.Module
        if architecture.bottleneck == "convolutional":
            cells = architecture.bottleneck_side**2
            self.head = nn.Sequential(nn.Conv2d(features // cells, outputs // cells, 1), nn.Flatten())
        elif features == outputs and architecture.kind not in NETWORK_KINDS:
            self.head = nn.Flatten()  # the backbone's own penultimate layer is the embedding
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))
        # Optional second inputs of the head: HOG features, and the pixels themselves.
        if architecture.edges:
            self.edges = HogFeatures(architecture.image_size)
            self.edge_head = nn.Linear(self.edges.num_features, outputs)
        self.has_edges, self.has_linear = architecture.edges, architecture.linear
        if architecture.linear:
            self.linear = nn.Linear(architecture.value_count, architecture.latent_dim)
        self.variational = architecture.variational
        self.content_dim = architecture.sphere
        padded = architecture.bottleneck_side << len(architecture.widths)
        self.padding = padded - architecture.image_size if architecture.kind in (*SPATIAL_KINDS, "patches") else 0
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mu and log sigma², in float32."""
        x = x.contiguous(memory_format=torch.channels_last)
        padded = F.pad(x, (0, self.padding, 0, self.padding), mode="replicate") if self.padding else x
        outputs = self.head(self.trunk(padded)).float()  # (n, d) or (n, 2·d)
        if self.has_edges:
            outputs = outputs + self.edge_head(self.edges(x)).float()
        mu, log_variance = outputs.chunk(2, dim=1) if self.variational else (outputs, None)  # (n, d) each
        if self.has_linear:
            mu = mu + self.linear(x.flatten(1)).float()
        if self.content_dim:
            on_sphere = F.normalize(mu[:, : self.content_dim], dim=1) * self.content_dim**0.5
            mu = torch.cat([on_sphere, mu[:, self.content_dim :]], 1)
        return mu, None if log_variance is None else log_variance.clamp(*LOG_VARIANCE_RANGE)


def _build_trunk(architecture: Architecture) -> tuple[nn.Module, int]:
    """Return the layers before the head, and the number of features that they give for an image."""
    if architecture.kind == "dense":  # two hidden layers of tanh units: arXiv 1509.00519, section 5
        sizes = [(architecture.value_count, architecture.width), (architecture.width, architecture.width)]
        first, second = (nn.Linear(*size) for size in sizes)
        dense = nn.Sequential(nn.Flatten(), init_xavier(first), nn.Tanh(), init_xavier(second), nn.Tanh())
        return dense, architecture.width
    if architecture.kind in EXTERNAL_KINDS:
        return ExternalModel(architecture.kind, architecture.entry, architecture.content_size), architecture.latent_dim
    if architecture.kind not in NETWORK_KINDS:
        backbone = Backbone(architecture.kind, architecture.channels, architecture.image_size)
        return backbone, backbone.num_features
    if architecture.kind == "patches":
        patches = PatchTrunk(architecture)
        return patches, patches.num_features
    layers: list[nn.Module] = []
    channels = architecture.channels
    for width in architecture.widths:
        # No bias before a batch norm, which subtracts it again.
        layers += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        layers += [ResidualBlock(width)] if architecture.kind == "residual" else []
        channels = width
    return nn.Sequential(*layers), channels * architecture.bottleneck_side**2
