"""How near `simile index` comes to what decoding alone allows, and how much memory it takes.

    python -m benchmarks.indexing.throughput [--data DIR] [--pictures 5000] [--small 100000] [--work DIR]

Three folders, each left out where its source is missing: JPEGs of 1 to 2 megapixels (clothing-photos.tar, cut and
enlarged; without it synthetic pictures), the clothing photos as they are, and small PNGs (the first of Fashion-MNIST,
then MNIST). For each, in turns within one run:

limit     worker processes on all cores read, hash, decode and scale to the encoder's input; nothing else is done
index     `simile index` into an empty home, with an encoder trained for a few seconds beforehand
pipeline  pictures a second from the first file to the last commit, as the command reports it
command   pictures a second of the whole command: start of Python, torch and the runtime, walk, segment
memory    the largest sum over job, nursery and workers: RSS counts shared pages once for each, PSS once
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.common.simile_runs import write_pictures
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_files
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.sources import walk_sources
from simile.models.inference.encoder import TrainedEncoder

SIMILE = str(Path(sys.executable).with_name("simile"))
TO_TRAIN = 400


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--pictures", type=int, default=5000, help="JPEGs of 1 to 2 megapixels")
    options.add_argument("--small", type=int, default=100_000, help="small PNGs; 0: none")
    options.add_argument("--work", type=Path, help="folder for pictures and homes; kept, and used again")
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="simile-throughput-"))
    work.mkdir(exist_ok=True)
    try:
        for folder in folders(given.data, work, given.pictures, given.small):
            report(folder, work / f"home-{folder.name}", given.repeats)
    finally:
        if given.work is None:
            shutil.rmtree(work)


def folders(data: Path, work: Path, pictures: int, small: int) -> Iterator[Path]:
    photos = data / "clothing-photos.tar"
    yield large_jpegs(photos, work / "large", pictures)
    if photos.exists():
        folder = work / "clothing"
        if not folder.exists():
            with tarfile.open(photos) as packed:
                packed.extractall(folder, filter="data")
        yield folder
    sets = [data / f"{name}.npz" for name in ("fashion-mnist", "mnist")]
    if small and all(path.exists() for path in sets):
        arrays = [np.load(path)[part] for path in sets for part in ("x_train", "x_test")]
        write_pictures(work / "small", np.concatenate(arrays)[:small])
        yield work / "small"


# Pictures


def large_jpegs(photos: Path, folder: Path, count: int) -> Path:
    """`count` JPEGs of 1 to 2 megapixels, no two alike."""
    folder.mkdir(exist_ok=True)
    sources = list(photos_in(photos)) or [synthetic(number) for number in range(64)]
    for number in range(len(list(folder.iterdir())), count):
        random = np.random.default_rng(number)
        made = enlarged(sources[number % len(sources)], random)
        made.save(folder / f"{number:05d}.jpg", quality=int(random.integers(80, 93)))
    return folder


def photos_in(archive: Path) -> Iterator[Image.Image]:
    if not archive.exists():
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            file = packed.extractfile(member) if member.name.lower().endswith((".jpg", ".jpeg")) else None
            if file is not None:
                yield Image.open(io.BytesIO(file.read())).convert("RGB").resize((450, 600))


def enlarged(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of a photo at 1 to 2 megapixels, with a grain as cameras have it: bare enlargements decode too easily."""
    side = float(random.uniform(0.7, 0.95))
    left, top = random.uniform(0, 1 - side, 2)
    box = (left * image.width, top * image.height, (left + side) * image.width, (top + side) * image.height)
    width = int((random.uniform(1e6, 2e6) * 3 / 4) ** 0.5)
    large = image.resize((width, width * 4 // 3), Image.Resampling.BICUBIC, box=box)
    grain = random.normal(0, 4, (large.height, large.width, 1))
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


def synthetic(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 18, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((450, 600), Image.Resampling.BICUBIC).filter(ImageFilter.SMOOTH)


# Measuring


def report(folder: Path, home: Path, repeats: int) -> None:
    files = [file.path for file in walk_sources([folder]).files]
    encoder = trained(files, home)
    limits, pipelines, commands, memory = [], [], [], []
    decode_only(files, encoder)  # not counted: the first reads from the disk
    for _ in range(repeats):
        limits.append(decode_only(files, encoder))
        summary, seconds, peak = indexed(folder, home, encoder)
        pipelines.append(summary["done"] / summary["seconds"])
        commands.append(summary["done"] / seconds)
        memory.append(peak)
    shares = [one / limit for one, limit in zip(pipelines, limits, strict=True)]
    whole = [one / limit for one, limit in zip(commands, limits, strict=True)]
    rss, pss = (max(values) for values in zip(*memory, strict=True))
    print(f"{folder.name}: {len(files):,} pictures, input {encoder.preprocessing.image_size} px, medians of {repeats}")
    print(f"  limit    {median(limits):8,.0f} pictures/s")
    print(f"  pipeline {median(pipelines):8,.0f} pictures/s, {median(shares):.2f} of the limit")
    print(f"  command  {median(commands):8,.0f} pictures/s, {median(whole):.2f} of the limit")
    print(f"  memory   {rss:8,.0f} MB RSS, {pss:,.0f} MB PSS", flush=True)


def trained(files: list[str], home: Path) -> TrainedEncoder:
    """An encoder of the usual size and recipe, trained for a moment on some of the pictures."""
    if not list(home.glob("encoders/[0-9a-f]*")):
        some = "\n".join(files[:: max(1, len(files) // TO_TRAIN)])
        command = [SIMILE, "train", "-", "--home", home, "--epochs", "1"]
        subprocess.run(command, input=some, text=True, check=True, stdout=subprocess.DEVNULL)
    (description,) = home.glob("encoders/[0-9a-f]*/encoder.json")
    return TrainedEncoder.load(description.parent, "cpu")


def decode_only(files: list[str], encoder: TrainedEncoder) -> float:
    """Pictures a second, from the first result to the last."""
    with WorkerPool() as workers:
        results = prepare_files(iter(files), encoder.preprocessing, Limits(), workers)
        next(results)
        started = time.perf_counter()
        rest = sum(1 for _ in results)
        return rest / (time.perf_counter() - started)


def indexed(folder: Path, home: Path, encoder: TrainedEncoder) -> tuple[dict[str, Any], float, tuple[float, float]]:
    """One run into an empty home: its summary, seconds, and peak memory in MB."""
    with tempfile.TemporaryDirectory(dir=home.parent) as fresh:
        command = [SIMILE, "index", folder, "--home", fresh, "--encoder", home / "encoders" / encoder.fingerprint]
        started = time.perf_counter()
        with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
            peak = Peak(job.pid)
            out, _ = job.communicate()
            seconds = time.perf_counter() - started
        if job.returncode:
            raise SystemExit(f"{command} failed")
        summary = json.loads(out)
        if summary["new"] + len(summary["failures"]) != summary["done"]:
            raise SystemExit(f"files are missing: {summary}")
        return summary, seconds, peak.stop()


class Peak(threading.Thread):
    """Looks at the memory of a process and of all below it, ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, (0.0, 0.0), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            now = [memory_of(pid) for pid in tree(self.pid)]
            self.peak = tuple(max(self.peak[at], sum(one[at] for one in now)) for at in (0, 1))  # type: ignore[assignment]

    def stop(self) -> tuple[float, float]:
        self.ended.set()
        self.join()
        return self.peak


def tree(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError):
            waiting += map(int, Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split())
    return found


def memory_of(pid: int) -> tuple[float, float]:
    """(RSS, PSS) in MB."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
        return sizes["Rss"], sizes["Pss"]
    return 0.0, 0.0


if __name__ == "__main__":
    main()
