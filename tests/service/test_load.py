"""Many clients, slow clients, clients that leave: a real server on a real socket."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.testclient import TestClient

from simile.core.settings import Settings, load_settings
from simile.search.queries import EncodedQuery, SearchParams, SearchQuery, SearchResult
from simile.service.app import create_app
from simile.service.errors import ProblemException
from simile.service.observability.metrics import ServiceMetrics
from simile.service.server.connections import CONNECTION_KEY
from simile.service.server.server import make_server, stop_on_sigterm
from simile.service.state.batcher import EncodingPool, SearchBatcher
from tests.support.server import Listening, form, get, head, is_closed, listening, read_reply, upload
from tests.support.waiting import wait_until


@pytest.fixture
def pictures(digits: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(digits.iterdir())[:12]]


@pytest.fixture
def small(home_with_digits: Settings) -> Settings:
    """A house with room for one, and little patience."""
    return home_with_digits.model_copy(update={"queue": 1, "upload_seconds": 1.0})


def sample(metrics: ServiceMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def stripped(answer: Any) -> Any:
    """The ids and distances, and what the query is, without its name."""
    return [(hit["image_id"], pytest.approx(hit["distance"], abs=1e-5)) for hit in answer["hits"]]


# Batches


def test_searches_that_come_together_have_results_together_and_as_alone(
    home_with_digits: Settings, pictures: list[bytes]
) -> None:
    with listening(home_with_digits) as serving:
        alone = [serving.answer(upload("/v1/search", data)).json() for data in pictures]
        metrics = serving.server.app.state.metrics
        before = sample(metrics, "simile_batch_size_count")
        with ThreadPoolExecutor(len(pictures)) as clients:
            replies = list(clients.map(lambda data: serving.answer(upload("/v1/search", data)), pictures))
        batches = sample(metrics, "simile_batch_size_count") - before
    assert [stripped(reply.json()) for reply in replies] == [stripped(item) for item in alone]
    assert batches < len(pictures)
    assert sample(metrics, "simile_batch_size_sum") == 2 * len(pictures)


def test_a_bad_image_among_many_costs_no_other(home_with_digits: Settings, pictures: list[bytes]) -> None:
    sent = [data if at % 3 else data[:60] for at, data in enumerate(pictures)]
    with listening(home_with_digits) as serving, ThreadPoolExecutor(len(sent)) as clients:
        replies = list(clients.map(lambda data: serving.answer(upload("/v1/search", data)), sent))
    assert [reply.status for reply in replies] == [200 if at % 3 else 422 for at in range(len(sent))]


# A desk whose answers take as long as a test wants


class Slow:
    """Answers when it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Semaphore(0)
        self.batches: list[list[float]] = []

    def __call__(self, questions: Sequence[SearchQuery]) -> list[SearchResult]:
        self.batches.append([float(np.asarray(question.positives[0])[0]) for question in questions])
        self.asked.release()
        assert self.go.wait(10)
        return [SearchResult(query=EncodedQuery(mu=np.zeros(2, np.float32)), hits=[]) for _ in questions]


class Left:
    """A connection whose client is gone."""

    @staticmethod
    def is_closed() -> bool:
        return True


def question(number: float) -> SearchQuery:
    return SearchQuery((np.array([number, 0], np.float32),))


def request(connection: object = None) -> Request:
    return Request({"type": "http", CONNECTION_KEY: connection} if connection else {"type": "http"})


def at_a_desk(slow: Slow, settings: Settings, work: Any) -> ServiceMetrics:
    """Runs `work(desk)` at a desk whose answers are `slow`."""
    metrics = ServiceMetrics()

    async def run() -> None:
        desk = SearchBatcher(settings, slow, EncodingPool(1), metrics)
        try:
            await work(desk)
        finally:
            slow.go.set()
            await asyncio.to_thread(desk.close)

    asyncio.run(run())
    return metrics


def test_a_search_for_many_results_does_not_delay_a_batch() -> None:
    threads: dict[int, str] = {}

    def search_many(queries: Sequence[SearchQuery]) -> Sequence[SearchResult]:
        for query in queries:
            threads[query.params.limit] = threading.current_thread().name
        return [SearchResult(query=EncodedQuery(mu=np.zeros(2, np.float32)), hits=[]) for _ in queries]

    async def run() -> None:
        batcher = SearchBatcher(load_settings(), search_many, EncodingPool(1), ServiceMetrics())
        try:
            for limit in (10, 100, 1000):
                query = replace(question(limit), params=SearchParams(limit=limit))
                await batcher.search(request(), query, lambda result: result)
        finally:
            await asyncio.to_thread(batcher.close)

    asyncio.run(run())
    assert threads[10] == threads[100] == "batches" and threads[1000].startswith("single")


