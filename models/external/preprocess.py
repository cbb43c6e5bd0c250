"""The preprocessing that an external encoder was trained with, as its user declares it.

    {"size": 224, "fit": "crop", "resize": 256, "resampling": "bicubic", "order": "rgb", "range": [0, 1],
     "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}

Every value is required, except `resize` (only with the fit crop). A guess would give vectors that look right and rank
images wrongly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.transforms import MAX_EXTERNAL_SIZE, MIN_IMAGE_SIZE, Preprocessing

_IMAGENET: dict[str, Any] = {
    "size": 224,
    "fit": "crop",
    "resize": 256,
    "resampling": "bilinear",
    "order": "rgb",
    "range": [0, 1],
    "mean": [0.485, 0.456, 0.406],
    "deviation": [0.229, 0.224, 0.225],
}
_CLIP = _IMAGENET | {
    "resize": 224,
    "resampling": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "deviation": [0.26862954, 0.26130258, 0.27577711],
}
PRESETS = {"imagenet": _IMAGENET, "clip": _CLIP}
_CHOICES = {
    "fit": ("stretch", "letterbox", "crop"),
    "resampling": ("bicubic", "bilinear"),
    "order": ("rgb", "bgr", "grey"),
}
_MAX_FILE_BYTES = 65_536


def read_preprocessing(reference: str, background: str) -> Preprocessing:
    """Return the preprocessing that `reference` names: a preset, or a JSON file.

    Raises NoSuchPath, and BadSetting for a file that can't be used.
    """
    if reference in PRESETS:
        return parse_preprocessing(PRESETS[reference], reference, background)
    path = Path(reference)
    if not path.is_file():
        if path.suffix != ".json":
            raise BadSetting(f"preprocess can't be {reference!r}. Use {', '.join(PRESETS)}, or a .json file.")
        raise NoSuchPath(path)
    try:
        with path.open(encoding="utf-8") as file:
            values = json.loads(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError) as error:
        raise BadSetting(f"{path} can't be read as JSON ({error}). docs/encoders.md has an example.") from None
    return parse_preprocessing(values, reference, background)


def parse_preprocessing(values: object, name: str, background: str) -> Preprocessing:
    """Return the preprocessing with these values. Raises BadSetting with `name` and the first value that is wrong."""
    if not isinstance(values, Mapping):
        raise _make_error(name, "it is not an object")
    is_grey = values.get("order") == "grey"
    channels = 1 if is_grey else 3
    required = _IMAGENET.keys() - {"resize"}
    if missing := sorted(required - values.keys()):
        raise _make_error(name, f"{', '.join(missing)} must be declared")
    if unknown := sorted(map(str, values.keys() - _IMAGENET.keys())):
        raise _make_error(name, f"{', '.join(unknown)} is not known")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise _make_error(name, f"{key} must be one of {', '.join(choices)}")
    size, resize = values["size"], values.get("resize")
    if type(size) is not int or not MIN_IMAGE_SIZE <= size <= MAX_EXTERNAL_SIZE:
        raise _make_error(name, f"size must be a whole number from {MIN_IMAGE_SIZE} to {MAX_EXTERNAL_SIZE}")
    if resize is not None and (type(resize) is not int or not size <= resize <= 2 * size or values["fit"] != "crop"):
        raise _make_error(name, "resize must be a whole number from size to twice of it, and the fit must be crop")
    low, high = _parse_numbers(values, "range", 2, name)
    if low >= high:
        raise _make_error(name, "the first number of range must be below the second")
    deviation = _parse_numbers(values, "deviation", channels, name)
    if min(deviation) <= 0:
        raise _make_error(name, "deviation must be above zero")
    return Preprocessing(
        image_size=size,
        channels=channels,
        fit=values["fit"],
        background=background,
        resize=resize,
        resampling=values["resampling"],
        order="rgb" if is_grey else values["order"],
        value_range=(low, high),
        mean=_parse_numbers(values, "mean", channels, name),
        deviation=deviation,
    )


def _parse_numbers(values: Mapping[str, Any], key: str, count: int, name: str) -> tuple[float, ...]:
    numbers = values[key]
    is_list = isinstance(numbers, list) and len(numbers) == count
    if not is_list or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise _make_error(name, f"{key} must be a list of {count} numbers")
    return tuple(float(number) for number in numbers)


def _make_error(name: str, reason: str) -> BadSetting:
    return BadSetting(f"preprocess can't be {name}: {reason}. docs/encoders.md lists the values.")
