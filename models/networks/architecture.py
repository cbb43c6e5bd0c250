"""Architecture: every value that determines the shapes of a network's weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.images.transforms import MAX_EXTERNAL_SIZE
from simile.models.networks.backbones import list_backbones

LOG_VARIANCE_RANGE = (-12.0, 8.0)  # exp() of these stays far from the limits of float32 and bfloat16
NETWORK_KINDS = ("convolutional", "patches", "residual", "dense")
EXTERNAL_KINDS = ("onnx", "openvino", "plugin")  # kinds of models/external/: encoders that are no torch modules
SPATIAL_KINDS = ("convolutional", "residual")  # kinds with a trunk that ends in a feature map
DEFAULT_WIDTHS = {"dense": 200}  # 200 as in arXiv 1509.00519
_EXTERNAL_FIELDS = ("content_size", "decoder_size", "entry")
_LIMITS = {
    "image_size": (16, MAX_EXTERNAL_SIZE),
    "channels": (1, 3),
    "latent_dim": (1, 65536),
    "width": (4, 4096),
    "content_size": (0, 1 << 32),
    "decoder_size": (0, MAX_EXTERNAL_SIZE),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that determines the shapes of the weights."""

    image_size: int  # side of the square input in pixels
    channels: int  # 1 for grey or 3 for colour
    latent_dim: int  # length of mu
    width: int = 32  # channels after the first halving, or units of a dense layer
    # One of `NETWORK_KINDS` or `EXTERNAL_KINDS`, or the name of a torchvision classifier.
    kind: str = "convolutional"
    bottleneck: str = "dense"  # "dense", or "convolutional": the latent is a small feature map, flattened
    variational: bool = True  # whether the encoder gives a variance
    decoder: bool = True  # whether there is a decoder
    classes: int = 0  # number of classes of the classifier on top of mu; 0 for none
    edges: bool = False  # whether the encoder's head also receives HOG features
    # Whether the decoder has feature maps of the image's size; without them it takes half the time.
    full_resolution: bool = True
    # Number of leading values of mu that are scaled to length √sphere, the length that the prior gives them.
    sphere: int = 0
    linear: bool = False  # whether a linear path runs in parallel to both networks (models/training/setup.py)
    content_size: int = 0  # bytes of an external model
    decoder_size: int = 0  # side of the images that the decoder gives before they are enlarged; 0: image_size
    entry: str = ""  # the output of an ONNX graph that is the embedding, or the name of a plug-in

    @property
    def value_count(self) -> int:
        """Number of values of an image."""
        return self.channels * self.image_size**2

    @property
    def widths(self) -> list[int]:
        """Channels after each halving, down to a side of 4 to 7."""
        halvings = (self.image_size // 4).bit_length() - 1
        return [self.width * min(1 << level, 8) for level in range(halvings)]

    @property
    def bottleneck_side(self) -> int:
        """Side of the smallest feature map; the network pads inputs to bottleneck_side · 2^halvings."""
        return -(-self.image_size // (1 << len(self.widths)))

    @property
    def bottleneck_channels(self) -> int:
        """Channels of a convolutional bottleneck."""
        return self.latent_dim // self.bottleneck_side**2

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, as encoder.json stores them; of external encoders only what they have."""
        return {name: value for name, value in asdict(self).items() if value or name not in _EXTERNAL_FIELDS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Return the architecture with the values of `to_dict`. Raises CheckpointDamaged for an unknown value."""
        if values.get("kind") == "convolutional-vae":  # written by the first version
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
        """Raise BadSetting with the first value that can't be built."""
        is_external = self.kind in EXTERNAL_KINDS and self.content_size > 0
        if not is_external and self.kind not in NETWORK_KINDS and self.kind not in list_backbones():
            raise BadSetting(
                f"architecture can't be {self.kind!r}. Use {', '.join(NETWORK_KINDS)}, or a classifier of torchvision "
                "such as resnet18."
            )
        for name, (low, high) in _LIMITS.items():
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
