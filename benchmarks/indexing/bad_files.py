"""Each kind of file that Pillow can write, damaged in forty ways, through `simile index`: no file is lost, none hangs.

    python -m benchmarks.indexing.bad_files [--cuts 20] [--flips 20] [--seconds 10] [--work DIR]

For each format in each mode that it supports, a small and a larger image: cut at `cuts` places and with one random byte
changed, `flips` times. All are named .jpg, so that the walk accepts them, and all are indexed with an encoder trained
on noise. The run must finish; each file must be new, unchanged (a copy of other content) or set aside with a reason; no
worker process may die; memory must stay bounded.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from benchmarks.common.memory import run_measured
from benchmarks.common.runs import SIMILE, make_parser, open_work_folder

MODES = ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I", "F", "I;16", "YCbCr", "LAB", "HSV")
SIZES = ((40, 32), (640, 480))


def main() -> None:
    """Write, damage and index the files."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="maximum decoding time of one image")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(work, options.cuts, options.flips, options.seconds)


def run(work: Path, cuts: int, flips: int, seconds: float) -> None:
    """Run the benchmark in a work folder."""
    undamaged, damaged, home = work / "whole", work / "bad", work / "home"
    for folder in (undamaged, damaged):
        folder.mkdir(parents=True)
    random, count, formats = np.random.default_rng(0), itertools.count(), Counter[str]()
    for format, mode, data in iterate_formats():
        formats[format] += 1
        (undamaged / f"{formats.total():04d}-{format}-{mode.replace(';', '')}.jpg").write_bytes(data)
        for version in damage(data, cuts, flips, random):
            (damaged / f"{next(count):06d}-{format}.jpg").write_bytes(version)
    print(f"{len(formats)} formats in {formats.total()} variants, {next(count):,} damaged files", flush=True)
    for number in range(64):  # enough images to train on, even if simile can read none of the others
        noise = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).save(undamaged / f"good-{number}.jpg")
    train = [SIMILE, "train", undamaged, "--home", home, "--epochs", "1", "--latent-dim", "8", "--width", "4"]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
    index_and_report("as written", undamaged, home, seconds)
    index_and_report("damaged", damaged, home, seconds)


def index_and_report(name: str, folder: Path, home: Path, seconds: float) -> None:
    """Index a folder; print the reasons of failures, dead workers and memory.

    Raises:
        SystemExit: A file is neither indexed nor set aside.
    """
    files = len(list(folder.iterdir()))
    environment = {"SIMILE_DECODE_SECONDS": str(seconds), "PATH": "/usr/bin:/bin"}
    result = run_measured([SIMILE, "index", folder, "--home", home, "--json"], environment, capture=True)
    summary = json.loads(result.output)
    failures = summary["failures"]
    memory = f"at most {result.rss:,.0f} MB RSS, {result.pss:,.0f} MB PSS"
    print(f"\n{name}: {files:,} files in {result.seconds:.0f} s, {memory}")
    print(f"  readable {summary['new']:,}, set aside {len(failures):,}")
    for reason, times in Counter(failure["reason"].split("(")[0].strip() for failure in failures).most_common():
        print(f"  {times:7,}  {reason}")
    dead = [failure for failure in failures if "crashed" in failure["reason"] or "killed" in failure["reason"]]
    for failure in dead[:20]:
        print(f"  a worker died: {failure['path']}: {failure['reason']}")
    accounted = summary["new"] + summary["unchanged"] + len(failures)
    if accounted != files:
        raise SystemExit(f"{files - accounted} files are not accounted for")
    print("  every file is accounted for", flush=True)


def iterate_formats() -> Iterator[tuple[str, str, bytes]]:
    """Yield (format, mode, bytes) of everything that Pillow can write here."""
    Image.init()
    pillow_heif.register_heif_opener()
    random = np.random.default_rng(0)
    for width, height in SIZES:
        smooth = Image.fromarray(random.integers(0, 256, (6, 8, 3)).astype(np.uint8)).resize((width, height))
        for format, mode in itertools.product(sorted(Image.SAVE), MODES):
            file = io.BytesIO()
            try:
                smooth.convert("I" if mode == "I;16" else mode).convert(mode).save(file, format)
            except Exception:  # the format does not support this mode  # noqa: BLE001
                continue
            if file.tell():
                yield format, mode, file.getvalue()


def damage(data: bytes, cuts: int, flips: int, random: np.random.Generator) -> Iterator[bytes]:
    """Yield truncated versions, then versions with one changed byte."""
    for length in np.linspace(0, len(data), cuts, endpoint=False, dtype=int):
        yield data[:length]
    for _ in range(flips):
        version = bytearray(data)
        version[random.integers(len(data))] ^= int(random.integers(1, 256))
        yield bytes(version)


if __name__ == "__main__":
    main()
