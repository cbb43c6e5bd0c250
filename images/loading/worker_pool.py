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

from simile.images.loading.fork_server import Lost, Work
from simile.images.loading.process import Nursery, WorkerProcess, WorkersFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

GROUP = 16  # items that travel together: a message for each would cost more than a small picture
GROUP_BYTES = 4 << 20  # of items that bring their bytes along
AHEAD = 32  # groups that may be waiting for the caller; two batches of the job
HELD = 2  # groups that a worker has: one in work, one to go on with
MOST_STARTS = 3  # for one group, beyond one for each item


def worker_count(workers: int) -> int:
    """How many processes decode: `workers`, or one for each core that this process may use."""
    return workers or len(os.sched_getaffinity(0))


@dataclass
class _Group:
    """Items with their results; `pending`: places in it that have none yet."""

    number: int
    task: bytes
    items: list[Any]
    results: list[Any] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    starts: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)
        self.pending = list(range(len(self.items)))

    def fill(self, results: list[Any]) -> None:
        for place, result in zip(self.pending, results, strict=True):
            self.results[place] = result
        self.finish()

    def lose(self, place: int, reason: str) -> None:
        self.results[self.pending.pop(place)] = Lost(reason)
        if not self.pending:
            self.finish()

    def finish(self) -> None:
        self.items = []
        self.done.set()


class Workers:
    """`with Workers(2) as workers: for result in workers.map(function, items): …`

    `seconds`: how long one item may take. `max_pixels`: of the largest picture, which bounds a worker's memory.
    Several threads may call `map` at a time.
    """

    def __init__(self, workers: int = 0, seconds: float = 60.0, max_pixels: int = 200_000_000) -> None:
        self.seconds, self.max_pixels = seconds, max_pixels
        self._count = worker_count(workers)
        self._queue: queue.Queue[_Group | None] = queue.Queue()
        self._numbers = iter(range(1, sys.maxsize))
        self._stewards: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = self._closed = False
        self._nursery = Nursery()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result | Lost]:
        """The function's result for each item, in order. `function` can be imported, or is a partial of such.

        Never runs far ahead of its caller, so that memory stays bounded. After `stop` it ends early.
        """
        task = pickle.dumps(function)
        waiting: deque[_Group] = deque()
        self._start_stewards()
        ahead = max(AHEAD, (HELD + 2) * self._count)
        for group in self._groups(task, items):
            waiting.append(group)
            self._queue.put(group)
            if len(waiting) >= ahead:
                yield from self._finished(waiting.popleft())
            if self._stopped:
                break
        while waiting and not self._stopped:
            yield from self._finished(waiting.popleft())

    def stop(self) -> None:
        """Lets `map` end with what is done already: for whoever was asked to finish."""
        self._stopped = True

    def close(self) -> None:
        """Ends the processes. What they were busy with is lost."""
        self._stopped = self._closed = True
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._stewards:
            self._queue.put(None)
        self._nursery.close()
        for steward in self._stewards:
            steward.join(timeout=5)

    def _groups(self, task: bytes, items: Iterable[Any]) -> Iterator[_Group]:
        held: list[Any] = []
        size = 0
        for item in items:
            held.append(item)
            size += sum(len(part) for part in item if isinstance(part, bytes)) if isinstance(item, tuple) else 0
            if len(held) == GROUP or size >= GROUP_BYTES:
                yield _Group(next(self._numbers), task, held)
                held, size = [], 0
        if held:
            yield _Group(next(self._numbers), task, held)

    def _finished(self, group: _Group) -> Iterator[Any]:
        while not group.done.wait(0.1):
            if self._error is not None:
                raise self._error
            if self._stopped:
                return
        yield from group.results

    def _start_stewards(self) -> None:
        with self._starting:
            while len(self._stewards) < self._count:
                steward = threading.Thread(target=self._serve, name=f"worker {len(self._stewards)}", daemon=True)
                self._stewards.append(steward)
                steward.start()

    def _serve(self) -> None:
        """A steward's life: one worker, and the groups that it holds."""
        try:
            self._look_after(_Steward(self))
        except BaseException as error:  # noqa: BLE001  # the caller of `map` gets it
            if not self._closed:
                self._error = error

    def _look_after(self, steward: _Steward) -> None:
        while True:
            while len(steward.held) < HELD:
                try:
                    group = self._queue.get(block=not steward.held)
                except queue.Empty:
                    break
                if group is None:  # for good
                    steward.end()
                    return
                steward.take(group)
            steward.collect()


class _Steward:
    """One worker process at a time, and what it was given."""

    def __init__(self, workers: Workers) -> None:
        self._of = workers
        self._worker: WorkerProcess | None = None
        self.held: deque[_Group] = deque()

    def take(self, group: _Group) -> None:
        self.held.append(group)
        self._give(group)

    def collect(self) -> None:
        """Waits for the first group's results, or for the worker's end."""
        group = self.held[0]
        assert self._worker is not None
        try:
            group.fill(self._worker.receive(len(group.pending) * self._of.seconds))
            self.held.popleft()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(group)

    def end(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _give(self, group: _Group) -> None:
        if self._worker is None:
            group.starts += 1
            if group.starts > len(group.results) + MOST_STARTS:
                raise WorkersFailed("The processes that decode pictures end before they begin. Free some memory.")
            self._worker = self._of._nursery.worker()
        pending = [group.items[place] for place in group.pending]
        with suppress(OSError):  # its end shows in `collect`
            self._worker.give(Work(group.number, group.task, pending, self._of.seconds, self._of.max_pixels))

    def _bury(self, group: _Group) -> None:
        """Notes the item that the worker died of, and has a new one go on behind it."""
        assert self._worker is not None
        number, place = self._worker.progress()
        status = self._of._nursery.end(self._worker)
        self._worker = None
        if self._of._closed:
            raise EOFError
        if number == group.number and place < len(group.pending):
            group.lose(place, self._reason(status))
        if group.done.is_set():
            self.held.popleft()
        for again in self.held:
            self._give(again)

    def _reason(self, status: int) -> str:
        """Why an item was lost, from how its worker ended."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number in (0, signal.SIGALRM):
            return f"decoding it took more than {self._of.seconds:g} seconds (SIMILE_DECODE_SECONDS)"
        if number == signal.SIGKILL:
            return "the process that decoded it was killed: perhaps there was not enough memory"
        return f"the decoder crashed on it ({signal.Signals(number).name})"
