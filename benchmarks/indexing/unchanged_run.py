"""A second, unchanged run of `simile index` on many tiny files in one folder, compared with a plain walk.

    python -m benchmarks.indexing.unchanged_run [--files 500000] [--work DIR]

Makes the files (different 4 x 4 PNGs of 80 bytes), indexes them once with an encoder trained on few of them, then
measures in turns: a plain walk (os.scandir, and stat of each entry), the whole command `simile index`, and the job
inside a running process. The command may take at most 3 times as long as the walk.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import zlib
from pathlib import Path
from statistics import median

from benchmarks.common.runs import SIMILE, make_parser, measure_seconds, open_work_folder
from simile.core.settings import load_settings
from simile.indexer.pipeline.job import IndexRequest, index

TRAINING_IMAGES = 64


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        measure(work, options.files, options.repeats)


def measure(work: Path, count: int, repeats: int) -> None:
    """Make the files, index them, measure in turns and print medians."""
    folder, home = work / "files", work / "home"
    write_files(folder, count)
    if not (home / "catalogue.sqlite").exists():
        few = work / "few"
        write_files(few, TRAINING_IMAGES)
        train = [SIMILE, "train", few, "--home", home, "--epochs", "1", "--latent-dim", "8", "--width", "4"]
        subprocess.run([*train, "--image-size", "16"], check=True, stdout=subprocess.DEVNULL)
    first = run_index(folder, home)
    print(f"first run: {first['embedded']:,} embedded at {first['images_per_second']:,.0f}/s", flush=True)
    walks, commands, jobs = [], [], []
    settings = load_settings(home=home)
    for _ in range(repeats):
        walks.append(measure_seconds(lambda: walk(folder)))
        commands.append(measure_seconds(lambda: check_unchanged(run_index(folder, home), count)))
        jobs.append(measure_seconds(lambda: index(settings, [folder], IndexRequest())))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{count:,} files; medians of {repeats}: plain walk {median(walks):.2f} s")
    print(f"simile index, unchanged: {median(commands):.2f} s, {get_ratio(commands, walks):.2f} times the walk")
    print(f"the job alone:           {median(jobs):.2f} s, {get_ratio(jobs, walks):.2f} times the walk")
    print(f"largest memory of a command, including the first run: {peak:,.0f} MB")


def write_files(folder: Path, count: int) -> None:
    """Write the files 0000000.png … that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    existing = sum(1 for _ in os.scandir(folder))
    for number in range(existing, count):
        (folder / f"{number:07d}.png").write_bytes(make_tiny_png(number))


def make_tiny_png(number: int) -> bytes:
    """Return a grey PNG of 4 x 4 pixels, different for each number."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = (number * 2654435761 % 2**64).to_bytes(8, "little") + number.to_bytes(8, "little")
    rows = b"".join(b"\0" + pixels[row : row + 4] for row in range(0, 16, 4))
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def walk(folder: Path) -> int:
    """Return the total size of the files."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def run_index(folder: Path, home: Path) -> dict[str, int]:
    """Run `simile index`; return its summary."""
    command = [SIMILE, "index", folder, "--home", home, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(done.stdout))


def check_unchanged(summary: dict[str, int], count: int) -> None:
    """Exit unless the run found all files unchanged."""
    if (summary["unchanged"], summary["embedded"]) != (count, 0):
        raise SystemExit(f"the run was not unchanged: {summary}")


def get_ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median of the ratios within each repeat."""
    return median(numerator / denominator for numerator, denominator in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
