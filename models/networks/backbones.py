"""torchvision's classifiers as encoders: everything up to the penultimate layer, with published weights or without.

A checkpoint of simile holds all of a backbone's weights, so published ones are needed once, in training.
"""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from simile.core.errors import BadSetting, CheckpointDamaged, DownloadFailed, NoSuchPath
from simile.models.networks.torchvision_shim import import_torchvision

PUBLISHED_WEIGHTS = "published"
IMAGENET_CLASS_COUNT = 1000  # of ImageNet: what the last layer of every one of these networks tells apart

# Of these networks torch's own file format keeps a version number without which they refuse to be loaded.
_UNLOADABLE_PREFIXES = ("mnasnet",)
_HEAD_LAYER_NAMES = ("avgpool", "dropout", "fc", "classifier")  # children that come after the last feature map
_AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.")  # second classifiers, for training alone
_BUILD_OPTIONS = {"googlenet": {"init_weights": True, "aux_logits": False}}
_BUILD_OPTIONS["inception_v3"] = _BUILD_OPTIONS["googlenet"]
# These two were trained on pictures in [-1, 1]; torchvision turns its usual normalisation back into that one.
_MEAN_AND_STD = dict.fromkeys(_BUILD_OPTIONS, ([0.5] * 3, [0.5] * 3))
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # names in the published files


@cache
def list_backbones() -> tuple[str, ...]:
    """Every classifier of the torchvision that is installed and can be an encoder, sorted."""
    torchvision = import_torchvision()
    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(sorted(name for name in names if not name.startswith(_UNLOADABLE_PREFIXES)))


def check_backbone_name(name: str) -> None:
    """Raises BadSetting, with names that look alike, for what is no backbone."""
    if name not in list_backbones():
        near = difflib.get_close_matches(name, list_backbones(), n=4, cutoff=0.5) or ["resnet18", "mobilenet_v3_small"]
        raise BadSetting(f"backbone can't be {name!r}: torchvision has no such classifier. Try {', '.join(near)}.")


class BackboneInput(nn.Module):
    """Pictures (n, 1 or 3, h, w) in [0, 1] as a network wants them: three channels, its size, its normalisation.

    any_size: what is `side` or larger stays; else everything is brought to side x side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, side: int, accepts_any_size: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.side, self.accepts_any_size = side, accepts_any_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        height, width = x.shape[-2:]
        fits = min(height, width) >= self.side if self.accepts_any_size else (height, width) == (self.side, self.side)
        if not fits:
            shrunk = max(height, width) > self.side
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=shrunk)
        return (x - self.mean) / self.std


class Backbone(nn.Module):
    """Pictures (n, C, S, S) in [0, 1] to penultimate activations (n, features), with new weights at first.

    Grey pictures are shown as three equal channels; mean and standard deviation of the published weights are taken
    off inside. Pictures smaller than the network can take are enlarged to what it takes, and for a transformer every
    picture is brought to its one size. Raises BadSetting for an unknown name.
    """

    def __init__(self, name: str, channels: int, image_size: int) -> None:
        super().__init__()
        check_backbone_name(name)
        models = import_torchvision().models
        published = models.get_model_weights(name).DEFAULT
        transform = published.transforms()
        smallest = max(published.meta["min_size"])
        # Transformers are published with the size of their pictures as the smallest one.
        self.accepts_any_size: bool = smallest < min(transform.crop_size)
        self.name, self.channels = name, channels
        side = max(image_size, smallest) if self.accepts_any_size else smallest
        mean, std = _MEAN_AND_STD.get(name, (transform.mean, transform.std))
        self.prepare = BackboneInput(side, self.accepts_any_size, mean, std)
        self.body: nn.Module = models.get_model(name, weights=None, **_BUILD_OPTIONS.get(name, {}))
        last, self.num_features = _remove_classifier(self.body)
        self.ignored_prefixes: tuple[str, ...] = (
            f"{last}.",
            *_AUXILIARY_PREFIXES,
        )  # beginnings of names that a file may have beside

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(self.prepare(x))
        return features.flatten(1)  # (n, features)

    def get_feature_layers(self) -> list[nn.Module]:
        """The layers that give feature maps, to be called one after another on what `prepare` gives.

        A transformer is one layer, whose only map is the penultimate activations.
        """
        if not self.accepts_any_size:
            return [self.body]
        layers: list[nn.Module] = []
        for name, child in self.body.named_children():
            if name not in _HEAD_LAYER_NAMES:
                layers += list(child) if type(child) is nn.Sequential else [child]
        while isinstance(layers[-1], nn.MaxPool2d):  # what comes before it says more
            layers.pop()
        return layers

    def drop_classifier(self) -> None:
        """Leaves the layers that `map_layers` gives: of vgg16 a tenth. `load_weights` then asks for those alone."""
        for name, _ in list(self.body.named_children()) if self.accepts_any_size else []:
            if name in _HEAD_LAYER_NAMES:
                setattr(self.body, name, nn.Identity())
                self.ignored_prefixes += (f"{name}.",)


def _remove_classifier(body: nn.Module) -> tuple[str, int]:
    """Replaces the layer that tells ImageNet's classes apart; gives its name and how many numbers it was given."""
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
        f"backbone can't be {type(body).__name__}: it has no last layer of {IMAGENET_CLASS_COUNT} classes. Try resnet18."
    )


