"""Segments, encoders and jobs change under searches that go on all the while: not one request fails."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from simile.core.settings import Settings
from simile.indexer.maintenance.rebuild import compact_index, rebuild_index
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training.train import TrainingRequest, train_on_sources
from tests.support.browser import serving
from tests.support.server import FORM, form


def ask(address: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """What the service answers, as JSON. Raises HTTPError."""
    with urlopen(Request(address, body, {"Content-Type": kind}), timeout=60) as response:
        return json.load(response)


@contextmanager
def searching(address: str, data: bytes) -> Iterator[Counter[str]]:
    """Three clients that search all the while, by picture, by id and for neighbours; counts what they were told."""
    outcomes: Counter[str] = Counter()
    stopped = threading.Event()
    searches: list[tuple[Any, ...]] = [
        (f"{address}/v1/search?limit=3", form(data), FORM),
        (f"{address}/v1/search", b'{"image_id": 7, "limit": 3, "include": ["reconstruction"]}'),
        (f"{address}/v1/images/7/neighbours?limit=3",),
    ]

    def client(search: tuple[Any, ...]) -> None:
        while not stopped.is_set():
            try:
                outcomes["found" if len(ask(*search)["hits"]) == 3 else "too few"] += 1
            except HTTPError as error:
                outcomes[error.read().decode()] += 1
            except OSError as error:
                outcomes[repr(error)] += 1

    threads = [threading.Thread(target=client, args=(search,)) for search in searches]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_no_search_fails_while_segments_are_replaced_and_jobs_run(home_with_digits: Settings, digits: Path) -> None:
    for path in sorted(digits.iterdir())[40:]:
        path.unlink()
    settings = home_with_digits.model_copy(update={"roots": f"more={digits}"})
    data = (digits / sorted(path.name for path in digits.iterdir())[0]).read_bytes()
    with serving(settings) as address, searching(address, data) as outcomes:
        for _ in range(2):
            job = ask(f"{address}/v1/jobs", b'{"root": "more"}')
            while ask(address + job["url"])["status"] == "running":
                time.sleep(0.05)
            rebuild_index(settings)
            ask(f"{address}/v1/images", form(data), FORM)
            compact_index(settings)
        assert ask(address + job["url"])["status"] == "finished"
    assert set(outcomes) == {"found"} and outcomes["found"] >= 10


def test_no_search_fails_while_another_encoder_takes_over(home_with_digits: Settings, digits: Path) -> None:
    settings = home_with_digits
    overrides = {"latent_dim": 8, "width": 8, "epochs": 1, "kl_warmup_steps": 20}
    trained = train_on_sources(settings, [digits], TrainingRequest(recipe="vae", overrides=overrides), lambda _: None)
    data = sorted(digits.iterdir())[0].read_bytes()
    with serving(settings) as address, searching(address, data) as outcomes:
        while outcomes["found"] < 3:
            time.sleep(0.05)
        index(settings, [digits], IndexRequest(encoder=trained["fingerprint"]))
        before = outcomes["found"]
        while outcomes["found"] < before + 6 and set(outcomes) == {"found"}:
            time.sleep(0.05)
        assert ask(f"{address}/readyz")["encoder"] == trained["fingerprint"]
    assert set(outcomes) == {"found"}
