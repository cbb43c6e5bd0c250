"""Calibration of the ladder: its neighbour code on MNIST, beside published figures.

    python -m benchmarks.search.mnist_neighbours --data DIR [--dimensions 50]

DIR holds mnist.npz (x_train (60000, 28, 28) uint8, y_train, x_test, y_test). Raw pixels, Euclidean: scikit-learn's
KNeighborsClassifier is known to reach 97.14 % with 4 neighbours weighted by 1/distance and 96.88 % with 5 plain ones.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from simile.evaluation.neighbours import RowIndices, VectorArray, compute_majority_vote, find_nearest

PUBLISHED = {"vote of 4, by 1/distance": 97.14, "vote of 5": 96.88}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--dimensions", type=int, default=50, help="of PCA")
    given = options.parse_args()
    arrays = np.load(given.data / "mnist.npz")
    train, test = (arrays[name].reshape(-1, 784) for name in ("x_train", "x_test"))
    labels, truth = arrays["y_train"].astype(np.int64), arrays["y_test"].astype(np.int64)
    print(f"{'':<10}{'vote of 4, by 1/distance':>26}{'vote of 5':>12}{'seconds':>10}")
    print(f"{'published':<10}" + "".join(f"{PUBLISHED[name]:>{width}.2f}" for name, width in COLUMNS))
    report("pixels", train, test, labels, truth)
    pca = PCA(given.dimensions, random_state=0).fit(train.astype(np.float32))
    projected = [pca.transform(x.astype(np.float32)).astype(np.float32) for x in (train, test)]
    report(f"PCA-{given.dimensions}", *projected, labels, truth)


COLUMNS = (("vote of 4, by 1/distance", 26), ("vote of 5", 12))


def report(name: str, base: VectorArray, queries: VectorArray, labels: RowIndices, truth: RowIndices) -> None:
    started = time.monotonic()
    found = find_nearest(base, queries, 5)
    near = labels[found.rows]  # (n, 5)
    weighted = compute_majority_vote(near[:, :4], found.distances[:, :4])
    shares = [100 * (voted == truth).mean() for voted in (weighted, compute_majority_vote(near))]
    cells = "".join(f"{share:>{width}.2f}" for share, (_, width) in zip(shares, COLUMNS, strict=True))
    print(f"{name:<10}{cells}{time.monotonic() - started:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
