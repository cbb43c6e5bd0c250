"""Options, folders, datasets and simile commands that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simile.images.encoding import encode_png
from simile.models.inference.encoder import TrainedEncoder

SIMILE = str(Path(sys.executable).with_name("simile"))


def make_parser(description: str | None, *, data: bool = False, work: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the description, and with --data (required) and --work if asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    if work:
        parser.add_argument("--work", type=Path, help="folder that keeps images and homes for the next run")
    return parser


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Add --data, --photos and --seed; see `parse_photo_options`."""
    parser.add_argument("--data", type=Path, help="folder of the datasets")
    parser.add_argument("--photos", type=Path, help="a folder of photos instead")
    parser.add_argument("--seed", type=int, default=0)


def parse_photo_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options; exactly one of --data and --photos must be given."""
    options = parser.parse_args()
    if (options.data is None) == (options.photos is None):
        parser.error("give --data or --photos")
    return options


def list_photos(options: argparse.Namespace, work: Path, *archives: str) -> list[Path]:
    """Return the photos of --photos, or of archives in --data that are unpacked once, in the order of --seed."""
    folder = options.photos
    if folder is None:
        folder = work / "photos"
        for name in archives if not folder.exists() else ():
            with tarfile.open(options.data / name) as archive:
                archive.extractall(folder, filter="data")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [found[row] for row in np.random.default_rng(options.seed).permutation(len(found))]


@contextmanager
def open_work_folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder of --work, which stays, or a temporary one."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix="simile-") as folder:
            yield Path(folder)


# Datasets


def read_array(data: Path, dataset: str, name: str) -> NDArray[Any]:
    """Return one array of DATA/<dataset>.npz."""
    with np.load(data / f"{dataset}.npz") as arrays:
        return np.asarray(arrays[name])


def iterate_jpegs(archive: Path, *, by_name: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each JPEG file in a tar archive, by name or in the order of the archive."""
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in sorted(members, key=lambda member: member.name) if by_name else members:
            file = tar.extractfile(member) if member.name.lower().endswith((".jpg", ".jpeg")) else None
            if file is not None:
                yield member.name, file.read()


def write_images(folder: Path, images: NDArray[np.uint8]) -> None:
    """Write one PNG file for each image, named by its row; an existing folder is not changed."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for row, image in enumerate(images):
        (folder / f"{row:05d}.png").write_bytes(encode_png(image))


def draw_rows(rows: NDArray[Any], count: int, random: np.random.Generator) -> NDArray[Any]:
    """Return `count` random rows without repetition; equal generators give equal rows of images and labels."""
    return rows[random.choice(len(rows), count, replace=False)]


# Commands


def make_training_options(minutes: float | None) -> list[object]:
    """Return the options of `simile index` for a training of so many minutes; none for the shipped encoder."""
    return [] if minutes is None else ["--minutes", minutes]


def simile(*arguments: object, home: Path) -> None:
    """Run a command as a user does, with its output, and print how long it took."""
    started = time.monotonic()
    subprocess.run([SIMILE, *map(str, arguments), "--home", str(home)], check=True)
    print(f"simile {arguments[0]}: {time.monotonic() - started:.0f} s\n", flush=True)


def train_once(home: Path, source: Path, *options: object, indexed: Path | None = None) -> None:
    """Train an encoder, and index a folder with it, unless an earlier run did."""
    if not (home / "catalogue.sqlite").exists():
        simile("train", source, *options, home=home)
        if indexed is not None:
            simile("index", indexed, home=home)


def get_encoder_folder(home: Path) -> Path:
    """Return the folder of the only encoder in a home."""
    (description,) = home.glob("encoders/[0-9a-f]*/encoder.json")
    return description.parent


def load_encoder(home: Path) -> TrainedEncoder:
    """Load the only encoder in a home, on the CPU."""
    return TrainedEncoder.load(get_encoder_folder(home), "cpu")


def read_report(home: Path) -> dict[str, Any]:
    """Read report.json of the only encoder in a home."""
    return dict(json.loads((get_encoder_folder(home) / "report.json").read_text(encoding="utf-8")))


def measure_seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
