"""How often a picture is called unlike a collection, rightly and wrongly, and how long it takes to know.

    python -m benchmarks.search.score_calibration --data DIR [--recipe perceptual] [--minutes 2] [--seeds 1] [--work DIR]
    python -m benchmarks.search.score_calibration --home HOME [--pages 100]

DIR holds fashion-mnist.npz and mnist.npz. 5,000 pictures of Fashion-MNIST are trained on and indexed by the commands
that a user types; then 2,000 of its test pictures are asked with, which belong there and are new, and 500 digits, which
do not. The table: the rate that is stated, and the share that was flagged, by each set of signals that may be known;
and the same by a gauge that was measured on any pictures of the collection, which the encoder knows better.

With --home, an indexed home, of which a copy is used: seconds from the first search of a service that has just started
to the first calibrated score, and from the first question for `sort=unlike` to its first page; then the pages behind
it, and the first one of the next start. Needs a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
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

from benchmarks.common.simile_runs import served, simile, write_pictures
from simile.core.settings import load_settings
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.calibration.estimate import estimate_calibration
from simile.search.queries import SearchParams, SearchQuery, SearchResult
from simile.search.searcher import Searcher

OWN, NEW, STRANGE, TOGETHER = 5000, 2000, 500, 50
SETS = ("reconstruction,distance,sigma", "distance,sigma", "reconstruction", "distance", "sigma")


@dataclass(frozen=True)
class Signals:
    """What was measured of one picture that was asked with."""

    reconstruction: float | None
    distance: float | None
    sigma: float | None

    def flagged(self, gauge: ScoreCalibration, names: str) -> bool:
        """Whether these signals alone call it unlike the collection."""
        known = {name: getattr(self, name) if name in names.split(",") else None for name in vars(self)}
        return bool(gauge.compute_confidence(**known).unlike)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path)
    options.add_argument("--recipe", default="perceptual")
    options.add_argument("--minutes", type=float, default=2, help="of training for each seed")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--work", type=Path, help="keeps pictures and homes there, and goes on from them")
    options.add_argument("--home", type=Path)
    options.add_argument("--pages", type=int, default=100, help="of 100 pictures each")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.data is not None:
            for seed in range(given.seeds):
                rates(given.data, given.recipe, given.minutes, seed, given.work or Path(scratch))
        if given.home is not None:
            times(given.home, given.pages, Path(scratch))


def rates(data: Path, recipe: str, minutes: float, seed: int, work: Path) -> None:
    random = np.random.default_rng(seed)
    with np.load(data / "fashion-mnist.npz") as fashion, np.load(data / "mnist.npz") as digits:
        own, new = chosen(fashion["x_train"], OWN, random), chosen(fashion["x_test"], NEW, random)
        strange = chosen(digits["x_test"], STRANGE, random)
    home, photos = work / f"{recipe}-{seed}", work / f"photos-{seed}"
    write_pictures(photos, own)
    if not (home / "catalogue.sqlite").exists():
        simile("train", photos, "--recipe", recipe, "--minutes", str(minutes), "--seed", str(seed), home=home)
        simile("index", photos, home=home)
    with Searcher(load_settings(home=home, device="cpu"), background=True) as searcher:
        searcher.by_id(1)
        searcher.calibrations.wait()
        snapshot = searcher.index.get_snapshot()
        gauges = [
            searcher.calibrations.get(snapshot),
            estimate_calibration(searcher.catalogue, error_in(searcher), None, snapshot, Event()),
        ]
        of_new, of_strange = signals_of(searcher, new), signals_of(searcher, strange)
    for gauge in gauges:
        assert gauge is not None
        title = f"{recipe}, seed {seed}, measured on {gauge.among}"
        print(f"\n{title:<40}{'stated':>9}{'new':>9}{'strange':>9}")
        for names in (one for one in SETS if one in gauge.cuts):
            shares = [np.mean([one.flagged(gauge, names) for one in found]) for found in (of_new, of_strange)]
            print(f"{names:<40}" + "".join(f"{100 * one:>7.2f} %" for one in (gauge.cuts[names][1], *shares)))


def error_in(searcher: Searcher) -> Callable[[int], float | None]:
    return lambda image_id: searcher.get_image_with_error(image_id).reconstruction_error


def chosen(pictures: Pixels, count: int, random: np.random.Generator) -> Pixels:
    return pictures[random.choice(len(pictures), count, replace=False)]


def signals_of(searcher: Searcher, pictures: Pixels) -> list[Signals]:
    """Of each picture what a search with it finds."""
    found: list[Signals] = []
    for start in range(0, len(pictures), TOGETHER):
        asked = [searcher.prepare_query_image(encode_png(one), "picture") for one in pictures[start : start + TOGETHER]]
        for answer in searcher.search_many([SearchQuery((one,), params=SearchParams(limit=1)) for one in asked]):
            assert isinstance(answer, SearchResult), answer
            query, certainty = answer.query, answer.confidence
            found.append(Signals(query.reconstruction_error, answer.hits[0].distance, certainty.sigma))
    return found


def times(home: Path, pages: int, scratch: Path) -> None:
    copy = scratch / "home"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("gauges", "uploads", "maps", "attributes"))
    with served(copy) as address:
        images = fetched(f"{address}/v1/status")["images"]
        print(f"\n{images:,} images")
        said("a calibrated score", until(lambda: bool(search(address)["score_calibrated"])))
        said("sort=unlike, the first page", until(lambda: ready(address)))
        spent = list(paged(address, pages))
        print(
            f"{'the pages behind it':<36}{len(spent)}, median {1000 * np.median(spent):.0f} ms, "
            f"at most {1000 * max(spent):.0f} ms"
        )
    with served(copy) as address:
        said("a calibrated score, started again", until(lambda: bool(search(address)["score_calibrated"])))
        said("sort=unlike, started again", until(lambda: ready(address)))


def search(address: str) -> Any:
    request = urllib.request.Request(f"{address}/v1/search", b'{"image_id": 1}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def ready(address: str) -> bool:
    try:
        return bool(fetched(f"{address}/v1/images?sort=unlike&limit=100")["images"])
    except urllib.error.HTTPError as error:
        assert error.code == 503, error
        return False


def paged(address: str, pages: int) -> Iterator[float]:
    """Seconds of each page, one behind the other."""
    cursor = fetched(f"{address}/v1/images?sort=unlike&limit=100")["next"]
    while cursor is not None and pages:
        began = time.perf_counter()
        cursor = fetched(f"{address}/v1/images?sort=unlike&limit=100&cursor={cursor}")["next"]
        pages -= 1
        yield time.perf_counter() - began


def fetched(address: str) -> Any:
    with urllib.request.urlopen(address) as response:
        return json.load(response)


def until(is_so: Callable[[], bool]) -> float:
    """Seconds until it is."""
    began = time.perf_counter()
    while not is_so():
        time.sleep(0.05)
    return time.perf_counter() - began


def said(name: str, seconds: float) -> None:
    print(f"{name:<36}{seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
