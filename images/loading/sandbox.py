"""Decode untrusted files in worker processes, so that no file can harm this process or keep it busy.

A worker ends when a file takes too much CPU time or memory, crashes the decoder, or when its client has left. All files
of one request share a budget (REQUEST_BUDGET).
"""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from simile.core.errors import NotFinite, UnreadableImage
from simile.images.formats import Limits, check_byte_count
from simile.images.loading.fork_server import WorkBatch, WorkCost, WorkerLost
from simile.images.loading.process import ForkServer, WorkerProcess, WorkersFailed
from simile.images.loading.worker_pool import get_loss_reason, get_worker_count

_NO_MEMORY = "decoding it needs more memory than a request may use (SIMILE_UPLOAD_MEMORY)"
CANCEL_POLL_SECONDS = 0.1
MAX_STARTS = 3  # of a worker for one file: an idle worker may have been killed
LARGE_PIXELS = 30_000_000  # of these indexed images, one is decoded at a time

Result = TypeVar("Result")
DecodeFunction = Callable[[bytes, str], Result]  # of the bytes of a file and its name


class Decode(Protocol):
    """Calls a function that decodes a file, here or in a worker process."""

    def __call__(self, function: DecodeFunction[Result], data: bytes, name: str) -> Result:
        """Return what the function returns."""


class DecodeIndexed(Protocol):
    """Calls a function that decodes the file of an indexed image, here or in a worker process."""

    def __call__(self, function: DecodeFunction[Result], data: bytes, name: str, pixel_count: int) -> Result:
        """Return what the function returns."""


def decode_here(function: DecodeFunction[Result], data: bytes, name: str) -> Result:
    """Call the function in this process: for files that the user of this process chose."""
    return function(data, name)


def decode_indexed_here(function: DecodeFunction[Result], data: bytes, name: str, pixel_count: int) -> Result:  # noqa: ARG001
    """Call the function in this process."""
    return function(data, name)


def _never() -> bool:
    return False


@dataclass
class DecodeBudget:
    """What the files of one request may still cost together."""

    cpu_seconds: float
    has_client_left: Callable[[], bool] = _never


# The budget of the request that the current thread or task works for.
REQUEST_BUDGET: ContextVar[DecodeBudget | None] = ContextVar("decode_budget", default=None)


@dataclass(frozen=True)
class _ExpectedError:
    """An expected error in a worker: UnreadableImage or its subclass, or NotFinite, and the reason."""

    kind: type[UnreadableImage | NotFinite]
    reason: str


class WorkCancelled(Exception):
    """The result is not needed any more."""


