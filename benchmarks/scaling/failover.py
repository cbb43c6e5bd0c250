"""Kill the primary server of PostgreSQL under a writing indexer and an uploading service, and promote its replica.

    python -m benchmarks.scaling.failover [--rounds 20] [--images 500] [--seed 0]

Each round starts a primary and a synchronous replica, `simile index` of a folder of new images, and `simile serve`,
which gets uploads from two clients. At a random moment the primary is killed with -9 and the replica is promoted a
second later. An image is acknowledged when its upload was answered with 200 or 201, or when `simile index` ended with
0. At the end the replica must hold each acknowledged image once.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from benchmarks.common.runs import SIMILE, make_parser, open_work_folder
from benchmarks.common.serving import find_free_port, make_serve_command, send, start_process, wait_until_ready
from simile.images.encoding import encode_png
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.tables import EmbeddingRow, ImageRow
from simile.store.home import Home
from tests.support.servers.postgresql import Postgres, promote, running_pair

WARM_UP_IMAGES = 32  # indexed before the round, so that the service has an encoder
PROMOTION_DELAY = 1.0  # seconds; an operator or a program such as Patroni needs 1 to 30


@dataclass
class Uploads:
    """Uploads of one round: hashes that were acknowledged, and the times of the answers."""

    acknowledged: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    failed: int = 0


def main() -> None:
    """Parse the options and run the rounds."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=500, help="images that are indexed in each round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    total = np.zeros(6, int)
    pauses = []
    headings = ("acknowledged", "of them uploads", "lost", "twice", "not 2xx", "index")
    print(f"{'round':>5}" + "{:>14}{:>17}{:>6}{:>7}{:>9}{:>7}".format(*headings) + f"{'pause':>8}")
    with open_work_folder(options.work) as work:
        for number in range(options.rounds):
            counts, pause = run_round(work / f"round-{number}", options.images, random)
            total += counts
            pauses.append(pause)
            row = "{:>14,}{:>17,}{:>6}{:>7}{:>9}{:>7}".format(*counts)
            print(f"{number:>5}{row}{pause:>7.1f}s", flush=True)
    print(f"{'all':>5}" + "{:>14,}{:>17,}{:>6}{:>7}{:>9}{:>7}".format(*total) + f"{max(pauses):>7.1f}s (longest)")
    print("index: 1 if `simile index` ended with 0")
    print("pause: from the kill to the next acknowledged upload; the replica is promoted after one second")


def run_round(work: Path, count: int, random: np.random.Generator) -> tuple[tuple[int, ...], float]:
    """Return the counts of the table, and the seconds without an acknowledgement."""
    warm_up, photos = write_images(work / "first", WARM_UP_IMAGES, random), write_images(work / "photos", count, random)
    with running_pair() as (primary, replica):
        primary.execute("CREATE DATABASE catalogue")
        url = (
            f"postgresql+psycopg://postgres@/catalogue?host=127.0.0.1:{primary.port}&host=127.0.0.1:{replica.port}"
            "&target_session_attrs=read-write&connect_timeout=2"
        )
        environment, home = {"SIMILE_DATABASE_URL": url, "SIMILE_WORKERS": "1"}, work / "home"
        with start_process([SIMILE, "index", work / "first", "--home", home], environment, work / "log") as process:
            assert process.wait(300) == 0, (work / "log").read_text()
        port, uploads, stop = find_free_port(), Uploads(), threading.Event()
        log = work / "serve.log"
        with start_process(make_serve_command(home, port), environment, log) as service:
            wait_until_ready(port, service, log)
            seeds = random.integers(0, 2**31, 2)
            clients = [threading.Thread(target=upload_images, args=(port, seed, uploads, stop)) for seed in seeds]
            for client in clients:
                client.start()
            command = [SIMILE, "index", work / "photos", "--home", home]
            with start_process(command, environment, work / "index.log") as indexer:
                wait_for_images(primary, WARM_UP_IMAGES + int(random.integers(1, count)))
                killed = time.monotonic()
                primary.kill()
                time.sleep(PROMOTION_DELAY)
                promote(replica)
                is_indexed = indexer.wait(300) == 0
            while uploads.times[-1] < killed and time.monotonic() < killed + 120:
                time.sleep(0.1)
            time.sleep(1)
            stop.set()
            for client in clients:
                client.join()
        acknowledged = warm_up | uploads.acknowledged | (photos if is_indexed else set())
        stored = read_stored(Home(home, url))
        lost, twice = acknowledged - stored.keys(), sum(number > 1 for number in stored.values())
        pause = max(np.diff([moment for moment in uploads.times if moment > killed - 5]), default=0.0)
        return (len(acknowledged), len(uploads.acknowledged), len(lost), twice, uploads.failed, is_indexed), float(
            pause
        )


def write_images(folder: Path, count: int, random: np.random.Generator) -> set[str]:
    """Write new images, and return their hashes."""
    folder.mkdir(parents=True)
    hashes = set()
    for number in range(count):
        data = make_image(random)
        (folder / f"{number:05}.png").write_bytes(data)
        hashes.add(sha256(data).hexdigest())
    return hashes


def make_image(random: np.random.Generator) -> bytes:
    """Return a PNG of random blocks."""
    return encode_png(random.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1))


def upload_images(port: int, seed: int, uploads: Uploads, stop: threading.Event) -> None:
    """Upload new images until told to stop; an image that was refused is sent again."""
    random = np.random.default_rng(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    data = make_image(random)
    while not stop.is_set():
        with suppress(OSError, HTTPException):
            status, _, _ = send(connection, "POST", "/v1/images", data)
            if status in (200, 201):
                uploads.acknowledged.add(sha256(data).hexdigest())
                uploads.times.append(time.monotonic())
                data = make_image(random)
                continue
        uploads.failed += 1
        connection.close()
        time.sleep(0.2)


def wait_for_images(server: Postgres, count: int) -> None:
    """Wait until the catalogue holds so many images."""
    while server.execute("SELECT count(*) FROM images", "catalogue")[0][0] < count:
        time.sleep(0.02)


def read_stored(home: Home) -> dict[str, int]:
    """Return how many rows each hash has, of images that have an embedding."""
    query = select(ImageRow.sha256, func.count()).join(EmbeddingRow).group_by(ImageRow.sha256)
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        return dict(connection.execute(query).all())


if __name__ == "__main__":
    main()
