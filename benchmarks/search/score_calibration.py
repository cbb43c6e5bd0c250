"""True and false alarms of the flag `unlike`, and the time until scores are calibrated.

    python -m benchmarks.search.score_calibration --data DIR [--recipe perceptual] [--minutes 2] [--seeds 1]
    python -m benchmarks.search.score_calibration --home HOME [--pages 100]

DIR holds fashion-mnist.npz and mnist.npz. 5,000 images of Fashion-MNIST are used for training and indexed. The queries
are 2,000 of its test images, which belong to the collection and are new, and 500 digits, which do not. The table shows
the stated rate and the flagged share for each set of signals, also with a calibration measured on any images of the
collection, which the encoder represents better than new ones.

With --home (an indexed home; a copy is used): seconds from the first search of a new service to the first calibrated
score, and from the first request with `sort=unlike` to its first page; then the following pages, and the first page
after a restart. It needs a machine without other load.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from benchmarks.common.runs import draw_rows, make_parser, open_work_folder, train_once, write_images
from benchmarks.common.serving import fetch_json, serve_address
from simile.core.settings import load_settings
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.calibration.estimate import estimate_calibration
from simile.search.queries import SearchParams, SearchQuery, SearchResult
from simile.search.searcher import Searcher

OWN, NEW, STRANGE, BATCH = 5000, 2000, 500, 50
SETS = ("reconstruction,distance,sigma", "distance,sigma", "reconstruction", "distance", "sigma")


@dataclass(frozen=True)
class Signals:
    """The signals of a query image."""

    reconstruction: float | None
    distance: float | None
    sigma: float | None

    def is_flagged(self, calibration: ScoreCalibration, names: str) -> bool:
        """Return whether these signals alone flag the image as unlike."""
        known = {name: getattr(self, name) if name in names.split(",") else None for name in vars(self)}
        return bool(calibration.compute_confidence(**known).unlike)


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, work=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="perceptual")
    parser.add_argument("--minutes", type=float, default=2, help="training time for each seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--pages", type=int, default=100, help="number of pages, of 100 images each")
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        if options.data is not None:
            for seed in range(options.seeds):
                measure_rates(options.data, options.recipe, options.minutes, seed, work)
        if options.home is not None:
            measure_times(options.home, options.pages)


def measure_rates(data: Path, recipe: str, minutes: float, seed: int, work: Path) -> None:
    """Train, index, and print the flagged shares."""
    random = np.random.default_rng(seed)
    with np.load(data / "fashion-mnist.npz") as fashion, np.load(data / "mnist.npz") as digits:
        own, new = draw_rows(fashion["x_train"], OWN, random), draw_rows(fashion["x_test"], NEW, random)
        strange = draw_rows(digits["x_test"], STRANGE, random)
    home, photos = work / f"{recipe}-{seed}", work / f"photos-{seed}"
    write_images(photos, own)
    train_once(home, photos, "--recipe", recipe, "--minutes", minutes, "--seed", seed, indexed=photos)
    with Searcher(load_settings(home=home, device="cpu"), background=True) as searcher:
        searcher.by_id(1)
        searcher.calibrations.wait()
        snapshot = searcher.index.get_snapshot()
        calibrations = [
            searcher.calibrations.get(snapshot),
            estimate_calibration(searcher.catalogue, make_error_reader(searcher), None, snapshot, Event()),
        ]
        of_new, of_strange = measure_signals(searcher, new), measure_signals(searcher, strange)
    for calibration in calibrations:
        assert calibration is not None
        title = f"{recipe}, seed {seed}, measured on {calibration.population}"
        print(f"\n{title:<40}{'stated':>9}{'new':>9}{'strange':>9}")
        for names in filter(calibration.cuts.__contains__, SETS):
            shares = [
                np.mean([signals.is_flagged(calibration, names) for signals in group]) for group in (of_new, of_strange)
            ]
            print(f"{names:<40}" + "".join(f"{100 * share:>7.2f} %" for share in (calibration.cuts[names][1], *shares)))


def make_error_reader(searcher: Searcher) -> Callable[[int], float | None]:
    """Return a function from image id to stored reconstruction error."""
    return lambda image_id: searcher.get_image_with_error(image_id).reconstruction_error


def measure_signals(searcher: Searcher, images: Pixels) -> list[Signals]:
    """Return the signals of a search with each image."""
    signals: list[Signals] = []
    for start in range(0, len(images), BATCH):
        queries = [searcher.prepare_query_image(encode_png(image), "image") for image in images[start : start + BATCH]]
        for result in searcher.search_many([SearchQuery((query,), params=SearchParams(limit=1)) for query in queries]):
            assert isinstance(result, SearchResult), result
            query, certainty = result.query, result.confidence
            signals.append(Signals(query.reconstruction_error, result.hits[0].distance, certainty.sigma))
    return signals


def measure_times(home: Path, pages: int) -> None:
    """Print the waiting times of a copy of the home."""
    with tempfile.TemporaryDirectory() as folder:
        measure_copy(home, Path(folder) / "home", pages)


def measure_copy(home: Path, copy: Path, pages: int) -> None:
    """Copy a home, and print its waiting times for two starts of the service."""
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("gauges", "uploads", "maps", "attributes"))
    with serve_address(copy) as address:
        images = fetch_json(f"{address}/v1/status")["images"]
        print(f"\n{images:,} images")
        print_seconds("a calibrated score", measure_wait(lambda: bool(search(address)["score_calibrated"])))
        print_seconds("sort=unlike, the first page", measure_wait(lambda: has_sorted_page(address)))
        seconds = list(measure_pages(address, pages))
        print(
            f"{'the following pages':<36}{len(seconds)}, median {1000 * np.median(seconds):.0f} ms, "
            f"at most {1000 * max(seconds):.0f} ms"
        )
    with serve_address(copy) as address:
        print_seconds(
            "a calibrated score, started again", measure_wait(lambda: bool(search(address)["score_calibrated"]))
        )
        print_seconds("sort=unlike, started again", measure_wait(lambda: has_sorted_page(address)))


def search(address: str) -> Any:
    """Search for the neighbours of image 1."""
    request = urllib.request.Request(f"{address}/v1/search", b'{"image_id": 1}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def has_sorted_page(address: str) -> bool:
    """Return whether `sort=unlike` has an answer yet."""
    try:
        return bool(fetch_json(f"{address}/v1/images?sort=unlike&limit=100")["images"])
    except urllib.error.HTTPError as error:
        assert error.code == 503, error
        return False


def measure_pages(address: str, pages: int) -> Iterator[float]:
    """Yield the seconds of each following page."""
    cursor = fetch_json(f"{address}/v1/images?sort=unlike&limit=100")["next"]
    while cursor is not None and pages:
        started = time.perf_counter()
        cursor = fetch_json(f"{address}/v1/images?sort=unlike&limit=100&cursor={cursor}")["next"]
        pages -= 1
        yield time.perf_counter() - started


def measure_wait(condition: Callable[[], bool]) -> float:
    """Return the seconds until the condition is true."""
    started = time.perf_counter()
    while not condition():
        time.sleep(0.05)
    return time.perf_counter() - started


def print_seconds(name: str, seconds: float) -> None:
    """Print a line."""
    print(f"{name:<36}{seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