def load_backbone_weights(backbone: Backbone, source: str) -> None:
    """Puts weights into a backbone: "published" ones, downloaded once, or those of a .safetensors, .pt or .pth file.

    A file has torchvision's names for the weights, with or without those of the classifier. Raises DownloadFailed,
    NoSuchPath, CheckpointDamaged (no file of weights) and BadSetting (weights of another network).
    """
    weights = _download_weights(backbone.name) if source == PUBLISHED_WEIGHTS else _read_weights_file(Path(source))
    _apply_weights(backbone, weights, source)


def _download_weights(name: str) -> Mapping[str, Tensor]:
    weights = import_torchvision().models.get_model_weights(name).DEFAULT
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # what a network or a damaged file leads to has no common type
        raise DownloadFailed(
            f"The published weights of {name} could not be had from {weights.url} ({_get_error_reason(error)}). Check the "
            f"network and delete {kept} if it is there, or download that address elsewhere and name the file."
        ) from error
    return state


def _read_weights_file(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name, from a file without pickled code."""
    if not path.exists():
        raise NoSuchPath(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise BadSetting(f"weights can't be {path}. Use {PUBLISHED_WEIGHTS}, or a .safetensors, .pt or .pth file.")
    try:
        loaded: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # damaged bytes make torch's unpickler fail in every way there is
        raise CheckpointDamaged(
            f"{path} can't be read as weights ({_get_error_reason(error)}). Get it again, or save model.state_dict() alone."
        ) from error
    for wrapped in ("state_dict", "model"):  # what training scripts put around it
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapped), dict):
            loaded = loaded[wrapped]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointDamaged(f"{path} holds no weights by name. Save model.state_dict() alone.")
    return loaded


def _apply_weights(backbone: Backbone, weights: Mapping[str, Tensor], source: str) -> None:
    state = {_OLD_DENSENET_NAME.sub(r"\1\2", name): tensor for name, tensor in weights.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(backbone.ignored_prefixes)}
    try:
        missing, unexpected = backbone.body.load_state_dict(state, strict=False)
    except RuntimeError as error:  # other shapes
        raise BadSetting(_make_mismatch_message(backbone, source, str(error).splitlines()[1].strip())) from None
    if missing or unexpected:
        named = f"it lacks {_format_names(missing)}" if missing else f"it has {_format_names(unexpected)} too"
        raise BadSetting(_make_mismatch_message(backbone, source, named))


def _make_mismatch_message(backbone: Backbone, source: str, reason: str) -> str:
    return f"{source} does not fit {backbone.name}: {reason}. Name a file of {backbone.name}, or the network it is of."


def _format_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _get_error_reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own message tells how to run the code in a file
        return "damaged, or more in it than tensors"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
