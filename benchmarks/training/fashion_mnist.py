"""Neighbours and reconstructions on Fashion-MNIST: raw pixels, PCA and simile's mu side by side.

    python -m benchmarks.training.fashion_mnist --data DIR [--recipe perceptual …] [--minutes 20] [--quick] [--work DIR]

DIR holds fashion-mnist.npz (x_train (60000, 28, 28) uint8, y_train, x_test, y_test). The pictures are written as PNG
files and go through the same commands that a user types: `simile train`, `simile index`, `simile embed`. Labels are
used for the table alone, and by the supervised recipe.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.common.simile_runs import simile, write_pictures
from simile.core.settings import load_settings
from simile.search.searcher import Searcher

NEIGHBOURS, VOTERS, DIMENSIONS = 10, 5, 64
CHUNK = 500

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--recipe", action="append", help="may be given several times; default: perceptual")
    options.add_argument("--minutes", type=float, default=20, help="of training at most, for each recipe")
    options.add_argument("--quick", action="store_true", help="a minute of training for each recipe")
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        minutes = 1 if given.quick else given.minutes
        run(given.data, given.recipe or ["perceptual"], minutes, given.work or Path(scratch))


def run(data: Path, recipes: list[str], minutes: float, work: Path) -> None:
    arrays = np.load(data / "fashion-mnist.npz")
    train, test = (arrays[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
    labels, truth = arrays["y_train"].astype(np.int64), arrays["y_test"].astype(np.int64)
    for name in ("train", "test"):
        write_pictures(work / name, arrays[f"x_{name}"])
    write_labels(work / "labels.csv", work / "train", labels)
    for recipe in recipes:
        train_and_embed(recipe, work, minutes)

    print(f"\n{'vectors':<12}{'numbers':>8}{'precision@10':>14}{'vote of 5':>11}{'squared error':>15}")
    report("pixels", 784, exact_neighbours(train, test), labels, truth, 0.0)
    pca = PCA(DIMENSIONS, random_state=0).fit(train)
    projected, queries = (pca.transform(x).astype(np.float32) for x in (train, test))
    error = float(np.square(pca.inverse_transform(queries) - test).sum(1).mean())
    report(f"PCA-{DIMENSIONS}", DIMENSIONS, exact_neighbours(projected, queries), labels, truth, error)
    for recipe in recipes:
        neighbours, error_or_none = by_simile(work / recipe, test)
        report(recipe, DIMENSIONS, neighbours, labels, truth, error_or_none)


def write_labels(file: Path, folder: Path, labels: Labels) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows([str(folder / f"{row:05d}.png"), f"class {label}"] for row, label in enumerate(labels))


def train_and_embed(recipe: str, work: Path, minutes: float) -> None:
    """A home for the recipe: trained and indexed on the training pictures, the test pictures embedded beside it."""
    home = work / recipe
    if not (home / "catalogue.sqlite").exists():
        labels = ["--labels", work / "labels.csv"] if recipe == "supervised" else []
        options = ["--recipe", recipe, "--minutes", str(minutes), "--latent-dim", str(DIMENSIONS), *labels]
        simile("train", work / "train", *options, home=home)
    simile("index", work / "train", home=home)
    simile("embed", work / "test", "--output", home / "test.npz", home=home)


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


def by_simile(home: Path, test: Floats) -> tuple[NDArray[np.int64], float | None]:
    """Neighbours through the home's index, and the squared error of the decoder's mean at z = mu, per picture."""
    embedded = np.load(home / "test.npz")
    assert [int(Path(path).stem) for path in embedded["paths"]] == list(range(len(test)))
    with Searcher(load_settings(home=home)) as searcher:
        encoder = searcher.get_encoder()
        rows = {
            record.id: int(Path(record.paths[0]).stem) for record in searcher.list_images(limit=searcher.count_images())
        }
        found, errors = [], []
        for part in parts(len(test)):
            hits = searcher.index.search(embedded["vector"][part], NEIGHBOURS)
            found += [[rows[image_id] for image_id, _ in answer] for answer in hits]
            if not encoder.has_decoder:
                continue
            top, left, height, width = encoder.preprocessing.content_box()
            decoded = encoder.decode(embedded["mu"][part])[:, 0, top : top + height, left : left + width]
            errors.append(np.square(decoded.reshape(len(decoded), -1) - test[part]).sum(1))
    return np.array(found), float(np.concatenate(errors).mean()) if errors else None


def report(
    name: str, numbers: int, neighbours: NDArray[np.int64], labels: Labels, truth: Labels, error: float | None
) -> None:
    votes = labels[neighbours]  # (n, NEIGHBOURS)
    precision = (votes == truth[:, None]).mean()
    right = np.mean([vote(of_one[:VOTERS]) == label for of_one, label in zip(votes, truth, strict=True)])
    shown = "—" if error is None else f"{error:.2f}"
    print(f"{name:<12}{numbers:>8}{precision:>14.4f}{right:>11.4f}{shown:>15}", flush=True)


def vote(labels: Labels) -> int:
    """The commonest label; among equals the one whose first neighbour is nearest."""
    counts = np.bincount(labels)
    return int(next(label for label in labels if counts[label] == counts.max()))


def parts(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


if __name__ == "__main__":
    main()
