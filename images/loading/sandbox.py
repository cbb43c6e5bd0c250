"""Decode untrusted files in worker processes, so that no file can harm this process or keep it busy.

A worker ends when a file takes too much CPU time or memory, crashes the decoder, or when its client has left. All files
of one request share a budget (REQUEST_BUDGET). A file that takes longer than QUICK_CPU_SECONDS is decoded again by one
of a few workers for such files, so that slow files do not keep the other workers busy; so are the files of a request
after others that took as long.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from simile.core.errors import NotFinite, UnreadableImage, WorkersFailed
from simile.images.formats import Limits, check_byte_count
from simile.images.loading.fork_server import WorkBatch, WorkCost, WorkerLost
from simile.images.loading.process import ForkServer, WorkerProcess
from simile.images.loading.worker_pool import get_loss_reason, get_worker_count

_NO_MEMORY = "decoding it needs more memory than a request may use (SIMILE_UPLOAD_MEMORY)"
CANCEL_POLL_SECONDS = 0.1
MAX_STARTS = 3  # of a worker for one file: an idle worker may have been killed
LARGE_PIXELS = 30_000_000  # of these indexed images, one is decoded at a time
QUICK_CPU_SECONDS = 0.3  # enough for most images; 25 megapixels take 0.02 (JPEG) to 1.8 seconds (JPEG 2000)
SLOW_NICENESS = 5  # of the workers for slow files: a third of the time of others

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
    used_seconds: float = 0.0  # of CPU time

    def take(self, seconds: float) -> None:
        """Take the CPU time of a file."""
        self.cpu_seconds -= seconds
        self.used_seconds += seconds


# The budget of the request that the current thread or task works for.
REQUEST_BUDGET: ContextVar[DecodeBudget | None] = ContextVar("decode_budget", default=None)


def raise_if_cancelled() -> None:
    """Raise WorkCancelled if the result of this thread's work is not needed any more; for use between its parts."""
    budget = REQUEST_BUDGET.get()
    if budget is not None and budget.has_client_left():
        raise WorkCancelled


@dataclass(frozen=True)
class _ExpectedError:
    """An expected error in a worker: UnreadableImage or its subclass, or NotFinite, and the reason."""

    kind: type[UnreadableImage | NotFinite]
    reason: str


