"""Two workers of one service: does a search through one find an image added through the other within a second?

    python -m benchmarks.service.two_workers [--tries 1000] [--home HOME]

Each try uploads a new image to one worker, then searches for it through the other until it is the first hit. Every
second try also deletes it, and waits until the other worker no longer has it. HOME is copied; without it a home of
digits is made. The exit code is 1 if a try took longer than a second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from benchmarks.common.runs import make_parser
from benchmarks.common.serving import copy_home, send, serve
from simile.images.encoding import encode_png

LIMIT = 1.0  # seconds


def connect_to_workers(port: int, count: int) -> list[HTTPConnection]:
    """Open a connection to each worker; the request ids of workers have different prefixes."""
    connections: dict[str, HTTPConnection] = {}
    deadline = time.monotonic() + 120
    while len(connections) < count and time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        status, worker, _ = send(connection, "GET", "/readyz")
        if status == 200 and worker not in connections:
            connections[worker] = connection
        else:
            connection.close()
            time.sleep(0.05)
    return list(connections.values())


def draw_image(seed: int) -> bytes:
    """Return a PNG of random blocks, 32 x 32, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return encode_png(np.kron(noise, np.ones((4, 4), np.uint8)))


def measure_delay(writer: HTTPConnection, reader: HTTPConnection, seed: int) -> float:
    """Return seconds from the acknowledgement until the other worker finds the image; infinity after ten times LIMIT.

    For even seeds the delay of a deletion is added.
    """
    data = draw_image(seed)
    status, writing_worker, added = send(writer, "POST", "/v1/images", data)
    assert status in (200, 201), added
    started = time.perf_counter()
    while time.perf_counter() - started < 10 * LIMIT:
        status, reading_worker, answer = send(reader, "POST", "/v1/search?limit=1", data)
        assert status == 200 and reading_worker != writing_worker, answer
        if answer["hits"] and answer["hits"][0]["image_id"] == added["image_id"]:
            seconds = time.perf_counter() - started
            return seconds if seed % 2 else seconds + measure_deletion(writer, reader, added["image_id"])
    return float("inf")


def measure_deletion(writer: HTTPConnection, reader: HTTPConnection, image_id: int) -> float:
    """Delete an image; return the seconds until the other worker no longer has it."""
    status, _, problem = send(writer, "DELETE", f"/v1/images/{image_id}")
    assert status == 204, problem
    started = time.perf_counter()
    while send(reader, "GET", f"/v1/images/{image_id}")[0] != 404:
        if time.perf_counter() - started > 10 * LIMIT:
            return float("inf")
    return time.perf_counter() - started


def main() -> int:
    """Run the tries; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, log = copy_home(options.home, Path(folder) / "home"), Path(folder) / "log"
        with serve(home, log, "--workers", 2) as (port, _):
            workers = connect_to_workers(port, 2)
            assert len(workers) == 2, log.read_text()
            # The roles of the workers change after each two tries.
            orders = [workers[:: 1 if seed % 4 < 2 else -1] for seed in range(options.tries)]
            times = np.array([measure_delay(*order, seed) for seed, order in enumerate(orders)])
    late = int((times > LIMIT).sum())
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    print(f"{len(times):,} tries: found through the other worker after p50 {p50:.0f} ms, p99 {p99:.0f} ms, ", end="")
    print(f"at most {times.max() * 1000:.0f} ms; {late} later than {LIMIT:g} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
