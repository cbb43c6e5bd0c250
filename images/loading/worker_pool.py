"""Worker processes: a function of one item, over many items, in order, on all cores and in bounded memory.

    items --groups--> steward threads --sockets--> workers (models/nursery.py) --results, in order--> the caller

Decoders are a million lines of C that meet files from anywhere. One that crashes, hangs or is killed by the system
costs the item in hand: it comes back as `Lost`, a new worker takes the rest. Pillow's threads could not promise that.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from simile.images.loading.fork_server import WorkBatch, WorkerLost
from simile.images.loading.process import ForkServer, WorkerProcess, WorkersFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

BATCH_ITEM_COUNT = 16  # items that travel together: a message for each would cost more than a small picture
BATCH_BYTES = 4 << 20  # of items that bring their bytes along
MAX_WAITING_BATCHES = 32  # groups that may be waiting for the caller; two batches of the job
BATCHES_PER_WORKER = 2  # groups that a worker has: one in work, one to go on with
MAX_BATCH_STARTS = 3  # for one group, beyond one for each item


def get_worker_count(workers: int) -> int:
    """How many processes decode: `workers`, or one for each core that this process may use."""
    return workers or len(os.sched_getaffinity(0))


@dataclass
class _PendingBatch:
    """Items with their results; `pending`: places in it that have none yet."""

    number: int
    task: bytes
    items: list[Any]
    results: list[Any] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    start_count: int = 0
    done_event: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)
        self.pending = list(range(len(self.items)))

    def set_results(self, results: list[Any]) -> None:
        for place, result in zip(self.pending, results, strict=True):
            self.results[place] = result
        self.finish()

    def mark_lost(self, position: int, reason: str) -> None:
        self.results[self.pending.pop(position)] = WorkerLost(reason)
        if not self.pending:
            self.finish()

    def finish(self) -> None:
        self.items = []
        self.done_event.set()


class WorkerPool:
    """`with Workers(2) as workers: for result in workers.map(function, items): …`

    `seconds`: how long one item may take. `max_pixels`: of the largest picture, which bounds a worker's memory.
    Several threads may call `map` at a time.
    """

    def __init__(self, workers: int = 0, seconds: float = 60.0, max_pixels: int = 200_000_000) -> None:
        self.seconds, self.max_pixels = seconds, max_pixels
        self._worker_count = get_worker_count(workers)
        self._queue: queue.Queue[_PendingBatch | None] = queue.Queue()
        self._batch_numbers = iter(range(1, sys.maxsize))
        self._dispatcher_threads: list[threading.Thread] = []
        self._start_lock = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = self._closed = False
        self._fork_server = ForkServer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result | WorkerLost]:
        """The function's result for each item, in order. `function` can be imported, or is a partial of such.

        Never runs far ahead of its caller, so that memory stays bounded. After `stop` it ends early.
        """
        task = pickle.dumps(function)
        waiting: deque[_PendingBatch] = deque()
        self._start_dispatchers()
        ahead = max(MAX_WAITING_BATCHES, (BATCHES_PER_WORKER + 2) * self._worker_count)
        for group in self._make_batches(task, items):
            waiting.append(group)
            self._queue.put(group)
            if len(waiting) >= ahead:
                yield from self._wait_for_results(waiting.popleft())
            if self._stopped:
                break
        while waiting and not self._stopped:
            yield from self._wait_for_results(waiting.popleft())

    def stop(self) -> None:
        """Lets `map` end with what is done already: for whoever was asked to finish."""
        self._stopped = True

    def close(self) -> None:
        """Ends the processes. What they were busy with is lost."""
        self._stopped = self._closed = True
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._dispatcher_threads:
            self._queue.put(None)
        self._fork_server.close()
        for steward in self._dispatcher_threads:
            steward.join(timeout=5)

    def _make_batches(self, task: bytes, items: Iterable[Any]) -> Iterator[_PendingBatch]:
        held: list[Any] = []
        size = 0
        for item in items:
            held.append(item)
            size += sum(len(part) for part in item if isinstance(part, bytes)) if isinstance(item, tuple) else 0
            if len(held) == BATCH_ITEM_COUNT or size >= BATCH_BYTES:
                yield _PendingBatch(next(self._batch_numbers), task, held)
                held, size = [], 0
        if held:
            yield _PendingBatch(next(self._batch_numbers), task, held)

    def _wait_for_results(self, batch: _PendingBatch) -> Iterator[Any]:
        while not batch.done_event.wait(0.1):
            if self._error is not None:
                raise self._error
            if self._stopped:
                return
        yield from batch.results

    def _start_dispatchers(self) -> None:
        with self._start_lock:
            while len(self._dispatcher_threads) < self._worker_count:
                steward = threading.Thread(
                    target=self._run_dispatcher, name=f"worker {len(self._dispatcher_threads)}", daemon=True
                )
                self._dispatcher_threads.append(steward)
                steward.start()

    def _run_dispatcher(self) -> None:
        """A steward's life: one worker, and the groups that it holds."""
        try:
            self._dispatch_batches(_Dispatcher(self))
        except BaseException as error:  # noqa: BLE001  # the caller of `map` gets it
            if not self._closed:
                self._error = error

    def _dispatch_batches(self, dispatcher: _Dispatcher) -> None:
        while True:
            while len(dispatcher.batches) < BATCHES_PER_WORKER:
                try:
                    group = self._queue.get(block=not dispatcher.batches)
                except queue.Empty:
                    break
                if group is None:  # for good
                    dispatcher.close()
                    return
                dispatcher.accept(group)
            dispatcher.collect_results()


