"""What computes more than a search goes through the queue of the uploads, by its price, and never holds up a search."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, WorkCancelled, raise_if_cancelled
from simile.search.ranking.verification import HitVerifier
from simile.service.api import latents
from simile.service.api import search as api_search
from simile.service.app import create_app
from simile.service.errors import ProblemException
from simile.service.middleware.limits import Admission, UploadLimiter
from simile.service.observability.metrics import ServiceMetrics
from simile.service.requests import latents as requests
from simile.service.security.prices import PRICES, VERIFIED_SEARCH_PRICE, get_price
from simile.service.security.scopes import list_routes
from simile.service.state.batcher import ComputePool
from tests.support.server import get, head, listening, read_reply
from tests.support.waiting import wait_until

MORPH = b'{"parts": [{"image_id": 1}, {"image_id": 2}], "steps": 2}'


def post(path: str, body: bytes, *more: str) -> bytes:
    """A whole request with a JSON body."""
    request = head(path, len(body), *more) + body
    return request.replace(b"multipart/form-data; boundary=simile", b"application/json")


def sent_for(address: str, request: bytes) -> bytes:
    """The request as a proxy passes it on."""
    return request.replace(b"\r\n", f"\r\nX-Forwarded-For: {address}\r\n".encode(), 1)


@contextmanager
def held_morphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[int], threading.Event]]:
    """Keep every morph in its thread until the event; yields it, and a list with an item for each that has begun."""
    begun: list[int] = []
    release = threading.Event()
    original = latents.make_morph

    def make_morph(*arguments: Any) -> Any:
        begun.append(1)
        assert release.wait(60)
        return original(*arguments)

    monkeypatch.setattr(latents, "make_morph", make_morph)
    try:
        yield begun, release
    finally:
        release.set()


def test_every_price_is_that_of_a_route(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))
    routes = {tuple(route.split(" ")) for route in list_routes(app.router.routes)}
    assert PRICES.keys() <= routes
    for method, path in PRICES:
        query = b"sort=unlike" if path in ("/v1/images", "/collection") else b""
        scope = {"method": method, "path": path.format(name="a", tile=0), "query_string": query}
        assert get_price(scope) == PRICES[method, path] > 1, path
    for method, path in (("POST", "/v1/search"), ("GET", "/v1/images"), ("GET", "/collection"), ("GET", "/")):
        assert get_price({"method": method, "path": path, "query_string": b""}) == 1


def test_many_morphs_at_once_leave_threads_to_searches_and_pages(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_morphs(monkeypatch) as (begun, release), listening(home_with_digits) as serving, ExitStack() as stack:
        limiter = serving.server.app.state.upload_limiter
        connections = [stack.enter_context(serving.connect()) for _ in range(6)]
        for connection in connections:
            connection.sendall(post("/v1/morphs", MORPH))
        wait_until(lambda: limiter.active_count == 60 and bool(begun))
        refused = serving.answer(post("/v1/morphs", MORPH))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["type"].endswith(":too-busy") and "SIMILE_QUEUE" in refused.json()["detail"]
        page = serving.answer(get("/latent"))
        assert page.status == 503 and "text/html" in page.headers["content-type"] and b"SIMILE_QUEUE" in page.body
        for path in ("/collection", "/", "/v1/images", "/v1/images/1/thumbnail", "/?positive_id=1"):
            assert serving.answer(get(path)).status == 200, path
        assert serving.answer(post("/v1/search", b'{"image_id": 1, "limit": 101}')).status == 200
        release.set()
        assert [read_reply(connection).status for connection in connections] == [200] * 6
        wait_until(lambda: limiter.active_count == 0)


def test_an_address_has_a_share_of_what_computes(home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = home_with_digits.model_copy(update={"queue": 40, "trusted_proxies": "127.0.0.1", "insecure": True})
    one, other = (sent_for(f"203.0.113.{number}", post("/v1/morphs", MORPH)) for number in (5, 6))
    slow = b'{"image_id": 1, "where": ["a=b"]}'
    with held_morphs(monkeypatch) as (_, release), listening(shared) as serving, ExitStack() as stack:
        limiter = serving.server.app.state.upload_limiter
        connections = [stack.enter_context(serving.connect()) for _ in range(2)]
        for connection in connections:
            connection.sendall(one)
        wait_until(lambda: limiter.active_count == 20)
        for request in (one, sent_for("203.0.113.5", post("/v1/search", slow))):
            refused = serving.answer(request)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["type"].endswith(":too-many-at-once")
        assert serving.answer(other).status == 503  # computing requests have half of the queue, uploads the rest
        assert serving.answer(sent_for("203.0.113.5", post("/v1/search", b'{"image_id": 1}'))).status == 200
        release.set()
        assert [read_reply(connection).status for connection in connections] == [200] * 2
        assert serving.answer(sent_for("203.0.113.5", post("/v1/search", slow))).status == 200


def test_a_price_above_the_capacity_waits_for_an_empty_queue() -> None:
    limiter = UploadLimiter(2, 0.5)
    assert limiter.get_refusal("203.0.113.5", 10) is None
    limiter.acquire("203.0.113.5", 10)
    assert limiter.get_refusal("203.0.113.6").status_code == 503  # type: ignore[union-attr]
    limiter.release("203.0.113.5", 10)
    assert limiter.get_refusal("203.0.113.6") is None and limiter.active_count == 0


def test_an_upload_takes_the_price_of_a_verified_search_inside_its_own() -> None:
    scope = {"type": "http", "client": ("203.0.113.5", 1), "headers": [(b"content-type", b"multipart/form-data")]}
    limiter = UploadLimiter(1, 0.5, 100, 10)
    admission = Admission(limiter, ServiceMetrics())
    with admission.hold(scope, 1):
        with admission.hold(scope, VERIFIED_SEARCH_PRICE):  # above the capacity, and nothing else is in progress
            assert (limiter.active_count, limiter.active_bytes) == (VERIFIED_SEARCH_PRICE, 10)
            with admission.hold(scope, 2):
                assert limiter.active_count == VERIFIED_SEARCH_PRICE
        assert (limiter.active_count, limiter.active_bytes) == (1, 10)
        limiter.acquire("203.0.113.6", 1)
        with pytest.raises(ProblemException) as refused, admission.hold(scope, VERIFIED_SEARCH_PRICE):
            pass
        assert (refused.value.status_code, limiter.active_count, limiter.active_bytes) == (503, 2, 10)
        limiter.release("203.0.113.6", 1)
    assert (limiter.active_count, limiter.active_bytes) == (0, 0)


def test_verified_searches_wait_for_one_another_and_no_other_search_waits(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    release = threading.Event()
    original = HitVerifier.verify

    def verify(*arguments: Any) -> Any:
        begun.append(1)
        assert release.wait(60)
        return original(*arguments)

    monkeypatch.setattr(HitVerifier, "verify", verify)
    verified = post("/v1/search", b'{"image_id": 1, "verify": true}')
    with listening(home_with_digits) as serving, ExitStack() as stack:
        limiter = serving.server.app.state.upload_limiter
        connections = [stack.enter_context(serving.connect()) for _ in range(6)]
        for connection in connections:
            connection.sendall(verified)
        wait_until(lambda: limiter.active_count == 6 * VERIFIED_SEARCH_PRICE and bool(begun))
        for request in (verified, get("/?image_id=1&verify=true")):
            refused = serving.answer(request)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1") and b"SIMILE_QUEUE" in refused.body
        for plain in (post("/v1/search", b'{"image_id": 1}'), get("/?image_id=1"), get("/v1/images/1/thumbnail")):
            assert serving.answer(plain).status == 200
        assert len(begun) == 1
        release.set()
        assert [read_reply(connection).status for connection in connections] == [200] * 6
        wait_until(lambda: limiter.active_count == 0)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/morphs", {"parts": [{"image_id": 1}, {"image_id": 2}], "steps": 40}, "steps"),
        ("/v1/samples", {"count": 64}, "count"),
        ("/v1/traversals", {"dims": 4, "steps": 40}, "steps"),
        ("/v1/uncertainty", {"image_id": 1, "samples": 64}, "samples"),
    ],
)
def test_the_pixels_of_a_response_are_bounded(
    shared_client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], field: str
) -> None:
    side = shared_client.app.state.searcher_provider.get_searcher().get_encoder().preprocessing.image_size  # type: ignore[attr-defined]
    monkeypatch.setattr(requests, "MAX_RENDERED_PIXELS", 30 * side * side)
    answer = shared_client.post(path, json=body)
    assert answer.status_code == 422 and field in answer.json()["detail"], answer.text
    assert f"at most {30 * side * side:,} pixels" in answer.json()["detail"] and "30 at most" in answer.json()["detail"]
    few = {name: 4 if name == field else value for name, value in body.items()}
    assert shared_client.post(path, json=few).status_code == 200


def test_a_batch_is_searched_and_serialised_in_parts_outside_the_loop(
    shared_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, bool]] = []
    dump = api_search.dump_batch_items

    def dump_batch_items(searcher: Any, results: Any, includes: Any) -> list[bytes]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        calls.append((len(results), threading.current_thread() is threading.main_thread()))
        return dump(searcher, results, includes)

    monkeypatch.setattr(api_search, "dump_batch_items", dump_batch_items)
    searches = [{"image_id": number, "limit": 400} for number in (1, 2, 10**6, 3, 4)]
    answer = shared_client.post("/v1/search/batch", json={"searches": searches})
    assert calls == [(2, False), (2, False), (1, False)]
    results = answer.json()["results"]
    assert [result.get("problem", {}).get("status", 200) for result in results] == [200, 200, 404, 200, 200]
    assert results[4] == shared_client.post("/v1/search", json=searches[4]).json()
    calls.clear()
    assert shared_client.post("/v1/search/batch", json={"searches": [{"image_id": 1}] * 40}).status_code == 200
    assert calls == [(32, False), (8, False)]


def test_large_batches_run_one_after_another(home_with_digits: Settings) -> None:
    app = create_app(home_with_digits.model_copy(update={"answer_seconds": 2}))
    with TestClient(app) as client:
        large = {"searches": [{"image_id": 1, "limit": 600}, {"image_id": 2, "limit": 600}]}
        portal, batcher = client.portal, app.state.batcher
        assert portal is not None
        with portal.wrap_async_context_manager(batcher.hold_large_batch(time.monotonic() + 60)):
            refused = client.post("/v1/search/batch", json=large)
            assert refused.status_code == 503 and refused.json()["type"].endswith("too-slow-to-answer")
            assert client.post("/v1/search/batch", json={"searches": [{"image_id": 1}] * 3}).status_code == 200
        assert client.post("/v1/search/batch", json=large).status_code == 200


class Connection:
    """A connection whose client may leave."""

    closed = False

    def is_closed(self) -> bool:
        return self.closed


@pytest.mark.parametrize("why", ["its client leaves", "its time is over"])
def test_work_ends_between_its_parts_when(why: str) -> None:
    parts: list[int] = []

    async def run() -> None:
        client = Connection()
        budget = DecodeBudget(1.0, client.is_closed)
        REQUEST_BUDGET.set(budget)

        def work() -> None:
            while True:
                raise_if_cancelled()
                parts.append(len(parts))
                client.closed = why == "its client leaves" and len(parts) == 3

        with pytest.raises(WorkCancelled if why == "its client leaves" else ProblemException) as caught:
            await ComputePool(1, 30 if why == "its client leaves" else 0.05).run(work)
        assert why == "its client leaves" or caught.value.problem_kind == "too-slow-to-answer"
        client.closed = True
        with pytest.raises(WorkCancelled):  # it does not begin
            await ComputePool(1).run(parts.clear)

    asyncio.run(run())
    assert len(parts) == 3 or why != "its client leaves"
