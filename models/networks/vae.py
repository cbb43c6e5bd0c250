"""The network: an encoder from images to mu and log sigma², and a decoder from z back to images.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114): encoder(x) = (mu(x), log sigma²(x)),
z = mu + sigma·eps, decoder(z) = the mean of p(x|z). An encoder without a variance gives mu alone.

    kind            encoder                                            decoder
    convolutional   stride-2 convolutions                              transposed convolutions
    patches         4 x 4 pixels at once, then stride-2 convolutions   transposed convolutions
    residual        stride-2 convolutions, residual blocks between     the same, mirrored
    dense           layers of tanh units on all pixels                 the same, mirrored
    a backbone      torchvision's network up to its penultimate layer  transposed convolutions
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.core.errors import NoDecoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.encoders import Encoder, ResidualBlock, init_xavier


class ConvDecoder(nn.Module):
    """Transposed convolutions from z (n, d) to logits (n, C, S, S); their sigmoid is the mean image."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        widths, side = architecture.widths, architecture.bottleneck_side
        self.image_size = architecture.image_size
        # z to the smallest feature map (n, widths[-1], side, side).
        self.root: nn.Module
        if architecture.bottleneck == "convolutional":
            channels = architecture.bottleneck_channels
            self.root = nn.Sequential(nn.Unflatten(1, (channels, side, side)), nn.Conv2d(channels, widths[-1], 1))
        else:
            self.root = nn.Sequential(
                nn.Linear(architecture.latent_dim, widths[-1] * side**2), nn.Unflatten(1, (widths[-1], side, side))
            )
        # Each step doubles the side.
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.SiLU()]
        for width, narrower in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
            layers += [ResidualBlock(width)] if architecture.kind == "residual" else []
            layers += [nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower), nn.SiLU()]
        if architecture.full_resolution:
            layers += [nn.Conv2d(widths[0], architecture.channels, 3, padding=1)]
        else:  # pixel shuffle does the last doubling: four values at each position (Shi et al., arXiv 1609.05158)
            layers = layers[:-3]
            layers += [nn.Conv2d(widths[0], 4 * architecture.channels, 3, padding=1), nn.PixelShuffle(2)]
        self.trunk = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, C, S, S) in float32 for z (n, d)."""
        hidden = self.root(z).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.trunk(hidden)[:, :, : self.image_size, : self.image_size]
        return logits.float()


class DenseDecoder(nn.Module):
    """Two hidden layers of tanh units from z (n, d) to logits (n, C, S, S)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        sizes = [(architecture.latent_dim, width), (width, width), (width, architecture.value_count)]
        first, second, last = (nn.Linear(*size) for size in sizes)
        self.layers = nn.Sequential(init_xavier(first), nn.Tanh(), init_xavier(second), nn.Tanh(), init_xavier(last))
        self.shape = nn.Unflatten(1, (architecture.channels, architecture.image_size, architecture.image_size))

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, C, S, S) in float32 for z (n, d)."""
        logits: Tensor = self.shape(self.layers(z))
        return logits.float()


class LinearPathDecoder(nn.Module):
    """A decoder plus a linear map of z: logits (n, C, S, S) are the sum of both.

    With a linear path in encoder and decoder a network starts as principal components (models/training/setup.py),
    so it is not worse than PCA from its first step on, and then learns what PCA leaves over. The optimum of a linear
    VAE is probabilistic PCA (Lucas et al., arXiv 1911.02469).
    """

    def __init__(self, decoder: nn.Module, latent_dim: int, value_count: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.linear = nn.Linear(latent_dim, value_count)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, C, S, S) for z (n, d)."""
        logits: Tensor = self.decoder(z)
        linear: Tensor = self.linear(z).float()
        return logits + linear.view_as(logits)


class Network(nn.Module):
    """Encoder, decoder, and the variance of the Gaussian p(x|z), a running estimate that training updates.

    With classes, `classifier` maps mu to logits (n, classes): mu is then the penultimate layer.
    """

    variance: Tensor

    def __init__(self, architecture: Architecture, *, has_encoder: bool = True) -> None:
        """Make the network with new weights; without an encoder only the decoder can be used and trained."""
        super().__init__()
        architecture.check()
        self.architecture = architecture
        self.encoder = Encoder(architecture) if has_encoder else cast(Encoder, nn.Identity())
        self.decoder: nn.Module | None = None
        if architecture.decoder:
            decoded = replace(architecture, image_size=architecture.decoder_size or architecture.image_size)
            self.decoder = DenseDecoder(decoded) if architecture.kind == "dense" else ConvDecoder(decoded)
            if architecture.linear:
                self.decoder = LinearPathDecoder(self.decoder, architecture.latent_dim, architecture.value_count)
        if architecture.classes:
            self.classifier = nn.Linear(architecture.latent_dim, architecture.classes)
        self.register_buffer("variance", torch.tensor(0.1))  # of values in [0, 1]: a first guess

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mu and log sigma² (or None), each (n, d), of images (n, C, S, S)."""
        mu, log_variance = self.encoder(x)
        return mu, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Return logits (n, C, S, S) of the mean image for z (n, d). Raises NoDecoder."""
        if self.decoder is None:
            raise NoDecoder(
                "This encoder has no decoder: it can search, but it can't show reconstructions. "
                "Train a decoder for it with `simile train PHOTOS --decoder-only ENCODER`."
            )
        logits: Tensor = self.decoder(z)
        if self.architecture.decoder_size:
            logits = F.interpolate(logits, (self.architecture.image_size,) * 2, mode="bilinear")
        return logits

    def get_latent_layers(self) -> list[nn.Linear]:
        """Return the layers of the decoder that receive z; none if a convolution does."""
        decoder = self.decoder
        layers: list[nn.Linear] = []
        if isinstance(decoder, LinearPathDecoder):
            layers.append(decoder.linear)
            decoder = decoder.decoder
        body = getattr(decoder, "layers" if isinstance(decoder, DenseDecoder) else "root")
        return [*layers, *(layer for layer in list(body)[:1] if isinstance(layer, nn.Linear))]


def rename_legacy_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under their current names: in the first version the head was a bare linear layer."""
    renamed = {"encoder.head.weight": "encoder.head.1.weight", "encoder.head.bias": "encoder.head.1.bias"}
    return {renamed.get(name, name): tensor for name, tensor in weights.items()}


def reparametrise(mu: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Return z = mu + sigma·eps, (n, d). The noise comes from the CPU: a seed gives the same noise on every device."""
    noise = torch.randn(mu.shape, generator=generator).to(mu.device)
    return mu + noise * torch.exp(0.5 * log_variance)
