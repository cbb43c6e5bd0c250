"""What the benchmarks of copies share: which file is a copy of which, and how pairs are counted.

Right: a copy with its original. Neither: two copies of one original, and real copies that nobody planted. Wrong: any
other pair.
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

from benchmarks.common.simile_runs import simile

BLOCK = 500  # rows of the matrix of distances at a time
PEERS = ("imagededup PHash", "imagededup DHash", "imagededup WHash", "pdqhash", "fastdup")
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """Files by row. roots (n,): the photo that each shows, equal photos one number. kinds: "" for originals."""

    names: list[str]
    photos: list[str]
    roots: Ints
    kinds: list[str]
    real: frozenset[tuple[int, int]] = frozenset()  # roots of real copies, the smaller one first

    @property
    def copies(self) -> NDArray[np.bool_]:
        return np.array([bool(kind) for kind in self.kinds])

    def wrong(self, first: Ints, second: Ints) -> NDArray[np.bool_]:
        """Which of these pairs of rows count against a tool."""
        low, high = np.minimum(self.roots[first], self.roots[second]), np.maximum(self.roots[first], self.roots[second])
        wrong = low != high
        if self.real:
            count = int(self.roots.max()) + 1
            wrong &= ~np.isin(low * count + high, [one * count + other for one, other in self.real])
        return np.asarray(wrong)


@dataclass(frozen=True)
class Score:
    """right: rows of copies that were found with their original. wrong: how many pairs. threshold: a distance."""

    right: Ints
    wrong: int
    copies: int
    threshold: float

    @property
    def precision(self) -> float:
        return len(self.right) / max(1, len(self.right) + self.wrong)

    @property
    def recall(self) -> float:
        return len(self.right) / max(1, self.copies)


def make_truth(files: dict[str, tuple[str, str]], equal: dict[str, str], real: Iterable[tuple[str, str]]) -> Truth:
    """files: name to (photo, kind). equal: photos that show the same as another, to that one. real: pairs of photos."""
    names = sorted(files)
    photos = sorted({photo for photo, _ in files.values()})
    number = {photo: photos.index(equal.get(photo, photo)) for photo in photos}
    pairs = {(number[one], number[other]) for one, other in real if one in number and other in number}
    return Truth(
        names=names,
        photos=[files[name][0] for name in names],
        roots=np.array([number[files[name][0]] for name in names], np.int64),
        kinds=[files[name][1] for name in names],
        real=frozenset((min(pair), max(pair)) for pair in pairs),
    )


def read_real_copies(path: Path) -> list[tuple[str, str]]:
    """The first two columns of a CSV with a header; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:]]


# What simile found


def read_pairs(path: Path, truth: Truth) -> tuple[Ints, Ints, list[dict[str, str]]]:
    """Rows of both files of each pair of pairs.csv that is called a copy, and the lines."""
    row_of = {name: row for row, name in enumerate(truth.names)}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["tier"] != "similar"]
    first, second = ([row_of[Path(line[key]).name] for line in lines] for key in ("path_a", "path_b"))
    return np.array(first, np.int64), np.array(second, np.int64), lines


def score(first: Ints, second: Ints, truth: Truth, threshold: float) -> Score:
    """Pairs of rows, each once, as a tool gives them."""
    copies = truth.copies
    own = (truth.roots[first] == truth.roots[second]) & (copies[first] != copies[second])
    right = np.unique(np.where(copies[first[own]], first[own], second[own]))
    return Score(right, int(truth.wrong(first, second).sum()), int(copies.sum()), threshold)


def recall_by_kind(found: Score, truth: Truth) -> dict[str, float]:
    planted = Counter(kind for kind in truth.kinds if kind)
    right = Counter(truth.kinds[row] for row in found.right)
    return {kind: right[kind] / count for kind, count in planted.items()}


# Vectors at their best threshold


def at_best_threshold(vectors: NDArray[Any], truth: Truth, precision: float) -> Score:
    """Pairs within the squared distance at which most copies are found with at least this precision.

    Of bits, 0 or 1, that is the Hamming distance.
    """
    near = np.full(len(vectors), np.inf)
    originals, copies = np.flatnonzero(~truth.copies), np.flatnonzero(truth.copies)
    for rows, distances in _blocks(vectors, copies, originals):
        own = truth.roots[rows][:, None] == truth.roots[originals][None]
        near[rows] = np.where(own, distances, np.inf).min(1)
    steps = np.unique(near[copies])
    wrong = np.zeros(len(steps) + 1, np.int64)
    everything = np.arange(len(vectors))
    for rows, distances in _blocks(vectors, everything, everything):
        first, second = np.nonzero((distances <= steps[-1]) & (rows[:, None] < everything[None]))
        counts = truth.wrong(rows[first], second)
        wrong += np.bincount(np.searchsorted(steps, distances[first, second][counts]), minlength=len(wrong))
    false, right = np.cumsum(wrong)[:-1], np.searchsorted(np.sort(near[copies]), steps, side="right")
    good = np.flatnonzero(right / np.maximum(1, right + false) >= precision)
    if not len(good):
        return Score(np.empty(0, np.int64), 0, len(copies), 0.0)
    best = good[-1]
    return Score(copies[near[copies] <= steps[best]], int(false[best]), len(copies), float(steps[best]))


def _blocks(vectors: NDArray[Any], rows: Ints, others: Ints) -> Iterator[tuple[Ints, NDArray[np.float64]]]:
    """Squared distances, some rows at a time."""
    beside = vectors[others].astype(np.float64)
    lengths = np.square(beside).sum(1)
    for start in range(0, len(rows), BLOCK):
        here = rows[start : start + BLOCK]
        block = vectors[here].astype(np.float64)
        distances = np.square(block).sum(1)[:, None] + lengths[None] - 2 * block @ beside.T
        yield here, np.round(np.maximum(distances, 0), 9)


# Running


def peers(pythons: list[Path], files: list[Path], work: Path) -> dict[str, NDArray[Any]]:
    """Hashes of these files by other tools, unit length where they are features; says which are left out and why.

    pythons: of virtual environments, each of which may have some of the tools.
    """
    found, left_out = dict[str, NDArray[Any]](), dict[str, str]()
    (work / "peers.txt").write_text("\n".join(str(file.absolute()) for file in files), "utf-8")
    for number, python in enumerate(pythons):
        output, told = work / f"peers-{number}.npz", work / f"peers-{number}.json"
        if not told.exists():
            command = [python, Path(__file__).parents[1] / "peers" / "hashes.py", work / "peers.txt", output, told]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        said = json.loads(told.read_text("utf-8"))
        left_out |= said["left_out"]
        with np.load(output) as arrays:
            found |= {name: unit(arrays[name]) if arrays[name].dtype.kind == "f" else arrays[name] for name in arrays}
        print("seconds for hashes:", ", ".join(f"{name} {took}" for name, took in said["seconds"].items()))
    for name in PEERS:
        if name not in found:
            print(f"{name} is left out: {left_out.get(name, 'give --peers, see benchmarks/README.md')}")
    return found


def unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def timed(work: Path, name: str, *arguments: str | Path, home: Path) -> float:
    """Seconds of a command of simile; those of the first time where it ran before."""
    times = work / "times.json"
    kept: dict[str, float] = json.loads(times.read_text("utf-8")) if times.exists() else {}
    started = time.monotonic()
    simile(*arguments, home=home)
    kept.setdefault(name, time.monotonic() - started)
    times.write_text(json.dumps(kept), "utf-8")
    return kept[name]
