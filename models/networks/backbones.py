"""torchvision's classifiers as encoders: all layers up to the penultimate one, with published weights or new ones.

A checkpoint contains all of a backbone's weights, so published weights are needed only once, for training.
"""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from simile.core.errors import BadSetting, CheckpointDamaged, DownloadFailed, NoSuchPath

PUBLISHED_WEIGHTS = "published"
IMAGENET_CLASS_COUNT = 1000  # outputs of the last layer of every one of these networks

# torch's file format stores a version number for these networks, and they refuse weights without it.
_UNLOADABLE_PREFIXES = ("mnasnet",)
_HEAD_LAYER_NAMES = ("avgpool", "dropout", "fc", "classifier")  # children after the last feature map
_AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.")  # second classifiers, used only in training
_BUILD_OPTIONS = {"googlenet": {"init_weights": True, "aux_logits": False}}
_BUILD_OPTIONS["inception_v3"] = _BUILD_OPTIONS["googlenet"]
# These two were trained on images in [-1, 1]; torchvision converts its usual normalisation back to that range.
_MEAN_AND_STD = dict.fromkeys(_BUILD_OPTIONS, ([0.5] * 3, [0.5] * 3))
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # names in the published files

_torchvision_library: torch.library.Library | None = None  # torch drops the operators if this object is deleted


def import_torchvision() -> ModuleType:
    """Return the torchvision package, also if its compiled operators do not fit a CPU-only torch.

    torchvision registers shape functions for `torchvision::nms` and `torchvision::qnms` on import, and fails if the
    compiled library that defines them does not load. Declaring the two operators first is enough for its models,
    transforms, datasets and utils (not for the decoders of torchvision.io, which simile does not use).
    """
    global _torchvision_library  # noqa: PLW0603  # see above
    try:
        import torchvision  # noqa: PLC0415  # takes a second, and most commands need no backbone
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _torchvision_library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _torchvision_library.define(signature)  # type: ignore[no-untyped-call]
        import torchvision  # noqa: PLC0415
    return torchvision  # type: ignore[no-any-return]


@cache
def list_backbones() -> tuple[str, ...]:
    """Return the sorted names of all classifiers of the installed torchvision that can be encoders."""
    torchvision = import_torchvision()
    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(sorted(name for name in names if not name.startswith(_UNLOADABLE_PREFIXES)))


def check_backbone_name(name: str) -> None:
    """Raise BadSetting with similar names if `name` is not a backbone."""
    if name not in list_backbones():
        similar = difflib.get_close_matches(name, list_backbones(), n=4, cutoff=0.5)
        similar = similar or ["resnet18", "mobilenet_v3_small"]
        raise BadSetting(f"backbone can't be {name!r}: torchvision has no such classifier. Try {', '.join(similar)}.")


class BackboneInput(nn.Module):
    """Images (n, 1 or 3, h, w) in [0, 1] as a network expects them: three channels, its size, its normalisation.

    With `accepts_any_size` images with sides of `side` or more keep their size; all others become side x side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, side: int, accepts_any_size: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.side, self.accepts_any_size = side, accepts_any_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised images (n, 3, h', w')."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        height, width = x.shape[-2:]
        fits = min(height, width) >= self.side if self.accepts_any_size else (height, width) == (self.side, self.side)
        if not fits:
            shrinks = max(height, width) > self.side
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=shrinks)
        return (x - self.mean) / self.std


class Backbone(nn.Module):
    """Images (n, C, S, S) in [0, 1] to penultimate activations (n, num_features), with new weights at first.

    Grey images become three equal channels; the mean and standard deviation of the published weights are applied
    inside. Images smaller than the network's minimum are enlarged; a transformer gets every image at its fixed size.
    Raises BadSetting for an unknown name.
    """

    def __init__(self, name: str, channels: int, image_size: int) -> None:
        super().__init__()
        check_backbone_name(name)
        models = import_torchvision().models
        published = models.get_model_weights(name).DEFAULT
        transform = published.transforms()
        min_side = max(published.meta["min_size"])
        # The published minimum size of a transformer is its fixed input size.
        self.accepts_any_size: bool = min_side < min(transform.crop_size)
        self.name, self.channels = name, channels
        side = max(image_size, min_side) if self.accepts_any_size else min_side
        mean, std = _MEAN_AND_STD.get(name, (transform.mean, transform.std))
        self.prepare = BackboneInput(side, self.accepts_any_size, mean, std)
        self.body: nn.Module = models.get_model(name, weights=None, **_BUILD_OPTIONS.get(name, {}))
        classifier_name, self.num_features = _remove_classifier(self.body)
        # Weights with these prefixes may be in a file and are ignored.
        self.ignored_prefixes: tuple[str, ...] = (f"{classifier_name}.", *_AUXILIARY_PREFIXES)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations (n, num_features)."""
        features: Tensor = self.body(self.prepare(x))
        return features.flatten(1)

    def get_feature_layers(self) -> list[nn.Module]:
        """Return the layers that give feature maps, to be called one after another on the output of `prepare`.

        A transformer is a single layer; its only feature map is the penultimate activations.
        """
        if not self.accepts_any_size:
            return [self.body]
        layers: list[nn.Module] = []
        for name, child in self.body.named_children():
            if name not in _HEAD_LAYER_NAMES:
                layers += list(child) if type(child) is nn.Sequential else [child]
        while isinstance(layers[-1], nn.MaxPool2d):  # its input is more informative
            layers.pop()
        return layers

    def drop_classifier(self) -> None:
        """Keep only the layers of `get_feature_layers` (a tenth of vgg16); weights are then loaded for those alone."""
        for name, _ in list(self.body.named_children()) if self.accepts_any_size else []:
            if name in _HEAD_LAYER_NAMES:
                setattr(self.body, name, nn.Identity())
                self.ignored_prefixes += (f"{name}.",)


