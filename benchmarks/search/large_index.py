"""A million rows: building, opening, memory, times, recall, filters, ranges, and rows added under running queries.

    python -m benchmarks.search.large_index --data DIR [--rows 1000000] [--index auto] [--work DIR] [--encoder HOME]

DIR holds fashion-mnist.npz. A VAE is trained on its training pictures for a minute by `simile train`, or one of another
home is taken (--encoder). The rows are drawn from its aggregate posterior: a picture's (μ, σ) is drawn with a seed, and
z = μ + σ·ε stands as the μ of a new row, with the same σ. Queries are drawn likewise, with another seed, and are no
rows. Everything is stored through the catalogue, as the indexing job does. Beside the vector layer runs its peer, in
turns with it: raw FAISS on the same file with the same effort, and numpy's distances to the same candidates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.simile_runs import SIMILE, simile
from benchmarks.common.synthetic_rows import Floats, add_rows, aggregate_posterior, drawn, made_home, path_of
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
# In a process of its own, so that time and memory are those of opening alone.
OPEN = """if True:
    import re, sys, time; from pathlib import Path
    import numpy as np
    from simile.store.catalogue.catalogue import Catalogue; from simile.store.home import Home; from simile.store.index.index import Index
    def megabytes(kind): return int(re.search(rf'{kind}:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1e3
    with Catalogue(Home(Path(sys.argv[1]))) as catalogue:
        catalogue.state()
        own, mapped, started = megabytes('RssAnon'), megabytes('RssFile'), time.perf_counter()
        index = Index(catalogue)
        rows = len(index)
        opened = time.perf_counter() - started
        d = index.current().encoder.indexed_dimensions
        for query in np.random.default_rng(0).normal(size=(200, d)).astype(np.float32):
            index.search(query[None], 10)
        own, mapped = megabytes('RssAnon') - own, megabytes('RssFile') - mapped
        print(f'opening {rows:,} rows: {opened:.2f} s; after 200 queries {own:.0f} MB of memory more, and '
              f'{mapped:.0f} MB of the files in it, which all processes share')
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--added", type=int, default=10_000, help="rows that are added while queries run")
    options.add_argument("--queries", type=int, default=2000)
    options.add_argument("--index", choices=["auto", "exact", "ivf"], default="auto")
    options.add_argument("--pictures", type=int, default=60_000, help="that the VAE is trained on and encodes")
    options.add_argument("--minutes", type=float, default=1, help="of training")
    options.add_argument("--encoder", type=Path, help="a home whose encoder is taken instead of training one")
    options.add_argument("--work", type=Path, help="keeps everything there, and goes on from it")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(given, given.work or Path(scratch))


def run(given: argparse.Namespace, work: Path) -> None:
    posterior = aggregate_posterior(given.data, work, given.pictures, given.minutes, given.encoder)
    home = work / f"home-{given.rows}"
    if not (home / "catalogue.sqlite").exists():
        made_home(home, given.encoder or work / "trained")
        timed("storing rows", given.rows, lambda: add_rows(home, posterior, given.rows, seed=0))
    build(home, given.index)
    subprocess.run([sys.executable, "-c", OPEN, str(home)], check=True)
    mu = next(drawn(posterior, given.queries, seed=1, size=given.queries))[1]
    with Searcher(load_settings(home=home, index=given.index)) as searcher:
        encoder = searcher.index.get_snapshot().encoder
        queries = make_index_vectors(mu, encoder.index_dims, encoder.metric)
        truth = exact(searcher, queries[:1000])
        beside_raw_faiss(searcher, queries, truth)
        more_neighbours(searcher, queries[:200])
        whole_searches(searcher, mu, queries)
        filters(searcher, queries[:100])
        ranges(searcher, queries[:100], truth)
        add_rows(home, posterior, 1000, seed=searcher.catalogue.count_changes() + 2)
        searcher.catalogue.files.delete([path_of(0, number) for number in range(1, 1001)])
        beside_raw_faiss(searcher, queries, None)
        under_writes(searcher, mu, queries, posterior, given)
        beside_raw_faiss(searcher, queries, None)
        rebuilt(searcher, queries[:300], given.index)


def build(home: Path, kind: str) -> None:
    """`simile rebuild`, with the most memory that its process ever had."""
    started = time.perf_counter()
    process = subprocess.Popen([SIMILE, "rebuild", "--index", kind, "--home", home])
    usage = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    print(f"building: {time.perf_counter() - started:.1f} s in all, at most {usage.ru_maxrss / 1024:.0f} MB of memory")
    with Catalogue(Home(home)) as catalogue:
        segment = catalogue.segments.find(catalogue.get_state().segment_id or 0)
        assert segment is not None
        print("segment:", {name: value for name, value in segment.details.items() if name != "files"}, flush=True)


def exact(searcher: Searcher, queries: Floats) -> list[Neighbours]:
    """The truth, by looking at every row: of the whole snapshot at once."""
    snapshot = searcher.index.get_snapshot()
    flat = FlatIndex(snapshot.encoder.indexed_dimensions)
    for part in snapshot.segments:
        ids = part.get_live_ids()
        flat.add(ids, part.index.get_vectors(ids))
    return [answer for start in range(0, len(queries), 100) for answer in flat.search(queries[start : start + 100], K)]


def recall(found: list[Neighbours], truth: list[Neighbours]) -> float:
    """The share of the true neighbours that were found; those at the same distance as the last count too."""
    shares = [(f[1][: len(t[1])] <= t[1][-1]).sum() / len(t[1]) for f, t in zip(found, truth, strict=True) if len(t[1])]
    return float(np.mean(shares))


def beside_raw_faiss(searcher: Searcher, queries: Floats, truth: list[Neighbours] | None) -> None:
    searcher.index.count_pending()  # waits until the newest segment is open
    snapshot = searcher.index.get_snapshot()
    segment = snapshot.segments[0]
    peer = raw_peer(searcher, segment.index)
    ours, raw = [], []
    for query in queries:  # in turns, so that what else the machine does costs both the same
        ours.append(clock(lambda q=query[None]: snapshot.search(q, K)))
        raw.append(clock(lambda q=query[None]: peer(q)))
    pending = f"{len(segment.masked_ids):,} masked, {snapshot.pending_count - len(segment.masked_ids):,} newer in {len(snapshot.segments) - 1}"
    print(f"\nvector layer ({len(segment.index):,} rows, {pending} parts)")
    show("vector layer", ours)
    show("raw FAISS + numpy", raw)
    print(
        f"ratio of the medians {np.median(ours) / np.median(raw):.2f}, of the means {np.mean(ours) / np.mean(raw):.2f}"
    )
    if truth is not None:
        found = [snapshot.search(query[None], K)[0] for query in queries[: len(truth)]]
        print(f"recall@{K} of {len(truth)} queries that are no rows: {recall(found, truth):.4f}", flush=True)


def raw_peer(searcher: Searcher, index: Any) -> Callable[[Floats], Any]:
    """The same file opened by FAISS alone, searched with the same effort, re-ranked by numpy."""
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


def more_neighbours(searcher: Searcher, queries: Floats) -> None:
    snapshot = searcher.index.get_snapshot()
    everything = np.sort(np.concatenate([part.get_live_ids() for part in snapshot.segments]))
    for k in (100, 1000):
        times = [clock(lambda q=query[None], k=k: snapshot.search(q, k)) for query in queries]
        some = queries[:20]
        truth = [scan_all(searcher, query, k, everything) for query in some]
        found = [snapshot.search(query[None], k)[0] for query in some]
        show(f"k = {k}, recall {recall(found, truth):.4f}", times)


def scan_all(searcher: Searcher, query: Floats, k: int, ids: NDArray[np.int64]) -> Neighbours:
    """Exact, whatever the index: a range that reaches the k-th of the neighbours that were found."""
    snapshot = searcher.index.get_snapshot()
    reach = snapshot.search(query[None], k)[0][1][-1]
    rows, distances = snapshot.range(query[None], reach)[0]
    assert np.isin(rows, ids).all()
    return rows[:k], distances[:k]


def whole_searches(searcher: Searcher, mu: Floats, queries: Floats) -> None:
    layer, whole = [], []
    for latent, query in zip(mu, queries, strict=True):
        snapshot = searcher.index.get_snapshot()
        layer.append(clock(lambda q=query[None], s=snapshot: s.search(q, K)))
        whole.append(clock(lambda q=latent: searcher.by_vector(q, limit=K)))
    print("\nwhole searches, with the rows of the hits")
    rows = [w - v for w, v in zip(whole, layer, strict=True)]
    show("vector layer", layer)
    show("whole search", whole)
    print(f"more than the layer: {np.median(rows):.2f} ms (median)", flush=True)


def filters(searcher: Searcher, queries: Floats) -> None:
    total, snapshot = searcher.count_images(), searcher.index.get_snapshot()
    print("\nfilters: by size (a share of all) and by class (depends on the content); the first of each reads the ids")
    wanted = [(f"{n:,} rows", Filter(max_bytes=n)) for n in (5, total // 1000, total // 100, total // 10, total // 2)]
    wanted += [("class 3", Filter(min_width=4, max_width=4)), ("classes 0 to 4", Filter(max_width=5))]
    for name, only in wanted:
        ids = searcher.index.find_matching_ids(only)
        assert ids is not None
        first = clock(lambda only=only: searcher.index.find_matching_ids(Filter(**{**vars(only), "min_height": 1})))
        times = [clock(lambda q=query[None], only=ids: snapshot.search(q, K, only)) for query in queries]
        found = [snapshot.search(query[None], K, ids)[0] for query in queries[:20]]
        truth = [within(snapshot.range(q[None], f[1][-1], ids)[0], K) for q, f in zip(queries, found, strict=False)]
        assert all(len(f[0]) == min(K, len(ids)) for f in found)
        show(f"{name}: recall {recall(found, truth):.4f}, ids read in {first:.0f} ms", times)


def within(answer: Neighbours, k: int) -> Neighbours:
    return answer[0][:k], answer[1][:k]


def ranges(searcher: Searcher, queries: Floats, truth: list[Neighbours]) -> None:
    snapshot = searcher.index.get_snapshot()
    times = []
    for query, (ids, distances) in zip(queries, truth, strict=False):
        times.append(clock(lambda q=query[None], r=distances[-1]: snapshot.range(q, r)))
        assert np.array_equal(snapshot.range(query[None], distances[-1])[0][0][: len(ids)], ids)
    print("\nranges")
    show("all within the distance of the tenth", times)


def under_writes(searcher: Searcher, mu: Floats, queries: Floats, posterior: Path, given: argparse.Namespace) -> None:
    """Queries while another process adds rows, and then while one folds them into a new segment."""
    seed = searcher.catalogue.count_changes() + 2
    add = [
        sys.executable,
        "-m",
        "benchmarks.common.synthetic_rows",
        searcher.home.root,
        posterior,
        given.added,
        seed,
        100,
    ]
    compact = [SIMILE, "rebuild", "--index", given.index, "--home", searcher.home.root]
    for name, command in (("rows are added", add), ("a new segment is made", compact)):
        before, pending, times = searcher.count_images(), searcher.index.get_snapshot().pending_count, []
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE) as process:
            while process.poll() is None:
                latent = mu[len(times) % len(mu)]
                times.append(clock(lambda q=latent: searcher.by_vector(q, limit=K)))
                if name.startswith("rows"):
                    time.sleep(0.001)
        assert process.returncode == 0
        print(
            f"\nwhole searches while {name}: {searcher.count_images() - before:,} rows more, {pending:,} pending before"
        )
        show("whole search", times)
        if name.startswith("rows"):
            beside_raw_faiss(searcher, queries[:500], None)


def rebuilt(searcher: Searcher, queries: Floats, kind: str) -> None:
    """The answers of a segment, and of one that is made again from the rows alone."""
    home = Home(searcher.home.root)

    def answers() -> list[Any]:
        with Catalogue(home) as catalogue:
            return Index(catalogue).search(queries, K)

    before = answers()
    for path in home.segments.iterdir():
        path.unlink()
    simile("rebuild", "--index", kind, home=home.root)
    same = sum(one == other for one, other in zip(before, answers(), strict=True))
    print(f"rebuilt from rows alone: {same} of {len(queries)} answers are the same")


def clock(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def show(name: str, times: list[float]) -> None:
    p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
    most = f"p99.9 {p999:8.2f}  most {max(times):8.2f} ms  ({len(times):,} queries)"
    print(f"{name:<52} p50 {p50:8.3f}  p99 {p99:8.2f}  {most}", flush=True)


def timed(name: str, count: int, work: Callable[[], object]) -> None:
    seconds = clock(work) / 1000
    print(f"{name}: {seconds:.0f} s, {count / seconds:,.0f} a second", flush=True)


if __name__ == "__main__":
    main()
