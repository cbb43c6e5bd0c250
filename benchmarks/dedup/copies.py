"""Planted copies of photos among 5,500 files: `simile dedup` compared with perceptual hashes and pixels.

    python -m benchmarks.dedup.copies --data DIR [--seed 0] [--minutes N] [--precision 0.99] [--peers V/bin/python]

1,000 photos are drawn with the seed from DIR/clothing-photos.tar, or from the folder --photos. 18 kinds of distorted
copies of 250 of them are saved as JPEG of quality 92; all files have neutral names. `simile index` of the 5,500 files
uses the shipped encoder, or with --minutes one that it trains on them without labels; `simile dedup` finds pairs. The
4,500 pairs of a copy and its original are right; pairs of two copies of one original are ignored; all other pairs are
wrong. real_copies.csv names photos that are real copies, which are ignored too: all wrong pairs are printed, and drawn
with --sheet, so that a person can check them. Other tools get the same files; for each the best threshold for that
precision by the same count is used. Install them in their own
virtual environments:

    python -m venv V && V/bin/pip install -r benchmarks/peers/requirements.txt -c constraints.txt
    python -m venv W && W/bin/pip install -r benchmarks/peers/fastdup.txt      # then also --peers W/bin/python
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
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
    get_recall_by_kind,
    hash_with_peers,
    make_truth,
    read_pairs,
    read_real_copies,
    score,
    score_at_best_threshold,
    time_command,
)
from benchmarks.common.runs import (
    add_photo_options,
    make_parser,
    make_training_options,
    open_work_folder,
    parse_photo_options,
)
from benchmarks.dedup.pair_sheets import read_upright
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.rendering.sheets import SheetRow, SheetTile, draw_contact_sheets
from simile.images.sources.sources import walk_sources

COLLECTION, ORIGINALS, QUALITY = 1000, 250, 92
REAL_COPIES = Path(__file__).with_name("real_copies.csv")
MAX_ROWS = 60  # of a sheet and of the printed list
WrongPair = tuple[int, int, dict[str, str]]  # rows of both files, line of pairs.csv


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--minutes", type=float, help="training time; the shipped encoder otherwise")
    parser.add_argument("--precision", type=float, default=0.99)
    parser.add_argument("--collection", type=int, default=COLLECTION, help="number of photos to draw")
    parser.add_argument("--originals", type=int, default=ORIGINALS, help="number of photos to make copies of")
    parser.add_argument("--real", type=Path, default=REAL_COPIES, help="CSV of real copies: two names of photos a line")
    parser.add_argument("--sheet", type=Path, help="PNG of the wrong pairs")
    parser.add_argument("--peers", type=Path, action="append", help="Python with other tools; may be repeated")
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        run(options, work)


def run(options: argparse.Namespace, work: Path) -> None:
    """Plant copies, run simile and the other tools, and print the tables."""
    planted = prepare(options, work)
    truth = make_truth(planted.files, planted.equal, read_real_copies(options.real))
    folder, home = work / "files", work / "home"
    index_seconds = time_command(work, "index", "index", folder, *make_training_options(options.minutes), home=home)
    pairs, groups_file = work / "pairs.csv", work / "groups.json"
    arguments = ["--precision", options.precision, "--output", pairs, "--output", groups_file]
    dedup_seconds = time_command(work, "dedup", "dedup", *arguments, home=home)
    groups = json.loads(groups_file.read_text("utf-8"))
    first, second, lines = read_pairs(pairs, truth)
    scores = {"simile dedup": score(first, second, truth, groups["threshold"])}
    files = [folder / name for name in truth.names]
    vectors = {"pixels 32 x 32": read_small_pixels(files), **hash_with_peers(options.peers or [], files, work)}
    for name, vector in vectors.items():
        scores[name] = score_at_best_threshold(vector, truth, options.precision)
    report(scores, truth)
    print(f"\nsimile index {index_seconds:.0f} s, simile dedup {dedup_seconds:.0f} s")
    report_calibration(groups)
    wrong = np.flatnonzero(truth.wrong(first, second)).tolist()
    report_wrong([(int(first[row]), int(second[row]), lines[row]) for row in wrong], truth, files, options.sheet)


# Planting


@dataclass(frozen=True)
class Planted:
    """The files, as `make_truth` takes them."""

    files: dict[str, tuple[str, str]]  # (photo, kind of distortion) by name; "" for originals
    equal: dict[str, str]  # photos with the same pixels as another photo, and that photo


def prepare(options: argparse.Namespace, work: Path) -> Planted:
    """Write the files, or use those of an earlier run; truth.json describes them."""
    description = work / "truth.json"
    if not description.exists():
        photos = draw_photos(options, work)
        planted = plant(photos, work / "files", options.originals, options.seed)
        description.write_text(json.dumps(vars(planted)), "utf-8")
    stored = json.loads(description.read_text("utf-8"))
    return Planted({name: (photo, kind) for name, (photo, kind) in stored["files"].items()}, stored["equal"])


def draw_photos(options: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Return the photos of the collection, by name."""
    source = options.photos or work / "photos"
    if options.photos is None and not source.exists():
        with tarfile.open(options.data / "clothing-photos.tar") as archive:
            archive.extractall(source, filter="data")
    paths = [Path(file.path) for file in walk_sources([source]).files]
    by_name = {str(path.relative_to(source.absolute())): path for path in paths}
    names = sorted(name for name in by_name if options.photos or name.endswith(".jpg"))
    drawn = sorted(np.random.default_rng(options.seed).permutation(len(names))[: options.collection].tolist())
    return {names[row] if options.photos else Path(names[row]).name: by_name[names[row]] for row in drawn}


