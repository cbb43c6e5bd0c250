"""Similar images that are not copies: the pairs that `simile dedup` finds, drawn to be counted by eye.

    python -m benchmarks.dedup.negatives --data DIR --output FOLDER [--set frey …] [--limit N] [--work DIR]

frey      consecutive frames of one face (frey-faces.npz), in blocks of a hundred frames
clothing  photos of garments, often on one background (clothing-photos.tar)
smiles    small grey faces with the same crop (smiles.tar.gz)

Each set is indexed, which trains an encoder on it, and searched for copies with the default settings. The script prints
the pairs of each tier, and for the near pairs of the video the difference of their frame numbers; it draws at most 60
near pairs, the lowest agreement first. Never publish the sheets of people.
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.common.runs import make_parser, make_training_options, open_work_folder, read_array, simile
from benchmarks.dedup.pair_sheets import draw_pairs, sort_by_agreement
from simile.images.encoding import encode_png

BLOCK = 100  # frames


def main() -> None:
    """Measure each set."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the sheets")
    parser.add_argument("--set", action="append", choices=list(SETS), help="may be repeated [default: all]")
    parser.add_argument("--limit", type=int, help="use only the first images of a set")
    parser.add_argument("--minutes", type=float, help="training time; the shipped encoder otherwise")
    parser.add_argument("--precision", type=float, default=0.99)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with open_work_folder(options.work) as work:
        for name in options.set or SETS:
            run(name, options, work / name)


def run(name: str, options: argparse.Namespace, work: Path) -> None:
    """Index a set, find pairs, print and draw them."""
    folder, home, started = work / "images", work / "home", time.monotonic()
    if not folder.exists():
        SETS[name](options.data, folder, options.limit)
    simile("index", folder, *make_training_options(options.minutes), home=home)
    pairs, groups = work / "pairs.csv", work / "groups.json"
    simile("dedup", "--precision", options.precision, "--output", pairs, "--output", groups, home=home)
    with pairs.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    report(name, lines, groups, time.monotonic() - started, sum(path.is_file() for path in folder.rglob("*")))
    near = [line for line in lines if line["tier"] == "near"]
    order = [near[row] for row in sort_by_agreement(near)]
    draw_pairs(order, [line["reason"] for line in order], options.output / f"{name}.png")


def report(name: str, lines: list[dict[str, str]], groups: Path, seconds: float, images: int) -> None:
    """Print pairs by tier, the calibration, and for the video the near pairs by difference of frames."""
    result = json.loads(groups.read_text("utf-8"))
    tiers = Counter(line["tier"] for line in lines)
    counts = ", ".join(f"{tier} {tiers[tier]:,}" for tier in ("bytes", "pixels", "near", "similar"))
    recall = result["calibration"]["reached_recall"]
    print(f"{name}: {images:,} images; pairs: {counts}; {seconds:.0f} s")
    print(f"  threshold {result['threshold']:.4f}, recall of the copies that its calibration planted {recall:.3f}")
    if name == "frey":
        near = [line for line in lines if line["tier"] == "near"]
        differences = Counter(abs(int(Path(line["path_a"]).stem) - int(Path(line["path_b"]).stem)) for line in near)
        smallest = sorted(differences.items())[:12]
        print("  near pairs by difference of frames:", ", ".join(f"{frames}: {count}" for frames, count in smallest))
    print(flush=True)


def write_frames(data: Path, folder: Path, limit: int | None) -> None:
    """Write the frames of the Frey video, a folder for each block."""
    for number, pixels in enumerate(read_array(data, "frey-faces", "images")[:limit]):
        block = folder / f"{number // BLOCK:02d}"
        block.mkdir(parents=True, exist_ok=True)
        (block / f"{number:05d}.png").write_bytes(encode_png(pixels))


def unpack(name: str, data: Path, folder: Path, limit: int | None) -> None:
    """Unpack the JPEG files of an archive, with their folders."""
    with tarfile.open(data / name) as archive:
        members = sorted((m for m in archive.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        archive.extractall(folder, members[:limit], filter="data")


SETS: dict[str, Callable[[Path, Path, int | None], None]] = {
    "frey": write_frames,
    "clothing": partial(unpack, "clothing-photos.tar"),
    "smiles": partial(unpack, "smiles.tar.gz"),
}

if __name__ == "__main__":
    main()