def test_work_that_was_not_begun_is_dropped_when_its_client_leaves() -> None:
    slow = Slow()

    async def work(desk: SearchBatcher) -> None:
        first = asyncio.ensure_future(desk.search(request(), question(1), lambda _: "one"))
        await asyncio.to_thread(slow.asked.acquire)
        dropped = asyncio.ensure_future(desk.search(request(Left()), question(2), lambda _: "two"))
        stays = asyncio.ensure_future(desk.search(request(), question(3), lambda _: "three"))
        await asyncio.sleep(0)
        slow.go.set()
        assert await first == "one" and await stays == "three"
        with pytest.raises(ClientDisconnect):
            await dropped

    metrics = at_a_desk(slow, load_settings(), work)
    assert slow.batches == [[1.0], [3.0]]
    assert sample(metrics, "simile_clients_gone_total") == 1


def test_what_waits_while_a_batch_runs_becomes_the_next_batch() -> None:
    slow = Slow()

    async def work(desk: SearchBatcher) -> None:
        first = asyncio.ensure_future(desk.search(request(), question(0), lambda _: 0))
        await asyncio.to_thread(slow.asked.acquire)
        others = [asyncio.ensure_future(desk.search(request(), question(n), lambda _, n=n: n)) for n in range(1, 101)]
        await asyncio.sleep(0)
        slow.go.set()
        assert await asyncio.gather(first, *others) == list(range(101))

    at_a_desk(slow, load_settings(), work)
    assert [len(batch) for batch in slow.batches] == [1, 64, 36]


def test_a_query_that_has_no_result_in_time_is_refused_and_never_begun() -> None:
    slow = Slow()

    async def work(desk: SearchBatcher) -> None:
        asked = [asyncio.ensure_future(desk.search(request(), question(1), lambda _: 1))]
        await asyncio.to_thread(slow.asked.acquire)
        asked.append(asyncio.ensure_future(desk.search(request(), question(2), lambda _: 2)))
        for item in asked:
            with pytest.raises(ProblemException) as refused:
                await item
            assert (refused.value.status_code, refused.value.problem_kind) == (503, "too-slow-to-answer")

    at_a_desk(slow, load_settings(answer_seconds=0.2), work)
    assert slow.batches == [[1.0]]


def test_a_result_that_can_t_be_written_is_the_error_of_its_own_request() -> None:
    slow = Slow()
    slow.go.set()

    async def work(desk: SearchBatcher) -> None:
        def fails(answer: SearchResult) -> int:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await desk.search(request(), question(1), fails)
        assert await desk.search(request(), question(2), lambda _: 2, heavy=True) == 2

    at_a_desk(slow, load_settings(), work)


# A full house


@pytest.fixture
def house(small: Settings) -> Iterator[Listening]:
    with listening(small.model_copy(update={"upload_seconds": 30.0})) as serving:
        yield serving


def begun(serving: Listening, data: bytes) -> socket.socket:
    """A connection whose upload has begun and is let in, but for its last bytes."""
    connection = serving.connect()
    body = form(data)
    connection.sendall(head("/v1/search", len(body)) + body[:-20])
    wait_until(lambda: serving.server.app.state.upload_limiter.active_count)
    return connection


def test_a_full_house_refuses_at_once_and_reads_nothing(house: Listening, pictures: list[bytes]) -> None:
    with begun(house, pictures[0]) as first:
        started = time.monotonic()
        reply = house.answer(head("/v1/images", 40_000_000))  # of which not a byte is sent
        assert time.monotonic() - started < 2
        assert reply.status == 503 and reply.headers["retry-after"] == "1"
        assert reply.json()["type"] == "urn:problem-type:simile:too-busy"
        assert house.answer(get("/readyz")).json()["type"].endswith("not-ready")
        for path in ("/livez", "/v1/images?limit=1", "/v1/images/1/thumbnail", "/metrics"):
            assert house.answer(get(path)).status == 200
        first.sendall(form(pictures[0])[-20:])
        assert read_reply(first).status == 200
    assert house.answer(upload("/v1/search", pictures[0])).status == 200
    assert house.answer(get("/readyz")).status == 200
    assert sample(house.server.app.state.metrics, "simile_refused_total", reason="too-busy") == 1


def test_after_a_refusal_the_connection_goes_on(house: Listening, pictures: list[bytes]) -> None:
    with begun(house, pictures[0]) as first, house.connect() as other:
        other.sendall(upload("/v1/search", pictures[1]))
        assert read_reply(other).status == 503
        first.sendall(form(pictures[0])[-20:])
        assert read_reply(first).status == 200
        other.sendall(upload("/v1/search", pictures[1]))
        assert read_reply(other).status == 200


def test_whoever_asks_before_sending_is_refused_and_the_connection_ends(
    house: Listening, pictures: list[bytes]
) -> None:
    with begun(house, pictures[0]), house.connect() as other:
        other.sendall(head("/v1/search", 40_000, "Expect: 100-continue"))
        reply = read_reply(other)
        assert reply.status == 503 and reply.headers["connection"] == "close"
        assert is_closed(other)


# Slow and half-open


