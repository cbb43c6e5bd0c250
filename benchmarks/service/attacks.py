"""Run every attack of tests/attacks against a service on a copy of a home.

    python -m benchmarks.service.attacks [--home HOME] [--only NAME] [--mixed MINUTES]

Without --home, a home of handwritten digits is made. Meanwhile ordinary clients upload images. The table shows for each
attack its duration, the CPU time of all processes of the service, the longest pause of the event loop (seconds, and CPU
time of its thread), the peak of memory above that before all attacks, the rate of ordinary searches as a share of the
rate without attacks, and the responses. The exit code is 1 if a status was not allowed, or a pause took more than
100 ms of CPU time. --mixed repeats all attacks for so long. Every minute, and at the end, a line shows memory and
descriptors of the service, and what ordinary clients got.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.memory import PeakMemory, list_descendants, read_rss_and_pss
from benchmarks.common.runs import SIMILE, make_parser, open_work_folder, simile
from benchmarks.common.serving import copy_home, find_free_port, start_process, wait_until_ready
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.attacks import hostile_connections, hostile_queries, hostile_requests, hostile_uploads
from tests.attacks.hostile_files import make_png
from tests.attacks.monitored_service import read_pauses
from tests.attacks.target import Target

MAX_PAUSE_SECONDS = 0.1  # of CPU time of the event loop's thread
ORDINARY_CLIENTS = 4
CALM_SECONDS = 10.0
ATTACKS = (
    *hostile_requests.ATTACKS,
    *hostile_connections.ATTACKS,
    *hostile_queries.ATTACKS,
    *hostile_uploads.ATTACKS,
)


class OrdinaryClients:
    """Clients that upload an image again and again; statuses by time."""

    def __init__(self, target: Target) -> None:
        self._target, self._ended = target, threading.Event()
        self.replies: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(ORDINARY_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            reply = self._target.upload("/v1/search?limit=5", self._target.image)
            self.replies.append((time.time(), reply.status))

    def stop(self) -> None:
        """Stop after the current requests."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def get_rate(self, since: float, until: float) -> float:
        """Return successful searches a second in a time."""
        found = sum(1 for moment, status in self.replies if since <= moment < until and status == 200)
        return found / (until - since)


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and all its descendants, also of those that have ended."""
    ticks = 0
    for process in list_descendants(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve_monitored(home: Path, work: Path) -> Iterator[tuple[int, int, Path]]:
    """Start the monitored service; yield its port, its process id and the file of the pauses."""
    port, pauses, log = find_free_port(), work / "pauses.txt", work / "service.log"
    command = [sys.executable, "-m", "tests.attacks.monitored_service", port, pauses]
    with start_process(command, {"SIMILE_HOME": str(home)}, log) as process:
        wait_until_ready(port, process, log)
        yield port, process.pid, pauses


def make_target_home(source: Path | None, work: Path) -> tuple[Path, str, int]:
    """Return a home with a key and an indexed image of 196 megapixels, the key, and the id of the image."""
    home, images = copy_home(source, work / "home"), work / "images"
    images.mkdir()
    (images / "large.png").write_bytes(make_png(b"", 14_000))
    simile("index", images, home=home)
    created = subprocess.run(
        [SIMILE, "keys", "create", "attack", "--scope", "write", "--json", "--home", str(home)],
        check=True,
        capture_output=True,
    )
    with Catalogue(Home(home)) as catalogue:
        records = catalogue.images.get_page(1_000_000)
    large = next(record for record in records if str((images / "large.png").resolve()) in record.paths)
    return home, json.loads(created.stdout)["key"], large.id


def make_photo() -> bytes:
    """Return an ordinary photo: 1600 x 1200 pixels, smooth with some noise."""
    noise = np.random.default_rng(0).integers(60, 200, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC).save(file, "JPEG", quality=88)
    return file.getvalue()


class Report:
    """Runs attacks and prints their rows."""

    def __init__(self, target: Target, pid: int, pauses: Path) -> None:
        self.target, self.pid, self.pauses = target, pid, pauses
        self.failures = 0
        self.clients = OrdinaryClients(target)
        time.sleep(CALM_SECONDS)  # the first searches are slower
        started = time.time()
        time.sleep(CALM_SECONDS)
        self.calm_rate = self.clients.get_rate(started, time.time())
        self.calm_memory = self.read_memory()
        print(f"without attacks: {self.calm_rate:.0f} searches/s, {self.calm_memory:.0f} MB\n")
        print(f"{'attack':<34}{'time':>7}{'CPU':>8}{'pause':>9}{'in CPU':>8}{'memory':>10}{'searches':>10}  responses")

    def read_memory(self) -> float:
        """Return the memory of all processes of the service in MB."""
        return sum(read_rss_and_pss(process)[1] for process in list_descendants(self.pid))

    def run(self, attack: Callable[[Target], str]) -> None:
        """Run an attack and print its row."""
        started, cpu, memory = time.time(), read_cpu_seconds(self.pid), PeakMemory(self.pid)
        try:
            answer = attack(self.target)
        except AssertionError as error:
            self.failures += 1
            answer = f"FAILED: {error}"
        ended = time.time()
        peak = memory.stop()[1] - self.calm_memory
        pause, cpu_pause = read_pauses(self.pauses, started)
        self.failures += cpu_pause > MAX_PAUSE_SECONDS
        share = self.clients.get_rate(started, ended) / self.calm_rate
        print(
            f"{attack.__name__.removeprefix('attack_'):<34}{ended - started:>6.1f}s"
            f"{read_cpu_seconds(self.pid) - cpu:>7.1f}s{1000 * pause:>6.0f} ms{1000 * cpu_pause:>5.0f} ms"
            f"{peak:>+7.0f} MB{share:>9.0%}  {answer}",
            flush=True,
        )

    def print_state(self, since: float) -> None:
        """Print what the service needs, and what ordinary clients got since a time."""
        now = time.time()
        statuses = Counter(status for moment, status in self.clients.replies if moment >= since)
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        share = self.clients.get_rate(since, now) / self.calm_rate
        print(f"  {self.read_memory():.0f} MB, {descriptors} descriptors, {share:.0%}, {dict(statuses)}", flush=True)


def main() -> int:
    """Run the attacks and print the table; return the exit code."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--home", type=Path, help="a home that is copied")
    parser.add_argument("--only", default="", help="a part of the names of the attacks")
    parser.add_argument("--mixed", type=float, default=0, help="minutes of repeated attacks [default: 0]")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        home, key, large_image_id = make_target_home(options.home, work)
        with serve_monitored(home, work) as (port, pid, pauses):
            target = Target(
                port=port,
                key=key,
                image=make_photo(),
                large_image_id=large_image_id,
                size=49_000_000,
                side=5000,
                count=8,
            )
            report = Report(target, pid, pauses)
            attacks = [attack for attack in ATTACKS if options.only in attack.__name__]
            started = minute = time.time()
            for attack in itertools.cycle(attacks):
                report.run(attack)
                if time.time() >= minute + 60:
                    report.print_state(minute)
                    minute = time.time()
                if attack is attacks[-1] and time.time() >= started + 60 * options.mixed:
                    break
            report.print_state(started)
            time.sleep(CALM_SECONDS)
            rate = report.clients.get_rate(time.time() - CALM_SECONDS, time.time())
            print(f"\nafter: {rate:.0f} searches/s, {report.read_memory():.0f} MB")
            report.clients.stop()
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