class _Dispatcher:
    """One worker process at a time, and what it was given."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self.batches: deque[_PendingBatch] = deque()

    def accept(self, batch: _PendingBatch) -> None:
        self.batches.append(batch)
        self._send_batch(batch)

    def collect_results(self) -> None:
        """Waits for the first group's results, or for the worker's end."""
        group = self.batches[0]
        assert self._worker is not None
        try:
            group.set_results(self._worker.receive_results(len(group.pending) * self._pool.seconds))
            self.batches.popleft()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._handle_worker_exit(group)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _send_batch(self, batch: _PendingBatch) -> None:
        if self._worker is None:
            batch.start_count += 1
            if batch.start_count > len(batch.results) + MAX_BATCH_STARTS:
                raise WorkersFailed("The processes that decode pictures end before they begin. Free some memory.")
            self._worker = self._pool._fork_server.start_worker()
        pending = [batch.items[place] for place in batch.pending]
        with suppress(OSError):  # its end shows in `collect`
            self._worker.send_batch(
                WorkBatch(batch.number, batch.task, pending, self._pool.seconds, self._pool.max_pixels)
            )

    def _handle_worker_exit(self, batch: _PendingBatch) -> None:
        """Notes the item that the worker died of, and has a new one go on behind it."""
        assert self._worker is not None
        number, place = self._worker.read_progress()
        status = self._pool._fork_server.end_worker(self._worker)
        self._worker = None
        if self._pool._closed:
            raise EOFError
        if number == batch.number and place < len(batch.pending):
            batch.mark_lost(place, self._get_loss_reason(status))
        if batch.done_event.is_set():
            self.batches.popleft()
        for again in self.batches:
            self._send_batch(again)

    def _get_loss_reason(self, status: int) -> str:
        """Why an item was lost, from how its worker ended."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number in (0, signal.SIGALRM):
            return f"decoding it took more than {self._pool.seconds:g} seconds (SIMILE_DECODE_SECONDS)"
        if number == signal.SIGKILL:
            return "the process that decoded it was killed: perhaps there was not enough memory"
        return f"the decoder crashed on it ({signal.Signals(number).name})"
