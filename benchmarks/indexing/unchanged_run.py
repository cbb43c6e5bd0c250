"""The second, unchanged run of `simile index` over many tiny files in one folder, against a bare walk of them.

    python -m benchmarks.indexing.unchanged_run [--files 500000] [--work DIR]

Makes the files (a 4 x 4 PNG of 80 bytes each, no two alike), indexes them once with an untrained encoder, then measures
in turns: a bare walk (os.scandir, and stat of every entry), the whole command `simile index` as a user types it, and
the job inside a process that has been started. What must hold: the command takes at most 3 times the bare walk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median

from simile.core.settings import load_settings
from simile.indexer.pipeline.job import IndexRequest, index

SIMILE = str(Path(sys.executable).with_name("simile"))
TO_TRAIN = 64  # pictures of the training that makes an encoder at all


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=500_000)
    options.add_argument("--work", type=Path, help="folder for the files and the home; kept, and used again")
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="simile-unchanged-"))
    try:
        measure(work, given.files, given.repeats)
    finally:
        if given.work is None:
            shutil.rmtree(work)


def measure(work: Path, count: int, repeats: int) -> None:
    folder, home = work / "files", work / "home"
    write_files(folder, count)
    if not (home / "catalogue.sqlite").exists():
        few = work / "few"
        write_files(few, TO_TRAIN)
        train = [SIMILE, "train", few, "--home", home, "--epochs", "1", "--latent-dim", "8", "--width", "4"]
        subprocess.run([*train, "--image-size", "16"], check=True, stdout=subprocess.DEVNULL)
    first = run(folder, home)
    print(f"first run: {first['embedded']:,} embedded at {first['images_per_second']:,.0f}/s", flush=True)
    walks, commands, jobs = [], [], []
    settings = load_settings(home=home)
    for _ in range(repeats):
        walks.append(timed(lambda: bare_walk(folder)))
        commands.append(timed(lambda: check(run(folder, home), count)))
        jobs.append(timed(lambda: index(settings, [folder], IndexRequest())))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{count:,} files; medians of {repeats}: bare walk {median(walks):.2f} s")
    print(f"simile index, unchanged: {median(commands):.2f} s, {ratio(commands, walks):.2f} times the walk")
    print(f"the job alone:           {median(jobs):.2f} s, {ratio(jobs, walks):.2f} times the walk")
    print(f"largest memory of a command, the first run with it: {peak:,.0f} MB")


def write_files(folder: Path, count: int) -> None:
    """Files 0000000.png … that are still missing."""
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(1 for _ in os.scandir(folder))
    for number in range(there, count):
        (folder / f"{number:07d}.png").write_bytes(tiny(number))


def tiny(number: int) -> bytes:
    """A grey PNG of 4 x 4 pixels; other numbers give other pictures."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = (number * 2654435761 % 2**64).to_bytes(8, "little") + number.to_bytes(8, "little")
    rows = b"".join(b"\0" + pixels[row : row + 4] for row in range(0, 16, 4))
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bare_walk(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def run(folder: Path, home: Path) -> dict[str, int]:
    command = [SIMILE, "index", folder, "--home", home, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(done.stdout))


def check(summary: dict[str, int], count: int) -> None:
    if (summary["unchanged"], summary["embedded"]) != (count, 0):
        raise SystemExit(f"the run was not unchanged: {summary}")


def timed(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over repeats of the ratio within one repeat."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
