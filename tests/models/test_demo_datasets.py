"""Images to try simile on: the digits, torchvision's datasets from small files, and the shim that lets it import."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from simile.core.errors import BadSetting, DownloadFailed
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.sources.reader import read_bytes
from simile.models.demo_datasets import DOWNLOADABLE_DATASETS, write_dataset, write_digits
from simile.models.networks.backbones import import_torchvision

LABELS = {"mnist": ("0", "9"), "fashion-mnist": ("T-shirt-top", "Ankle boot")}


def put_idx(path: Path, array: np.ndarray) -> None:
    """The file format of MNIST: 0, 0, type (8: uint8), count of dimensions, dimensions, values."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def put_mnist(folder: Path, name: str, labels: list[int]) -> np.ndarray:
    """What torchvision has after downloading, with few images; gives those to train on, (n, 28, 28)."""
    raw = folder / DOWNLOADABLE_DATASETS[name] / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(7).integers(0, 256, (len(labels), 28, 28)).astype(np.uint8)
    for part, count in (("train", len(labels)), ("t10k", 1)):
        put_idx(raw / f"{part}-images-idx3-ubyte", images[:count])
        put_idx(raw / f"{part}-labels-idx1-ubyte", np.array(labels[:count]))
    return images


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


# Digits


def test_there_are_1797_digits_of_32_by_32(tmp_path: Path) -> None:
    assert write_digits(tmp_path / "new" / "digits") == 1797
    files = sorted((tmp_path / "new" / "digits").iterdir())
    assert len(files) == 1797
    assert [path.name for path in files[:3]] == ["00000-0.png", "00001-1.png", "00002-2.png"]
    assert {path.stem.split("-")[1] for path in files} == set("0123456789")
    for path in files[::100]:
        image = decode_image(read_bytes(path, Limits()), name=path)
        assert (image.width, image.height, image.format, image.is_grey) == (32, 32, "png", True)


def test_digits_that_are_there_are_not_touched_and_missing_ones_come_back(tmp_path: Path) -> None:
    write_digits(tmp_path)
    before = times(tmp_path)
    lost, mine = tmp_path / "00100-4.png", tmp_path / "00003-3.png"
    content = lost.read_bytes()
    lost.unlink()
    mine.write_bytes(b"changed by its owner")
    assert write_digits(tmp_path) == 1797
    after = times(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {lost.name, mine.name}
    assert lost.read_bytes() == content
    assert mine.read_bytes() == b"changed by its owner"


# Datasets of torchvision


@pytest.mark.parametrize("name", LABELS)
def test_a_dataset_is_written_pixel_for_pixel_and_named_by_its_labels(name: str, tmp_path: Path) -> None:
    images = put_mnist(tmp_path / "downloads", name, [0, 9, 0])
    first, last = LABELS[name]
    assert write_dataset(name, tmp_path / "images", tmp_path / "downloads") == 3
    files = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in files] == [f"00000-{first}.png", f"00001-{last}.png", f"00002-{first}.png"]
    for path, pixels in zip(files, images, strict=True):
        image = decode_image(path.read_bytes(), name=path)
        assert image.is_grey and np.array_equal(image.pixels[:, :, 0], pixels)


def test_a_dataset_that_was_written_is_not_written_again(tmp_path: Path) -> None:
    put_mnist(tmp_path / "downloads", "mnist", [3, 1, 4, 1, 5])
    write_dataset("mnist", tmp_path / "images", tmp_path / "downloads")
    before = times(tmp_path / "images")
    assert write_dataset("mnist", tmp_path / "images", tmp_path / "downloads") == 5
    assert times(tmp_path / "images") == before


@pytest.mark.parametrize("name", ["", "imagenet", "MNIST", "../mnist"])
def test_an_unknown_dataset_is_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="Use digits, cifar10, fashion-mnist, mnist"):
        write_dataset(name, tmp_path / "images", tmp_path / "downloads")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DOWNLOADABLE_DATASETS)
def test_a_download_that_fails_says_where_and_what_to_do_instead(name: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / "downloads"
    in_the_way.write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed) as caught:
        write_dataset(name, tmp_path / "images", in_the_way)
    message = str(caught.value)
    assert message.startswith(f"{name} could not be downloaded to {in_the_way}")
    assert "--images" in message
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("rest", [0, 3, 16, 300])
def test_a_download_that_was_cut_short_is_no_traceback(rest: int, tmp_path: Path) -> None:
    put_mnist(tmp_path / "downloads", "mnist", [3, 1, 4])
    images = tmp_path / "downloads" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:rest])
    with pytest.raises(DownloadFailed, match="to start again"):
        write_dataset("mnist", tmp_path / "images", tmp_path / "downloads")


# The shim


def test_torchvision_imports_and_keeps_importing() -> None:
    first = import_torchvision()
    assert first is import_torchvision()
    assert first.__name__ == "torchvision"
    assert hasattr(torch.ops.torchvision, "nms")


@pytest.mark.real_processes
def test_torchvisions_parts_work_after_the_shim_in_a_fresh_process() -> None:
    code = """
from simile.models.networks.backbones import import_torchvision
import_torchvision()
import torch
from torchvision import datasets, models, utils
from torchvision.transforms import v2
image = v2.Resize((8, 8))(torch.zeros(3, 16, 16))
assert image.shape == (3, 8, 8)
assert utils.make_grid([image, image]).shape[0] == 3
assert models.squeezenet1_1(weights=None)(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
assert datasets.MNIST and datasets.FashionMNIST and datasets.CIFAR10
print("all of it")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all of it\n", "")
