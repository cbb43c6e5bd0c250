"""64 clients upload photos to a service on one core: its rate and latency, also with ten times as many clients.

    python -m benchmarks.service.load --data DIR [--rows 100000] [--seconds 30] [--memory MINUTES] [--encoder HOME]

DIR holds clothing-photos.tar. The server has one core and one thread (taskset, OMP_NUM_THREADS=1), the clients another
core; they send prepared bodies and report their own CPU use: above 90 % a figure is invalid. The reference is the same
work without a service, in a loop on the server's core, with the service's median batch size: decode + encode for
`certainty=quick`, decode + encode + reconstruct for the default, which measures the reconstruction error of each query.
The peer is benchmarks/peers/plain_service.py, on the same core.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.memory import read_status
from benchmarks.common.runs import get_encoder_folder, make_parser, open_work_folder
from benchmarks.common.serving import find_free_port, make_serve_command, send, start_process, wait_until_ready
from benchmarks.service.load_home import make_home, make_images, read_results, run_loop, write_vectors

SERVER_CORE, CLIENT_CORE = 0, 1
MAX_CLIENT_LOAD = 0.9  # of the clients' core
HERE = Path(__file__).parent
PATHS = {"quick": "/v1/search?certainty=quick", "full": "/v1/search"}


@contextmanager
def serve_on_core(home: Path, work: Path, runtime: str) -> Iterator[tuple[int, int]]:
    """Start the service on its core; yield port and process id."""
    port, log = find_free_port(), work / "server.log"
    settings = {"OMP_NUM_THREADS": "1", "SIMILE_WORKERS": "1", "SIMILE_RUNTIME": runtime}
    command = ["taskset", "-c", SERVER_CORE, *make_serve_command(home, port)]
    with start_process(command, settings, log) as process:
        wait_until_ready(port, process, log)
        yield port, process.pid


@contextmanager
def serve_peer(home: Path, work: Path) -> Iterator[int]:
    """Start the plain service on the same core; yield its port."""
    port, vectors, log = find_free_port(), work / "vectors.npy", work / "peer.log"
    write_vectors(home, vectors)
    script = HERE.parent / "peers" / "plain_service.py"
    command = ["taskset", "-c", SERVER_CORE, sys.executable, script, get_encoder_folder(home), vectors, port]
    with start_process(command, {"OMP_NUM_THREADS": "1"}, log) as process:
        wait_until_ready(port, process, log, "/docs")
        yield port


def run_clients(port: int, work: Path, clients: int, seconds: float, path: str) -> dict[str, Any]:
    """Run the clients on their core; return their results."""
    script, output = HERE / "load_clients.py", work / "seen.json"
    arguments = [port, work / "bodies.pickle", clients, seconds, path, output]
    subprocess.run(["taskset", "-c", str(CLIENT_CORE), sys.executable, script, *map(str, arguments)], check=True)
    return read_results(output)


def print_row(name: str, results: dict[str, Any]) -> float:
    """Print a row of the table; return answers a second."""
    answered = np.array(results["times"].get("200", [])) * 1000
    others = {status: len(times) for status, times in results["times"].items() if status != "200"}
    rate = len(answered) / results["seconds"]
    p50, p99 = np.percentile(answered, [50, 99]) if len(answered) else (float("nan"), float("nan"))
    note = "" if results["load"] <= MAX_CLIENT_LOAD else "  INVALID: the clients' core was busy"
    print(
        f"{name:<34}{rate:8.0f}/s  p50 {p50:7.1f}  p99 {p99:7.1f} ms ({p99 / p50:4.1f}x)  "
        f"clients {results['load']:4.0%}  others {others or 'none'}{note}",
        flush=True,
    )
    return float(rate)


def get_median_batch(port: int) -> int:
    """Return the median batch size of the searches so far, as an upper bound of the histogram."""
    connection = HTTPConnection("127.0.0.1", port)
    text = send(connection, "GET", "/metrics")[2].decode()
    connection.close()
    buckets = re.findall(r'simile_batch_size_bucket\{le="([\d.]+)"\} ([\d.]+)', text)
    counts = [(float(size), float(count)) for size, count in buckets]
    half = counts[-1][1] / 2
    return int(next(size for size, count in counts if count >= half))


def measure_throughput(work: Path, home: Path, options: argparse.Namespace, certainty: str) -> None:
    """Compare the throughput of the service with that of the loop."""
    with serve_on_core(home, work, options.runtime) as (port, _):
        run_clients(port, work, 64, 3, PATHS[certainty])
        results = run_clients(port, work, 64, options.seconds, PATHS[certainty])
        rate = print_row(f"simile, 64 clients, {certainty}", results)
        batch = get_median_batch(port)
    reconstruct = certainty == "full"
    loop_rate = run_loop(SERVER_CORE, home, work, options.runtime, batch, options.seconds / 2, reconstruct=reconstruct)
    name = f"decode + encode{' + reconstruct' if reconstruct else ''}, batch {batch}"
    print(f"{name:<34}{loop_rate:8.0f}/s  share {rate / loop_rate:.2f}\n", flush=True)


def measure_overload(work: Path, home: Path, options: argparse.Namespace) -> None:
    """Measure 640 clients, and 64 clients before and after them."""
    with serve_on_core(home, work, options.runtime) as (port, _):
        half = options.seconds / 2
        before = print_row("before: 64 clients", run_clients(port, work, 64, half, PATHS["quick"]))
        results = run_clients(port, work, 640, options.seconds, PATHS["quick"])
        print_row("640 clients", results)
        refused = np.array(results["times"].get("503", []) + results["times"].get("429", [])) * 1000
        if len(refused):
            p50, p99 = np.percentile(refused, [50, 99])
            print(
                f"  refused {len(refused):,}: p50 {p50:.0f} ms, p99 {p99:.0f} ms; lost: {results['lost']} connections"
            )
        after = print_row("after: 64 clients", run_clients(port, work, 64, half, PATHS["quick"]))
        print(f"  recovered to {after / before:.0%}\n", flush=True)


def measure_memory(work: Path, home: Path, options: argparse.Namespace) -> None:
    """Print the resident memory under load, each minute."""
    with serve_on_core(home, work, options.runtime) as (port, pid):
        run_clients(port, work, 64, 30, PATHS["full"])
        sizes = [read_status("VmRSS", pid)]
        for minute in range(options.memory):
            run_clients(port, work, 64, 60, PATHS["full"])
            sizes.append(read_status("VmRSS", pid))
            print(f"memory after {minute + 1} min: {sizes[-1]:.0f} MB", flush=True)
        growth = sizes[-1] - sizes[0], sizes[-1] - sizes[len(sizes) // 2]
        print(f"growth {growth[0]:+.0f} MB, {growth[1]:+.0f} in the second half\n")


def main() -> None:
    """Make the home and run all parts."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--memory", type=int, default=0, help="minutes of the memory part [default: 0, left out]")
    parser.add_argument("--encoder", type=Path, help="a home whose encoder is used instead of a new one")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        images = make_images(options.data, work)
        home = make_home(options.data, work, options.encoder, images, options.rows)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{options.rows:,} rows, 400x533 JPEGs, {time.strftime('%Y-%m-%d %H:%M')}\n", flush=True)
        for certainty in PATHS:
            measure_throughput(work, home, options, certainty)
        with serve_peer(home, work) as port:
            run_clients(port, work, 64, 3, "/search")
            print_row("plain FastAPI + torch + FAISS", run_clients(port, work, 64, options.seconds, "/search"))
        print()
        measure_overload(work, home, options)
        if options.memory:
            measure_memory(work, home, options)


if __name__ == "__main__":
    main()
