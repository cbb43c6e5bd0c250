"""Searches with and without verification of the 20 nearest images: distorted copies among 1,000 photos.

    nice python -m benchmarks.search.verified_search --data DIR --encoder FOLDER [--originals 250] [--kind crop-30 …]

DIR holds clothing-photos.tar. 1,000 of its photos, drawn with the seed, are indexed with the encoder. Copies of some of
them are made as in benchmarks/search/copy_retrieval.py, saved as PNG, and searched for with a Searcher, as `simile
search` does. A copy has one answer, the first hit. For the pooled figures, verified answers come before the others,
and within both the nearest first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import make_parser, open_work_folder, simile
from benchmarks.search.copy_retrieval import extract
from simile.core.records import Float64Array, Hit
from simile.core.settings import load_settings
from simile.evaluation.copy_retrieval import (
    MAX_ORIGINAL_SIDE,
    MIN_DECODED_SIDE,
    CopyScores,
    PlantedCopies,
    score_copies,
)
from simile.evaluation.neighbours import NearestRows
from simile.images.decoding import decode_image
from simile.images.distortions import DISTORTION_KINDS, distort
from simile.images.encoding import encode_png
from simile.images.formats import Limits
from simile.images.transforms import downscale
from simile.search.searcher import Searcher

UNVERIFIED = 1e6  # is added to the distance of answers that are not verified: all of them come last


@dataclass(frozen=True)
class Answers:
    """The first hit of each copy: its row in the collection, its rank distance, and the seconds of the search."""

    rows: NDArray[np.int64]
    distances: Float64Array
    seconds: Float64Array


def parse_copy_options(description: str | None) -> argparse.Namespace:
    """Parse the options of a benchmark that searches for copies with one encoder."""
    parser = make_parser(description, data=True, work=True)
    parser.add_argument("--encoder", type=Path, required=True, help="folder of an encoder")
    parser.add_argument("--originals", type=int, default=250, help="photos of which copies are made")
    parser.add_argument("--kind", action="append", choices=DISTORTION_KINDS, help="may be given several times")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Parse the options and run the benchmark."""
    options = parse_copy_options(__doc__)
    with open_work_folder(options.work) as work:
        kinds = options.kind or list(DISTORTION_KINDS)
        run(options.data, options.encoder, options.originals, kinds, options.seed, work)


def run(data: Path, encoder: Path, originals: int, kinds: Sequence[str], seed: int, work: Path) -> None:
    """Index the photos, search for the copies, and print the table."""
    photos = work / f"seed-{seed}"
    extract(data / "clothing-photos.tar", photos, seed)
    home = work / "home"
    simile("index", photos / "collection", "--encoder", encoder, home=home)
    paths = sorted(map(str, (photos / "collection").iterdir()))
    rows = np.sort(np.random.default_rng(seed).permutation(len(paths))[:originals])
    planted = PlantedCopies({}, np.repeat(rows, len(kinds)), list(kinds) * len(rows))
    with Searcher(load_settings(home=home)) as searcher:
        searcher.check_ready()
        answers = search_copies(searcher, paths, rows, kinds, seed)
    print(f"{'':<12}{'recall@1':>10}{'muAP':>8}{'recall at precision 0.99':>26}{'ms a query':>12}", end="")
    print("".join(f"{kind:>11}" for kind in kinds))
    for name, found in answers.items():
        scores = score_copies(
            NearestRows(found.rows[:, None], found.distances[:, None]), planted, np.arange(len(paths)), seed
        )
        print_row(name, scores, found, kinds)


def print_row(name: str, scores: CopyScores, answers: Answers, kinds: Sequence[str]) -> None:
    """Print a row of the table: the figures, and recall@1 of each kind."""
    figures = f"{scores.recall:>10.4f}{scores.micro_ap:>8.4f}{scores.recall_at_precision:>26.4f}"
    by_kind = "".join(f"{scores.by_kind[kind]:>11.3f}" for kind in kinds)
    print(f"{name:<12}{figures}{1000 * np.median(answers.seconds):>12.0f}{by_kind}", flush=True)


def search_copies(
    searcher: Searcher, paths: Sequence[str], rows: NDArray[np.int64], kinds: Sequence[str], seed: int
) -> dict[str, Answers]:
    """Search for each copy, with and without verification."""
    row_by_path = {path: row for row, path in enumerate(paths)}
    found: dict[str, list[tuple[int, float, float]]] = {"distance": [], "verified": []}
    for row in rows.tolist():
        for number, kind in enumerate(kinds):
            copy = make_copy(paths[row], kind, [seed, row, number])
            for name, answers in found.items():
                started = time.perf_counter()
                hit = searcher.by_file(copy, name=kind, limit=1, verify=name == "verified").hits[0]
                answers.append((row_by_path[hit.path], get_rank_distance(hit), time.perf_counter() - started))
    columns = {name: list(zip(*answers, strict=True)) for name, answers in found.items()}
    return {
        name: Answers(np.array(rows, np.int64), np.array(distances), np.array(seconds))
        for name, (rows, distances, seconds) in columns.items()
    }


def get_rank_distance(hit: Hit) -> float:
    """Return the distance by which answers are pooled."""
    return hit.distance + (UNVERIFIED if hit.verified is False else 0.0)


def make_copy(path: str, kind: str, seed: list[int]) -> bytes:
    """Make a distorted copy of a photo, as a PNG."""
    pixels = decode_image(Path(path).read_bytes(), name=path, limits=Limits(), min_side=MIN_DECODED_SIDE).pixels
    pixels = downscale(pixels, -(-max(pixels.shape[:2]) // MAX_ORIGINAL_SIDE))
    return encode_png(distort(pixels, kind, np.random.default_rng(seed)))


if __name__ == "__main__":
    main()
