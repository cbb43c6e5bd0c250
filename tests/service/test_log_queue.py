"""A log that no program reads does not stop the service; lines are lost, and counted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from simile.core import logs
from simile.core.logs import JsonLinesFormatter, QueuedStderrHandler


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds 64 kB."""
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def make_logger(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("test")  # of its own, without the handlers of the root
    logger.addHandler(handler)
    return logger


def read_lines(pipe: tuple[int, int], handler: logging.Handler) -> list[str]:
    """All lines of the pipe until the handler has written them."""
    chunks: list[bytes] = []

    def read() -> None:
        while chunk := os.read(pipe[0], 1 << 16):
            chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    handler.flush()
    os.close(pipe[1])
    reader.join()
    return b"".join(chunks).decode().splitlines()


def test_a_full_pipe_stops_no_caller_and_the_lost_lines_are_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED_LINES", 50)
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 30.0)
    handler = QueuedStderrHandler(pipe[1])
    logger = make_logger(handler)
    for number in range(500):  # 500 kB
        logger.warning("%d %s", number, "x" * 1000)
    lines = read_lines(pipe, handler)
    numbers = [int(line.split()[0]) for line in lines if line.endswith("xxx")]
    lost_counts = [int(line.split()[0]) for line in lines if "were lost" in line]
    assert (
        lost_counts
        and len(numbers) + sum(lost_counts) == 500
        and numbers == sorted(numbers)
        and numbers[:10] == list(range(10))
    )


def test_lines_are_written_in_order_with_their_format(pipe: tuple[int, int]) -> None:
    handler = QueuedStderrHandler(pipe[1])
    handler.setFormatter(JsonLinesFormatter())
    logger = make_logger(handler)
    try:
        raise ValueError("\x1b[31m")
    except ValueError:
        logger.exception("failed", extra={"fields": {"status": 500}})
    logger.info("next")
    first, second = read_lines(pipe, handler)
    assert '"status": 500' in first and "\\u001b[31m" in first and '"message": "next"' in second


def test_a_flush_does_not_wait_for_a_reader_for_ever(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.01)
    handler = QueuedStderrHandler(pipe[1])
    make_logger(handler).warning("x" * 200_000)
    handler.flush()
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 30.0)
    assert len(read_lines(pipe, handler)[0]) == 200_000
