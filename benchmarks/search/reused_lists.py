"""Lists of the previous segment against newly trained ones: build time, recall and search time as a collection grows.

    python -m benchmarks.search.reused_lists [--rows 250000] [--dimensions 64]

The vectors are drawn from a mixture of Gaussians. A segment of `rows` vectors is built; then collections of the growing
sizes get an index with new lists and one with the lists of that segment. "drifted" rows are from other Gaussians.
Recall is that of the 10 nearest, for 500 new queries, by a full comparison. The threshold of 30 million rows does not
apply here.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import make_parser, open_work_folder
from simile.store.index.build import IndexOptions, PreviousLists, build_ivf_index
from simile.store.index.flat import FlatIndex
from simile.store.index.ivf import IvfIndex
from simile.store.index.vector_file import write_vector_file

QUERY_COUNT, K, CLUSTER_COUNT = 500, 10, 2000


def main() -> None:
    """Parse the options, build the segments, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--dimensions", type=int, default=64)
    options = parser.parse_args()
    rows, dimensions = options.rows, options.dimensions
    with open_work_folder(None) as work:
        first = draw_vectors(rows, dimensions, seed=1, clusters=1)
        build(work / "first", first, None)
        index = IvfIndex.load(work / "first.faiss")
        previous = PreviousLists(index, rows, index.tuning.nprobe)
        print("rows       new rows  lists    nlist  build, s  nprobe  recall@10  ms a query")
        for growth, clusters in ((1.1, 1), (2.0, 1), (3.9, 1), (2.0, 2), (3.9, 2)):
            more = draw_vectors(int(rows * growth) - rows, dimensions, seed=2, clusters=clusters)
            vectors = np.concatenate([first, more])
            queries = np.concatenate(
                [
                    draw_vectors(QUERY_COUNT // 2, dimensions, seed, clusters)
                    for seed, clusters in ((3, 1), (4, clusters))
                ]
            )
            exact = FlatIndex.from_chunks(dimensions, [(np.arange(len(vectors)), vectors)])
            truth = [ids for ids, _ in exact.search(queries, K)]
            for name, given in (("new", None), ("reused", previous)):
                seconds, details = build(work / "next", vectors, given)
                index = IvfIndex.load(work / "next.faiss")
                index.search(queries[:20], K)
                started = time.perf_counter()
                found = [index.search(query[None], K)[0][0] for query in queries]
                elapsed = (time.perf_counter() - started) / len(queries)
                recall = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, truth, strict=True)])
                print(
                    f"{len(vectors):9,}  {'drifted' if clusters > 1 else 'alike':8}  {name:6}  {details['nlist']:6,}"
                    f"  {seconds:8.1f}  {details['nprobe']:6}  {recall:9.4f}  {1e3 * elapsed:10.2f}",
                    flush=True,
                )


def draw_vectors(count: int, dimensions: int, seed: int, clusters: int) -> NDArray[np.float32]:
    """Return vectors of a mixture of Gaussians; `clusters` is the number of the mixture."""
    means = np.random.default_rng(1000 + clusters).normal(size=(CLUSTER_COUNT, dimensions))
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.6, size=(count, dimensions))
    return (means[random.integers(0, CLUSTER_COUNT, count)] + noise).astype(np.float32)


def build(path: Path, vectors: NDArray[np.float32], previous: PreviousLists | None) -> tuple[float, dict[str, object]]:
    """Build an index of the vectors; return the time and the details."""
    file = path.with_suffix(".vectors")
    write_vector_file(file, vectors.shape[1], [(np.arange(len(vectors)), vectors)])
    started = time.perf_counter()
    details = build_ivf_index(file, path.with_suffix(".faiss"), IndexOptions("ivf"), previous)
    return time.perf_counter() - started, details


if __name__ == "__main__":
    main()
