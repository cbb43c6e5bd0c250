"""The catalogue on PostgreSQL and on SQLite: rows stored a second by one and two writers, and times of searches.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.scaling.catalogue [--rows 100000] [--batches 40] [--turns 3]

A batch is 256 images with μ and σ of 128 numbers. The vectors of the searches are in a segment on the local disk; a
search reads the state and the summaries of 10 images from the database. Both databases take turns.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from benchmarks.common.runs import make_parser, open_work_folder
from simile.core.records import FileStat
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database import schema
from simile.store.home import Home
from simile.store.index.index import Index
from tests.support.servers.postgresql import Postgres, running_server

ENCODER, DIMENSIONS, BATCH_ROWS = "f" * 16, 128, 256


def main() -> None:
    """Parse the options and print the table."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--rows", type=int, default=100_000, help="rows that are searched")
    parser.add_argument("--batches", type=int, default=40, help="batches of each writer")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with open_work_folder(options.work) as work, running_server() as server:
        server.execute("CREATE DATABASE catalogue")
        homes = {"SQLite": Home(work / "sqlite"), "PostgreSQL": Home(work / "server", server.get_url("catalogue"))}
        rates: dict[tuple[str, int], list[float]] = {}
        for home in homes.values():
            schema.upgrade_schema(home)
            with Catalogue(home) as catalogue:
                catalogue.encoders.register(ENCODER, "speed", "vae", DIMENSIONS)
                catalogue.encoders.activate(ENCODER)
        for turn in range(options.turns):
            for writers in (1, 2):
                for name, home in homes.items():
                    rate = measure_writers(home, f"{turn}-{writers}", writers, options.batches)
                    rates.setdefault((name, writers), []).append(rate)
        print(f"{'':<12}{'1 writer':>10}{'2 writers':>11}{'ratio':>7}   images a second, medians of {options.turns}")
        for name in homes:
            one, two = (statistics.median(rates[name, writers]) for writers in (1, 2))
            print(f"{name:<12}{one:>10,.0f}{two:>11,.0f}{two / one:>7.2f}")
        print_search_times(homes, options.rows, server)


def measure_writers(home: Home, name: str, count: int, batches: int) -> float:
    """Return the images a second that so many processes store together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    arguments = (home.root, home.database_url, batches, barrier, results)
    processes = [context.Process(target=write, args=(f"{name}-{number}", *arguments)) for number in range(count)]
    for process in processes:
        process.start()
    spans = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return count * batches * BATCH_ROWS / (max(end for _, end in spans) - min(start for start, _ in spans))


def write(name: str, root: Path, url: str | None, batches: int, barrier: Callable[..., int], results: object) -> None:
    """Store batches, beginning together with the other writers."""
    made = [make_batch(f"{name}-{number}", BATCH_ROWS) for number in range(batches)]
    with Catalogue(Home(root, url)) as catalogue:
        catalogue.get_state()
        barrier.wait()  # type: ignore[attr-defined]
        started = time.monotonic()
        for batch in made:
            catalogue.images.add_batch(batch, ENCODER, "torch")
        results.put((started, time.monotonic()))  # type: ignore[attr-defined]


def make_batch(name: str, count: int) -> list[NewImage]:
    """Return images with random vectors."""
    random = np.random.default_rng(int(sha256(name.encode()).hexdigest()[:8], 16))
    vectors = random.normal(size=(count, DIMENSIONS)).astype(np.float32)
    hashes = [sha256(f"{name}-{number}".encode()).hexdigest() for number in range(count)]
    return [
        NewImage(
            sha256=sha,
            size=1,
            format="JPEG",
            width=10,
            height=10,
            file=FileStat(f"/photos/{sha[:2]}/{sha}.jpg", 1, 1),
            mu=vector,
            log_variance=vector,
        )
        for sha, vector in zip(hashes, vectors, strict=True)
    ]


def print_search_times(homes: dict[str, Home], rows: int, server: Postgres) -> None:
    """Print the medians of a search and of a lookup by id, in turns of 100."""
    query = np.random.default_rng(0).normal(size=(1, DIMENSIONS)).astype(np.float32)
    catalogues = {name: Catalogue(home) for name, home in homes.items()}
    indexes = {}
    for name, catalogue in catalogues.items():
        number = 0
        while catalogue.images.count() < rows:
            catalogue.images.add_batch(make_batch(f"more-{number}", 4096), ENCODER, "torch")
            number += 1
        indexes[name] = Index(catalogue)
        with homes[name].lock("benchmark"):
            indexes[name].publish()
        indexes[name].search(query, 10)
    server.execute("VACUUM ANALYZE", "catalogue")  # it would run in the background otherwise
    times: dict[tuple[str, str], list[float]] = {}
    for name, catalogue in 5 * list(catalogues.items()):
        for _ in range(100):
            started = time.perf_counter()
            (hits,) = indexes[name].search(query, 10)
            catalogue.images.get_summaries([image_id for image_id, _ in hits])
            searched = time.perf_counter()
            catalogue.images.get(hits[0][0])
            times.setdefault((name, "search"), []).append(searched - started)
            times.setdefault((name, "by id"), []).append(time.perf_counter() - searched)
    print(f"\n{'':<12}{'search':>10}{'by id':>10}   ms, medians with {rows:,} rows")
    for name, catalogue in catalogues.items():
        search, by_id = (1000 * statistics.median(times[name, kind]) for kind in ("search", "by id"))
        print(f"{name:<12}{search:>10.2f}{by_id:>10.2f}")
        indexes[name].close()
        catalogue.close()


if __name__ == "__main__":
    main()