@dataclass(frozen=True)
class _LostWorker:
    """A worker that ended while it worked, with its status as from `os.waitpid`."""

    status: int

    @property
    def signal(self) -> int:
        """The number of the signal that ended it, or 0."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0


class WorkCancelled(Exception):
    """The result is not needed any more."""


class _IdleWorkers:
    """Holds workers while they have nothing to do: at most `count`, started when they are needed."""

    def __init__(self, count: int, niceness: int) -> None:
        self.niceness = niceness
        self._count = count
        self._workers: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()  # None: not started yet
        for _ in range(count):
            self._workers.put(None)

    def acquire(self, has_client_left: Callable[[], bool]) -> WorkerProcess | None:
        """Wait for a worker; None: start one. Raises WorkCancelled."""
        while True:
            try:
                return self._workers.get(timeout=CANCEL_POLL_SECONDS)
            except queue.Empty:
                if has_client_left():
                    raise WorkCancelled from None

    def release(self, worker: WorkerProcess | None) -> None:
        """Give a worker back; None if it has ended."""
        self._workers.put(worker)

    def close(self) -> None:
        """Wait for all workers and close them."""
        for worker in [self._workers.get() for _ in range(self._count)]:
            if worker is not None:
                worker.close()
            self._workers.put(None)


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
        self._numbers = itertools.count(1)
        count = get_worker_count(workers)
        self._quick, self._slow = _IdleWorkers(count, niceness=0), _IdleWorkers((count + 1) // 2, SLOW_NICENESS)

    def start(self) -> ForkServer:
        """Start the fork server, if it does not run yet. Raises WorkersFailed."""
        with self._lock:
            if self._fork_server is None:
                self._fork_server = ForkServer()
            return self._fork_server

    def run(self, function: DecodeFunction[Result], data: bytes, name: str) -> Result:
        """Call the function, or that of a partial, in a worker. The function can be imported.

        Raises:
            UnreadableImage: Also if the file, or the files of the request, cost too much.
            WorkCancelled: The client has left.
            WorkersFailed: No worker can be started.
        """
        budget = REQUEST_BUDGET.get() or DecodeBudget(self._cost.cpu_seconds)
        return self._call(function, data, name, self._cost, budget)

    def run_indexed(self, function: DecodeFunction[Result], data: bytes, name: str, pixel_count: int) -> Result:
        """Call the function for the file of an indexed image, which may cost what indexing may. Raises as `run`."""
        budget = REQUEST_BUDGET.get()
        has_client_left = budget.has_client_left if budget else _never
        cost = WorkCost.for_pixels(self._cost.seconds, self._limits.max_pixels)
        budget = DecodeBudget(math.inf, has_client_left)
        if pixel_count <= LARGE_PIXELS:
            return self._call(function, data, name, cost, budget)
        while not self._large_lock.acquire(timeout=CANCEL_POLL_SECONDS):
            if has_client_left():
                raise WorkCancelled
        try:
            return self._call(function, data, name, cost, budget)
        finally:
            self._large_lock.release()

    def close(self) -> None:
        """End the worker processes, also those that work; their calls fail."""
        with self._lock:
            if self._fork_server is None:
                return
            self._fork_server.close()
            self._quick.close()
            self._slow.close()
            self._fork_server = None

    def _call(
        self, function: DecodeFunction[Result], data: bytes, name: str, cost: WorkCost, budget: DecodeBudget
    ) -> Result:
        """Return the result, and take its CPU time from the budget. Raises as `run`."""
        check_byte_count(len(data), name, self._limits)
        if budget.has_client_left():
            raise WorkCancelled
        task = pickle.dumps(partial(_call_or_return_error, function))
        lanes = [(self._slow, math.inf)]
        if budget.used_seconds <= QUICK_CPU_SECONDS:  # else the request is slow: its files took as long
            lanes.insert(0, (self._quick, QUICK_CPU_SECONDS))
        for idle, seconds in lanes:
            result = self._call_in(idle, task, (data, name), replace(cost, cpu_seconds=seconds), budget)
            needs_more_time = isinstance(result, _LostWorker) and result.signal == signal.SIGPROF
            if not needs_more_time or budget.cpu_seconds <= 0:
                break
        if isinstance(result, _ExpectedError):
            if issubclass(result.kind, UnreadableImage):
                raise result.kind(name, result.reason)
            raise NotFinite(result.reason)
        if isinstance(result, _LostWorker):
            raise UnreadableImage(name, get_loss_reason(result.status, cost))
        if isinstance(result, WorkerLost):  # an unexpected error of the function
            raise UnreadableImage(name, result.reason)
        return cast(Result, result)

    def _call_in(
        self, idle: _IdleWorkers, task: bytes, item: tuple[bytes, str], cost: WorkCost, budget: DecodeBudget
    ) -> Any:
        """Return the result of the task for the item, from one of the workers; take its CPU time from the budget."""
        fork_server, worker = self.start(), idle.acquire(budget.has_client_left)
        try:
            seconds = min(cost.cpu_seconds, budget.cpu_seconds)
            if seconds <= 0:
                raise UnreadableImage(item[1], "the files before it used the CPU time of the request")
            cost = replace(cost, cpu_seconds=0.0 if math.isinf(seconds) else seconds)
            batch = WorkBatch(number=next(self._numbers), task=task, items=[item], cost=cost)
            for _ in range(MAX_STARTS):
                try:
                    worker = worker or fork_server.start_worker(idle.niceness)
                except EOFError:  # the sandbox was closed meanwhile
                    raise WorkCancelled from None
                try:
                    result, used = _ask_worker(worker, batch, budget.has_client_left)
                    budget.take(used)
                    return result
                except (EOFError, OSError, pickle.UnpicklingError):  # the worker has ended
                    has_begun, ended, worker = worker.read_progress()[0] == batch.number, worker, None
                    status = fork_server.end_worker(ended)
                    if has_begun:
                        budget.take(cost.cpu_seconds)
                        return _LostWorker(status)
            raise WorkersFailed("The processes that decode images end before they begin. Free some memory.")
        except WorkCancelled:
            if worker is not None:
                fork_server.end_worker(worker)
            worker = None
            raise
        finally:
            idle.release(worker)


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