def test_an_upload_that_stands_still_is_cut_off(small: Settings, pictures: list[bytes]) -> None:
    with listening(small) as serving, begun(serving, pictures[0]) as connection:
        reply = read_reply(connection)
        assert reply.status == 408 and reply.json()["type"].endswith("upload-too-slow")
        assert is_closed(connection)
        assert serving.answer(upload("/v1/search", pictures[0])).status == 200


def test_an_upload_that_drips_is_cut_off_too(small: Settings, pictures: list[bytes]) -> None:
    body = form(pictures[0])
    with listening(small) as serving, serving.connect() as connection:
        connection.sendall(head("/v1/search", len(body)))
        with pytest.raises(OSError):
            for byte in body:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert serving.answer(upload("/v1/search", pictures[0])).status == 200


def test_half_a_header_and_none_at_all_are_cut_off(shared_home: Settings) -> None:
    with listening(shared_home, header_seconds=0.5) as serving, serving.connect() as half, serving.connect() as mute:
        half.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.")
        for connection in (half, mute):
            reply = read_reply(connection)
            assert reply.status == 408 and reply.json()["type"].endswith("header-too-slow")
            assert is_closed(connection)
        with serving.connect() as fine:
            for _ in range(2):
                fine.sendall(get("/livez"))
                assert read_reply(fine).status == 200


def test_headers_without_an_end_are_cut_off(shared_home: Settings) -> None:
    with listening(shared_home) as serving:
        reply = serving.answer(b"GET /livez HTTP/1.1\r\n" + b"X-Much: " + b"a" * 100_000)
        assert reply.status == 431 and reply.json()["type"].endswith("header-too-large")


def test_what_is_no_http_gets_a_problem_document(shared_home: Settings) -> None:
    with listening(shared_home) as serving:
        reply = serving.answer(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
        assert reply.status == 400 and reply.headers["content-type"] == "application/problem+json"


def test_a_body_that_is_refused_is_not_read_to_its_end(shared_home: Settings) -> None:
    with listening(shared_home) as serving, serving.connect() as connection:
        connection.sendall(head("/v1/search", 10_000_000_000))
        assert read_reply(connection).status == 413
        sent = 0
        with pytest.raises(OSError):
            while sent < 200_000_000:
                connection.sendall(bytes(100_000))
                sent += 100_000


def test_a_client_that_does_not_read_its_response_is_cut_off(shared_home: Settings) -> None:
    settings = shared_home.model_copy(update={"answer_seconds": 0.5})
    with listening(settings) as serving, serving.connect() as connection:
        with suppress(ConnectionError):  # cut off already
            for _ in range(200):  # 200 responses of 60 kB: more than the system keeps for a reader who may come back
                connection.sendall(get("/v1/images?limit=120"))
                time.sleep(0.002)  # not faster than they are written
        wait_until(lambda: not serving.server.server_state.connections, 10)


# The end


def test_a_server_that_stops_finishes_what_it_took_in_and_refuses_the_rest(
    home_with_digits: Settings, pictures: list[bytes]
) -> None:
    with listening(home_with_digits) as serving, begun(serving, pictures[0]) as taken:
        serving.server.should_exit = True
        wait_until(lambda: serving.server.app.state.upload_limiter.is_draining)
        ready = serving.answer(get("/readyz"))
        assert ready.status == 503 and "about to stop" in ready.json()["detail"]
        refused = serving.answer(upload("/v1/search", pictures[1]))
        assert refused.status == 503 and refused.json()["type"].endswith("draining")
        assert refused.headers["connection"] == "close" and refused.headers["retry-after"]
        taken.sendall(form(pictures[0])[-20:])
        assert read_reply(taken).status == 200
        serving.thread.join(timeout=10)
        assert not serving.thread.is_alive()


def test_a_server_that_is_forced_to_end_ends_its_threads(tmp_path: Path) -> None:
    """A second Ctrl-C: the interpreter waited for ever for the thread that notes the facts of the index."""
    before = set(threading.enumerate())
    server = make_server(load_settings(home=tmp_path / "none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        wait_until(lambda: server.started)
        assert "readiness" in {thread.name for thread in threading.enumerate()}
        server.force_exit = server.should_exit = True
        thread.join(timeout=60)
    left = {item.name for item in set(threading.enumerate()) - before}
    assert not left & {"readiness", "batches"}


def test_sigterm_stops_a_server_that_does_not_handle_signals_yet(home_with_digits: Settings) -> None:
    server = make_server(home_with_digits, preload=False)
    with socket.create_server(("127.0.0.1", 0)) as listener, stop_on_sigterm(server):
        signal.raise_signal(signal.SIGTERM)
        assert server.should_exit
        server.run(sockets=[listener])
    assert not server.lifespan.should_exit  # the app was started and ended without an error


def test_a_service_that_still_loads_its_encoder_says_so(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        readiness = client.app.state.readiness  # type: ignore[attr-defined]
        readiness.loaded_event.clear()
        assert "being loaded" in client.get("/readyz").json()["detail"]
        readiness.loaded_event.set()
        assert client.get("/readyz").json()["status"] == "ready"
