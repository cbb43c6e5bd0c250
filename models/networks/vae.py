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

import torch
from torch import Tensor, nn

from simile.core.errors import NoDecoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.decoders import ConvDecoder, DenseDecoder, LinearPathDecoder
from simile.models.networks.encoders import Encoder


class Network(nn.Module):
    """Encoder, decoder, and the variance of the Gaussian p(x|z), a running estimate that training updates.

    With classes, `classifier` maps mu to logits (n, classes): mu is then the penultimate layer.
    """

    variance: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        architecture.check()
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        self.decoder: nn.Module | None = None
        if architecture.decoder:
            self.decoder = DenseDecoder(architecture) if architecture.kind == "dense" else ConvDecoder(architecture)
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
        return logits


def rename_legacy_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under their current names: in the first version the head was a bare linear layer."""
    renamed = {"encoder.head.weight": "encoder.head.1.weight", "encoder.head.bias": "encoder.head.1.bias"}
    return {renamed.get(name, name): tensor for name, tensor in weights.items()}


def reparametrise(mu: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Return z = mu + sigma·eps, (n, d). The noise comes from the CPU: a seed gives the same noise on every device."""
    noise = torch.randn(mu.shape, generator=generator).to(mu.device)
    return mu + noise * torch.exp(0.5 * log_variance)
