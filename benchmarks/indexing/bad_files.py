"""Every kind of file that Pillow can write, damaged in forty ways, through `simile index`: nothing may be lost or hang.

    python -m benchmarks.indexing.bad_files [--cuts 20] [--flips 20] [--seconds 10] [--work DIR]

For each format in every mode that it takes, a small and a larger picture: cut at `cuts` places and with one random byte
flipped, `flips` times. All named .jpg, so that the walk takes them for pictures, and all indexed with an untrained
encoder. What must hold: the run finishes, every file is new, unchanged (for content that occurs twice: a copy) or set
aside with a reason, no worker process died, and memory stays bounded.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from benchmarks.indexing.throughput import Peak

SIMILE = str(Path(sys.executable).with_name("simile"))
MODES = ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I", "F", "I;16", "YCbCr", "LAB", "HSV")
SIZES = ((40, 32), (640, 480))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cuts", type=int, default=20)
    options.add_argument("--flips", type=int, default=20)
    options.add_argument("--seconds", type=float, default=10.0, help="that one picture may take")
    options.add_argument("--work", type=Path)
    given = options.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="simile-bad-"))
    try:
        run(work, given.cuts, given.flips, given.seconds)
    finally:
        if given.work is None:
            shutil.rmtree(work)


def run(work: Path, cuts: int, flips: int, seconds: float) -> None:
    whole, folder, home = work / "whole", work / "bad", work / "home"
    for place in (whole, folder):
        place.mkdir(parents=True)
    random, count, kinds = np.random.default_rng(0), itertools.count(), Counter[str]()
    for format, mode, data in written():
        kinds[format] += 1
        (whole / f"{kinds.total():04d}-{format}-{mode.replace(';', '')}.jpg").write_bytes(data)
        for version in damaged(data, cuts, flips, random):
            (folder / f"{next(count):06d}-{format}.jpg").write_bytes(version)
    print(f"{len(kinds)} formats in {kinds.total()} variants, {next(count):,} damaged files", flush=True)
    for number in range(64):  # to train on, though there be no good file
        picture = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(picture).save(whole / f"good-{number}.jpg")
    train = [SIMILE, "train", whole, "--home", home, "--epochs", "1", "--latent-dim", "8", "--width", "4"]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
    report("as written", *indexed(whole, home, seconds))
    report("damaged", *indexed(folder, home, seconds))


def indexed(folder: Path, home: Path, seconds: float) -> tuple[dict[str, Any], int, float, tuple[float, float]]:
    files, started = len(list(folder.iterdir())), time.monotonic()
    environment = {"SIMILE_DECODE_SECONDS": str(seconds), "PATH": "/usr/bin:/bin"}
    command = [SIMILE, "index", folder, "--home", home, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as job:
        peak = Peak(job.pid)
        out, _ = job.communicate()
    if job.returncode:
        raise SystemExit(f"simile index ended with {job.returncode}")
    return json.loads(out), files, time.monotonic() - started, peak.stop()


def report(name: str, summary: dict[str, Any], files: int, seconds: float, memory: tuple[float, float]) -> None:
    reasons = Counter(failure["reason"].split("(")[0].strip() for failure in summary["failures"])
    print(f"\n{name}: {files:,} files in {seconds:.0f} s, at most {memory[0]:,.0f} MB RSS, {memory[1]:,.0f} MB PSS")
    print(f"  readable {summary['new']:,}, set aside {len(summary['failures']):,}")
    for reason, times in reasons.most_common():
        print(f"  {times:7,}  {reason}")
    lost = [
        failure for failure in summary["failures"] if "crashed" in failure["reason"] or "killed" in failure["reason"]
    ]
    for failure in lost[:20]:
        print(f"  a worker died: {failure['path']}: {failure['reason']}")
    accounted = summary["new"] + summary["unchanged"] + len(summary["failures"])
    if accounted != files:
        raise SystemExit(f"{files - accounted} files are not accounted for")
    print("  every file is accounted for", flush=True)


def written() -> Iterator[tuple[str, str, bytes]]:
    """(format, mode, bytes) of everything that Pillow writes here."""
    Image.init()
    pillow_heif.register_heif_opener()
    random = np.random.default_rng(0)
    for width, height in SIZES:
        smooth = Image.fromarray(random.integers(0, 256, (6, 8, 3)).astype(np.uint8)).resize((width, height))
        for format, mode in itertools.product(sorted(Image.SAVE), MODES):
            file = io.BytesIO()
            try:
                smooth.convert("I" if mode == "I;16" else mode).convert(mode).save(file, format)
            except Exception:  # formats differ in the modes they take  # noqa: BLE001
                continue
            if file.tell():
                yield format, mode, file.getvalue()


def damaged(data: bytes, cuts: int, flips: int, random: np.random.Generator) -> Iterator[bytes]:
    for length in np.linspace(0, len(data), cuts, endpoint=False, dtype=int):
        yield data[:length]
    for _ in range(flips):
        other = bytearray(data)
        other[random.integers(len(data))] ^= int(random.integers(1, 256))
        yield bytes(other)


if __name__ == "__main__":
    main()
