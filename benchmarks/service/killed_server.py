"""A server that is killed while clients upload: is every picture that was acknowledged there, and no other half?

    python -m benchmarks.service.killed_server [--uploads 1000] [--rounds 5] [--home HOME] [--seed 0] [--workers 1]

Each round starts `simile serve`, lets four clients upload new pictures, and kills server and workers with SIGKILL at
a moment drawn with the seed. After a restart every acknowledged picture must be found by a search for itself, with the
id it was given and its bytes; `simile verify` must find nothing; and a picture that was not acknowledged is there whole
or not at all. Rounds go on until so many uploads were acknowledged. Exit 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from benchmarks.common.serving_home import ask, free_port, serve_command, started, wait_until_ready
from benchmarks.common.simile_runs import simile
from benchmarks.service.two_workers import drawn
from simile.core.settings import load_settings
from simile.indexer.maintenance.verify import find_home_leftovers, verify_home

CLIENTS = 4


class Round:
    """One life of a server. said: the id that each seed's picture was acknowledged with; sent: all that were begun."""

    def __init__(self, home: Path, log: Path, workers: int) -> None:
        self.home, self.log, self.workers = home, log, workers
        self.said: dict[int, int] = {}
        self.sent: set[int] = set()

    def run(self, seeds: list[int], after: int, delay: float) -> None:
        """Uploads until the server dies: `delay` seconds after so many were acknowledged."""
        port = free_port()
        with started(serve_command(self.home, port, "--workers", self.workers), {}, self.log) as process:
            wait_until_ready(port)
            ready = threading.Event()
            with ThreadPoolExecutor(CLIENTS) as clients:
                for part in range(CLIENTS):
                    clients.submit(self._upload, port, seeds[part::CLIENTS], after, ready)
                ready.wait(60)
                time.sleep(delay)
                os.killpg(process.pid, signal.SIGKILL)

    def _upload(self, port: int, seeds: list[int], after: int, ready: threading.Event) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for seed in seeds:
                self.sent.add(seed)
                status, _, answer = ask(connection, "POST", "/v1/images", drawn(seed))
                if status == 201:
                    self.said[seed] = answer["image_id"]
                if len(self.said) >= after:
                    ready.set()
        except (OSError, HTTPException):  # killed: what was under way was not acknowledged
            pass
        finally:
            ready.set()
            connection.close()


def wrong_after(home: Path, log: Path, said: dict[int, int], sent: set[int]) -> list[str]:
    """What a server that is started again does not know, or knows by half."""
    port, wrong = free_port(), []
    with started(serve_command(home, port), {}, log) as process:
        wait_until_ready(port)
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        for seed in sorted(sent):
            data = drawn(seed)
            found = ask(connection, "POST", "/v1/search?limit=1&certainty=quick", data)[2]["hits"]
            image_id = found[0]["image_id"] if found and found[0]["distance"] < 1e-3 else None
            if seed in said and image_id != said[seed]:
                wrong.append(f"picture {seed} was acknowledged as image {said[seed]}, but a search finds {image_id}")
            elif image_id is not None:
                status, _, file = ask(connection, "GET", f"/v1/images/{image_id}/file")
                if status != 200 or not file.startswith(b"\x89PNG"):
                    wrong.append(f"image {image_id} of picture {seed} has a row, but its file answers {status}")
        connection.close()
        process.terminate()
        process.wait()
    settings = load_settings(home=home)
    wrong += [f"verify: {problem.description}" for problem in verify_home(settings)]
    return wrong + [
        f"left over: {left.description}" for left in find_home_leftovers(settings) if "uploads" not in left.description
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    random, each = np.random.default_rng(given.seed), -(-given.uploads // given.rounds)
    wrong: list[str] = []
    acknowledged = sent = 0
    with tempfile.TemporaryDirectory() as folder:
        home, log = Path(folder) / "home", Path(folder) / "log"
        if given.home:
            shutil.copytree(given.home, home)
        else:
            simile("demo", "--no-serve", "--minutes", "0.3", home=home)
        for number in range(given.rounds):
            life = Round(home, log, given.workers)
            first = 1_000_000 * (number + 1)
            life.run(list(range(first, first + 4 * each)), each, float(random.uniform(0, 0.1)))
            wrong += wrong_after(home, log, life.said, life.sent)
            acknowledged, sent = acknowledged + len(life.said), sent + len(life.sent)
            print(f"round {number + 1}: {len(life.said)} acknowledged of {len(life.sent)} begun", flush=True)
    print(f"{acknowledged:,} acknowledged of {sent:,} begun, {given.rounds} kills: {len(wrong)} things wrong")
    for one in wrong[:50]:
        print(one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