class DecodeSandbox:
    """Calls functions that decode a file in worker processes. Safe to call from several threads.

    Each call talks to a worker directly, which is faster than through the queues of a WorkerPool.
    """

    def __init__(self, workers: int, cost: WorkCost, limits: Limits) -> None:
        """Set the limits. The processes (0: one per core) start with the first file, or with `start`.

        Args:
            workers: Number of processes.
            cost: What one request may cost.
            limits: Limits on bytes, checked before a worker gets the file.
        """
        self._cost, self._limits = cost, limits
        self._fork_server: ForkServer | None = None
        self._lock, self._large_lock = threading.Lock(), threading.Lock()
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()  # None: not started yet
        self._worker_count, self._numbers = get_worker_count(workers), itertools.count(1)
        for _ in range(self._worker_count):
            self._idle.put(None)

    def start(self) -> ForkServer:
        """Start the fork server, if it does not run yet."""
        with self._lock:
            if self._fork_server is None:
                self._fork_server = ForkServer()
            return self._fork_server

    def run(self, function: DecodeFunction[Result], data: bytes, name: str) -> Result:
        """Call the function, or that of a partial, in a worker. The function can be imported.

        Raises:
            UnreadableImage: Also if the file, or the files of the request, cost too much.
            WorkCancelled: The client has left.
        """
        budget = REQUEST_BUDGET.get() or DecodeBudget(self._cost.cpu_seconds)
        if budget.cpu_seconds <= 0:
            raise UnreadableImage(name, "the files before it used the CPU time of the request")
        cost = WorkCost(self._cost.seconds, self._cost.memory, budget.cpu_seconds)
        return self._call(function, data, name, cost, budget)

    def run_indexed(self, function: DecodeFunction[Result], data: bytes, name: str, pixel_count: int) -> Result:
        """Call the function for the file of an indexed image, which may cost what indexing may. Raises as `run`."""
        budget = REQUEST_BUDGET.get()
        has_client_left = budget.has_client_left if budget else _never
        cost = WorkCost.for_pixels(self._cost.seconds, self._limits.max_pixels)
        with self._large_lock if pixel_count > LARGE_PIXELS else nullcontext():
            return self._call(function, data, name, cost, DecodeBudget(0.0, has_client_left))

    def close(self) -> None:
        """End the worker processes, also those that work; their calls fail."""
        with self._lock:
            if self._fork_server is None:
                return
            self._fork_server.close()
            for worker in [self._idle.get() for _ in range(self._worker_count)]:
                if worker is not None:
                    worker.close()
                self._idle.put(None)
            self._fork_server = None

    def _call(
        self, function: DecodeFunction[Result], data: bytes, name: str, cost: WorkCost, budget: DecodeBudget
    ) -> Result:
        """Return the result, and take its CPU time from the budget. Raises as `run`."""
        check_byte_count(len(data), name, self._limits)
        task = pickle.dumps(partial(_call_or_return_error, function))
        batch = WorkBatch(number=next(self._numbers), task=task, items=[(data, name)], cost=cost)
        fork_server, worker = self.start(), self._idle.get()
        try:
            for _ in range(MAX_STARTS):
                try:
                    worker = worker or fork_server.start_worker()
                except EOFError:  # the sandbox was closed meanwhile
                    raise WorkCancelled from None
                try:
                    result, used = _ask_worker(worker, batch, budget.has_client_left)
                    break
                except (EOFError, OSError, pickle.UnpicklingError):  # the worker has ended
                    has_begun, ended, worker = worker.read_progress()[0] == batch.number, worker, None
                    status = fork_server.end_worker(ended)
                    if has_begun:
                        result, used = WorkerLost(get_loss_reason(status, cost)), cost.cpu_seconds
                        break
            else:
                raise WorkersFailed("The processes that decode images end before they begin. Free some memory.")
        except WorkCancelled:
            if worker is not None:
                fork_server.end_worker(worker)
            worker = None
            raise
        finally:
            self._idle.put(worker)
        budget.cpu_seconds -= used
        if isinstance(result, _ExpectedError):
            if issubclass(result.kind, UnreadableImage):
                raise result.kind(name, result.reason)
            raise NotFinite(result.reason)
        if isinstance(result, WorkerLost):
            raise UnreadableImage(name, result.reason)
        return cast(Result, result)


def _ask_worker(worker: WorkerProcess, batch: WorkBatch, has_client_left: Callable[[], bool]) -> tuple[Any, float]:
    """Return the result of a batch of one item, and its CPU seconds.

    Raises:
        EOFError, OSError, UnpicklingError: The worker has ended.
        WorkCancelled: The client has left.
    """
    worker.send_batch(batch)
    while not worker.has_results(CANCEL_POLL_SECONDS):
        if has_client_left():
            raise WorkCancelled
    (result,), used = worker.receive_results(batch.cost.seconds)
    return result, used


def _call_or_return_error(function: DecodeFunction[Result], file: tuple[bytes, str]) -> Result | _ExpectedError:
    """Call the function in a worker process; return its expected errors, which cannot be pickled."""
    data, name = file
    try:
        return function(data, name)
    except UnreadableImage as error:
        is_memory_error = isinstance(error.__cause__, MemoryError)
        return _ExpectedError(type(error), _NO_MEMORY if is_memory_error else error.reason)
    except NotFinite as error:
        return _ExpectedError(NotFinite, str(error))
    except MemoryError:
        return _ExpectedError(UnreadableImage, _NO_MEMORY)
