"""Which file is a copy of which, and how the pairs of a tool are counted.

A pair of a copy and its original is right. Pairs of two copies of one original, and real copies that were not planted,
are ignored. All other pairs are wrong.
"""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import simile

BLOCK = 500  # rows of the matrix of distances at a time
PEERS = ("imagededup PHash", "imagededup DHash", "imagededup WHash", "pdqhash", "fastdup")
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The files, by row."""

    names: list[str]
    photos: list[str]  # name of the original photo
    roots: Ints  # (n,) number of the original photo; photos with equal pixels have one number
    kinds: list[str]  # kind of distortion, "" for originals
    real: frozenset[tuple[int, int]] = frozenset()  # pairs of roots that are real copies, the smaller root first

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Mask of the copies, (n,)."""
        return np.array([bool(kind) for kind in self.kinds])

    def wrong(self, first: Ints, second: Ints) -> NDArray[np.bool_]:
        """Return a mask of the pairs of rows that are wrong."""
        low, high = np.minimum(self.roots[first], self.roots[second]), np.maximum(self.roots[first], self.roots[second])
        wrong = low != high
        if self.real:
            count = int(self.roots.max()) + 1
            wrong &= ~np.isin(
                low * count + high, [first_root * count + second_root for first_root, second_root in self.real]
            )
        return np.asarray(wrong)


@dataclass(frozen=True)
class Score:
    """The result of a tool."""

    right: Ints  # rows of the copies that were found with their original
    wrong: int  # number of wrong pairs
    copies: int  # number of planted copies
    threshold: float  # a distance

    @property
    def precision(self) -> float:
        """Share of right pairs among right and wrong ones."""
        return len(self.right) / max(1, len(self.right) + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the planted copies that were found."""
        return len(self.right) / max(1, self.copies)


def make_truth(files: dict[str, tuple[str, str]], equal: dict[str, str], real: Iterable[tuple[str, str]]) -> Truth:
    """Number the files and photos.

    Args:
        files: (original photo, kind of distortion) by file name; the kind of originals is "".
        equal: Photos with the pixels of another photo, and that photo.
        real: Pairs of photos that are real copies.
    """
    names = sorted(files)
    photos = sorted({photo for photo, _ in files.values()})
    number = {photo: photos.index(equal.get(photo, photo)) for photo in photos}
    pairs = {(number[first], number[second]) for first, second in real if first in number and second in number}
    return Truth(
        names=names,
        photos=[files[name][0] for name in names],
        roots=np.array([number[files[name][0]] for name in names], np.int64),
        kinds=[files[name][1] for name in names],
        real=frozenset((min(pair), max(pair)) for pair in pairs),
    )


def read_real_copies(path: Path) -> list[tuple[str, str]]:
    """Return the first two columns of a CSV file with a header; an empty list if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:]]


def read_pairs(path: Path, truth: Truth) -> tuple[Ints, Ints, list[dict[str, str]]]:
    """Return the rows of both files of each pair in pairs.csv, without similar images, and the lines."""
    row_of = {name: row for row, name in enumerate(truth.names)}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["tier"] != "similar"]
    first, second = ([row_of[Path(line[key]).name] for line in lines] for key in ("path_a", "path_b"))
    return np.array(first, np.int64), np.array(second, np.int64), lines


def score(first: Ints, second: Ints, truth: Truth, threshold: float) -> Score:
    """Count pairs of rows; each pair occurs once."""
    copies = truth.copies
    own = (truth.roots[first] == truth.roots[second]) & (copies[first] != copies[second])
    right = np.unique(np.where(copies[first[own]], first[own], second[own]))
    return Score(right, int(truth.wrong(first, second).sum()), int(copies.sum()), threshold)


def get_recall_by_kind(result: Score, truth: Truth) -> dict[str, float]:
    """Return the recall of each kind of distortion."""
    planted = Counter(kind for kind in truth.kinds if kind)
    right = Counter(truth.kinds[row] for row in result.right)
    return {kind: right[kind] / count for kind, count in planted.items()}


