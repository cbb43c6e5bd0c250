"""Neighbours and reconstructions on Fashion-MNIST: raw pixels, PCA and simile's mu.

    python -m benchmarks.training.fashion_mnist --data DIR [--recipe perceptual …] [--minutes 20] [--quick] [--work DIR]

DIR holds fashion-mnist.npz (x_train (60000, 28, 28) uint8, y_train, x_test, y_test). The images are written as PNG
files; `simile train`, `simile index` and `simile embed` use them. Only the table and the supervised recipe use labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.common.runs import make_parser, open_work_folder, simile, train_once, write_images
from simile.core.settings import load_settings
from simile.search.searcher import Searcher

NEIGHBOURS, VOTERS, DIMENSIONS = 10, 5, 64
CHUNK = 500

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--recipe", action="append", help="may be options several times; default: perceptual")
    parser.add_argument("--minutes", type=float, default=20, help="maximum training time for each recipe")
    parser.add_argument("--quick", action="store_true", help="a minute of training for each recipe")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        minutes = 1 if options.quick else options.minutes
        run(options.data, options.recipe or ["perceptual"], minutes, work)


def run(data: Path, recipes: list[str], minutes: float, work: Path) -> None:
    """Train all recipes and print the table."""
    arrays = np.load(data / "fashion-mnist.npz")
    train, test = (arrays[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
    labels, truth = arrays["y_train"].astype(np.int64), arrays["y_test"].astype(np.int64)
    for name in ("train", "test"):
        write_images(work / name, arrays[f"x_{name}"])
    write_labels(work / "labels.csv", work / "train", labels)
    for recipe in recipes:
        train_and_embed(recipe, work, minutes)

    print(f"\n{'vectors':<12}{'numbers':>8}{'precision@10':>14}{'vote of 5':>11}{'squared error':>15}")
    report("pixels", 784, find_exact_neighbours(train, test), labels, truth, 0.0)
    pca = PCA(DIMENSIONS, random_state=0).fit(train)
    projected, queries = (pca.transform(x).astype(np.float32) for x in (train, test))
    error = float(np.square(pca.inverse_transform(queries) - test).sum(1).mean())
    report(f"PCA-{DIMENSIONS}", DIMENSIONS, find_exact_neighbours(projected, queries), labels, truth, error)
    for recipe in recipes:
        neighbours, error_or_none = search_with_simile(work / recipe, test)
        report(recipe, DIMENSIONS, neighbours, labels, truth, error_or_none)


def write_labels(file: Path, folder: Path, labels: Labels) -> None:
    """Write a CSV file of labels for `simile train`."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows([str(folder / f"{row:05d}.png"), f"class {label}"] for row, label in enumerate(labels))


def train_and_embed(recipe: str, work: Path, minutes: float) -> None:
    """Train and index the training images in a home for the recipe, and embed the test images."""
    home = work / recipe
    labels = ["--labels", work / "labels.csv"] if recipe == "supervised" else []
    options = ["--recipe", recipe, "--minutes", minutes, "--latent-dim", DIMENSIONS, *labels]
    train_once(home, work / "train", *options)
    simile("index", work / "train", home=home)
    simile("embed", work / "test", "--output", home / "test.npz", home=home)


def find_exact_neighbours(base: Floats, queries: Floats) -> NDArray[np.int64]:
    """Return the nearest rows of `base` (m, d) for each of `queries` (n, d), Euclidean, (n, NEIGHBOURS)."""
    squares = np.square(base).sum(1)
    found = []
    for part in iterate_slices(len(queries)):
        distances = squares - 2 * queries[part] @ base.T
        nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        order = np.argsort(np.take_along_axis(distances, nearest, 1), axis=1)
        found.append(np.take_along_axis(nearest, order, 1))
    return np.concatenate(found)


def search_with_simile(home: Path, test: Floats) -> tuple[NDArray[np.int64], float | None]:
    """Return neighbours by the home's index, and the mean squared error of the decoder at z = mu if there is one."""
    embedded = np.load(home / "test.npz")
    assert [int(Path(path).stem) for path in embedded["paths"]] == list(range(len(test)))
    with Searcher(load_settings(home=home)) as searcher:
        encoder = searcher.get_encoder()
        rows = {
            record.id: int(Path(record.paths[0]).stem) for record in searcher.list_images(limit=searcher.count_images())
        }
        found, errors = [], []
        for part in iterate_slices(len(test)):
            hits = searcher.index.search(embedded["vector"][part], NEIGHBOURS)
            found += [[rows[image_id] for image_id, _ in row_hits] for row_hits in hits]
            if not encoder.has_decoder:
                continue
            top, left, height, width = encoder.preprocessing.content_box()
            decoded = encoder.decode(embedded["mu"][part])[:, 0, top : top + height, left : left + width]
            errors.append(np.square(decoded.reshape(len(decoded), -1) - test[part]).sum(1))
    return np.array(found), float(np.concatenate(errors).mean()) if errors else None


def report(
    name: str, numbers: int, neighbours: NDArray[np.int64], labels: Labels, truth: Labels, error: float | None
) -> None:
    """Print a row of the table."""
    votes = labels[neighbours]  # (n, NEIGHBOURS)
    precision = (votes == truth[:, None]).mean()
    right = np.mean([vote(row[:VOTERS]) == label for row, label in zip(votes, truth, strict=True)])
    formatted_error = "—" if error is None else f"{error:.2f}"
    print(f"{name:<12}{numbers:>8}{precision:>14.4f}{right:>11.4f}{formatted_error:>15}", flush=True)


def vote(labels: Labels) -> int:
    """Return the most frequent label; among equals the label of the nearest neighbour."""
    counts = np.bincount(labels)
    return int(next(label for label in labels if counts[label] == counts.max()))


def iterate_slices(count: int) -> Iterator[slice]:
    """Yield slices of CHUNK rows."""
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


if __name__ == "__main__":
    main()