def _remove_classifier(body: nn.Module) -> tuple[str, int]:
    """Replace the layer that predicts ImageNet's classes; return its name and its number of inputs."""
    for name, layer in reversed(list(body.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == IMAGENET_CLASS_COUNT:
            features = layer.in_features
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == IMAGENET_CLASS_COUNT:  # squeezenet
            features = layer.in_channels
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
        return name, features
    raise BadSetting(
        f"backbone can't be {type(body).__name__}: its last layer does not have {IMAGENET_CLASS_COUNT} classes. "
        "Try resnet18."
    )


def load_backbone_weights(backbone: Backbone, source: str) -> None:
    """Load weights into a backbone.

    Args:
        source: "published" (downloaded once), or a .safetensors, .pt or .pth file with torchvision's names for the
            weights, with or without those of the classifier.

    Raises:
        DownloadFailed, NoSuchPath, CheckpointDamaged.
        BadSetting: The weights belong to another network.
    """
    weights = _download_weights(backbone.name) if source == PUBLISHED_WEIGHTS else _read_weights_file(Path(source))
    weights = {_OLD_DENSENET_NAME.sub(r"\1\2", name): tensor for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(backbone.ignored_prefixes)}
    try:
        missing, unexpected = backbone.body.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other shapes
        raise _make_mismatch_error(backbone, source, str(error).splitlines()[1].strip()) from None
    if missing:
        raise _make_mismatch_error(backbone, source, f"it lacks {_format_names(missing)}")
    if unexpected:
        raise _make_mismatch_error(backbone, source, f"it has {_format_names(unexpected)} too")


def _download_weights(name: str) -> Mapping[str, Tensor]:
    weights = import_torchvision().models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # errors of the network and of damaged files have no common type
        raise DownloadFailed(
            f"The published weights of {name} could not be downloaded from {weights.url} ({_get_error_reason(error)}). "
            f"Check the network and delete {path} if it is there, or download that address elsewhere and name the file."
        ) from error
    return state


def _read_weights_file(path: Path) -> Mapping[str, Tensor]:
    """Return tensors by name from a file, without running pickled code."""
    if not path.exists():
        raise NoSuchPath(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise BadSetting(f"weights can't be {path}. Use {PUBLISHED_WEIGHTS}, or a .safetensors, .pt or .pth file.")
    try:
        is_safetensors = path.suffix == ".safetensors"
        loaded: Any = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's unpickler fail in many ways
        raise CheckpointDamaged(
            f"{path} can't be read as weights ({_get_error_reason(error)}). "
            "Download it again, or save model.state_dict() alone."
        ) from error
    for key in ("state_dict", "model"):  # training scripts often store the weights under one of these keys
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointDamaged(f"{path} holds no weights by name. Save model.state_dict() alone.")
    return loaded


def _make_mismatch_error(backbone: Backbone, source: str, reason: str) -> BadSetting:
    return BadSetting(
        f"{source} does not fit {backbone.name}: {reason}. "
        f"Name a file with weights of {backbone.name}, or choose the network that the file belongs to."
    )


def _format_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _get_error_reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own message explains how to run the code in a file
        return "damaged, or it contains more than tensors"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
