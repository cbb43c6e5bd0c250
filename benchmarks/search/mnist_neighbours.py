"""The neighbour search of `simile evaluate` on MNIST, compared with published results.

    python -m benchmarks.search.mnist_neighbours --data DIR [--dimensions 50]

DIR holds mnist.npz (x_train (60000, 28, 28) uint8, y_train, x_test, y_test). Raw pixels, Euclidean: scikit-learn's
KNeighborsClassifier reaches 97.14 % with 4 neighbours weighted by 1/distance, and 96.88 % with 5 equal votes.
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.decomposition import PCA

from benchmarks.common.runs import make_parser
from simile.evaluation.neighbours import RowIndices, VectorArray, compute_majority_vote, find_nearest

PUBLISHED = {"vote of 4, by 1/distance": 97.14, "vote of 5": 96.88}


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True)
    parser.add_argument("--dimensions", type=int, default=50, help="of PCA")
    options = parser.parse_args()
    arrays = np.load(options.data / "mnist.npz")
    train, test = (arrays[name].reshape(-1, 784) for name in ("x_train", "x_test"))
    labels, truth = arrays["y_train"].astype(np.int64), arrays["y_test"].astype(np.int64)
    print(f"{'':<10}{'vote of 4, by 1/distance':>26}{'vote of 5':>12}{'seconds':>10}")
    print(f"{'published':<10}" + "".join(f"{PUBLISHED[name]:>{width}.2f}" for name, width in COLUMNS))
    report("pixels", train, test, labels, truth)
    pca = PCA(options.dimensions, random_state=0).fit(train.astype(np.float32))
    projected = [pca.transform(x.astype(np.float32)).astype(np.float32) for x in (train, test)]
    report(f"PCA-{options.dimensions}", *projected, labels, truth)


COLUMNS = (("vote of 4, by 1/distance", 26), ("vote of 5", 12))


def report(name: str, base: VectorArray, queries: VectorArray, labels: RowIndices, truth: RowIndices) -> None:
    """Print a row of the table."""
    started = time.monotonic()
    neighbours = find_nearest(base, queries, 5)
    near = labels[neighbours.rows]  # (n, 5)
    weighted = compute_majority_vote(near[:, :4], neighbours.distances[:, :4])
    shares = [100 * (voted == truth).mean() for voted in (weighted, compute_majority_vote(near))]
    cells = "".join(f"{share:>{width}.2f}" for share, (_, width) in zip(shares, COLUMNS, strict=True))
    print(f"{name:<10}{cells}{time.monotonic() - started:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
