"""Planted copies of photos among 5,500 files: `simile dedup` beside perceptual hashes and pixels.

    python -m benchmarks.dedup.copies --data DIR [--seed 0] [--minutes 10] [--precision 0.99] [--peers V/bin/python]

1,000 photos are drawn from DIR/clothing-photos.tar with the seed, or from the folder --photos; of 250 of them 18 kinds
of altered copies are made and saved as JPEG of quality 92, all under names that say nothing. `simile index` of the
5,500 files trains on them without labels; `simile dedup` finds pairs. Right are the 4,500 pairs of copy and original;
two copies of one original count neither way; any other pair is wrong. Real copies that nobody planted are left out
where real_copies.csv names them by the photos' names: all wrong pairs are listed, and drawn with --sheet, so that
a person can tell. Other tools get the same files, and each its best threshold for that precision by the same count;
for them, in virtual environments of their own:

    python -m venv V && V/bin/pip install -r benchmarks/peers/requirements.txt -c constraints.txt
    python -m venv W && W/bin/pip install -r benchmarks/peers/fastdup.txt      # then --peers W/bin/python as well
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common.dedup_scoring import (
    Score,
    Truth,
    at_best_threshold,
    make_truth,
    peers,
    read_pairs,
    read_real_copies,
    recall_by_kind,
    score,
    timed,
)
from benchmarks.dedup.pair_sheets import upright
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.rendering.sheets import SheetRow, SheetTile, draw_contact_sheets
from simile.images.sources.sources import walk_sources

COLLECTION, ORIGINALS, QUALITY = 1000, 250, 92
REAL = Path(__file__).with_name("real_copies.csv")
SHOWN = 60  # rows of a sheet, lines of the list


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with clothing-photos.tar")
    options.add_argument("--photos", type=Path, help="a folder of photos instead")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--minutes", type=float, default=10, help="of training at most")
    options.add_argument("--precision", type=float, default=0.99)
    options.add_argument("--collection", type=int, default=COLLECTION, help="photos that are drawn")
    options.add_argument("--originals", type=int, default=ORIGINALS, help="of them that copies are made of")
    options.add_argument("--real", type=Path, default=REAL, help="CSV of real copies: two names of photos a line")
    options.add_argument("--sheet", type=Path, help="PNG of the wrong pairs")
    options.add_argument("--peers", type=Path, action="append", help="Python with other tools; may be repeated")
    options.add_argument("--work", type=Path, help="keeps files and home there, and goes on from them")
    given = options.parse_args()
    if (given.data is None) == (given.photos is None):
        options.error("give --data or --photos")
    with tempfile.TemporaryDirectory() as scratch:
        run(given, given.work or Path(scratch))


def run(given: argparse.Namespace, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    planted = prepare(given, work)
    truth = make_truth(planted.files, planted.equal, read_real_copies(given.real))
    folder, home = work / "files", work / "home"
    indexing = timed(work, "index", "index", folder, "--minutes", str(given.minutes), home=home)
    outputs = [work / "pairs.csv", work / "groups.json"]
    options = [part for path in outputs for part in ("--output", path)]
    looking = timed(work, "dedup", "dedup", "--precision", str(given.precision), *options, home=home)
    groups = json.loads(outputs[1].read_text("utf-8"))
    first, second, lines = read_pairs(outputs[0], truth)
    scores = {"simile dedup": score(first, second, truth, groups["threshold"])}
    files = [folder / name for name in truth.names]
    vectors = {"pixels 32 x 32": pixels(files), **peers(given.peers or [], files, work)}
    for name, vector in vectors.items():
        scores[name] = at_best_threshold(vector, truth, given.precision)
    show(scores, truth)
    print(f"\nsimile index {indexing:.0f} s, simile dedup {looking:.0f} s")
    promised(groups)
    wrong = np.flatnonzero(truth.wrong(first, second))
    list_wrong([(int(first[at]), int(second[at]), lines[at]) for at in wrong], truth, files, given.sheet)


# Planting


@dataclass(frozen=True)
class Planted:
    """files: name to (photo, kind), "" for originals. equal: photos with the same pixels as another, to that one."""

    files: dict[str, tuple[str, str]]
    equal: dict[str, str]


def prepare(given: argparse.Namespace, work: Path) -> Planted:
    """Writes the files, or takes those that are there; what they are stands in truth.json beside them."""
    told = work / "truth.json"
    if not told.exists():
        photos = drawn(given, work)
        planted = plant(photos, work / "files", given.originals, given.seed)
        told.write_text(json.dumps(vars(planted)), "utf-8")
    kept = json.loads(told.read_text("utf-8"))
    return Planted({name: (photo, kind) for name, (photo, kind) in kept["files"].items()}, kept["equal"])


def drawn(given: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Name to file of the photos that make the collection."""
    source = given.photos or work / "photos"
    if given.photos is None and not source.exists():
        with tarfile.open(given.data / "clothing-photos.tar") as packed:
            packed.extractall(source, filter="data")
    found = {
        str(Path(file.path).relative_to(source.absolute())): Path(file.path) for file in walk_sources([source]).files
    }
    names = sorted(name for name in found if given.photos or name.endswith(".jpg"))
    chosen = sorted(np.random.default_rng(given.seed).permutation(len(names))[: given.collection].tolist())
    return {Path(names[at]).name if given.photos is None else names[at]: found[names[at]] for at in chosen}


