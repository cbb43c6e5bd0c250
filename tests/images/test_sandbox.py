"""What an upload may cost: a file that takes too much ends a worker process, and not the service."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from unittest.mock import Mock

import numpy as np
import pillow_jxl  # noqa: F401  # saves JXL
import pytest
from PIL import Image
from starlette.testclient import TestClient

from simile.core.errors import ImageTooLarge, NotFinite, UnreadableImage
from simile.core.settings import Settings
from simile.images.formats import FORMATS, Limits
from simile.images.loading import process
from simile.images.loading.fork_server import WorkCost
from simile.images.loading.loader import decode_reduced
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, DecodeSandbox, WorkCancelled
from simile.service.app import create_app
from tests.support.worker_tasks import allocate, burn, fail, get_pid, wait

LIMITS = Limits()
COST = WorkCost(20.0, 600_000_000, 2.0)
decode = partial(decode_reduced, limits=LIMITS, side=64)


def make_image(kind: str, side: int = 48) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def make_plain_image(side: int) -> bytes:
    """Return a PNG of few bytes that takes time to decode, in proportion to its pixels."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DecodeSandbox]:
    made = DecodeSandbox(1, COST, LIMITS)
    yield made
    made.close()


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("QOI", "PSD", "RAW")])
def test_every_format_is_decoded_in_a_worker(sandbox: DecodeSandbox, kind: str) -> None:
    data = make_image(kind, 32)
    pixels = sandbox.run(decode, data, "whole").pixels
    assert np.array_equal(pixels, decode(data, "whole").pixels)
    with pytest.raises(UnreadableImage, match="cut short: "):
        sandbox.run(decode, data[: len(data) // 3], "cut short")


def test_a_worker_is_another_process_that_many_threads_share(sandbox: DecodeSandbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        pids = set(threads.map(lambda _: sandbox.run(get_pid, b"x", "x"), range(24)))
    assert len(pids) == 1 and os.getpid() not in pids


def test_a_file_that_takes_too_much_cpu_time_is_refused_and_the_next_one_decoded() -> None:
    sandbox = DecodeSandbox(1, WorkCost(20.0, 600_000_000, 0.2), LIMITS)
    try:
        with pytest.raises(UnreadableImage, match="SIMILE_UPLOAD_CPU_SECONDS"):
            sandbox.run(burn, b"", "10")
        assert sandbox.run(burn, b"", "0.01") < 0.2
    finally:
        sandbox.close()


def test_a_worker_that_sleeps_is_ended_by_the_clock() -> None:
    sandbox = DecodeSandbox(1, WorkCost(0.2, 600_000_000, 2.0), LIMITS)
    try:
        with pytest.raises(UnreadableImage, match=r"more than 0\.2 seconds \(SIMILE_DECODE_SECONDS\)"):
            sandbox.run(wait, b"", "10")
    finally:
        sandbox.close()


def test_the_files_of_a_request_share_its_cpu_time(sandbox: DecodeSandbox) -> None:
    token = REQUEST_BUDGET.set(DecodeBudget(0.3))
    try:
        sandbox.run(burn, b"", "0.2")
        with pytest.raises(UnreadableImage, match="SIMILE_UPLOAD_CPU_SECONDS"):
            sandbox.run(burn, b"", "0.2")
        with pytest.raises(UnreadableImage, match="the files before it"):
            sandbox.run(burn, b"", "0")
    finally:
        REQUEST_BUDGET.reset(token)
    assert sandbox.run(burn, b"", "0") >= 0


def test_slow_files_leave_workers_for_quick_ones() -> None:
    sandbox = DecodeSandbox(2, WorkCost(60.0, 600_000_000, 60.0), LIMITS)
    try:
        with ThreadPoolExecutor(8) as threads:
            left = threading.Event()
            token = REQUEST_BUDGET.set(DecodeBudget(60.0, left.is_set))
            slow = [threads.submit(copy_context().run, sandbox.run, burn, b"", "50") for _ in range(6)]
            REQUEST_BUDGET.reset(token)
            while not sandbox._slow._workers.empty() or sandbox._quick._workers.qsize() < 2:
                time.sleep(0.01)
            # One of the six is decoded by the worker for slow files, the others wait for it.
            assert sandbox.run(burn, b"", "0.01") < 0.3
            assert not any(call.done() for call in slow)
            left.set()
            for call in slow:
                with pytest.raises(WorkCancelled):
                    call.result()
    finally:
        sandbox.close()


def test_many_quick_files_of_a_request_are_slow_together() -> None:
    sandbox = DecodeSandbox(1, COST, LIMITS)
    token = REQUEST_BUDGET.set(DecodeBudget(10.0))
    try:
        quick = {sandbox.run(get_pid, b"", "") for _ in range(3)}
        sandbox.run(burn, b"", "0.2")
        sandbox.run(burn, b"", "0.2")
        slow = sandbox.run(get_pid, b"", "")
    finally:
        REQUEST_BUDGET.reset(token)
        sandbox.close()
    assert len(quick) == 1 and slow not in quick


def test_a_slow_file_is_decoded_within_its_budget(sandbox: DecodeSandbox) -> None:
    assert sandbox.run(burn, b"", "0.6") >= 0.6
    assert os.getpriority(os.PRIO_PROCESS, sandbox.run(get_pid, b"", "")) == 0


def test_a_file_that_takes_too_much_memory_is_refused(sandbox: DecodeSandbox) -> None:
    assert sandbox.run(allocate, b"", "300_000_000") == 300_000_000
    with pytest.raises(UnreadableImage, match="SIMILE_UPLOAD_MEMORY"):
        sandbox.run(allocate, b"", "900_000_000")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF", "JPEG2000", "PNG", "TIFF", "JPEG"])
def test_a_decoder_without_memory_is_not_taken_for_a_damaged_file(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1500, 1500), "red").save(file, kind)
    sandbox = DecodeSandbox(1, WorkCost(20.0, 12_000_000, 20.0), LIMITS)
    try:
        with pytest.raises(UnreadableImage, match="SIMILE_UPLOAD_MEMORY"):
            sandbox.run(partial(decode_reduced, limits=LIMITS, side=1500), file.getvalue(), "large")
    finally:
        sandbox.close()


def test_work_whose_client_has_left_is_ended(sandbox: DecodeSandbox) -> None:
    pid = sandbox.run(get_pid, b"", "x")
    has_left = iter([False, True]).__next__  # after the file was sent to the worker
    token = REQUEST_BUDGET.set(DecodeBudget(100.0, has_left))
    try:
        with pytest.raises(WorkCancelled):
            sandbox.run(wait, b"", "15")
    finally:
        REQUEST_BUDGET.reset(token)
    assert sandbox.run(get_pid, b"", "x") != pid


def test_a_worker_that_was_killed_while_idle_costs_no_file(sandbox: DecodeSandbox) -> None:
    pid = sandbox.run(get_pid, b"", "x")
    os.kill(pid, signal.SIGKILL)
    assert sandbox.run(get_pid, b"", "x") != pid
    os.kill(sandbox.start().pid, signal.SIGKILL)
    assert sandbox.run(get_pid, b"", "x") != pid


def test_closing_ends_a_call_at_once() -> None:
    sandbox = DecodeSandbox(1, COST, LIMITS)
    sandbox.run(get_pid, b"", "x")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(sandbox.run, wait, b"", "19")
        while not sandbox._quick._workers.empty():
            time.sleep(0.01)
        started = time.monotonic()
        sandbox.close()
        with pytest.raises((UnreadableImage, WorkCancelled)):
            call.result()
    assert time.monotonic() - started < 15


def test_errors_keep_their_class_and_reason(sandbox: DecodeSandbox) -> None:
    for name, kind, text in (
        ("large", ImageTooLarge, "large: too large"),
        ("finite", NotFinite, "NaN"),
        ("bug", UnreadableImage, "KeyError"),
    ):
        with pytest.raises(kind, match=text):
            sandbox.run(fail, b"", name)
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_BYTES"):
        sandbox.run(decode, bytes(LIMITS.max_bytes + 1), "much")


def test_the_service_refuses_a_costly_file_on_every_route_and_goes_on(home_with_digits: Settings) -> None:
    settings = home_with_digits.model_copy(update={"upload_cpu_seconds": 0.25})
    costly, moderate = make_plain_image(10_000), make_plain_image(2_200)
    with TestClient(create_app(settings)) as client:
        for path in ("/v1/search", "/v1/images", "/v1/reconstructions", "/v1/latents", "/v1/uncertainty", "/"):
            response = client.post(path, files={"file": ("slow.png", costly)})
            assert response.status_code == 422 and "SIMILE_UPLOAD_CPU_SECONDS" in response.text, response.text
        # A moderate file takes about a quarter of the limit, so that the machine's speed does not matter.
        files = [("file", (f"{number}.png", moderate)) for number in range(10)]
        assert client.post("/v1/search", files=files[:1]).status_code == 200
        assert client.post("/v1/search", files=files).status_code == 422
        assert client.post("/v1/search", files={"file": ("a.png", make_image("PNG", 32))}).status_code == 200
        assert client.get("/v1/images").json()["total"] == 120


@pytest.mark.parametrize("why", ["no more processes", "it ends while it starts"])
def test_the_service_answers_503_while_no_decoder_can_be_started(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    with TestClient(create_app(home_with_digits)) as client, monkeypatch.context() as broken:
        if why == "no more processes":
            broken.setattr(process.subprocess, "Popen", Mock(side_effect=BlockingIOError(errno.EAGAIN, "No more here")))
        else:
            broken.setattr(process, "MAX_FORK_SERVER_STARTS", 1)
            broken.setattr(process, "_FORK_SERVER_CODE", "raise SystemExit(1)  # {path}")
        for path in ("/v1/search", "/v1/images", "/v1/reconstructions", "/v1/latents", "/v1/uncertainty"):
            answer = client.post(path, files={"file": make_image("PNG")})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
            assert answer.json()["type"].endswith(":workers-failed") and "Free memory" in answer.json()["detail"]
        batch = client.post("/v1/search/batch", files={"file": make_image("PNG")})
        assert batch.json()["results"][0]["problem"]["status"] == 503
        for path in ("/v1/images/1/thumbnail", "/v1/images/1/file", "/v1/duplicates/difference?first=1&second=2"):
            assert client.get(path).status_code == 503, path
        page = client.post("/", files={"file": make_image("PNG")})
        assert page.status_code == 503 and "Free memory" in page.text
        broken.undo()
        assert client.post("/v1/search", files={"file": make_image("PNG")}).status_code == 200
