"""Perceptual distances: differences between two images that are not computed pixel by pixel.

    gradients           HOG (models/networks/hog.py) in cells of several sizes; needs nothing
    ms-ssim             1 - multi-scale structural similarity (ssim.py); needs nothing
    vgg16, resnet18 …   feature maps of a torchvision classifier with its published weights (a download)
    vgg16:FILE          the same with the weights of a file
    a folder            feature maps of an encoder that simile trained, also of a supervised one

Feature maps as a loss: Johnson, Alahi & Fei-Fei (arXiv 1603.08155). Maps of every resolution, scaled to length 1 over
the channels: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), without that paper's learned weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.transforms import Preprocessing
from simile.models.checkpoints.checkpoint import hash_weights
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.ssim import SSIM_WINDOW, ms_ssim
from simile.models.networks.backbones import PUBLISHED_WEIGHTS, Backbone, list_backbones, load_backbone_weights
from simile.models.networks.hog import compute_hog

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts colours to grey
MIN_MAP_ENERGY = 1e-4  # map values are about 1; where all channels are 0 the slope must stay finite


class PerceptualDistance:
    """A distance that a decoder minimises in addition to the pixel error.

    Args:
        name: Label of the distance and of its weights: it differs if distances differ.
        distance: From clean and decoded images (n, C, h, w) in [0, 1], without padding, to the mean squared difference
            per image, (n,): 0 for equal images. Only decoded images get a gradient.
    """

    def __init__(self, name: str, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.name, self.distance = name, distance


def make_perceptual_distance(spec: str, channels: int, image_size: int) -> PerceptualDistance:
    """Return the distance that `spec` names (see above) for images with a shorter side of `image_size` pixels.

    Raises:
        BadSetting: The name is not known, or the distance does not work at this size.
        NoSuchPath, NoSuchEncoder, CheckpointDamaged, DownloadFailed: As the name says, for files, folders and weights.
    """
    if spec == "gradients":
        # Cells of 4 and 8 pixels where they fit, and larger ones as long as an image has 4 by 4 of them.
        max_cell_size = min(image_size, max(8, image_size // 4))
        cell_size, halvings = min(4, image_size), sum(cell <= max_cell_size for cell in (8, 16, 32, 64))
        name = f"gradients in cells of {', '.join(str(cell_size << level) for level in range(halvings + 1))}"
        return PerceptualDistance(name, partial(compute_hog_distance, cell_size=cell_size, halvings=halvings))
    if spec == "ms-ssim":
        if image_size < SSIM_WINDOW:
            raise BadSetting(f"features can't be ms-ssim for images of {image_size} px: it needs {SSIM_WINDOW}.")
        return PerceptualDistance("ms-ssim", lambda clean, decoded: 1 - ms_ssim(clean.detach(), decoded))
    name, colon, file = spec.partition(":")
    if name in list_backbones() and bool(colon) == bool(file):
        backbone = Backbone(name, channels, image_size)
        backbone.drop_classifier()
        load_backbone_weights(backbone, file or PUBLISHED_WEIGHTS)
        return FeatureMapDistance(name, backbone.prepare, backbone.get_feature_layers())
    if spec and Path(spec).is_dir():
        return _make_encoder_distance(Path(spec))
    if "/" in spec:
        raise NoSuchPath(spec)
    raise BadSetting(
        f"features can't be {spec!r}. Use gradients, ms-ssim, a classifier of torchvision such as vgg16 (vgg16:FILE "
        "for weights from a file), or the folder of an encoder."
    )


def compute_hog_distance(clean: Tensor, decoded: Tensor, cell_size: int, halvings: int) -> Tensor:
    """Return the mean distance, (n,), of HOG features of images and of `halvings` smaller versions of them.

    Cells of `cell_size` pixels in a halved image cover twice the side in the image, at a quarter of the cost.
    """
    distances = []
    for level in range(halvings + 1):
        if level:
            clean, decoded = (F.avg_pool2d(images, 2, ceil_mode=True) for images in (clean, decoded))
        with torch.no_grad():
            target = compute_hog(clean, cell_size)  # (n, k)
        distances.append((compute_hog(decoded, cell_size) - target).square().mean(1))
    return torch.stack(distances).mean(0)  # (n,)


class FeatureMapDistance(PerceptualDistance):
    """Distance of the feature maps of a frozen network, one per resolution, each scaled to length 1 over its channels.

    It is not an nn.Module: its layers must not be trained, saved or switched to training mode with the objective.
    """

    def __init__(self, label: str, prepare: nn.Module, layers: Iterable[nn.Module]) -> None:
        self.prepare = prepare.eval().requires_grad_(False)
        self.layers = nn.ModuleList(layers).eval().requires_grad_(False)
        # The hash of the weights prevents a training from being resumed with other features.
        super().__init__(f"{label} {hash_weights(self.layers)[:16]}", self._compute_distance)

    def _compute_distance(self, clean: Tensor, decoded: Tensor) -> Tensor:
        self.prepare.to(decoded.device)
        self.layers.to(decoded.device)
        with torch.no_grad():
            targets = list(self.iterate_feature_maps(clean))
        distances = [
            (maps - target).square().sum(1).flatten(1).mean(1)  # over channels, then over positions if there are any
            for maps, target in zip(self.iterate_feature_maps(decoded), targets, strict=True)
        ]
        return torch.stack(distances).mean(0)  # (n,)

    def iterate_feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the last map of each resolution in fp32, (n, k, s, s), or (n, k, 1) for vectors."""
        previous: Tensor | None = None
        x = self.prepare(x)
        for layer in self.layers:
            x = layer(x)
            if previous is not None and x.shape[2:] != previous.shape[2:]:
                yield _normalise_channels(previous)
            previous = x
        yield _normalise_channels(x)


def _normalise_channels(maps: Tensor) -> Tensor:
    """Scale maps to length 1 over the channels, in fp32: bfloat16 has only about two digits."""
    maps = maps.float()
    if maps.ndim == 2:
        maps = maps[:, :, None]
    return maps / (maps.square().sum(1, keepdim=True) + MIN_MAP_ENERGY).sqrt()


def _make_encoder_distance(folder: Path) -> FeatureMapDistance:
    """Return the distance of the feature maps of a trained encoder: all layers before its head."""
    encoder = TrainedEncoder.load(folder, "cpu")
    if encoder.description.name is not None:
        raise BadSetting(
            f"features can't be {encoder.description.name}, which simile did not train. Use a classifier of "
            "torchvision with weights from a file (vgg16:FILE). For reconstructions, train a decoder with "
            f"`simile train PHOTOS --decoder-only {encoder.description.name}`."
        )
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
    """Unpadded images (n, C, h, w) as an encoder expects them: its channels, its size, its padding."""

    def __init__(self, preprocessing: Preprocessing, padding: int) -> None:
        super().__init__()
        top, left, height, width = preprocessing.content_box()
        bottom, right = preprocessing.image_size - top - height, preprocessing.image_size - left - width
        self.channels, self.content_size = preprocessing.channels, (height, width)
        self.padding = (left, right + padding, top, bottom + padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return images (n, C, S, S), padded as preprocessing pads them."""
        if x.shape[1] == 3 and self.channels == 1:
            x = (x * x.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = x.expand(-1, self.channels, -1, -1)
        if x.shape[-2:] != self.content_size:
            x = F.interpolate(x, self.content_size, mode="bilinear", antialias=True)
        return F.pad(x, self.padding, mode="replicate")
