"""Duration of each step of the page Latent: through the library, and over HTTP as a slider requests it.

    python -m benchmarks.latent.steps --home HOME [--repeats 60]

HOME is indexed with an encoder that has a decoder and a variance; a copy is used. Each step begins at other images.
Through the library a step makes and decodes a latent vector, searches for its ten nearest images, and encodes a PNG.
Over HTTP `simile serve` does the same, through one connection. It needs a machine without other load.
"""

from __future__ import annotations

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

from benchmarks.common.runs import make_parser
from benchmarks.common.serving import serve_address
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

Step = Callable[[int, int], object]  # a step from two images
StepTimes = dict[str, NDArray[np.float64]]  # milliseconds, by step

LIMIT = 50.0  # milliseconds
WARM_UP = 12.0  # seconds: the calibration is measured in the background of the first searches
NEAREST = 10
FRAMES = 16
ATTRIBUTE = "steps"


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(options.home, home, ignore=shutil.ignore_patterns("uploads", "maps", "attributes"))
        with Searcher(load_settings(home=home, device="cpu")) as searcher:
            ids = prepare(searcher)
            pairs = np.random.default_rng(0).choice(ids, (options.repeats, 2))
            inside = measure(library_steps(searcher), pairs)
            print(f"{len(ids):,} images, {searcher.get_encoder().latent_dim} numbers, {os.cpu_count()} processors")
        with serve_address(home) as address:
            outside = measure(http_steps(address, home), pairs)
    print(f"load {os.getloadavg()[0]:.1f}")
    report(inside, outside)


def prepare(searcher: Searcher) -> list[int]:
    """Learn an attribute (more of the most active dimension); return the ids of all images."""
    posterior = load_aggregate_posterior(searcher)
    values = posterior.mu[:, measure_latent_range(searcher).activity_order[0]]
    digests = [str(image_id) for image_id in posterior.ids.tolist()]
    examples = AttributeExamples(posterior.mu, values > np.median(values), digests)
    attributes.save_attribute(searcher.home, learn_attribute(ATTRIBUTE, posterior.encoder.fingerprint, examples))
    ids: list[int] = posterior.ids.tolist()
    return ids


def measure(steps: dict[str, Step], pairs: NDArray[np.int64]) -> StepTimes:
    """Time each step once for each pair, after a warm-up and three steps that do not count."""
    times = {}
    deadline = time.monotonic() + WARM_UP
    while time.monotonic() < deadline:
        next(iter(steps.values()))(*pairs[0].tolist())
    for name, step in steps.items():
        durations = []
        for first, second in [*pairs[:3].tolist(), *pairs.tolist()]:
            started = time.perf_counter()
            step(first, second)
            durations.append(1000 * (time.perf_counter() - started))
        times[name] = np.array(durations[3:])
    times["a frame of a morph"] /= FRAMES
    return times


def library_steps(searcher: Searcher) -> dict[str, Step]:
    """Return the steps through the library, by name."""
    latent_range = measure_latent_range(searcher)

    def show(point: LatentPoint, mu: FloatArray) -> None:
        encode_png(decode_latents(searcher, mu[None], point.width, point.height)[0])
        find_nearest(mu)

    def find_nearest(mu: FloatArray) -> None:
        searcher.search(SearchQuery((mu,), params=SearchParams(limit=NEAREST)))

    def mix(first: int, second: int) -> None:
        point = mix_latents(searcher, [first, second], [0.6, 0.4])
        show(point, point.mu)

    def push(first: int, _: int) -> None:
        point = mix_latents(searcher, [first])
        encoder = searcher.get_encoder().fingerprint
        show(point, shift_by_attributes(searcher.home, encoder, point.mu, {ATTRIBUTE: 1.5}))

    def move(first: int, _: int) -> None:
        point = mix_latents(searcher, [first])
        show(point, offset_dimensions(point.mu, {latent_range.activity_order[0]: 2.0}, latent_range))

    def generate(source: str, seed: int) -> None:
        for image in generate_images(searcher, source, 1, seed=seed).images:
            encode_png(image)

    def morph(first: int, second: int) -> None:
        for frame in make_morph(searcher, [first, second], FRAMES).frames:
            encode_png(frame)

    random_latents = draw_latents(latent_range)
    return {
        "two images mixed": mix,
        "an attribute pushed": push,
        "a dimension moved": move,
        "one image from the prior": lambda first, _: generate("prior", first),
        "one image from the mixture": lambda first, _: generate("mixture", first),
        "a search from a drawn vector": lambda *_: find_nearest(next(random_latents)),
        "a frame of a morph": morph,
    }


def http_steps(address: str, home: Path) -> dict[str, Step]:
    """Return the requests of the page, by name."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with Searcher(load_settings(home=home, device="cpu")) as searcher:
        latent_range = measure_latent_range(searcher)
    dim = str(latent_range.activity_order[0])

    def post(path: str, body: dict[str, Any]) -> None:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {text.decode()}")

    def request_latent(weights: dict[int, float], **more: Any) -> None:
        parts = [{"image_id": image_id, "weight": weight} for image_id, weight in weights.items()]
        post("/v1/latents", {"parts": parts, "nearest": NEAREST, **more})

    def sample(source: str, seed: int) -> None:
        post("/v1/samples", {"source": source, "count": 1, "seed": seed})

    random_latents = draw_latents(latent_range)
    return {
        "two images mixed": lambda first, second: request_latent({first: 0.6, second: 0.4}),
        "an attribute pushed": lambda first, _: request_latent({first: 1.0}, attributes={ATTRIBUTE: 1.5}),
        "a dimension moved": lambda first, _: request_latent({first: 1.0}, dims={dim: 2.0}),
        "one image from the prior": lambda first, _: sample("prior", first),
        "one image from the mixture": lambda first, _: sample("mixture", first),
        "a search from a drawn vector": lambda *_: post(
            "/v1/search", {"vector": next(random_latents).tolist(), "limit": NEAREST}
        ),
        "a frame of a morph": lambda first, second: post(
            "/v1/morphs", {"parts": [{"image_id": first}, {"image_id": second}], "steps": FRAMES}
        ),
    }


def draw_latents(latent_range: LatentRange) -> Iterator[FloatArray]:
    """Yield random latent vectors (d,) with mean and deviation of the collection."""
    random = np.random.default_rng(1)
    while True:
        yield (latent_range.mean + latent_range.deviation * random.standard_normal(len(latent_range.mean))).astype(
            np.float32
        )


def report(inside: StepTimes, outside: StepTimes) -> None:
    """Print medians, and 95th percentiles over HTTP."""
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
