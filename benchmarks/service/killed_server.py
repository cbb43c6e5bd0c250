"""A server killed during uploads: does it keep every acknowledged image, and no incomplete one?

    python -m benchmarks.service.killed_server [--uploads 1000] [--rounds 5] [--home HOME] [--seed 0] [--workers 1]

Each round starts `simile serve`, lets four clients upload new images, and kills server and workers with SIGKILL at a
random moment. After a restart a search must find every acknowledged image with its id and its bytes; `simile verify`
must find no problem; an image that was not acknowledged must be complete or absent. Rounds continue until enough
uploads were acknowledged. The exit code is 1 otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from benchmarks.common.runs import make_parser
from benchmarks.common.serving import copy_home, send, serve
from benchmarks.service.two_workers import draw_image
from simile.core.settings import load_settings
from simile.indexer.maintenance.verify import find_home_leftovers, verify_home

CLIENTS = 4


class UploadRound:
    """One run of a server that ends with a kill.

    Attributes:
        acknowledged: Image id by seed of the image.
        sent: Seeds of all images whose upload began.
    """

    def __init__(self, home: Path, log: Path, workers: int) -> None:
        self.home, self.log, self.workers = home, log, workers
        self.acknowledged: dict[int, int] = {}
        self.sent: set[int] = set()

    def run(self, seeds: list[int], count: int, delay: float) -> None:
        """Upload until the server is killed, `delay` seconds after `count` uploads were acknowledged."""
        with serve(self.home, self.log, "--workers", self.workers) as (port, process):
            enough = threading.Event()
            with ThreadPoolExecutor(CLIENTS) as clients:
                for client in range(CLIENTS):
                    clients.submit(self._upload, port, seeds[client::CLIENTS], count, enough)
                enough.wait(60)
                time.sleep(delay)
                os.killpg(process.pid, signal.SIGKILL)

    def _upload(self, port: int, seeds: list[int], count: int, enough: threading.Event) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for seed in seeds:
                self.sent.add(seed)
                status, _, answer = send(connection, "POST", "/v1/images", draw_image(seed))
                if status == 201:
                    self.acknowledged[seed] = answer["image_id"]
                if len(self.acknowledged) >= count:
                    enough.set()
        except (OSError, HTTPException):  # killed: the current upload was not acknowledged
            pass
        finally:
            enough.set()
            connection.close()


def find_flaws(home: Path, log: Path, acknowledged: dict[int, int], sent: set[int]) -> list[str]:
    """Restart the server; return images that are missing or incomplete, and the problems of the home."""
    flaws = []
    with serve(home, log) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        for seed in sorted(sent):
            hits = send(connection, "POST", "/v1/search?limit=1&certainty=quick", draw_image(seed))[2]["hits"]
            image_id = hits[0]["image_id"] if hits and hits[0]["distance"] < 1e-3 else None
            if seed in acknowledged and image_id != acknowledged[seed]:
                flaws.append(f"upload {seed} was acknowledged as image {acknowledged[seed]}, a search finds {image_id}")
            elif image_id is not None:
                status, _, file = send(connection, "GET", f"/v1/images/{image_id}/file")
                if status != 200 or not file.startswith(b"\x89PNG"):
                    flaws.append(f"image {image_id} of upload {seed} has a row, but its file has status {status}")
        connection.close()
    settings = load_settings(home=home)
    flaws += [f"verify: {problem.description}" for problem in verify_home(settings)]
    leftovers = [leftover.description for leftover in find_home_leftovers(settings)]
    return flaws + [f"left over: {description}" for description in leftovers if "uploads" not in description]


def main() -> int:
    """Run the rounds; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    random, per_round = np.random.default_rng(options.seed), -(-options.uploads // options.rounds)
    flaws: list[str] = []
    acknowledged = sent = 0
    with tempfile.TemporaryDirectory() as folder:
        home, log = copy_home(options.home, Path(folder) / "home"), Path(folder) / "log"
        for number in range(options.rounds):
            upload_round = UploadRound(home, log, options.workers)
            first = 1_000_000 * (number + 1)  # seeds of rounds do not overlap
            upload_round.run(list(range(first, first + 4 * per_round)), per_round, float(random.uniform(0, 0.1)))
            flaws += find_flaws(home, log, upload_round.acknowledged, upload_round.sent)
            counts = len(upload_round.acknowledged), len(upload_round.sent)
            acknowledged, sent = acknowledged + counts[0], sent + counts[1]
            print(f"round {number + 1}: {counts[0]} acknowledged of {counts[1]} sent", flush=True)
    print(f"{acknowledged:,} acknowledged of {sent:,} sent, {options.rounds} kills: {len(flaws)} things wrong")
    print("\n".join(flaws[:50]))
    return 1 if flaws else 0


if __name__ == "__main__":
    sys.exit(main())