def score_at_best_threshold(vectors: NDArray[Any], truth: Truth, precision: float) -> Score:
    """Score the threshold with the highest recall at this precision.

    Distances are squared Euclidean ones, so for vectors of bits (0 or 1) they are Hamming distances.
    """
    # The distance of each copy to its original: the candidates for the threshold.
    near = np.full(len(vectors), np.inf)
    originals, copies = np.flatnonzero(~truth.copies), np.flatnonzero(truth.copies)
    for rows, distances in _blocks(vectors, copies, originals):
        own = truth.roots[rows][:, None] == truth.roots[originals][None]
        near[rows] = np.where(own, distances, np.inf).min(1)
    steps = np.unique(near[copies])
    # How many wrong pairs each candidate has.
    wrong = np.zeros(len(steps) + 1, np.int64)
    all_rows = np.arange(len(vectors))
    for rows, distances in _blocks(vectors, all_rows, all_rows):
        first, second = np.nonzero((distances <= steps[-1]) & (rows[:, None] < all_rows[None]))
        counts = truth.wrong(rows[first], second)
        wrong += np.bincount(np.searchsorted(steps, distances[first, second][counts]), minlength=len(wrong))
    # The largest threshold with the precision.
    false, right = np.cumsum(wrong)[:-1], np.searchsorted(np.sort(near[copies]), steps, side="right")
    good = np.flatnonzero(right / np.maximum(1, right + false) >= precision)
    if not len(good):
        return Score(np.empty(0, np.int64), 0, len(copies), 0.0)
    best = good[-1]
    return Score(copies[near[copies] <= steps[best]], int(false[best]), len(copies), float(steps[best]))


def _blocks(vectors: NDArray[Any], rows: Ints, others: Ints) -> Iterator[tuple[Ints, NDArray[np.float64]]]:
    """Yield some rows, and their squared distances to `others`."""
    other_vectors = vectors[others].astype(np.float64)
    lengths = np.square(other_vectors).sum(1)
    for start in range(0, len(rows), BLOCK):
        chunk = rows[start : start + BLOCK]
        block = vectors[chunk].astype(np.float64)
        distances = np.square(block).sum(1)[:, None] + lengths[None] - 2 * block @ other_vectors.T
        yield chunk, np.round(np.maximum(distances, 0), 9)


def hash_with_peers(pythons: list[Path], files: list[Path], work: Path) -> dict[str, NDArray[Any]]:
    """Return hashes or features (normalised) of the files by other tools; print which tools are left out and why.

    `pythons` are of virtual environments; each may have some of the tools.
    """
    found, left_out = dict[str, NDArray[Any]](), dict[str, str]()
    (work / "peers.txt").write_text("\n".join(str(file.absolute()) for file in files), "utf-8")
    for number, python in enumerate(pythons):
        output, summary = work / f"peers-{number}.npz", work / f"peers-{number}.json"
        if not summary.exists():
            command = [python, Path(__file__).parents[1] / "peers" / "hashes.py", work / "peers.txt", output, summary]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        details = json.loads(summary.read_text("utf-8"))
        left_out |= details["left_out"]
        with np.load(output) as arrays:
            found |= {
                name: normalise(arrays[name]) if arrays[name].dtype.kind == "f" else arrays[name] for name in arrays
            }
        print("seconds for hashes:", ", ".join(f"{name} {seconds}" for name, seconds in details["seconds"].items()))
    for name in PEERS:
        if name not in found:
            print(f"{name} is left out: {left_out.get(name, 'use --peers, see benchmarks/README.md')}")
    return found


def normalise(vectors: Floats) -> Floats:
    """Scale rows to unit length."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def time_command(work: Path, name: str, *arguments: object, home: Path) -> float:
    """Run a command; return its seconds, or those of its first run in this work folder."""
    times = work / "times.json"
    known: dict[str, float] = json.loads(times.read_text("utf-8")) if times.exists() else {}
    started = time.monotonic()
    simile(*arguments, home=home)
    known.setdefault(name, time.monotonic() - started)
    times.write_text(json.dumps(known), "utf-8")
    return known[name]