def plant(photos: dict[str, Path], folder: Path, originals: int, seed: int) -> Planted:
    folder.mkdir(parents=True, exist_ok=True)
    random, names = np.random.default_rng([seed, 5]), list(photos)
    rows = np.sort(random.permutation(len(names))[:originals]).tolist()
    free = iter(random.permutation(100_000).tolist())
    files, shown = dict[str, tuple[str, str]](), dict[str, str]()
    equal = {}
    for name, file in photos.items():
        given = f"{next(free):05d}{file.suffix.lower()}"
        (folder / given).write_bytes(file.read_bytes())
        files[given] = name, ""
        same = shown.setdefault(hashlib.sha256(upright(file).tobytes()).hexdigest(), name)
        if same != name:
            equal[name] = same
    asked = [(row, photos[names[row]], [f"{next(free):05d}.jpg" for _ in DISTORTION_KINDS]) for row in rows]
    with ProcessPoolExecutor() as pool:
        for row, made in zip(rows, pool.map(partial(write_copies, folder, seed), asked, chunksize=4), strict=True):
            files |= {name: (names[row], kind) for name, kind in made.items()}
    return Planted(files, equal)


def write_copies(folder: Path, seed: int, asked: tuple[int, Path, list[str]]) -> dict[str, str]:
    row, file, names = asked
    pixels = upright(file)
    for number, (name, kind) in enumerate(zip(names, DISTORTION_KINDS, strict=True)):
        copy = distort(pixels, kind, np.random.default_rng([seed, row, number]))
        Image.fromarray(copy).save(folder / name, quality=QUALITY)
    return dict(zip(names, DISTORTION_KINDS, strict=True))


def pixels(files: list[Path]) -> NDArray[np.float32]:
    """(n, 3072) in [0, 1]."""
    with ProcessPoolExecutor() as pool:
        return np.array(list(pool.map(small, files, chunksize=64)), np.float32)


def small(file: Path) -> NDArray[np.float32]:
    resized = Image.fromarray(upright(file)).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(resized, np.float32).ravel() / np.float32(255)


# Telling


def show(scores: dict[str, Score], truth: Truth) -> None:
    print(f"\n{len(truth.names):,} files, {int(truth.copies.sum()):,} planted copies")
    print(f"{'':<20}{'precision':>11}{'recall':>9}{'right':>8}{'wrong':>8}{'threshold':>12}")
    for name, found in scores.items():
        figures = f"{found.precision:>11.4f}{found.recall:>9.4f}{len(found.right):>8,}{found.wrong:>8,}"
        print(f"{name:<20}{figures}" + (f"{found.threshold:>12.4g}" if len(found.right) else f"{'never':>12}"))
    kinds = {name: recall_by_kind(found, truth) for name, found in scores.items()}
    print("\nrecall by kind".ljust(15) + "".join(f"{name.removeprefix('imagededup '):>16}" for name in scores))
    for kind in DISTORTION_KINDS:
        print(f"{kind:<14}" + "".join(f"{by_kind.get(kind, 0):>16.3f}" for by_kind in kinds.values()))


def promised(groups: dict[str, Any]) -> None:
    calibration = groups["calibration"]
    print(
        f"threshold {groups['threshold']:.4f}; the calibration on {calibration['copies']:,} planted copies of its own "
        f"said precision {calibration['reached_precision']:.4f}, recall {calibration['reached_recall']:.4f}"
    )


def list_wrong(
    found: list[tuple[int, int, dict[str, str]]], truth: Truth, files: list[Path], sheet: Path | None
) -> None:
    """By the two photos that they show: real copies among them belong into real_copies.csv."""
    by_photos = defaultdict(list)
    for one, other, line in found:
        pair = tuple(sorted((truth.photos[one], truth.photos[other])))
        by_photos[pair].append((one, other, line))
    print(f"\n{len(found)} wrong pairs, of {len(by_photos)} pairs of photos; {len(truth.real)} pairs were left out")
    most = sorted(by_photos.items(), key=lambda item: (-len(item[1]), item[0]))[:SHOWN]
    for photos, pairs in most:
        print(f"{len(pairs):>5}  {'  '.join(photos)}")
    if sheet is not None and most:
        originals = {truth.photos[row]: row for row in np.flatnonzero(~truth.copies).tolist()}
        sheet.write_bytes(draw_contact_sheets(list(sheet_rows(most, originals, truth, files))))


def sheet_rows(
    most: list[tuple[tuple[str, ...], list[tuple[int, int, dict[str, str]]]]],
    originals: dict[str, int],
    truth: Truth,
    files: list[Path],
) -> Iterator[SheetRow]:
    """One wrong pair of each two photos, then the photos themselves."""
    for photos, pairs in most:
        one, other, line = pairs[0]
        found = f"distance {float(line['distance']):.3f}\nagreement {line['agreement']}"
        tiles = [SheetTile(upright(files[row]), truth.kinds[row] or "original") for row in (one, other)]
        whole = [SheetTile(upright(files[originals[photo]]), f"{len(pairs)} pairs\n{photo}") for photo in photos]
        yield SheetRow(SheetTile(tiles[0].pixels, f"{tiles[0].caption}\n{found}"), None, [tiles[1], *whole])


if __name__ == "__main__":
    main()
