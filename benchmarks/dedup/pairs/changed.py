"""Pairs that differ in what matters, and altered copies: what `simile dedup` calls changed.

    python -m benchmarks.dedup.pairs.changed (--data DIR | --photos FOLDER) [--seed 0] [--pairs 20] [--failed FOLDER]

14 kinds of scenes (scenes.py) are drawn twice, with another amount, caption, code or position: each has something that
the other lacks. These pairs must be flagged as changed, or not be copies at all. Scenes and photos are also copied in
the 18 ways of `simile evaluate` (text and stickers on photos only): these must not be flagged. All are saved as
JPEG of quality 75 to 95, and compared as `simile dedup` compares candidates. The table counts results: only a
"copy" can be in a plan without a decision; "more in one" is a copy with something on it that the other lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.runs import (
    add_photo_options,
    list_photos,
    make_parser,
    open_work_folder,
    parse_photo_options,
)
from benchmarks.dedup.pairs.scenes import SCENES
from simile.core.records import Failure
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.formats import Limits
from simile.images.matching.tasks import compare_files, find_file_changes

RESULTS = ("no copy", "changed", "more in one", "copy")
OVERLAYS = ("text", "sticker", "chain")
PHOTO_COPIES = 7
BACKGROUNDS = 24  # photos that scenes of one kind are drawn on


@dataclass(frozen=True)
class Pair:
    """Two files, and whether each has something that the other lacks."""

    kind: str
    first: str
    second: str
    is_changed: bool


def main() -> None:
    """Make the pairs, compare them and print the table."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each kind")
    parser.add_argument("--failed", type=Path, help="folder for the pairs that were judged wrongly")
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        run(options, work)


def run(options: argparse.Namespace, work: Path) -> None:
    """Make and compare the pairs."""
    photos = list_photos(options, work, "clothing-photos.tar")
    files = work / "pairs"
    files.mkdir(exist_ok=True)
    with ProcessPoolExecutor() as pool:
        made = pool.map(partial(make_pairs, photos, files, options.seed), range(options.pairs * (len(SCENES) + 1)))
        pairs = [pair for group in made for pair in group]
        flagged = list(pool.map(compare, pairs, chunksize=8))
    print_table(pairs, flagged)
    for pair, result in zip(pairs, flagged, strict=True):
        if options.failed and (result == "changed") != pair.is_changed and result != "no copy":
            options.failed.mkdir(parents=True, exist_ok=True)
            for path in (pair.first, pair.second):
                shutil.copy(path, options.failed / f"{'missed' if pair.is_changed else 'wrong'}-{Path(path).name}")


def make_pairs(photos: list[Path], folder: Path, seed: int, number: int) -> list[Pair]:
    """Draw two variants of a scene, and copies of one of them; or copies of a photo."""
    kind = [*SCENES, "photo"][number % (len(SCENES) + 1)]
    random = np.random.default_rng((seed, number))
    quality = int(random.integers(75, 96))
    if kind == "photo":
        scene = Image.open(photos[-1 - number]).convert("RGB")
        variants = [scene]
    else:
        chosen = [photos[(number * BACKGROUNDS + row) % (len(photos) // 2)] for row in range(BACKGROUNDS)]
        backgrounds = [Image.open(path).convert("RGB") for path in chosen]
        variants = [
            SCENES[kind](
                np.random.default_rng((seed, number, 1)), np.random.default_rng((seed, number, own)), backgrounds
            )
            for own in (2, 3)
        ]
    paths = [str(folder / f"{number:04d}-{kind}-{name}.jpg") for name in ("a", "b")[: len(variants)]]
    for variant, path in zip(variants, paths, strict=True):
        variant.save(path, quality=quality)
    pairs = [Pair(kind, paths[0], paths[1], is_changed=True)] if len(paths) == 2 else []
    # What covers letters takes something away: only photos get text and stickers.
    kinds = DISTORTION_KINDS if kind == "photo" else [name for name in DISTORTION_KINDS if name not in OVERLAYS]
    for step in range(PHOTO_COPIES if kind == "photo" else 1):
        copy_kind = kinds[(PHOTO_COPIES * (number // (len(SCENES) + 1)) + number + step) % len(kinds)]
        pixels = distort(np.asarray(variants[0]), copy_kind, np.random.default_rng((seed, number, 4, step)))
        path = str(folder / f"{number:04d}-{kind}-{copy_kind}.jpg")
        Image.fromarray(pixels).save(path, quality=92)
        pairs.append(Pair(f"copy: {copy_kind}", paths[0], path, is_changed=False))
    return pairs


def compare(pair: Pair) -> str:
    """Return what the comparison of a pair gives, one of RESULTS."""
    result = compare_files((pair.first, pair.second), Limits())
    assert not isinstance(result, Failure)
    if not result.is_copy:
        return "no copy"
    first, second = ((path, hashlib.sha256(Path(path).read_bytes()).hexdigest()) for path in (pair.first, pair.second))
    changes = find_file_changes((first, second), Limits())
    assert not isinstance(changes, Failure)
    return "changed" if changes.is_mutual else "more in one" if changes.regions else "copy"


def print_table(pairs: list[Pair], results: list[str]) -> None:
    """Print counts by kind, and precision and recall of the flag."""
    counts = Counter((pair.is_changed, pair.kind, result) for pair, result in zip(pairs, results, strict=True))
    print(f"{'':20}{'pairs':>7}" + "".join(f"{result:>13}" for result in RESULTS))
    for is_changed, kind in sorted({(pair.is_changed, pair.kind) for pair in pairs}, reverse=True):
        values = [counts[is_changed, kind, result] for result in RESULTS]
        print(f"{kind:20}{sum(values):7}" + "".join(f"{value:13}" for value in values))
    totals = {
        is_changed: Counter(
            result for pair, result in zip(pairs, results, strict=True) if pair.is_changed == is_changed
        )
        for is_changed in (True, False)
    }
    matched = {is_changed: total.total() - total["no copy"] for is_changed, total in totals.items()}
    right, wrong = totals[True]["changed"], totals[False]["changed"]
    print(f"changed pairs: {totals[True].total()}, of these called copies {matched[True]}")
    print(f"flag: precision {right / max(1, right + wrong):.3f}, recall {right / max(1, matched[True]):.3f}")
    print(f"altered copies: {totals[False].total()}, found {matched[False]}, flagged {wrong}")


if __name__ == "__main__":
    main()
