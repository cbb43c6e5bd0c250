"""Neighbours and reconstructions on Fashion-MNIST: raw pixels, PCA and simile's mu side by side.

    python benchmarks/fashion_mnist.py --data DIR [--minutes 10] [--work DIR]

DIR holds fashion-mnist.npz (x_train (60000, 28, 28) uint8, y_train, x_test, y_test). The pictures are written as PNG
files and go through the same commands that a user types: `simile train`, `simile index`, `simile embed`. Labels are
used for the table alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from core.settings import load_settings
from models.images import encode_png
from search.searcher import Searcher

SIMILE = str(Path(sys.executable).with_name("simile"))
NEIGHBOURS, VOTERS, DIMENSIONS = 10, 5, 64
CHUNK = 500

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--work", type=Path, help="keeps pictures and home there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given.data, given.minutes, given.work or Path(scratch))


def run(data: Path, minutes: float, work: Path) -> None:
    arrays = np.load(data / "fashion-mnist.npz")
    train, test = (arrays[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
    labels, truth = arrays["y_train"].astype(np.int64), arrays["y_test"].astype(np.int64)
    for name in ("train", "test"):
        write_pictures(work / name, arrays[f"x_{name}"])
    home = work / "home"
    if not (home / "catalogue.sqlite").exists():
        simile("train", str(work / "train"), "--minutes", str(minutes), "--latent-dim", str(DIMENSIONS), home=home)
    simile("index", str(work / "train"), home=home)
    simile("embed", str(work / "test"), "--output", str(work / "test.npz"), home=home)

    print(f"\n{'vectors':<10}{'numbers':>8}{'precision@10':>14}{'vote of 5':>11}{'squared error':>15}")
    report("pixels", 784, exact_neighbours(train, test), labels, truth, 0.0)
    pca = PCA(DIMENSIONS, random_state=0).fit(train)
    projected, queries = (pca.transform(x).astype(np.float32) for x in (train, test))
    error = float(np.square(pca.inverse_transform(queries) - test).sum(1).mean())
    report(f"PCA-{DIMENSIONS}", DIMENSIONS, exact_neighbours(projected, queries), labels, truth, error)
    neighbours, error = by_simile(home, work, test)
    report("simile mu", DIMENSIONS, neighbours, labels, truth, error)


def write_pictures(folder: Path, pictures: NDArray[np.uint8]) -> None:
    """One PNG a picture, named by its row."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for row, picture in enumerate(pictures):
        (folder / f"{row:05d}.png").write_bytes(encode_png(picture))


def simile(*arguments: str, home: Path) -> None:
    started = time.monotonic()
    subprocess.run([SIMILE, *arguments, "--home", str(home)], check=True)
    print(f"simile {arguments[0]}: {time.monotonic() - started:.0f} s\n")


def exact_neighbours(base: Floats, queries: Floats) -> NDArray[np.int64]:
    """Rows of the NEIGHBOURS nearest in `base` (m, d) for each of `queries` (n, d), Euclidean, (n, NEIGHBOURS)."""
    squares = np.square(base).sum(1)
    found = []
    for part in parts(len(queries)):
        distances = squares - 2 * queries[part] @ base.T
        nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        order = np.argsort(np.take_along_axis(distances, nearest, 1), axis=1)
        found.append(np.take_along_axis(nearest, order, 1))
    return np.concatenate(found)


def by_simile(home: Path, work: Path, test: Floats) -> tuple[NDArray[np.int64], float]:
    """Neighbours through the home's index, and the squared error of the decoder's mean at z = mu, per picture."""
    embedded = np.load(work / "test.npz")
    assert [int(Path(path).stem) for path in embedded["paths"]] == list(range(len(test)))
    with Searcher(load_settings(home=home)) as searcher:
        encoder = searcher.encoder()
        rows = {record.id: int(Path(record.paths[0]).stem) for record in searcher.images(limit=searcher.count())}
        found, errors = [], []
        for part in parts(len(test)):
            hits = searcher.index.search(embedded["vector"][part], NEIGHBOURS)
            found += [[rows[image_id] for image_id, _ in answer] for answer in hits]
            top, left, height, width = encoder.preprocessing.content_box()
            decoded = encoder.decode(embedded["mu"][part])[:, 0, top : top + height, left : left + width]
            errors.append(np.square(decoded.reshape(len(decoded), -1) - test[part]).sum(1))
    return np.array(found), float(np.concatenate(errors).mean())


def report(name: str, numbers: int, neighbours: NDArray[np.int64], labels: Labels, truth: Labels, error: float) -> None:
    votes = labels[neighbours]  # (n, NEIGHBOURS)
    precision = (votes == truth[:, None]).mean()
    right = np.mean([vote(of_one[:VOTERS]) == label for of_one, label in zip(votes, truth, strict=True)])
    print(f"{name:<10}{numbers:>8}{precision:>14.4f}{right:>11.4f}{error:>15.2f}", flush=True)


def vote(labels: Labels) -> int:
    """The commonest label; among equals the one whose first neighbour is nearest."""
    counts = np.bincount(labels)
    return int(next(label for label in labels if counts[label] == counts.max()))


def parts(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


if __name__ == "__main__":
    main()
