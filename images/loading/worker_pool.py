"""Worker processes: apply a function to many items, in order, on all cores and in bounded memory.

    items --batches--> dispatcher threads --sockets--> workers (fork_server.py) --results, in order--> the caller

Decoders are a million lines of C, and files come from anywhere. If a worker crashes, hangs or is killed by the system,
only the current item is lost: its result is `WorkerLost`, and a new worker continues. Threads could not do that.
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

from simile.core.errors import WorkersFailed
from simile.images.loading.fork_server import WorkBatch, WorkCost, WorkerLost
from simile.images.loading.process import ForkServer, WorkerProcess

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

BATCH_ITEM_COUNT = 16  # items per message: a message for each item would cost more than decoding a small image
BATCH_BYTES = 4 << 20  # limit for a batch of items that contain bytes
MAX_WAITING_BATCHES = 32  # batches that may wait for the caller: two batches of the indexing job
BATCHES_PER_WORKER = 2  # the current batch and the next one
MAX_BATCH_STARTS = 3  # worker starts for one batch, in addition to one per item


def get_worker_count(workers: int) -> int:
    """Return `workers`, or if it is 0 the number of cores that this process may use."""
    return workers or len(os.sched_getaffinity(0))


@dataclass(kw_only=True)
class _PendingBatch:
    """Items with their results."""

    number: int  # identifies the batch
    task: bytes  # the pickled function
    items: list[Any]  # empty when the batch is done
    start_count: int = 0  # how many workers were started for this batch
    done_event: threading.Event = field(default_factory=threading.Event)  # set when all results are there

    def __post_init__(self) -> None:
        self.results: list[Any] = [None] * len(self.items)  # None while there is none
        self.pending = list(range(len(self.items)))  # indices of items that have no result

    def set_results(self, results: list[Any]) -> None:
        """Set the results of all pending items."""
        for index, result in zip(self.pending, results, strict=True):
            self.results[index] = result
        self._finish()

    def mark_lost(self, position: int, reason: str) -> None:
        """Set WorkerLost as the result of the pending item at this position."""
        self.results[self.pending.pop(position)] = WorkerLost(reason)
        if not self.pending:
            self._finish()

    def _finish(self) -> None:
        self.items = []  # free the memory
        self.done_event.set()


class WorkerPool:
    """A pool of worker processes: `with WorkerPool(2) as pool: for result in pool.map(function, items): …`.

    Several threads may call `map` at the same time.
    """

    def __init__(self, workers: int = 0, seconds: float = 60.0, max_pixels: int = 200_000_000) -> None:
        """Start the fork server; the workers (0: one per core) start with the first `map`.

        One item may take so many seconds. `max_pixels` of the largest image bound the memory of a worker.
        """
        self.cost = WorkCost.for_pixels(seconds, max_pixels)
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
        """Yield the function's result for each item, in order. Ends early after `stop`.

        It never runs far ahead of its caller, so that memory stays bounded. The function, or that of a partial, can be
        imported; the items can be pickled.
        """
        task = pickle.dumps(function)
        waiting: deque[_PendingBatch] = deque()
        self._start_dispatchers()
        max_waiting = max(MAX_WAITING_BATCHES, (BATCHES_PER_WORKER + 2) * self._worker_count)
        for batch in self._make_batches(task, items):
            waiting.append(batch)
            self._queue.put(batch)
            if len(waiting) >= max_waiting:
                yield from self._wait_for_results(waiting.popleft())
            if self._stopped:
                break
        while waiting and not self._stopped:
            yield from self._wait_for_results(waiting.popleft())

    def stop(self) -> None:
        """Make `map` end early, with the results that exist already."""
        self._stopped = True

    def close(self) -> None:
        """End the processes. Their unfinished work is lost."""
        self._stopped = self._closed = True
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._dispatcher_threads:
            self._queue.put(None)
        self._fork_server.close()
        for thread in self._dispatcher_threads:
            thread.join(timeout=5)

    def _make_batches(self, task: bytes, items: Iterable[Any]) -> Iterator[_PendingBatch]:
        """Group the items into batches, limited by count and by bytes."""
        group: list[Any] = []
        size = 0
        for item in items:
            group.append(item)
            size += sum(len(part) for part in item if isinstance(part, bytes)) if isinstance(item, tuple) else 0
            if len(group) == BATCH_ITEM_COUNT or size >= BATCH_BYTES:
                yield _PendingBatch(number=next(self._batch_numbers), task=task, items=group)
                group, size = [], 0
        if group:
            yield _PendingBatch(number=next(self._batch_numbers), task=task, items=group)

    def _wait_for_results(self, batch: _PendingBatch) -> Iterator[Any]:
        """Yield the results when the batch is done; raise the error of a dispatcher."""
        while not batch.done_event.wait(0.1):
            if self._error is not None:
                raise self._error
            if self._stopped:
                return
        yield from batch.results

    def _start_dispatchers(self) -> None:
        """Start one dispatcher thread per worker, if they are not running yet."""
        with self._start_lock:
            while len(self._dispatcher_threads) < self._worker_count:
                name = f"worker {len(self._dispatcher_threads)}"
                thread = threading.Thread(target=self._run_dispatcher, name=name, daemon=True)
                self._dispatcher_threads.append(thread)
                thread.start()

    def _run_dispatcher(self) -> None:
        """Give batches to one worker until the pool is closed; keep an error for the caller of `map`."""
        dispatcher = _Dispatcher(self)
        try:
            while True:
                while len(dispatcher.batches) < BATCHES_PER_WORKER:
                    try:
                        batch = self._queue.get(block=not dispatcher.batches)
                    except queue.Empty:
                        break
                    if batch is None:  # the pool is closed
                        dispatcher.close()
                        return
                    dispatcher.accept(batch)
                dispatcher.collect_results()
        except BaseException as error:  # noqa: BLE001  # the caller of `map` gets it
            if not self._closed:
                self._error = error


class _Dispatcher:
    """One worker process at a time, and the batches that it was given."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self.batches: deque[_PendingBatch] = deque()

    def accept(self, batch: _PendingBatch) -> None:
        """Send a batch to the worker."""
        self.batches.append(batch)
        self._send_batch(batch)

    def collect_results(self) -> None:
        """Wait for the results of the first batch, or for the end of the worker."""
        batch = self.batches[0]
        assert self._worker is not None
        try:
            batch.set_results(self._worker.receive_results(len(batch.pending) * self._pool.cost.seconds)[0])
            self.batches.popleft()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._handle_worker_exit(batch)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    def _send_batch(self, batch: _PendingBatch) -> None:
        """Send the pending items of a batch; start a worker if there is none. Raises WorkersFailed."""
        if self._worker is None:
            batch.start_count += 1
            if batch.start_count > len(batch.results) + MAX_BATCH_STARTS:
                raise WorkersFailed("The processes that decode images end before they begin. Free some memory.")
            self._worker = self._pool._fork_server.start_worker(reads_ahead=True)
        message = WorkBatch(
            number=batch.number,
            task=batch.task,
            items=[batch.items[index] for index in batch.pending],
            cost=self._pool.cost,
        )
        with suppress(OSError):  # `collect_results` notices that the worker has ended
            self._worker.send_batch(message)

    def _handle_worker_exit(self, batch: _PendingBatch) -> None:
        """Mark the item that ended the worker as lost, and send the rest to a new worker."""
        assert self._worker is not None
        number, position = self._worker.read_progress()
        status = self._pool._fork_server.end_worker(self._worker)
        self._worker = None
        if self._pool._closed:
            raise EOFError
        if number == batch.number and position < len(batch.pending):
            batch.mark_lost(position, get_loss_reason(status, self._pool.cost))
        if batch.done_event.is_set():
            self.batches.popleft()
        for unfinished in self.batches:
            self._send_batch(unfinished)


def get_loss_reason(status: int, cost: WorkCost) -> str:
    """Return why an item was lost, for people, from the status of its worker."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (0, signal.SIGALRM):
        return f"decoding it took more than {cost.seconds:g} seconds (SIMILE_DECODE_SECONDS)"
    if number == signal.SIGPROF:
        return "decoding it takes more CPU time than a request may use (SIMILE_UPLOAD_CPU_SECONDS)"
    if number == signal.SIGKILL:
        return "the process that decoded it was killed; perhaps there was not enough memory"
    return f"the decoder crashed on it ({signal.Signals(number).name})"
