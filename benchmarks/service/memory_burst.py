"""Memory of the service before, during and after bursts of requests that need much of it.

    python -m benchmarks.service.memory_burst [--home HOME] [--work DIR]

HOME has at least 1,000 images and is copied; without it a home of handwritten digits is made. The exit code is 1 if the
server process keeps more than 20 % of its memory before a burst for longer than 10 s.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.memory import PeakMemory, list_descendants, read_rss_and_pss, read_status
from benchmarks.common.runs import make_parser, open_work_folder, simile
from benchmarks.common.serving import copy_home, send, serve

GROWTH = 1.2  # allowed, of the memory before
MEBIBYTE = 1.048576  # MB
PAUSE_SECONDS = 10  # until the memory after a burst is read


def make_photo(seed: int) -> bytes:
    """Return a JPEG of 12 megapixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((4000, 3000)).save(file, "JPEG", quality=90)
    return file.getvalue()


def request(port: int, method: str, path: str, data: bytes | None = None) -> int:
    """Send one request on a connection of its own; return the status."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        return send(connection, method, path, data)[0]
    finally:
        connection.close()


def request_batch(port: int, image_ids: Sequence[int], limit: int) -> int:
    """Send a batch of searches by id; return the status."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    body = json.dumps({"searches": [{"image_id": image_id, "limit": limit} for image_id in image_ids]})
    try:
        connection.request("POST", "/v1/search/batch", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def measure_total(pid: int) -> float:
    """Return the memory of a process and all its descendants in MB, shared pages once."""
    return MEBIBYTE * sum(read_rss_and_pss(descendant)[1] for descendant in list_descendants(pid))


def measure_burst(name: str, pid: int, calls: Sequence[Callable[[], int]]) -> bool:
    """Make the calls at once and print a row of the table; return whether the memory returned."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    before, total_before, memory = read_status("VmRSS", pid), measure_total(pid), PeakMemory(pid)
    with ThreadPoolExecutor(len(calls)) as pool:
        statuses = [future.result() for future in [pool.submit(call) for call in calls]]
    peak, total_peak = read_status("VmHWM", pid), MEBIBYTE * memory.stop()[1]
    time.sleep(PAUSE_SECONDS)
    after, total_after = read_status("VmRSS", pid), measure_total(pid)
    answers = ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
    print(
        f"{name:<36}{before:>9.0f}{peak:>8.0f}{after:>8.0f}{after / before - 1:>+8.0%}"
        f"{total_before:>11.0f}{total_peak:>8.0f}{total_after:>8.0f}   {answers}",
        flush=True,
    )
    return after <= GROWTH * before


def main() -> int:
    """Make the home, run the bursts and print the table; return the exit code."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--home", type=Path, help="an indexed home")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        home, large = work / "home", work / "large" / "large.png"
        if not large.exists():
            copy_home(options.home, home)
            large.parent.mkdir()
            Image.new("RGB", (14_000, 14_000), "grey").save(large)
            simile("index", large.parent, home=home)
        shutil.rmtree(home / "cache", ignore_errors=True)
        photos = [make_photo(seed) for seed in range(64)]
        with serve(home, work / "server.log") as (port, process):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            ids = [image["image_id"] for image in send(connection, "GET", "/v1/images?limit=100")[2]["images"]]
            newest = send(connection, "GET", "/v1/images?sort=newest&limit=1")[2]["images"][0]["image_id"]
            connection.close()
            request(port, "POST", "/v1/search", photos[0])  # what is loaded once does not count
            request(port, "GET", f"/v1/images/{ids[0]}/thumbnail")
            request_batch(port, ids[:1], 10)
            time.sleep(PAUSE_SECONDS)
            uploads = [partial(request, port, "POST", "/v1/search", photo) for photo in photos]
            sides = [f"/v1/images/{newest}/thumbnail?side={side}" for side in (96, 256, 1024)]
            bursts: dict[str, list[Callable[[], int]]] = {
                "64 uploads of 12 megapixels": list(uploads),
                "3 thumbnails of a 14,000² PNG": [partial(request, port, "GET", path) for path in sides],
                "a batch of 100 searches x 1,000": [partial(request_batch, port, ids, 1000)],
                "64 uploads again": list(uploads),
                "the batch again": [partial(request_batch, port, ids, 1000)],
            }
            print(f"{'MB':<36}{'server':>9}{'peak':>8}{'after':>8}{'':>8}{'all':>11}{'peak':>8}{'after':>8}")
            returned = [measure_burst(name, process.pid, calls) for name, calls in bursts.items()]
    return 0 if all(returned) else 1


if __name__ == "__main__":
    sys.exit(main())