def plant(photos: dict[str, Path], folder: Path, originals: int, seed: int) -> Planted:
    """Write all photos, and the copies of some of them, with random numbers as names."""
    folder.mkdir(parents=True, exist_ok=True)
    random, names = np.random.default_rng([seed, 5]), list(photos)
    rows = np.sort(random.permutation(len(names))[:originals]).tolist()
    numbers = iter(random.permutation(100_000).tolist())
    files, name_of_pixels = dict[str, tuple[str, str]](), dict[str, str]()
    equal = {}
    for name, file in photos.items():
        new_name = f"{next(numbers):05d}{file.suffix.lower()}"
        (folder / new_name).write_bytes(file.read_bytes())
        files[new_name] = name, ""
        first_name = name_of_pixels.setdefault(hashlib.sha256(read_upright(file).tobytes()).hexdigest(), name)
        if first_name != name:
            equal[name] = first_name
    tasks = [(row, photos[names[row]], [f"{next(numbers):05d}.jpg" for _ in DISTORTION_KINDS]) for row in rows]
    with ProcessPoolExecutor() as pool:
        for row, copies in zip(rows, pool.map(partial(write_copies, folder, seed), tasks, chunksize=4), strict=True):
            files |= {name: (names[row], kind) for name, kind in copies.items()}
    return Planted(files, equal)


def write_copies(folder: Path, seed: int, task: tuple[int, Path, list[str]]) -> dict[str, str]:
    """Write a copy of each kind; return the kinds by name."""
    row, file, names = task
    pixels = read_upright(file)
    for number, (name, kind) in enumerate(zip(names, DISTORTION_KINDS, strict=True)):
        copy = distort(pixels, kind, np.random.default_rng([seed, row, number]))
        Image.fromarray(copy).save(folder / name, quality=QUALITY)
    return dict(zip(names, DISTORTION_KINDS, strict=True))


def read_small_pixels(files: list[Path]) -> NDArray[np.float32]:
    """Return the files at 32 x 32 pixels, (n, 3072) in [0, 1]."""
    with ProcessPoolExecutor() as pool:
        return np.array(list(pool.map(read_small, files, chunksize=64)), np.float32)


def read_small(file: Path) -> NDArray[np.float32]:
    """Return a file at 32 x 32 pixels, (3072,) in [0, 1]."""
    resized = Image.fromarray(read_upright(file)).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(resized, np.float32).ravel() / np.float32(255)


# Reports


def report(scores: dict[str, Score], truth: Truth) -> None:
    """Print the scores of all tools, and their recall by kind of distortion."""
    print(f"\n{len(truth.names):,} files, {int(truth.copies.sum()):,} planted copies")
    print(f"{'':<20}{'precision':>11}{'recall':>9}{'right':>8}{'wrong':>8}{'threshold':>12}")
    for name, result in scores.items():
        figures = f"{result.precision:>11.4f}{result.recall:>9.4f}{len(result.right):>8,}{result.wrong:>8,}"
        print(f"{name:<20}{figures}" + (f"{result.threshold:>12.4g}" if len(result.right) else f"{'never':>12}"))
    kinds = [get_recall_by_kind(result, truth) for result in scores.values()]
    print("\nrecall by kind".ljust(15) + "".join(f"{name.removeprefix('imagededup '):>16}" for name in scores))
    for kind in DISTORTION_KINDS:
        print(f"{kind:<14}" + "".join(f"{by_kind.get(kind, 0):>16.3f}" for by_kind in kinds))


def report_calibration(groups: dict[str, Any]) -> None:
    """Print the predictions of the run's own calibration."""
    calibration = groups["calibration"]
    print(
        f"threshold {groups['threshold']:.4f}; the calibration on {calibration['copies']:,} copies that it planted "
        f"predicted precision {calibration['reached_precision']:.4f}, recall {calibration['reached_recall']:.4f}"
    )


def report_wrong(pairs: list[WrongPair], truth: Truth, files: list[Path], sheet: Path | None) -> None:
    """Print wrong pairs by their original photos; real copies among them belong in real_copies.csv."""
    by_photos = defaultdict(list)
    for first, second, line in pairs:
        photos = tuple(sorted((truth.photos[first], truth.photos[second])))
        by_photos[photos].append((first, second, line))
    print(f"\n{len(pairs)} wrong pairs, of {len(by_photos)} pairs of photos; {len(truth.real)} pairs were left out")
    largest = sorted(by_photos.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_ROWS]
    for photos, wrong in largest:
        print(f"{len(wrong):>5}  {'  '.join(photos)}")
    if sheet is not None and largest:
        originals = {truth.photos[row]: row for row in np.flatnonzero(~truth.copies).tolist()}
        sheet.write_bytes(draw_contact_sheets(list(iterate_sheet_rows(largest, originals, truth, files))))


def iterate_sheet_rows(
    by_photos: list[tuple[tuple[str, ...], list[WrongPair]]], originals: dict[str, int], truth: Truth, files: list[Path]
) -> Iterator[SheetRow]:
    """Yield a wrong pair of each two photos, then the photos."""
    for photos, pairs in by_photos:
        first, second, line = pairs[0]
        figures = f"distance {float(line['distance']):.3f}\nagreement {line['agreement']}"
        tiles = [SheetTile(read_upright(files[row]), truth.kinds[row] or "original") for row in (first, second)]
        whole = [SheetTile(read_upright(files[originals[photo]]), f"{len(pairs)} pairs\n{photo}") for photo in photos]
        yield SheetRow(SheetTile(tiles[0].pixels, f"{tiles[0].caption}\n{figures}"), None, [tiles[1], *whole])


if __name__ == "__main__":
    main()
