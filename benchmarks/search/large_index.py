"""A million rows: building, opening, memory, times, recall, filters, ranges, and rows added during queries.

    python -m benchmarks.search.large_index --data DIR [--rows 1000000] [--index auto] [--work DIR] [--encoder HOME]

DIR holds fashion-mnist.npz. `simile train` trains a VAE on its training images for a minute; --encoder uses the encoder
of another home. The rows are drawn from its aggregate posterior (common/synthetic_rows.py), the queries in the same way
with another seed. Everything is stored through the catalogue, as the indexing job does. The vector layer is compared,
in turns, with raw FAISS on the same file with the same effort and numpy's distances to the same candidates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import SIMILE, make_parser, open_work_folder, simile
from benchmarks.common.synthetic_rows import Floats, add_rows, draw_latents, get_path, make_empty_home, make_posterior
from simile.core.records import Filter
from simile.core.settings import load_settings
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.flat import FlatIndex, Neighbours
from simile.store.index.index import Index
from simile.store.index.ivf import SPARE_CANDIDATES, IvfIndex
from simile.store.index.metric import make_index_vectors

K = 10
# Runs in its own process, so that time and memory are those of opening alone.
OPEN = """if True:
    import re, sys, time; from pathlib import Path
    import numpy as np
    from simile.store.catalogue.catalogue import Catalogue; from simile.store.home import Home
    from simile.store.index.index import Index
    def megabytes(kind): return int(re.search(rf'{kind}:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1e3
    with Catalogue(Home(Path(sys.argv[1]))) as catalogue:
        catalogue.get_state()
        own, mapped, started = megabytes('RssAnon'), megabytes('RssFile'), time.perf_counter()
        index = Index(catalogue)
        rows = len(index)
        opened = time.perf_counter() - started
        d = index.get_snapshot().encoder.indexed_dimensions
        for query in np.random.default_rng(0).normal(size=(200, d)).astype(np.float32):
            index.search(query[None], 10)
        own, mapped = megabytes('RssAnon') - own, megabytes('RssFile') - mapped
        print(f'opening {rows:,} rows: {opened:.2f} s; after 200 queries {own:.0f} MB of memory more, and '
              f'{mapped:.0f} MB of mapped files, which all processes share')
"""


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--added", type=int, default=10_000, help="rows that are added during queries")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--index", choices=["auto", "exact", "ivf"], default="auto")
    parser.add_argument("--images", type=int, default=60_000, help="images that the VAE is trained on and encodes")
    parser.add_argument("--minutes", type=float, default=1, help="of training")
    parser.add_argument("--encoder", type=Path, help="a home whose encoder is used instead of a new one")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        run(options, work)


def run(options: argparse.Namespace, work: Path) -> None:
    """Make the home, and measure all parts."""
    posterior = make_posterior(options.data, work, options.images, options.minutes, options.encoder)
    home = work / f"home-{options.rows}"
    if not (home / "catalogue.sqlite").exists():
        make_empty_home(home, options.encoder or work / "trained")
        print_rate("storing rows", options.rows, lambda: add_rows(home, posterior, options.rows, seed=0))
    build(home, options.index)
    subprocess.run([sys.executable, "-c", OPEN, str(home)], check=True)
    mu = next(draw_latents(posterior, options.queries, seed=1, size=options.queries))[1]
    with Searcher(load_settings(home=home, index=options.index)) as searcher:
        encoder = searcher.index.get_snapshot().encoder
        queries = make_index_vectors(mu, encoder.index_dims, encoder.metric)
        truth = find_true_neighbours(searcher, queries[:1000])
        compare_with_faiss(searcher, queries, truth)
        measure_more_neighbours(searcher, queries[:200])
        measure_searches(searcher, mu, queries)
        measure_filters(searcher, queries[:100])
        measure_ranges(searcher, queries[:100], truth)
        add_rows(home, posterior, 1000, seed=searcher.catalogue.count_changes() + 2)
        searcher.catalogue.files.delete([get_path(0, number) for number in range(1, 1001)])
        compare_with_faiss(searcher, queries, None)
        measure_under_writes(searcher, mu, queries, posterior, options)
        compare_with_faiss(searcher, queries, None)
        compare_rebuilt(searcher, queries[:300], options.index)


def build(home: Path, kind: str) -> None:
    """Run `simile rebuild`; print its peak memory."""
    started = time.perf_counter()
    process = subprocess.Popen([SIMILE, "rebuild", "--index", kind, "--home", home])
    usage = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    print(f"building: {time.perf_counter() - started:.1f} s in all, at most {usage.ru_maxrss / 1024:.0f} MB of memory")
    with Catalogue(Home(home)) as catalogue:
        segment = catalogue.segments.find(catalogue.get_state().segment_id or 0)
        assert segment is not None
        print("segment:", {name: value for name, value in segment.details.items() if name != "files"}, flush=True)


def find_true_neighbours(searcher: Searcher, queries: Floats) -> list[Neighbours]:
    """Return the true neighbours by a scan of all rows of the snapshot."""
    snapshot = searcher.index.get_snapshot()
    flat = FlatIndex(snapshot.encoder.indexed_dimensions)
    for part in snapshot.segments:
        ids = part.get_live_ids()
        flat.add(ids, part.index.get_vectors(ids))
    return [answer for start in range(0, len(queries), 100) for answer in flat.search(queries[start : start + 100], K)]


def recall(found: list[Neighbours], truth: list[Neighbours]) -> float:
    """Return the share of the true neighbours that were found; equal distances also count."""
    shares = [(f[1][: len(t[1])] <= t[1][-1]).sum() / len(t[1]) for f, t in zip(found, truth, strict=True) if len(t[1])]
    return float(np.mean(shares))


def compare_with_faiss(searcher: Searcher, queries: Floats, truth: list[Neighbours] | None) -> None:
    """Compare the vector layer with raw FAISS; print its recall if the truth is given."""
    searcher.index.count_pending()  # waits until the newest segment is open
    snapshot = searcher.index.get_snapshot()
    segment = snapshot.segments[0]
    peer = make_raw_search(searcher, segment.index)
    ours, raw = [], []
    for query in queries:  # in turns, so that other load affects both
        ours.append(measure_ms(lambda q=query[None]: snapshot.search(q, K)))
        raw.append(measure_ms(lambda q=query[None]: peer(q)))
    masked = len(segment.masked_ids)
    pending = f"{masked:,} masked, {snapshot.pending_count - masked:,} newer in {len(snapshot.segments) - 1}"
    print(f"\nvector layer ({len(segment.index):,} rows, {pending} parts)")
    print_times("vector layer", ours)
    print_times("raw FAISS + numpy", raw)
    print(
        f"ratio of the medians {np.median(ours) / np.median(raw):.2f}, of the means {np.mean(ours) / np.mean(raw):.2f}"
    )
    if truth is not None:
        found = [snapshot.search(query[None], K)[0] for query in queries[: len(truth)]]
        print(f"recall@{K} of {len(truth)} queries that are not rows: {recall(found, truth):.4f}", flush=True)


def make_raw_search(searcher: Searcher, index: Any) -> Callable[[Floats], Any]:
    """Return a search in the same file with FAISS alone, with the same effort, ranked by numpy."""
    segment = searcher.catalogue.segments.find(searcher.catalogue.get_state().segment_id or 0)
    assert segment is not None
    raw = faiss.read_index(str(searcher.home.segments / segment.file), faiss.IO_FLAG_MMAP_IFC)
    if not isinstance(index, IvfIndex):
        return lambda query: np.sqrt(raw.search(query, K)[0])
    vectors, ids = index.get_vectors(index.ids), index.ids
    parameters = faiss.SearchParametersIVF(nprobe=index.tuning.nprobe)

    def search(query: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = raw.search(query, 2 * K + SPARE_CANDIDATES, params=parameters)[1][0]
        distances = np.linalg.norm(vectors[rows] - query, axis=1)
        order = np.argsort(distances)[:K]
        return ids[rows[order]], distances[order]

    return search


def measure_more_neighbours(searcher: Searcher, queries: Floats) -> None:
    """Measure searches for 100 and 1,000 neighbours."""
    snapshot = searcher.index.get_snapshot()
    all_ids = np.sort(np.concatenate([part.get_live_ids() for part in snapshot.segments]))
    for k in (100, 1000):
        times = [measure_ms(lambda q=query[None], k=k: snapshot.search(q, k)) for query in queries]
        sample = queries[:20]
        truth = [scan_all(searcher, query, k, all_ids) for query in sample]
        found = [snapshot.search(query[None], k)[0] for query in sample]
        print_times(f"k = {k}, recall {recall(found, truth):.4f}", times)


def scan_all(searcher: Searcher, query: Floats, k: int, ids: NDArray[np.int64]) -> Neighbours:
    """Return the true neighbours for any index: by a range up to the k-th found neighbour."""
    snapshot = searcher.index.get_snapshot()
    radius = snapshot.search(query[None], k)[0][1][-1]
    rows, distances = snapshot.range(query[None], radius)[0]
    assert np.isin(rows, ids).all()
    return rows[:k], distances[:k]


def measure_searches(searcher: Searcher, mu: Floats, queries: Floats) -> None:
    """Compare whole searches with the vector layer."""
    layer, whole = [], []
    for latent, query in zip(mu, queries, strict=True):
        snapshot = searcher.index.get_snapshot()
        layer.append(measure_ms(lambda q=query[None], s=snapshot: s.search(q, K)))
        whole.append(measure_ms(lambda q=latent: searcher.by_vector(q, limit=K)))
    print("\nwhole searches, with the rows of the hits")
    rows = [w - v for w, v in zip(whole, layer, strict=True)]
    print_times("vector layer", layer)
    print_times("whole search", whole)
    print(f"more than the layer: {np.median(rows):.2f} ms (median)", flush=True)


def measure_filters(searcher: Searcher, queries: Floats) -> None:
    """Measure searches with filters."""
    total, snapshot = searcher.count_images(), searcher.index.get_snapshot()
    print("\nfilters: by size (a share of all) and by class (depends on the content); the first of each reads the ids")
    cases = [(f"{n:,} rows", Filter(max_bytes=n)) for n in (5, total // 1000, total // 100, total // 10, total // 2)]
    cases += [("class 3", Filter(min_width=4, max_width=4)), ("classes 0 to 4", Filter(max_width=5))]
    for name, filter in cases:
        ids = searcher.index.find_matching_ids(filter)
        assert ids is not None
        first = measure_ms(
            lambda filter=filter: searcher.index.find_matching_ids(Filter(**{**vars(filter), "min_height": 1}))
        )
        times = [measure_ms(lambda q=query[None], ids=ids: snapshot.search(q, K, ids)) for query in queries]
        found = [snapshot.search(query[None], K, ids)[0] for query in queries[:20]]
        truth = [truncate(snapshot.range(q[None], f[1][-1], ids)[0], K) for q, f in zip(queries, found, strict=False)]
        assert all(len(f[0]) == min(K, len(ids)) for f in found)
        print_times(f"{name}: recall {recall(found, truth):.4f}, ids read in {first:.0f} ms", times)


def truncate(neighbours: Neighbours, k: int) -> Neighbours:
    """Return the first k neighbours."""
    return neighbours[0][:k], neighbours[1][:k]


def measure_ranges(searcher: Searcher, queries: Floats, truth: list[Neighbours]) -> None:
    """Measure range queries within the distance of the tenth neighbour."""
    snapshot = searcher.index.get_snapshot()
    times = []
    for query, (ids, distances) in zip(queries, truth, strict=False):
        times.append(measure_ms(lambda q=query[None], r=distances[-1]: snapshot.range(q, r)))
        assert np.array_equal(snapshot.range(query[None], distances[-1])[0][0][: len(ids)], ids)
    print("\nranges")
    print_times("all within the distance of the tenth", times)


def measure_under_writes(
    searcher: Searcher, mu: Floats, queries: Floats, posterior: Path, options: argparse.Namespace
) -> None:
    """Measure queries while another process adds rows, and while it builds a new segment."""
    seed = searcher.catalogue.count_changes() + 2
    root = searcher.home.root
    arguments = [root, posterior, options.added, seed, 100]  # in batches of 100 rows
    add = [sys.executable, "-m", "benchmarks.common.synthetic_rows", *arguments]
    compact = [SIMILE, "rebuild", "--index", options.index, "--home", root]
    for name, command in (("rows are added", add), ("a new segment is made", compact)):
        before, pending, times = searcher.count_images(), searcher.index.get_snapshot().pending_count, []
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE) as process:
            while process.poll() is None:
                latent = mu[len(times) % len(mu)]
                times.append(measure_ms(lambda q=latent: searcher.by_vector(q, limit=K)))
                if name.startswith("rows"):
                    time.sleep(0.001)
        assert process.returncode == 0
        print(
            f"\nwhole searches while {name}: {searcher.count_images() - before:,} rows more, {pending:,} pending before"
        )
        print_times("whole search", times)
        if name.startswith("rows"):
            compare_with_faiss(searcher, queries[:500], None)


def compare_rebuilt(searcher: Searcher, queries: Floats, kind: str) -> None:
    """Compare the answers of a segment with those of one rebuilt from the rows alone."""
    home = Home(searcher.home.root)

    def search() -> list[Any]:
        with Catalogue(home) as catalogue:
            return Index(catalogue).search(queries, K)

    before = search()
    for path in home.segments.iterdir():
        path.unlink()
    simile("rebuild", "--index", kind, home=home.root)
    same = sum(old == new for old, new in zip(before, search(), strict=True))
    print(f"rebuilt from rows alone: {same} of {len(queries)} answers are the same")


def measure_ms(work: Callable[[], object]) -> float:
    """Return milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def print_times(name: str, times: list[float]) -> None:
    """Print percentiles in ms."""
    p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
    tail = f"p99.9 {p999:8.2f}  most {max(times):8.2f} ms  ({len(times):,} queries)"
    print(f"{name:<52} p50 {p50:8.3f}  p99 {p99:8.2f}  {tail}", flush=True)


def print_rate(name: str, count: int, work: Callable[[], object]) -> None:
    """Print the seconds of a call, and its rate."""
    seconds = measure_ms(work) / 1000
    print(f"{name}: {seconds:.0f} s, {count / seconds:,.0f} a second", flush=True)


if __name__ == "__main__":
    main()
