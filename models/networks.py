"""The convolutional variational autoencoder.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114): encoder(x) = (mu(x), log sigma²(x)),
z = mu + sigma·eps, decoder(z) = the mean of p(x|z).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import BadSetting, CheckpointDamaged

LOG_VARIANCE_RANGE = (-12.0, 8.0)  # exp() of it stays far from float32's and bfloat16's limits


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the weights."""

    image_size: int
    channels: int
    latent_dim: int
    width: int = 32
    kind: str = "convolutional-vae"

    @property
    def widths(self) -> list[int]:
        """Channels after each halving, down to a side of 4 to 7."""
        halvings = (self.image_size // 4).bit_length() - 1
        return [self.width * min(1 << level, 8) for level in range(halvings)]

    @property
    def inner_side(self) -> int:
        """Side of the smallest feature map; inputs are padded to inner_side · 2^halvings inside the network."""
        return -(-self.image_size // (1 << len(self.widths)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """The inverse of `to_dict`. Raises CheckpointDamaged for values that this version does not know."""
        try:
            architecture = cls(**values)
            architecture.check()
        except (TypeError, BadSetting) as error:
            raise CheckpointDamaged(
                f"encoder.json has architecture {values!r}, which can't be built: {error}"
            ) from None
        return architecture

    def check(self) -> None:
        """Raises BadSetting naming the first value that can't be built."""
        if self.kind != "convolutional-vae":
            raise BadSetting(f"architecture {self.kind!r} is not known. This version builds convolutional-vae.")
        limits = {"image_size": (16, 256), "channels": (1, 3), "latent_dim": (1, 4096), "width": (4, 512)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise BadSetting(f"{name} can't be {value!r}. Use {low} to {high}.")


class ConvEncoder(nn.Module):
    """(n, C, S, S) in [0, 1] to mu and log sigma², each (n, d)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = architecture.channels
        for width in architecture.widths:
            # No bias before a batch norm, which subtracts it again.
            layers += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(channels * architecture.inner_side**2, 2 * architecture.latent_dim)
        self.padding = (architecture.inner_side << len(architecture.widths)) - architecture.image_size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.padding:
            x = F.pad(x, (0, self.padding, 0, self.padding), mode="replicate")
        hidden = self.trunk(x).flatten(1)  # (n, width·side²)
        mu, log_variance = self.head(hidden).float().chunk(2, dim=1)  # (n, d) each
        return mu, log_variance.clamp(*LOG_VARIANCE_RANGE)


class ConvDecoder(nn.Module):
    """(n, d) to logits (n, C, S, S); their sigmoid is the mean picture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        widths, side = architecture.widths, architecture.inner_side
        self.image_size = architecture.image_size
        self.root = nn.Sequential(
            nn.Linear(architecture.latent_dim, widths[-1] * side**2), nn.Unflatten(1, (widths[-1], side, side))
        )
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.SiLU()]
        for width, narrower in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
            layers += [nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower), nn.SiLU()]
        layers += [nn.Conv2d(widths[0], architecture.channels, 3, padding=1)]
        self.trunk = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.root(z).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.trunk(hidden)[:, :, : self.image_size, : self.image_size]
        return logits.float()


class VAE(nn.Module):
    """Encoder, decoder and the variance of the Gaussian p(x|z), a running estimate that training keeps."""

    variance: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        architecture.check()
        self.architecture = architecture
        self.encoder = ConvEncoder(architecture)
        self.decoder = ConvDecoder(architecture)
        self.register_buffer("variance", torch.tensor(0.1))  # of pixels in [0, 1], before anything is known
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma², each (n, d), of pictures (n, C, S, S)."""
        mu, log_variance = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return mu, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Logits (n, C, S, S) of the mean picture for z (n, d)."""
        logits: Tensor = self.decoder(z)
        return logits


def reparametrise(mu: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = mu + sigma·eps, (n, d). The noise is drawn on the CPU, so that a seed means the same on every device."""
    noise = torch.randn(mu.shape, generator=generator).to(mu.device)
    return mu + noise * torch.exp(0.5 * log_variance)
