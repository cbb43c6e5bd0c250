"""Networks: an encoder from pictures to mu and log sigma², and a decoder from z back to pictures.

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

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import BadSetting, CheckpointDamaged, NoDecoder
from models.backbones import Backbone, backbone_names
from models.edges import Edges
from models.linear_path import WithLinearPath

LOG_VARIANCE_RANGE = (-12.0, 8.0)  # exp() of it stays far from float32's and bfloat16's limits
KINDS = ("convolutional", "patches", "residual", "dense")
SPATIAL = ("convolutional", "residual")  # whose trunk ends in a map
USUAL_WIDTHS = {"dense": 200}  # 200 as in arXiv 1509.00519


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the weights.

    `width`: channels after the first halving, or units of a dense layer. `bottleneck`: dense, or convolutional (the
    latent is a small feature map, flattened). `classes`: size of the classifier on top of mu, 0 for none. `edges`: the
    encoder's head sees oriented gradients too. `sphere`: so many of mu's first numbers are scaled to the length that
    the prior's have, √sphere. `full_resolution`: the decoder has feature maps of the picture's size;
    without them it takes half the time. `linear`: a linear path beside both networks (models/linear_path.py).
    """

    image_size: int
    channels: int
    latent_dim: int
    width: int = 32
    kind: str = "convolutional"
    bottleneck: str = "dense"
    variational: bool = True
    decoder: bool = True
    classes: int = 0
    edges: bool = False
    full_resolution: bool = True
    sphere: int = 0
    linear: bool = False

    @property
    def pixels(self) -> int:
        """Values of a picture."""
        return self.channels * self.image_size**2

    @property
    def widths(self) -> list[int]:
        """Channels after each halving, down to a side of 4 to 7."""
        halvings = (self.image_size // 4).bit_length() - 1
        return [self.width * min(1 << level, 8) for level in range(halvings)]

    @property
    def inner_side(self) -> int:
        """Side of the smallest feature map; inputs are padded to inner_side · 2^halvings inside the network."""
        return -(-self.image_size // (1 << len(self.widths)))

    @property
    def inner_channels(self) -> int:
        """Channels of a convolutional bottleneck."""
        return self.latent_dim // self.inner_side**2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """The inverse of `to_dict`. Raises CheckpointDamaged for values that this version does not know."""
        if values.get("kind") == "convolutional-vae":  # what the first version wrote
            values = {**values, "kind": "convolutional"}
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
        if self.kind not in KINDS and self.kind not in backbone_names():
            raise BadSetting(
                f"architecture can't be {self.kind!r}. Use {', '.join(KINDS)}, or a classifier of torchvision "
                "such as resnet18."
            )
        limits = {"image_size": (16, 256), "channels": (1, 3), "latent_dim": (1, 65536), "width": (4, 4096)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise BadSetting(f"{name} can't be {value!r}. Use {low} to {high}.")
        self._check_bottleneck()
        if self.linear and (self.kind not in KINDS or self.bottleneck != "dense"):
            raise BadSetting(
                f"linear can't be true with architecture {self.kind} and bottleneck {self.bottleneck}. Use one of "
                f"{', '.join(KINDS)} with a dense bottleneck."
            )

    def _check_bottleneck(self) -> None:
        if self.bottleneck == "dense":
            return
        if self.bottleneck != "convolutional" or self.kind not in SPATIAL:
            raise BadSetting(
                f"bottleneck can't be {self.bottleneck!r} with architecture {self.kind}. Use dense, or convolutional "
                f"with one of {', '.join(SPATIAL)}."
            )
        cells = self.inner_side**2
        if self.latent_dim % cells:
            raise BadSetting(
                f"latent_dim can't be {self.latent_dim} with a convolutional bottleneck of {self.inner_side} x "
                f"{self.inner_side} cells. Use a multiple of {cells}."
            )


class ResidualBlock(nn.Module):
    """x + f(x), two 3x3 convolutions (pre-activation: He et al., arXiv 1603.05027)."""

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
        change: Tensor = self.body(x)
        return x + change


class PatchTrunk(nn.Module):
    """(n, C, S, S) to (n, features): made for finding altered copies in little time.

    4 x 4 pixels at once, as maps at half the picture's size would take most of the time. Colours come with the
    lightness as it is relative to the picture's own, which no change of colour or contrast touches much. The last map
    is given whole, for where things are, and as its mean and maximum, for what there is wherever it is.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.colour = architecture.channels == 3
        first, *widths = architecture.widths[1:]
        layers: list[nn.Module] = [nn.Conv2d(architecture.channels + self.colour, first, 4, 4, bias=False)]
        for width in widths:
            layers += [nn.BatchNorm2d(first), nn.SiLU(), nn.Conv2d(first, width, 3, 2, 1, bias=False)]
            first = width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(first), nn.SiLU())
        self.features = first * (architecture.inner_side**2 + 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layers(torch.cat([x, _lightness(x)], 1) if self.colour else x)  # (n, width, side, side)
        return torch.cat([hidden.flatten(1), hidden.mean((2, 3)), hidden.amax((2, 3))], 1)


def _lightness(x: Tensor) -> Tensor:
    """(n, 1, S, S) of colours (n, 3, S, S): ITU-R 601, brought to one mean and deviation in every picture."""
    light = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    centred = light - light.mean((2, 3), keepdim=True)
    deviation = (centred.square().mean((2, 3), keepdim=True) + 1e-3).sqrt()  # flat pictures stay flat
    return 0.5 + 0.3 * centred / deviation


class Encoder(nn.Module):
    """(n, C, S, S) in [0, 1] to mu (n, d) and log sigma² (n, d), or None without a variance."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.trunk, features = _trunk(architecture)  # to (n, width, side, side), or (n, width)
        outputs = architecture.latent_dim * (2 if architecture.variational else 1)
        self.head: nn.Module
        if architecture.bottleneck == "convolutional":
            cells = architecture.inner_side**2
            self.head = nn.Sequential(nn.Conv2d(features // cells, outputs // cells, 1), nn.Flatten())
        elif features == outputs and architecture.kind not in KINDS:
            self.head = nn.Flatten()  # a backbone's own penultimate layer is the embedding
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))
        if architecture.edges:
            self.edges = Edges(architecture.image_size)
            self.edge_head = nn.Linear(self.edges.features, outputs)
        self.has_edges, self.has_linear = architecture.edges, architecture.linear
        if architecture.linear:
            self.linear = nn.Linear(architecture.pixels, architecture.latent_dim)
        self.variational = architecture.variational
        self.sphere = architecture.sphere
        padded = architecture.inner_side << len(architecture.widths)
        self.padding = padded - architecture.image_size if architecture.kind in (*SPATIAL, "patches") else 0
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = x.contiguous(memory_format=torch.channels_last)
        padded = F.pad(x, (0, self.padding, 0, self.padding), mode="replicate") if self.padding else x
        outputs = self.head(self.trunk(padded)).float()  # (n, d) or (n, 2·d)
        if self.has_edges:
            outputs = outputs + self.edge_head(self.edges(x)).float()
        mu, log_variance = outputs.chunk(2, dim=1) if self.variational else (outputs, None)  # (n, d) each
        if self.has_linear:
            mu = mu + self.linear(x.flatten(1)).float()
        if self.sphere:
            on_sphere = F.normalize(mu[:, : self.sphere], dim=1) * self.sphere**0.5
            mu = torch.cat([on_sphere, mu[:, self.sphere :]], 1)
        return mu, None if log_variance is None else log_variance.clamp(*LOG_VARIANCE_RANGE)


def _trunk(architecture: Architecture) -> tuple[nn.Module, int]:
    """Everything before the head, and how many numbers it gives."""
    if architecture.kind == "dense":
        return _dense_trunk(architecture), architecture.width
    if architecture.kind not in KINDS:
        backbone = Backbone(architecture.kind, architecture.channels, architecture.image_size)
        return backbone, backbone.features
    if architecture.kind == "patches":
        patches = PatchTrunk(architecture)
        return patches, patches.features
    layers: list[nn.Module] = []
    channels = architecture.channels
    for width in architecture.widths:
        # No bias before a batch norm, which subtracts it again.
        layers += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        layers += [ResidualBlock(width)] if architecture.kind == "residual" else []
        channels = width
    return nn.Sequential(*layers), channels * architecture.inner_side**2


def _dense_trunk(architecture: Architecture) -> nn.Sequential:
    """Two hidden layers of tanh units: the network of arXiv 1509.00519, section 5."""
    first, second = (
        nn.Linear(architecture.pixels, architecture.width),
        nn.Linear(architecture.width, architecture.width),
    )
    return nn.Sequential(nn.Flatten(), _xavier(first), nn.Tanh(), _xavier(second), nn.Tanh())


def _xavier(layer: nn.Linear) -> nn.Linear:
    """Glorot and Bengio's initial weights, made for tanh."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ConvDecoder(nn.Module):
    """(n, d) to logits (n, C, S, S); their sigmoid is the mean picture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        widths, side = architecture.widths, architecture.inner_side
        self.image_size = architecture.image_size
        self.root: nn.Module
        if architecture.bottleneck == "convolutional":
            shape = (architecture.inner_channels, side, side)
            self.root = nn.Sequential(nn.Unflatten(1, shape), nn.Conv2d(architecture.inner_channels, widths[-1], 1))
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
        width, pixels = architecture.width, architecture.pixels
        first, second, last = (
            nn.Linear(architecture.latent_dim, width),
            nn.Linear(width, width),
            nn.Linear(width, pixels),
        )
        self.layers = nn.Sequential(_xavier(first), nn.Tanh(), _xavier(second), nn.Tanh(), _xavier(last))
        self.shape = nn.Unflatten(1, shape)

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.shape(self.layers(z))
        return logits.float()


class Network(nn.Module):
    """Encoder, decoder and the variance of the Gaussian p(x|z), a running estimate that training keeps.

    Without a decoder `decode` raises NoDecoder. With classes, `classifier` maps mu to logits (n, classes): mu is then
    the penultimate layer.
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
                self.decoder = WithLinearPath(self.decoder, architecture.latent_dim, architecture.pixels)
        if architecture.classes:
            self.classifier = nn.Linear(architecture.latent_dim, architecture.classes)
        self.register_buffer("variance", torch.tensor(0.1))  # of pixels in [0, 1], before anything is known

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """mu and log sigma² (or None), each (n, d), of pictures (n, C, S, S)."""
        mu, log_variance = self.encoder(x)
        return mu, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Logits (n, C, S, S) of the mean picture for z (n, d). Raises NoDecoder."""
        if self.decoder is None:
            raise NoDecoder(
                "This encoder has no decoder: it can search, but not show what it saw. "
                "Train one over it with `simile train PHOTOS --decoder-only ENCODER`."
            )
        logits: Tensor = self.decoder(z)
        return logits


def adapt_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under today's names: the first version's head was a bare linear layer."""
    renamed = {"encoder.head.weight": "encoder.head.1.weight", "encoder.head.bias": "encoder.head.1.bias"}
    return {renamed.get(name, name): tensor for name, tensor in weights.items()}


def reparametrise(mu: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = mu + sigma·eps, (n, d). The noise is drawn on the CPU, so that a seed means the same on every device."""
    noise = torch.randn(mu.shape, generator=generator).to(mu.device)
    return mu + noise * torch.exp(0.5 * log_variance)
