"""Times of filters, facets and searches that select hits, in a catalogue of 100,000 rows without image files.

    python -m benchmarks.search.filters [--rows 100000] [--repeats 21] [--work DIR]

Each row has a random vector of 32 numbers, metadata (20 classes, a price), photo metadata (8 cameras, ratings, seven
years, 3 of 200 keywords), and one in twenty is a copy of another. `first`: after a change of the catalogue; `again`:
the median of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from statistics import median

import numpy as np

from benchmarks.common.runs import make_parser, open_work_folder
from simile.core.filters.parser import make_filter
from simile.core.records import FileStat, Filter, PhotoMetadata
from simile.core.settings import load_settings
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, NewImage
from simile.store.database.schema import upgrade_schema
from simile.store.home import Home
from simile.store.index.index import Index

DIMENSIONS, CLASSES, CAMERAS, KEYWORDS, BATCH = 32, 20, 8, 200, 5000
ENCODER = "a" * 64
CONDITIONS = (
    "class=c3",
    "class=c3 or class=c7",
    "class in (c1, c2, c3, c4, c5)",
    "not class=c3",
    "class=c3 and rating>=3",
    "keyword=k7",
    "camera contains 3 or not exists rating",
    "taken=2022-05",
    "price<10",
)


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        if not (work / "home").exists():
            add_rows(Home(work / "home"), options.rows)
        with Searcher(load_settings(home=work / "home")) as searcher:
            measure_filters(searcher, options.repeats)
            measure_facets(searcher, options.repeats)
            measure_searches(searcher, options.rows, options.repeats)


def add_rows(home: Home, count: int) -> None:
    """Store the rows, their copies and an index."""
    upgrade_schema(home)
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(ENCODER, "random", "vae", dimensions=DIMENSIONS)
        catalogue.encoders.activate(ENCODER)
        generator = np.random.default_rng(0)
        for start in range(0, count, BATCH):
            images = list(draw_images(generator, start, min(BATCH, count - start)))
            metadata = {
                image.file.path: {"class": f"c{generator.integers(CLASSES)}", "price": f"{generator.integers(1000)}"}
                for image in images
            }
            catalogue.images.add_batch(images, ENCODER, "none", metadata)
        pairs = (DuplicateRecord(first, first + 1, "near", 0.1, 0.9, "cropped") for first in range(1, count, 20))
        catalogue.duplicates.replace(catalogue.runs.start("dedup", {}), pairs)
        Index(catalogue).publish()


def draw_images(generator: np.random.Generator, start: int, count: int) -> Iterator[NewImage]:
    """Draw rows with photo metadata."""
    for number in range(start, start + count):
        photo = PhotoMetadata(
            taken=datetime(2018, 1, 1) + timedelta(minutes=int(generator.integers(7 * 365 * 1440))),
            camera=f"Camera {generator.integers(CAMERAS)}",
            rating=int(generator.integers(6)),
            keywords=tuple(sorted({f"k{keyword}" for keyword in generator.integers(KEYWORDS, size=3)})),
        )
        yield NewImage(
            sha256=f"{number:064x}",
            size=1000 + number,
            format="jpeg" if number % 3 else "png",
            width=400,
            height=300,
            file=FileStat(f"/photos/{number % 100:02}/{number}.jpg", 1000, number),
            mu=generator.standard_normal(DIMENSIONS, dtype=np.float32),
            photo=photo,
        )


def change_catalogue(searcher: Searcher) -> None:
    """Commit a change, so that nothing that was read before counts."""
    with searcher.catalogue.begin_write():
        pass


def measure_filters(searcher: Searcher, repeats: int) -> None:
    """Measure how long it takes to find the ids that match a filter."""
    print(f"\n{'filter':<40}{'images':>9}{'first ms':>10}{'again ms':>10}")
    for condition in CONDITIONS:
        change_catalogue(searcher)
        first = measure(lambda condition=condition: find(searcher, condition), 1)
        again = measure(lambda condition=condition: find(searcher, condition), repeats)
        print(f"{condition:<40}{find(searcher, condition):>9,}{first:>10.1f}{again:>10.2f}")


def measure_facets(searcher: Searcher, repeats: int) -> None:
    """Measure facet counts."""
    print(f"\n{'facets':<40}{'first ms':>10}{'again ms':>10}")
    cases: dict[str, tuple[Filter | None, tuple[str, ...]]] = {
        "class": (None, ("class",)),
        "class, with a filter": (make_filter(where=["rating>=3"]), ("class",)),
        "all usual fields": (None, ()),
        "all usual fields, with a filter": (make_filter(where=["class=c3"]), ()),
    }
    for name, (filter_, fields) in cases.items():
        change_catalogue(searcher)
        count = lambda filter_=filter_, fields=fields: searcher.count_facets(filter_, fields)  # noqa: E731
        print(f"{name:<40}{measure(count, 1):>10.1f}{measure(count, repeats):>10.2f}")


def measure_searches(searcher: Searcher, rows: int, repeats: int) -> None:
    """Measure searches by id with different options; each repetition is another query."""
    print(f"\n{'search for 20 hits':<40}{'first ms':>10}{'again ms':>10}")
    cases = {
        "plain": SearchParams(limit=20),
        "class=c3": SearchParams(limit=20, filter=make_filter(where=["class=c3"])),
        "distinct": SearchParams(limit=20, distinct=True),
        "distinct, class=c3": SearchParams(limit=20, distinct=True, filter=make_filter(where=["class=c3"])),
        "diversity 0.5": SearchParams(limit=20, diversity=0.5),
        "group_by class": SearchParams(limit=20, group_by="class", group_size=1),
        "group_by month": SearchParams(limit=20, group_by="month", group_size=1),
        "group_by class, rating>=3": SearchParams(
            limit=20, group_by="class", group_size=1, filter=make_filter(where=["rating>=3"])
        ),
    }
    for name, params in cases.items():
        change_catalogue(searcher)
        ids = iter(np.random.default_rng(1).integers(1, rows, 2 * repeats + 2).tolist())
        search = lambda params=params, ids=ids: searcher.search(SearchQuery((next(ids),), params=params))  # noqa: E731
        print(f"{name:<40}{measure(search, 1):>10.1f}{measure(search, repeats):>10.2f}")


def find(searcher: Searcher, condition: str) -> int:
    """Return the number of images that match a condition."""
    ids = searcher.index.find_matching_ids(make_filter(where=[condition]))
    return 0 if ids is None else len(ids)


def measure(work: Callable[[], object], repeats: int) -> float:
    """Return the median milliseconds of a call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds)


if __name__ == "__main__":
    main()
