"""Perceptual distances: how different two pictures look to something that does not compare them pixel by pixel.

    gradients           oriented gradients (models/gradients.py) in cells of several sizes; needs nothing
    ms-ssim             1 - multi-scale structural similarity (models/ms_ssim.py); needs nothing
    vgg16, resnet18 …   feature maps of a torchvision classifier with its published weights (a download)
    vgg16:FILE          the same with the weights of a file
    a folder            feature maps of an encoder that simile trained, supervised ones too

Feature maps as a loss: Johnson, Alahi & Fei-Fei (arXiv 1603.08155). Taken at every resolution and scaled to length 1
over the channels: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), without that paper's learned weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.transforms import Preprocessing
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.ssim import SSIM_WINDOW, ms_ssim
from simile.models.networks.backbones import PUBLISHED_WEIGHTS, Backbone, list_backbones, load_backbone_weights
from simile.models.networks.hog import compute_hog

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow turns colours to grey
MIN_MAP_ENERGY = 1e-4  # maps are about 1; where one is 0 everywhere the slope must stay finite


class PerceptualDistance(Protocol):
    """What a decoder is compared by, beside pixels. `name` tells apart what gives other distances."""

    @property
    def name(self) -> str: ...

    def distance(self, clean: Tensor, decoded: Tensor) -> Tensor:
        """Mean squared difference per picture, (n,), of pictures (n, C, h, w) in [0, 1]: what is picture, unpadded.

        0 for equal ones; its size means nothing beside another's. The gradient flows to `decoded` alone.
        """
        ...


def make_perceptual_distance(spec: str, channels: int, image_size: int) -> PerceptualDistance:
    """The distance that `spec` names, for pictures whose shorter side has `image_size` pixels.

    Raises BadSetting for what can't be named or can't be used at this size, NoSuchPath, NoSuchEncoder,
    CheckpointDamaged and DownloadFailed.
    """
    if spec == "gradients":
        return _make_hog_distance(image_size)
    if spec == "ms-ssim":
        if image_size < SSIM_WINDOW:
            raise BadSetting(f"features can't be ms-ssim for pictures of {image_size} px: it needs {SSIM_WINDOW}.")
        return MsSsimDistance()
    name, colon, file = spec.partition(":")
    if name in list_backbones() and bool(colon) == bool(file):
        return _make_backbone_distance(name, file or PUBLISHED_WEIGHTS, channels, image_size)
    if spec and Path(spec).is_dir():
        return _make_encoder_distance(Path(spec))
    if "/" in spec:
        raise NoSuchPath(spec)
    raise BadSetting(
        f"features can't be {spec!r}. Use gradients, ms-ssim, a classifier of torchvision such as vgg16 (vgg16:FILE "
        "for weights from a file), or the folder of an encoder."
    )


@dataclass(frozen=True)
class HogDistance:
    """Oriented gradients in cells of `cell` pixels, of the picture and of `halvings` smaller ones; their mean.

    Cells of halved pictures are larger ones of the picture itself, at a quarter of the cost.
    """

    cell_size: int
    halvings: int

    @property
    def name(self) -> str:
        return f"gradients in cells of {', '.join(str(self.cell_size << level) for level in range(self.halvings + 1))}"

    def distance(self, clean: Tensor, decoded: Tensor) -> Tensor:
        parts = []
        for level in range(self.halvings + 1):
            if level:
                clean, decoded = (F.avg_pool2d(pictures, 2, ceil_mode=True) for pictures in (clean, decoded))
            with torch.no_grad():
                target = compute_hog(clean, self.cell_size)  # (n, k)
            parts.append((compute_hog(decoded, self.cell_size) - target).square().mean(1))
        return torch.stack(parts).mean(0)  # (n,)


def _make_hog_distance(image_size: int) -> HogDistance:
    """Cells of 4 and 8 pixels where they fit, and larger ones as long as a picture has 4 by 4 of them."""
    largest = min(image_size, max(8, image_size // 4))
    return HogDistance(min(4, image_size), sum(cell <= largest for cell in (8, 16, 32, 64)))


class MsSsimDistance:
    """1 - MS-SSIM, which is 0 for equal pictures as a squared difference is."""

    name = "ms-ssim"

    def distance(self, clean: Tensor, decoded: Tensor) -> Tensor:
        return 1 - ms_ssim(clean.detach(), decoded)


class FeatureMapDistance:
    """Feature maps of a frozen network, one at each resolution, each scaled to length 1 over its channels.

    No module, so that it is neither trained, nor saved, nor switched to training with what it is used by.
    """

    def __init__(self, label: str, prepare: nn.Module, layers: Iterable[nn.Module]) -> None:
        self.prepare = prepare.eval().requires_grad_(False)
        self.layers = nn.ModuleList(layers).eval().requires_grad_(False)
        self.name = f"{label} {_hash_layers(self.layers)}"

    def distance(self, clean: Tensor, decoded: Tensor) -> Tensor:
        self.prepare.to(decoded.device)
        self.layers.to(decoded.device)
        with torch.no_grad():
            targets = list(self.iterate_feature_maps(clean))
        parts = [
            (found - target).square().sum(1).flatten(1).mean(1)  # over channels, then over places; where there are any
            for found, target in zip(self.iterate_feature_maps(decoded), targets, strict=True)
        ]
        return torch.stack(parts).mean(0)  # (n,)

    def iterate_feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """The last map of each resolution, (n, k, s, s), or (n, k, 1) where there are no places; fp32."""
        before: Tensor | None = None
        x = self.prepare(x)
        for layer in self.layers:
            x = layer(x)
            if before is not None and x.shape[2:] != before.shape[2:]:
                yield _normalise_channels(before)
            before = x
        yield _normalise_channels(x)


def _normalise_channels(maps: Tensor) -> Tensor:
    """Scaled to length 1 over the channels; in fp32, for bfloat16 knows lengths to a hundredth only."""
    maps = maps.float()
    if maps.ndim == 2:
        maps = maps[:, :, None]
    return maps / (maps.square().sum(1, keepdim=True) + MIN_MAP_ENERGY).sqrt()


def _hash_layers(layers: nn.Module) -> str:
    """Over all weights, so that a training is not resumed with other features."""
    digest = hashlib.sha256()
    for tensor in layers.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _make_backbone_distance(name: str, source: str, channels: int, image_size: int) -> FeatureMapDistance:
    backbone = Backbone(name, channels, image_size)
    backbone.drop_classifier()
    load_backbone_weights(backbone, source)
    return FeatureMapDistance(name, backbone.prepare, backbone.get_feature_layers())


def _make_encoder_distance(folder: Path) -> FeatureMapDistance:
    """Of an encoder that simile trained, all the layers before its head."""
    encoder = TrainedEncoder.load(folder, "cpu")
    trunk = encoder.network.encoder.trunk
    prepare: nn.Module = EncoderInput(encoder.preprocessing, encoder.network.encoder.padding)
    if isinstance(trunk, Backbone):
        prepare = nn.Sequential(prepare, trunk.prepare)
        layers = trunk.get_feature_layers()
    else:
        assert isinstance(trunk, nn.Sequential)
        layers = list(trunk)
    return FeatureMapDistance(f"encoder {encoder.fingerprint}", prepare, layers)


class EncoderInput(nn.Module):
    """Pictures (n, C, h, w) without padding to what an encoder is used to: its channels, its size, its padding."""

    def __init__(self, preprocessing: Preprocessing, padding: int) -> None:
        super().__init__()
        top, left, height, width = preprocessing.content_box()
        bottom, right = preprocessing.image_size - top - height, preprocessing.image_size - left - width
        self.channels, self.content_size = preprocessing.channels, (height, width)
        self.padding = (left, right + padding, top, bottom + padding)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 3 and self.channels == 1:
            x = (x * x.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = x.expand(-1, self.channels, -1, -1)
        if x.shape[-2:] != self.content_size:
            x = F.interpolate(x, self.content_size, mode="bilinear", antialias=True)
        return F.pad(x, self.padding, mode="replicate")  # (n, C, S, S), as preprocessing pads
