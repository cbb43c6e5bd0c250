"""Architecture: every value that fixes the shapes of a network's weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.models.networks.backbones import list_backbones

LOG_VARIANCE_RANGE = (-12.0, 8.0)  # exp() of it stays far from float32's and bfloat16's limits
NETWORK_KINDS = ("convolutional", "patches", "residual", "dense")
SPATIAL_KINDS = ("convolutional", "residual")  # whose trunk ends in a map
DEFAULT_WIDTHS = {"dense": 200}  # 200 as in arXiv 1509.00519


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
    def value_count(self) -> int:
        """Values of a picture."""
        return self.channels * self.image_size**2

    @property
    def widths(self) -> list[int]:
        """Channels after each halving, down to a side of 4 to 7."""
        halvings = (self.image_size // 4).bit_length() - 1
        return [self.width * min(1 << level, 8) for level in range(halvings)]

    @property
    def bottleneck_side(self) -> int:
        """Side of the smallest feature map; inputs are padded to inner_side · 2^halvings inside the network."""
        return -(-self.image_size // (1 << len(self.widths)))

    @property
    def bottleneck_channels(self) -> int:
        """Channels of a convolutional bottleneck."""
        return self.latent_dim // self.bottleneck_side**2

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
        if self.kind not in NETWORK_KINDS and self.kind not in list_backbones():
            raise BadSetting(
                f"architecture can't be {self.kind!r}. Use {', '.join(NETWORK_KINDS)}, or a classifier of torchvision "
                "such as resnet18."
            )
        limits = {"image_size": (16, 256), "channels": (1, 3), "latent_dim": (1, 65536), "width": (4, 4096)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise BadSetting(f"{name} can't be {value!r}. Use {low} to {high}.")
        self._check_bottleneck()
        if self.linear and (self.kind not in NETWORK_KINDS or self.bottleneck != "dense"):
            raise BadSetting(
                f"linear can't be true with architecture {self.kind} and bottleneck {self.bottleneck}. Use one of "
                f"{', '.join(NETWORK_KINDS)} with a dense bottleneck."
            )

    def _check_bottleneck(self) -> None:
        if self.bottleneck == "dense":
            return
        if self.bottleneck != "convolutional" or self.kind not in SPATIAL_KINDS:
            raise BadSetting(
                f"bottleneck can't be {self.bottleneck!r} with architecture {self.kind}. Use dense, or convolutional "
                f"with one of {', '.join(SPATIAL_KINDS)}."
            )
        cells = self.bottleneck_side**2
        if self.latent_dim % cells:
            raise BadSetting(
                f"latent_dim can't be {self.latent_dim} with a convolutional bottleneck of {self.bottleneck_side} x "
                f"{self.bottleneck_side} cells. Use a multiple of {cells}."
            )
