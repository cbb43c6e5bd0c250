"""Pictures that are alike and no copies: what `simile dedup` says of them, drawn for counting by eye.

    python -m benchmarks.dedup.negatives --data DIR --output FOLDER [--set frey …] [--limit N] [--work DIR]

frey      consecutive frames of one face (frey-faces.npz), in blocks of a hundred frames
clothing  photos of garments, often on one background (clothing-photos.tar)
smiles    small grey faces, cut alike (smiles.tar.gz)

Each set is indexed as it is, which trains an encoder on it, and searched for copies with the default settings. Printed:
pairs of each tier, and for the near ones how far apart they lie in the video; drawn: the near pairs, at most 60, the
least sure first. What is shown of people stays out of the repository.
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common.simile_runs import simile
from benchmarks.dedup.pair_sheets import draw_pairs, least_sure
from simile.images.encoding import encode_png

BLOCK = 100  # frames


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True, help="folder for the sheets")
    options.add_argument("--set", action="append", choices=list(SETS), help="may be repeated; default: all")
    options.add_argument("--limit", type=int, help="pictures of a set, from the first on")
    options.add_argument("--minutes", type=float, default=10, help="of training at most, for each set")
    options.add_argument("--precision", type=float, default=0.99)
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.set or SETS:
            run(name, given, (given.work or Path(scratch)) / name)


def run(name: str, given: argparse.Namespace, work: Path) -> None:
    folder, home, started = work / "pictures", work / "home", time.monotonic()
    if not folder.exists():
        SETS[name](given.data, folder, given.limit)
    simile("index", folder, "--minutes", str(given.minutes), home=home)
    outputs = [work / "pairs.csv", work / "groups.json"]
    options = [part for path in outputs for part in ("--output", path)]
    simile("dedup", "--precision", str(given.precision), *options, home=home)
    with outputs[0].open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    tell(name, lines, outputs[1], time.monotonic() - started, sum(path.is_file() for path in folder.rglob("*")))
    near = [line for line in lines if line["tier"] == "near"]
    order = [near[at] for at in least_sure(near)]
    draw_pairs(order, [line["reason"] for line in order], given.output / f"{name}.png")


def tell(name: str, lines: list[dict[str, str]], groups: Path, seconds: float, pictures: int) -> None:
    found = json.loads(groups.read_text("utf-8"))
    tiers = Counter(line["tier"] for line in lines)
    counts = ", ".join(f"{tier} {tiers[tier]:,}" for tier in ("bytes", "pixels", "near", "similar"))
    reached = found["calibration"]["reached_recall"]
    print(f"{name}: {pictures:,} pictures; pairs: {counts}; {seconds:.0f} s")
    print(f"  threshold {found['threshold']:.4f}, recall of copies planted by its calibration {reached:.3f}")
    if name == "frey":
        apart = Counter(abs(frame(line["path_a"]) - frame(line["path_b"])) for line in lines if line["tier"] == "near")
        print(
            "  near pairs by frames apart:", ", ".join(f"{far}: {count}" for far, count in sorted(apart.items())[:12])
        )
    print(flush=True)


def frame(path: str) -> int:
    return int(Path(path).stem)


# Pictures


def frey(data: Path, folder: Path, limit: int | None) -> None:
    images = np.load(data / "frey-faces.npz")["images"][:limit]
    for number, pixels in enumerate(images):
        block = folder / f"{number // BLOCK:02d}"
        block.mkdir(parents=True, exist_ok=True)
        (block / f"{number:05d}.png").write_bytes(encode_png(pixels))


def clothing(data: Path, folder: Path, limit: int | None) -> None:
    unpack(data / "clothing-photos.tar", folder, limit)


def smiles(data: Path, folder: Path, limit: int | None) -> None:
    unpack(data / "smiles.tar.gz", folder, limit)


def unpack(archive: Path, folder: Path, limit: int | None) -> None:
    """Its JPEGs, with the folders that they lie in."""
    with tarfile.open(archive) as packed:
        members = sorted((m for m in packed.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        packed.extractall(folder, members[:limit], filter="data")


SETS: dict[str, Callable[[Path, Path, int | None], None]] = {"frey": frey, "clothing": clothing, "smiles": smiles}

if __name__ == "__main__":
    main()
