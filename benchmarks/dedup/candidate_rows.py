"""Candidates among many synthetic rows, for dedup_many.py; by itself, of one home, in a process of its own.

python -m benchmarks.dedup.candidate_rows HOME OUTPUT      prints one line; OUTPUT gets the pairs
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.common.simile_runs import SIMILE
from benchmarks.common.synthetic_rows import add_rows, aggregate_posterior, made_home
from simile.dedup.detection.candidates import PAIR_DTYPE, get_vectors, write_candidates
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.snapshot import Snapshot

WANTED = 10  # neighbours of a row
SAMPLE = 1000  # rows, by which the radius is found


def many_rows(data: Path, work: Path, rows: int, encoder: Path | None) -> None:
    """A quarter, half, and all of the rows."""
    posterior = aggregate_posterior(data, work, home=encoder)
    print(f"{'rows':>10}{'radius':>9}{'pairs':>12}{'a row':>7}{'crowded':>9}{'seconds':>9}{'peak MB':>9}{'files':>7}")
    for count in (rows // 4, rows // 2, rows):
        home = work / f"home-{count}"
        if not (home / "catalogue.sqlite").exists():
            made_home(home, encoder or work / "trained")
            add_rows(home, posterior, count, seed=0)
            subprocess.run([SIMILE, "rebuild", "--home", home], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.dedup.candidate_rows", home, work / f"candidates-{count}"], check=True
        )


def main() -> None:
    root, output = Path(sys.argv[1]), Path(sys.argv[2])
    with Catalogue(Home(root)) as catalogue:
        index = Index(catalogue)
        snapshot, started = index.get_snapshot(), time.perf_counter()
        radius = radius_of(snapshot)
        written = write_candidates(snapshot, radius, output, lambda _done, _total: None)
        seconds, rows = time.perf_counter() - started, len(index)
        index.close()
    if output.stat().st_size != written.pairs * PAIR_DTYPE.itemsize:
        raise SystemExit(f"{output} has not {written.pairs} pairs")
    print(
        f"{rows:>10,}{radius:>9.3f}{written.pairs:>12,}{2 * written.pairs / rows:>7.1f}{written.crowded:>9,}"
        f"{seconds:>9.0f}{megabytes('VmHWM'):>9.0f}{megabytes('RssFile'):>7.0f}",
        flush=True,
    )


def radius_of(snapshot: Snapshot) -> float:
    """The distance within which a row has WANTED neighbours on average."""
    ids = np.concatenate([part.get_live_ids() for part in snapshot.segments])
    asking = np.sort(np.random.default_rng(0).permutation(ids)[:SAMPLE])
    found = snapshot.search(get_vectors(snapshot, asking), 20 * WANTED)
    distances = np.concatenate([far[near != own] for own, (near, far) in zip(asking, found, strict=True)])
    return float(np.sort(distances)[WANTED * len(asking)])


def megabytes(kind: str) -> float:
    found = re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0


if __name__ == "__main__":
    main()
