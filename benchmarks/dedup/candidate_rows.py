"""Candidates among many synthetic rows: of one home, in its own process, for `large_dataset --rows`.

python -m benchmarks.dedup.candidate_rows HOME OUTPUT      prints one line; OUTPUT receives the pairs
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.common.memory import read_status
from benchmarks.common.runs import SIMILE
from benchmarks.common.synthetic_rows import add_rows, make_empty_home, make_posterior
from simile.dedup.detection.candidates import PAIR_DTYPE, get_vectors, write_candidates
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.snapshot import Snapshot

NEIGHBOURS = 10  # of a row within the radius, on average
SAMPLE = 1000  # rows that the radius is measured on


def measure_candidates(data: Path, work: Path, rows: int, encoder_home: Path | None) -> None:
    """Measure homes with a quarter, half, and all of the rows."""
    posterior = make_posterior(data, work, encoder_home=encoder_home)
    print(f"{'rows':>10}{'radius':>9}{'pairs':>12}{'a row':>7}{'crowded':>9}{'seconds':>9}{'peak MB':>9}{'files':>7}")
    for count in (rows // 4, rows // 2, rows):
        home = work / f"home-{count}"
        if not (home / "catalogue.sqlite").exists():
            make_empty_home(home, encoder_home or work / "trained")
            add_rows(home, posterior, count, seed=0)
            subprocess.run([SIMILE, "rebuild", "--home", home], check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "benchmarks.dedup.candidate_rows", home, work / f"candidates-{count}"]
        subprocess.run(command, check=True)


def main() -> None:
    """Print radius, pairs, seconds and memory of one home."""
    root, output = Path(sys.argv[1]), Path(sys.argv[2])
    with Catalogue(Home(root)) as catalogue:
        index = Index(catalogue)
        snapshot, started = index.get_snapshot(), time.perf_counter()
        radius = find_radius(snapshot)
        written = write_candidates(snapshot, radius, output, lambda _done, _total: None)
        seconds, rows = time.perf_counter() - started, len(index)
        index.close()
    if output.stat().st_size != written.pairs * PAIR_DTYPE.itemsize:
        raise SystemExit(f"{output} does not have {written.pairs} pairs")
    print(
        f"{rows:>10,}{radius:>9.3f}{written.pairs:>12,}{2 * written.pairs / rows:>7.1f}{written.crowded:>9,}"
        f"{seconds:>9.0f}{read_status('VmHWM'):>9.0f}{read_status('RssFile'):>7.0f}",
        flush=True,
    )


def find_radius(snapshot: Snapshot) -> float:
    """Return the distance within which a row has NEIGHBOURS neighbours on average."""
    ids = np.concatenate([segment.get_live_ids() for segment in snapshot.segments])
    queries = np.sort(np.random.default_rng(0).permutation(ids)[:SAMPLE])
    hits = snapshot.search(get_vectors(snapshot, queries), 20 * NEIGHBOURS)
    distances = np.concatenate([far[near != query] for query, (near, far) in zip(queries, hits, strict=True)])
    return float(np.sort(distances)[NEIGHBOURS * len(queries)])


if __name__ == "__main__":
    main()
