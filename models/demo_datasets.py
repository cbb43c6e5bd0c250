"""Example images: scikit-learn's digits, and datasets that torchvision downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, DownloadFailed
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.transforms import upscale
from simile.models.networks.backbones import import_torchvision

DOWNLOADABLE_DATASETS = {"fashion-mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10"}
DIGIT_SCALE = 4  # from 8 x 8 to 32 x 32 pixels, large enough for a person to see


def write_digits(folder: Path) -> int:
    """Write scikit-learn's 1,797 digits as 32 x 32 PNG files named number-digit.png; return their count."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # takes a second, and only the demo needs it

    digits = load_digits()
    images = (upscale(np.rint(image * (255 / 16)).astype(np.uint8), DIGIT_SCALE) for image in digits.images)
    return _write_images(folder, images, [str(digit) for digit in digits.target])


def write_dataset(name: str, folder: Path, download_folder: Path) -> int:
    """Write the training images of a torchvision dataset as PNG files named number-label.png; return their count.

    Nothing is downloaded if the files are in `download_folder`. Raises BadSetting, DownloadFailed.
    """
    if name not in DOWNLOADABLE_DATASETS:
        raise BadSetting(f"dataset can't be {name!r}. Use digits, {', '.join(sorted(DOWNLOADABLE_DATASETS))}.")
    import_torchvision()
    from torchvision import datasets  # noqa: PLC0415  # only after import_torchvision()

    try:
        dataset = getattr(datasets, DOWNLOADABLE_DATASETS[name])(download_folder, train=True, download=True)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # the last two: a truncated file
        raise DownloadFailed(
            f"{name} could not be downloaded to {download_folder} ({error}). "
            f"Check the network, delete {download_folder} to start again, or use --images with a folder of your own."
        ) from error
    labels = [dataset.classes[int(target)].split(" - ")[0].replace("/", "-") for target in dataset.targets]
    return _write_images(folder, (np.asarray(image) for image in dataset.data), labels)


def _write_images(folder: Path, images: Iterator[Pixels], labels: list[str]) -> int:
    """Write the files that are missing; existing files keep their modification time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"{number:05d}-{label}.png"
        if not path.exists():
            path.write_bytes(encode_png(image))
    return len(labels)
