"""How long each step of the page Latent takes: through the library, and over HTTP as a slider asks for it.

    python -m benchmarks.latent.steps --home HOME [--repeats 60]

HOME is indexed by an encoder with a decoder and a variance; a copy is used, and it stays as it is. Each step begins at
other pictures. A step through the library is what is done for an answer: a place is made and decoded, its
ten nearest pictures are looked up, a PNG is written. Over HTTP the same is asked of `simile serve` through one
connection. Needs a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.simile_runs import served
from simile.core.records import FloatArray
from simile.core.settings import load_settings
from simile.explore.attributes.directions import AttributeExamples, learn_attribute
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.inputs import LatentPoint, decode_latents
from simile.explore.latent.interpolation import make_morph, mix_latents
from simile.explore.latent.sampling import generate_images
from simile.explore.latent.traversal import LatentRange, measure_latent_range, offset_dimensions
from simile.images.encoding import encode_png
from simile.search import attributes
from simile.search.attributes import shift_by_attributes
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher

Step = Callable[[int, int], object]  # of two images
Timed = dict[str, NDArray[np.float64]]  # milliseconds, by step

LIMIT = 50.0  # milliseconds
SETTLING = 12.0  # seconds: what is usual in a collection is measured behind its first searches
NEAREST = 10
FRAMES = 16
ATTRIBUTE = "steps"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--repeats", type=int, default=60)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(given.home, home, ignore=shutil.ignore_patterns("uploads", "maps", "attributes"))
        with Searcher(load_settings(home=home, device="cpu")) as searcher:
            ids = prepared(searcher)
            pairs = np.random.default_rng(0).choice(ids, (given.repeats, 2))
            inside = timed(library_steps(searcher), pairs)
            print(f"{len(ids):,} pictures, {searcher.get_encoder().latent_dim} numbers, {os.cpu_count()} processors")
        with served(home) as address:
            outside = timed(http_steps(address, home), pairs)
    print(f"load {os.getloadavg()[0]:.1f}")
    tell(inside, outside)


def prepared(searcher: Searcher) -> list[int]:
    """The ids of all pictures; an attribute is learned: what has more of the most active dimension."""
    everything = load_aggregate_posterior(searcher)
    most = everything.mu[:, measure_latent_range(searcher).activity_order[0]]
    digests = [str(image_id) for image_id in everything.ids.tolist()]
    examples = AttributeExamples(everything.mu, most > np.median(most), digests)
    attributes.save_attribute(searcher.home, learn_attribute(ATTRIBUTE, everything.encoder.fingerprint, examples))
    found: list[int] = everything.ids.tolist()
    return found


def timed(steps: dict[str, Step], pairs: NDArray[np.int64]) -> Timed:
    """Each step once for each pair, after some seconds and three steps that don't count."""
    found = {}
    until = time.monotonic() + SETTLING
    while time.monotonic() < until:
        next(iter(steps.values()))(*pairs[0].tolist())
    for name, step in steps.items():
        taken = []
        for one, other in [*pairs[:3].tolist(), *pairs.tolist()]:
            started = time.perf_counter()
            step(one, other)
            taken.append(1000 * (time.perf_counter() - started))
        found[name] = np.array(taken[3:])
    found["a frame of a morph"] /= FRAMES
    return found


def library_steps(searcher: Searcher) -> dict[str, Step]:
    """By name what is done for each step."""
    reach = measure_latent_range(searcher)

    def show(place: LatentPoint, mu: FloatArray) -> None:
        encode_png(decode_latents(searcher, mu[None], place.width, place.height)[0])
        look(mu)

    def look(mu: FloatArray) -> None:
        searcher.search(SearchQuery((mu,), params=SearchParams(limit=NEAREST)))

    def mixed(one: int, other: int) -> None:
        place = mix_latents(searcher, [one, other], [0.6, 0.4])
        show(place, place.mu)

    def pushed_on(one: int, _: int) -> None:
        place = mix_latents(searcher, [one])
        encoder = searcher.get_encoder().fingerprint
        show(place, shift_by_attributes(searcher.home, encoder, place.mu, {ATTRIBUTE: 1.5}))

    def walked(one: int, _: int) -> None:
        place = mix_latents(searcher, [one])
        show(place, offset_dimensions(place.mu, {reach.activity_order[0]: 2.0}, reach))

    def made(source: str, seed: int) -> None:
        for picture in generate_images(searcher, source, 1, seed=seed).images:
            encode_png(picture)

    def morphed(one: int, other: int) -> None:
        for frame in make_morph(searcher, [one, other], FRAMES).frames:
            encode_png(frame)

    made_up = made_latents(reach)
    return {
        "two pictures mixed": mixed,
        "an attribute pushed": pushed_on,
        "a dimension moved": walked,
        "one picture from the prior": lambda one, _: made("prior", one),
        "one picture from the mixture": lambda one, _: made("mixture", one),
        "a search from a made place": lambda *_: look(next(made_up)),
        "a frame of a morph": morphed,
    }


def http_steps(address: str, home: Path) -> dict[str, Step]:
    """By name what is asked for each step, as the page asks for it."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        reach = measure_latent_range(searcher)
    dim = str(reach.activity_order[0])

    def post(path: str, body: dict[str, Any]) -> None:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text.decode()}")

    def place(weights: dict[int, float], **how: Any) -> None:
        parts = [{"image_id": image_id, "weight": weight} for image_id, weight in weights.items()]
        post("/v1/latents", {"parts": parts, "nearest": NEAREST, **how})

    def sample(source: str, seed: int) -> None:
        post("/v1/samples", {"source": source, "count": 1, "seed": seed})

    made_up = made_latents(reach)
    return {
        "two pictures mixed": lambda one, other: place({one: 0.6, other: 0.4}),
        "an attribute pushed": lambda one, _: place({one: 1.0}, attributes={ATTRIBUTE: 1.5}),
        "a dimension moved": lambda one, _: place({one: 1.0}, dims={dim: 2.0}),
        "one picture from the prior": lambda one, _: sample("prior", one),
        "one picture from the mixture": lambda one, _: sample("mixture", one),
        "a search from a made place": lambda *_: post(
            "/v1/search", {"vector": next(made_up).tolist(), "limit": NEAREST}
        ),
        "a frame of a morph": lambda one, other: post(
            "/v1/morphs", {"parts": [{"image_id": one}, {"image_id": other}], "steps": FRAMES}
        ),
    }


def made_latents(reach: LatentRange) -> Iterator[FloatArray]:
    """Places (d,) that no picture has, as wide as the collection."""
    random = np.random.default_rng(1)
    while True:
        yield (reach.mean + reach.deviation * random.standard_normal(len(reach.mean))).astype(np.float32)


def tell(inside: Timed, outside: Timed) -> None:
    """A table of medians, and 95th percentiles over HTTP."""
    print(f"\n{'milliseconds':<30}{'library':>9}{'HTTP':>9}{'95th':>9}   at most {LIMIT:.0f}")
    for name, library in inside.items():
        over = outside[name]
        medians = np.median(library), np.median(over)
        print(
            f"{name:<30}{medians[0]:>9.1f}{medians[1]:>9.1f}{np.percentile(over, 95):>9.1f}   "
            f"{'yes' if max(medians) < LIMIT else 'NO'}"
        )


if __name__ == "__main__":
    main()
