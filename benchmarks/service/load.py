"""Sixty-four clients upload photos to a service on one core: how many are answered, how fast, and what when ten times
as many come?

    python -m benchmarks.service.load --data DIR [--rows 100000] [--seconds 30] [--memory MINUTES] [--work DIR] [--encoder HOME]

DIR holds clothing-photos.tar. The server has one core and one thread (taskset, OMP_NUM_THREADS=1), the clients another
core; they send ready-made bodies, and report how busy they were themselves: above 90 % a figure says nothing of the
server. The yardstick is the same work without a service, in a loop on the server's core, in batches as large as the
service's own: decode + encode for `certainty=quick`, decode + encode + reconstruct for the default, which measures the
reconstruction error of every query. The peer is benchmarks/peers/plain_service.py, on the same core.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.serving_home import ask, free_port, serve_command, started, wait_until_ready
from benchmarks.service.load_home import encoder_folder, loop, make_pictures, make_rows, read_seen, write_vectors

SERVER, CLIENTS_ON = 0, 1  # cores
BUSIEST = 0.9  # of the clients' core
HERE = Path(__file__).parent
PATHS = {"quick": "/v1/search?certainty=quick", "full": "/v1/search"}


@contextmanager
def serving(home: Path, work: Path, runtime: str) -> Iterator[tuple[int, int]]:
    """The service on its core: its port and process."""
    port = free_port()
    settings = {"OMP_NUM_THREADS": "1", "SIMILE_WORKERS": "1", "SIMILE_RUNTIME": runtime}
    command = ["taskset", "-c", SERVER, *serve_command(home, port)]
    with started(command, settings, work / "server.log") as process:
        wait_until_ready(port)
        yield port, process.pid


@contextmanager
def plain(home: Path, work: Path) -> Iterator[tuple[int, int]]:
    """The peer on the same core."""
    port, vectors = free_port(), work / "vectors.npy"
    write_vectors(home, vectors)
    script = HERE.parent / "peers" / "plain_service.py"
    command = ["taskset", "-c", SERVER, sys.executable, script, encoder_folder(home), vectors, port]
    with started(command, {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}, work / "peer.log") as process:
        wait_until_ready(port, "/docs")
        yield port, process.pid


def press(port: int, work: Path, clients: int, seconds: float, path: str) -> dict[str, Any]:
    """What so many clients saw."""
    script, output = HERE / "load_clients.py", work / "seen.json"
    arguments = [port, work / "bodies.pickle", clients, seconds, path, output]
    subprocess.run(["taskset", "-c", str(CLIENTS_ON), sys.executable, script, *map(str, arguments)], check=True)
    return read_seen(output)


def line(name: str, seen: dict[str, Any]) -> float:
    """Prints a row of the table; gives answers a second."""
    good = np.array(seen["times"].get("200", [])) * 1000
    others = {status: len(times) for status, times in seen["times"].items() if status != "200"}
    rate = len(good) / seen["seconds"]
    p50, p99 = np.percentile(good, [50, 99]) if len(good) else (float("nan"), float("nan"))
    note = "" if seen["load"] <= BUSIEST else "  INVALID: the clients had no time left"
    print(
        f"{name:<34}{rate:8.0f}/s  p50 {p50:7.1f}  p99 {p99:7.1f} ms ({p99 / p50:4.1f}x)  clients {seen['load']:4.0%}"
        f"  others {others or 'none'}{note}",
        flush=True,
    )
    return float(rate)


def median_batch(port: int) -> int:
    """Of the searches that were answered so far: half of them were in batches of at most so many."""
    connection = HTTPConnection("127.0.0.1", port)
    text = ask(connection, "GET", "/metrics")[2].decode()
    connection.close()
    found = re.findall(r'simile_batch_size_bucket\{le="([\d.]+)"\} ([\d.]+)', text)
    counts = [(float(size), float(count)) for size, count in found]
    half = counts[-1][1] / 2
    return int(next(size for size, count in counts if count >= half))


def judge(work: Path, home: Path, given: argparse.Namespace, certainty: str) -> None:
    """Throughput beside the loop's, in turns of a server of its own."""
    with serving(home, work, given.runtime) as (port, _):
        press(port, work, 64, 3, PATHS[certainty])
        rate = line(f"simile, 64 clients, {certainty}", press(port, work, 64, given.seconds, PATHS[certainty]))
        batch = median_batch(port)
    alone = loop(SERVER, home, work, given.runtime, batch, given.seconds / 2, whole=certainty == "full")
    what = "decode + encode" + (" + reconstruct" if certainty == "full" else "")
    print(f"{f'{what}, batch {batch}':<34}{alone:8.0f}/s  share {rate / alone:.2f}\n", flush=True)


def overload(work: Path, home: Path, given: argparse.Namespace) -> None:
    """Ten times as many clients, and what is left of the service after them."""
    with serving(home, work, given.runtime) as (port, _):
        before = line("before: 64 clients", press(port, work, 64, given.seconds / 2, PATHS["quick"]))
        seen = press(port, work, 640, given.seconds, PATHS["quick"])
        line("640 clients", seen)
        refused = np.array(seen["times"].get("503", []) + seen["times"].get("429", [])) * 1000
        if len(refused):
            p50, p99 = np.percentile(refused, [50, 99])
            print(f"  refused {len(refused):,}: p50 {p50:.0f} ms, p99 {p99:.0f} ms; connections ended: {seen['lost']}")
        after = line("after: 64 clients", press(port, work, 64, given.seconds / 2, PATHS["quick"]))
        print(f"  recovered to {after / before:.0%}\n", flush=True)


def memory(work: Path, home: Path, given: argparse.Namespace) -> None:
    """Resident memory each minute under load."""
    with serving(home, work, given.runtime) as (port, pid):
        press(port, work, 64, 30, PATHS["full"])
        sizes = [resident(pid)]
        for _ in range(given.memory):
            press(port, work, 64, 60, PATHS["full"])
            sizes.append(resident(pid))
            print(f"memory after {len(sizes) - 1} min: {sizes[-1]:.0f} MB", flush=True)
        print(
            f"grown by {sizes[-1] - sizes[0]:+.0f} MB, {sizes[-1] - sizes[len(sizes) // 2]:+.0f} in the second half\n"
        )


def resident(pid: int) -> float:
    """MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--memory", type=int, default=0, help="minutes of the memory part; 0 leaves it out")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--encoder", type=Path, help="a home whose encoder is taken; one is trained without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        home = make_rows(given.data, work, given.encoder, make_pictures(given.data, work), given.rows)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{given.rows:,} rows, 400x533 JPEGs, {time.strftime('%Y-%m-%d %H:%M')}\n", flush=True)
        for certainty in PATHS:
            judge(work, home, given, certainty)
        with plain(home, work) as (port, _):
            press(port, work, 64, 3, "/search")
            line("plain FastAPI + torch + FAISS", press(port, work, 64, given.seconds, "/search"))
        print()
        overload(work, home, given)
        if given.memory:
            memory(work, home, given)


if __name__ == "__main__":
    main()
