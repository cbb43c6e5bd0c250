"""Embedding on Ray: a node that is killed, and the speed with one and two actors.

    python -m benchmarks.scaling.ray [--images 20000] [--rounds 5] [--work FOLDER]     # needs simile[ray,postgres]

Two nodes of Ray with one core each run on this machine, with one PostgreSQL. In each round a fresh catalogue gets all
images while all processes of the second node are killed with -9 at a random moment. Then each image must be there once,
and the summary must be that of an undisturbed run. The speed is that of all files by the time from the first listing
to the last row: the start of the actors counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common.runs import SIMILE, make_parser, open_work_folder
from simile.images.encoding import encode_jpeg
from tests.support.servers.postgresql import Postgres, running_server
from tests.support.servers.ray_nodes import RayCluster, ray_cluster

TABLES = ("images", "locations", "embeddings")


def main() -> int:
    """Parse the options, run the rounds, then measure the speeds; return the exit code."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    with open_work_folder(options.work) as work, running_server() as server:
        photos = write_photos(work / f"photos-{options.images}", options.images)
        failed = run_rounds(options.rounds, photos, work, server, random)
        if options.images > 3000:
            measure_speeds(photos, work, server)
    return failed


def write_photos(folder: Path, count: int) -> Path:
    """Write JPEG files of 640 x 480 pixels, unless an earlier run did; return the folder."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(folder.iterdir())), count):
        blocks = random.integers(0, 256, (12, 16, 3)).repeat(40, 0).repeat(40, 1)
        slope = np.linspace(-40, 40, 640)[None, :, None] * random.normal()
        (folder / f"{number:06}.jpg").write_bytes(encode_jpeg(np.clip(blocks + slope, 0, 255).astype(np.uint8)))
    return folder


@dataclass(frozen=True)
class IndexResult:
    """What `simile index` says at the end, and how long it took."""

    summary: dict[str, object]
    seconds: float


def run_index(
    photos: Path, home: Path, environment: dict[str, str], *arguments: str, on_done: Callable[[int], None] | None = None
) -> IndexResult:
    """Run `simile index` with variables; `on_done` gets the number of files that are done, at most once a second."""
    command = [SIMILE, "index", photos, "--home", home, "--json", *arguments]
    started = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None and process.stderr is not None
    notes = []
    for line in process.stderr:
        notes.append(line)
        if line.startswith("{") and on_done is not None:
            on_done(json.loads(line)["done"])
    output = process.stdout.read()
    assert process.wait() == 0 and output, "".join(notes)
    return IndexResult(json.loads(output), time.monotonic() - started)


def run_rounds(rounds: int, photos: Path, work: Path, server: Postgres, random: np.random.Generator) -> int:
    """Run the rounds and print a table; return how many failed."""
    count = len(list(photos.iterdir()))
    print("round  killed at  lost for, s  images  locations  embeddings  new  embedded  copied  failed  seconds")
    failures = 0
    for number in range(rounds):
        with ray_cluster() as cluster:
            cluster.add_node()
            killer = NodeKiller(cluster, cluster.add_node(), int(random.uniform(0.05, 0.8) * count))
            name = f"round_{os.getpid()}_{number}"
            server.execute(f"CREATE DATABASE {name}")
            home = work / name
            ray = ["--ray", cluster.address]
            environment = {"SIMILE_DATABASE_URL": server.get_url(name)}
            result = run_index(photos, home, environment | cluster.environment, *ray, on_done=killer.on_done)
        rows = [server.execute(f"SELECT count(*) FROM {table}", name)[0][0] for table in TABLES]
        summary = result.summary
        counts = [summary["new"], summary["embedded"], summary["copied"], len(summary["failures"])]  # type: ignore[arg-type]
        checked = subprocess.run(
            [SIMILE, "verify", "--home", home],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        is_good = rows == [count] * 3 and counts == [count, count, 0, 0] and checked.returncode == 0
        failures += not is_good or killer.killed_at in (None, count)
        print(
            f"{number + 1:5}  {killer.killed_at or 0:9,}  {killer.pause:11.1f}  {rows[0]:6,}  {rows[1]:9,}"
            f"  {rows[2]:10,}  {counts[0]:,}  {counts[1]:,}  {counts[2]}  {counts[3]}  {result.seconds:.0f}"
            f"{'' if is_good else '  WRONG: ' + checked.stdout + checked.stderr}",
            flush=True,
        )
    return failures


class NodeKiller:
    """Kills a node when so many files are done."""

    def __init__(self, cluster: RayCluster, node: int, at: int) -> None:
        self._cluster, self._node, self._at = cluster, node, at
        self.killed_at: int | None = None
        self.pause = 0.0  # the longest time without progress after it, seconds
        self._last_at = 0.0

    def on_done(self, done: int) -> None:
        """Take the number of files that are done."""
        now = time.monotonic()
        if self.killed_at is not None:
            self.pause = max(self.pause, now - self._last_at)
        elif done >= self._at:
            self.killed_at = done
            threading.Timer(float(np.random.default_rng(done).uniform(0, 1)), self._kill).start()
        self._last_at = now

    def _kill(self) -> None:
        self._cluster.kill_node(self._node)


def measure_speeds(photos: Path, work: Path, server: Postgres) -> None:
    """Print images/s of runs without Ray and with one and two actors."""
    print("\nrun                                  files/s of the run   in all, s")
    for name, workers, nodes in (
        ("simile index, SIMILE_WORKERS=1", "1", 0),
        ("simile index", "0", 0),
        ("simile index --ray, one actor", "0", 1),
        ("simile index --ray, two actors", "0", 2),
    ):
        database = f"speed_{os.getpid()}_{workers}_{nodes}"
        server.execute(f"CREATE DATABASE {database}")
        environment = {"SIMILE_WORKERS": workers, "SIMILE_DATABASE_URL": server.get_url(database)}
        with ray_cluster() as cluster:
            for _ in range(nodes):
                cluster.add_node()
            ray = ["--ray", cluster.address] if nodes else []
            result = run_index(photos, work / database, environment | cluster.environment, *ray)
        done, seconds = int(str(result.summary["done"])), float(str(result.summary["seconds"]))
        print(f"{name:35}  {done / seconds:18.0f}  {result.seconds:10.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
