"""Pictures to try simile on: scikit-learn's digits, and datasets that torchvision downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, DownloadFailed
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.transforms import upscale
from simile.models.networks.torchvision_shim import import_torchvision

DOWNLOADABLE_DATASETS = {"fashion-mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10"}
DIGIT_SCALE = 4  # the digits are scanned at 8 x 8; shown at 32 x 32 a person can judge them


def write_digits(folder: Path) -> int:
    """scikit-learn's 1,797 scanned digits as 32 x 32 PNG files named number-digit.png; gives their count."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # a second, for the demo alone

    digits = load_digits()
    pictures = (upscale(np.rint(image * (255 / 16)).astype(np.uint8), DIGIT_SCALE) for image in digits.images)
    return _write_images(folder, pictures, [str(digit) for digit in digits.target])


def write_dataset(name: str, folder: Path, download_folder: Path) -> int:
    """The training pictures of a torchvision dataset as PNG files named number-label.png; gives their count.

    Downloads to `download_to` unless the files are there. Raises BadSetting and DownloadFailed.
    """
    if name not in DOWNLOADABLE_DATASETS:
        raise BadSetting(f"dataset can't be {name!r}. Use digits, {', '.join(sorted(DOWNLOADABLE_DATASETS))}.")
    import_torchvision()
    from torchvision import datasets  # noqa: PLC0415  # only after the shim

    try:
        dataset = getattr(datasets, DOWNLOADABLE_DATASETS[name])(download_folder, train=True, download=True)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # the last two: a file cut short
        raise DownloadFailed(
            f"{name} could not be downloaded to {download_folder} ({error}). "
            f"Check the network, delete {download_folder} to start afresh, or use --images with a folder of your own."
        ) from error
    labels = [dataset.classes[int(target)].split(" - ")[0].replace("/", "-") for target in dataset.targets]
    return _write_images(folder, (np.asarray(picture) for picture in dataset.data), labels)


def _write_images(folder: Path, images: Iterator[Pixels], labels: list[str]) -> int:
    """Writes what is missing; a file that is there already stays, so that its time does not change."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"{number:05d}-{label}.png"
        if not path.exists():
            path.write_bytes(encode_png(picture))
    return len(labels)
