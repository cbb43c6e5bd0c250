"""Two workers of one service: is a picture that was added through one found through the other within a second?

    python -m benchmarks.service.two_workers [--tries 1000] [--home HOME]

Each try uploads a new picture to one worker, then searches for it through the other until it is the first hit, and
deletes every other one again, which the other must see at once too. HOME is copied, never written to; without it a
home of digits is made. Exit 1 if a try took longer than a second, or was never found.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from benchmarks.common.serving_home import ask, free_port, serve_command, started, wait_until_ready
from benchmarks.common.simile_runs import simile
from simile.images.encoding import encode_png

WITHIN = 1.0  # seconds


def connections(port: int, count: int) -> list[HTTPConnection]:
    """One to each worker: the ids of their answers begin with different letters."""
    found: dict[str, HTTPConnection] = {}
    until = time.monotonic() + 120
    while len(found) < count and time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        status, worker, _ = ask(connection, "GET", "/readyz")
        if status == 200 and worker not in found:
            found[worker] = connection
        else:
            connection.close()
            time.sleep(0.05)
    return list(found.values())


def drawn(seed: int) -> bytes:
    """A picture of its own: smooth noise, 32 x 32."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return encode_png(np.kron(noise, np.ones((4, 4), np.uint8)))


def tried(one: HTTPConnection, other: HTTPConnection, seed: int) -> float:
    """Seconds from the acknowledgement until the other worker finds the picture; infinite after ten times as many."""
    data = drawn(seed)
    status, writer, added = ask(one, "POST", "/v1/images", data)
    assert status in (200, 201), added
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < 10 * WITHIN:
        status, reader, found = ask(other, "POST", "/v1/search?limit=1", data)
        assert status == 200 and reader != writer, found
        if found["hits"] and found["hits"][0]["image_id"] == added["image_id"]:
            seconds = time.perf_counter() - started_at
            return seconds if seed % 2 else seconds + forgotten(one, other, added["image_id"])
    return float("inf")


def forgotten(one: HTTPConnection, other: HTTPConnection, image_id: int) -> float:
    """Seconds until the other worker knows nothing more of the image."""
    status, _, problem = ask(one, "DELETE", f"/v1/images/{image_id}")
    assert status == 204, problem
    started_at = time.perf_counter()
    while ask(other, "GET", f"/v1/images/{image_id}")[0] != 404:
        if time.perf_counter() - started_at > 10 * WITHIN:
            return float("inf")
    return time.perf_counter() - started_at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        if given.home:
            shutil.copytree(given.home, home)
        else:
            simile("demo", "--no-serve", "--minutes", "0.3", home=home)
        port = free_port()
        with started(serve_command(home, port, "--workers", 2), {}, Path(folder) / "log") as process:
            wait_until_ready(port)
            workers = connections(port, 2)
            assert len(workers) == 2, (Path(folder) / "log").read_text()
            times = np.array([tried(*workers[:: 1 if seed % 4 < 2 else -1], seed) for seed in range(given.tries)])
            process.terminate()
            process.wait()
    late = int((times > WITHIN).sum())
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    print(f"{len(times):,} tries: found through the other worker after p50 {p50:.0f} ms, p99 {p99:.0f} ms, ", end="")
    print(f"at most {times.max() * 1000:.0f} ms; {late} later than {WITHIN:g} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
