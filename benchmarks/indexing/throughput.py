"""`simile index` compared with the limit of decoding alone, and its memory.

    python -m benchmarks.indexing.throughput [--data DIR] [--images 5000] [--small 100000] [--work DIR]

Three folders, each left out if its source is missing: JPEGs of 1 to 2 megapixels (clothing-photos.tar, cropped and
enlarged; without it synthetic images), the clothing photos, and small PNGs (the first of Fashion-MNIST, then MNIST).
For each, in turns:

limit     worker processes on all cores only read, hash, decode and scale to the encoder's input
index     `simile index` into an empty home, with an encoder that was trained for some seconds before
pipeline  images a second from the first file to the last commit, as the command reports it
command   images a second of the whole command, with the start of Python, torch and the runtime, walk and segment
memory    the largest sum over job, fork server and workers: RSS counts shared pages once for each, PSS once
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.common.memory import MeasuredRun, run_measured
from benchmarks.common.runs import (
    SIMILE,
    iterate_jpegs,
    load_encoder,
    make_parser,
    open_work_folder,
    read_array,
    write_images,
)
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.sources import walk_sources
from simile.models.inference.encoder import TrainedEncoder

TRAINING_IMAGES = 400
PHOTO_SIZE = (450, 600)


def main() -> None:
    """Measure each folder."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=5000, help="JPEGs of 1 to 2 megapixels")
    parser.add_argument("--small", type=int, default=100_000, help="small PNGs; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        for folder in iterate_folders(options.data, work, options.images, options.small):
            measure(folder, work / f"home-{folder.name}", options.repeats)


def iterate_folders(data: Path, work: Path, images: int, small: int) -> Iterator[Path]:
    """Write and yield the folders."""
    photos = data / "clothing-photos.tar"
    yield write_large_jpegs(photos, work / "large", images)
    if photos.exists():
        folder = work / "clothing"
        if not folder.exists():
            with tarfile.open(photos) as archive:
                archive.extractall(folder, filter="data")
        yield folder
    datasets = ("fashion-mnist", "mnist")
    if small and all((data / f"{name}.npz").exists() for name in datasets):
        arrays = [read_array(data, name, part) for name in datasets for part in ("x_train", "x_test")]
        write_images(work / "small", np.concatenate(arrays)[:small])
        yield work / "small"


# Images


def write_large_jpegs(photos: Path, folder: Path, count: int) -> Path:
    """Write `count` different JPEGs of 1 to 2 megapixels."""
    folder.mkdir(exist_ok=True)
    contents = iterate_jpegs(photos, by_name=False) if photos.exists() else ()
    sources = [Image.open(io.BytesIO(content)).convert("RGB").resize(PHOTO_SIZE) for _, content in contents]
    sources = sources or [make_synthetic(number) for number in range(64)]
    for number in range(len(list(folder.iterdir())), count):
        random = np.random.default_rng(number)
        image = crop_and_enlarge(sources[number % len(sources)], random)
        image.save(folder / f"{number:05d}.jpg", quality=int(random.integers(80, 93)))
    return folder


def crop_and_enlarge(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Enlarge a part of a photo to 1 to 2 megapixels, with grain: without it the result decodes too easily."""
    side = float(random.uniform(0.7, 0.95))
    left, top = random.uniform(0, 1 - side, 2)
    box = (left * image.width, top * image.height, (left + side) * image.width, (top + side) * image.height)
    width = int((random.uniform(1e6, 2e6) * 3 / 4) ** 0.5)
    large = image.resize((width, width * 4 // 3), Image.Resampling.BICUBIC, box=box)
    grain = random.normal(0, 4, (large.height, large.width, 1))
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


def make_synthetic(seed: int) -> Image.Image:
    """Return smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (24, 18, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize(PHOTO_SIZE, Image.Resampling.BICUBIC).filter(ImageFilter.SMOOTH)


# Measuring


def measure(folder: Path, home: Path, repeats: int) -> None:
    """Measure limit and index in turns, and print medians."""
    files = [file.path for file in walk_sources([folder]).files]
    encoder = train_encoder(files, home)
    limits, pipelines, commands, memory = [], [], [], []
    decode_only(files, encoder)  # not counted: it reads from the disk
    for _ in range(repeats):
        limits.append(decode_only(files, encoder))
        run = index(folder, home, encoder)
        summary = json.loads(run.output)
        pipelines.append(summary["done"] / summary["seconds"])
        commands.append(summary["done"] / run.seconds)
        memory.append((run.rss, run.pss))
    pipeline_shares = [rate / limit for rate, limit in zip(pipelines, limits, strict=True)]
    command_shares = [rate / limit for rate, limit in zip(commands, limits, strict=True)]
    rss, pss = (max(values) for values in zip(*memory, strict=True))
    print(f"{folder.name}: {len(files):,} images, input {encoder.preprocessing.image_size} px, medians of {repeats}")
    print(f"  limit    {median(limits):8,.0f} images/s")
    print(f"  pipeline {median(pipelines):8,.0f} images/s, {median(pipeline_shares):.2f} of the limit")
    print(f"  command  {median(commands):8,.0f} images/s, {median(command_shares):.2f} of the limit")
    print(f"  memory   {rss:8,.0f} MB RSS, {pss:,.0f} MB PSS", flush=True)


def train_encoder(files: list[str], home: Path) -> TrainedEncoder:
    """Train an encoder of the usual size and recipe for one epoch on some of the images."""
    if not list(home.glob("encoders/[0-9a-f]*")):
        sample = "\n".join(files[:: max(1, len(files) // TRAINING_IMAGES)])
        command = [SIMILE, "train", "-", "--home", home, "--epochs", "1"]
        subprocess.run(command, input=sample, text=True, check=True, stdout=subprocess.DEVNULL)
    return load_encoder(home)


def decode_only(files: list[str], encoder: TrainedEncoder) -> float:
    """Return images a second, from the first result to the last."""
    with WorkerPool() as workers:
        results = prepare_files(iter(files), encoder.preprocessing, Limits(), workers)
        next(results)
        started = time.perf_counter()
        count = sum(1 for _ in results)
        return count / (time.perf_counter() - started)


def index(folder: Path, home: Path, encoder: TrainedEncoder) -> MeasuredRun:
    """Index into an empty home."""
    with tempfile.TemporaryDirectory(dir=home.parent) as new_home:
        encoder_folder = home / "encoders" / encoder.fingerprint
        command = [SIMILE, "index", folder, "--home", new_home, "--encoder", encoder_folder, "--json"]
        run = run_measured(command, capture=True)
    summary = json.loads(run.output)
    if summary["new"] + len(summary["failures"]) != summary["done"]:
        raise SystemExit(f"files are missing: {summary}")
    return run


if __name__ == "__main__":
    main()
