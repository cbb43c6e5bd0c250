"""The fork server: a process that imports the decoder once and forks worker processes from itself.

A worker gets a batch of items and returns their results. A damaged image can only harm its worker: the system kills a
worker that crashes, uses too much memory or needs too long for one item. The fork server has one thread and does not
import torch, so that a worker starts in milliseconds.
"""

from __future__ import annotations

import mmap
import os
import pickle
import queue
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

READY_MESSAGE = b"ready"
PROGRESS_BYTES = 16  # the batch's number and the item's position in it, 8 bytes each
MIN_WORKER_MEMORY = 1 << 30  # bytes that a worker may always use
BYTES_PER_PIXEL = 16  # of the largest image allowed: decoded, converted, laid over a background
MAX_KILL_POLLS = 2000  # polls, 1 ms apart, until a killed worker has ended


@dataclass(frozen=True)
class WorkCost:
    """What one item may cost: seconds, bytes of memory beyond those of an idle worker, and seconds of CPU time."""

    seconds: float
    memory: int
    cpu_seconds: float = 0.0  # 0: no limit besides `seconds`

    @classmethod
    def for_pixels(cls, seconds: float, max_pixels: int) -> WorkCost:
        """Return the cost with the memory that the largest image allowed needs."""
        return cls(seconds, MIN_WORKER_MEMORY + BYTES_PER_PIXEL * max_pixels)


@dataclass(frozen=True, kw_only=True)
class WorkBatch:
    """A batch of items for a worker."""

    number: int  # identifies the batch in the progress map
    task: bytes  # a pickled function of one item
    items: list[Any]
    cost: WorkCost  # that one item may have


@dataclass(frozen=True)
class WorkerLost:
    """The result of an item whose worker process ended, with the reason for people."""

    reason: str


def run_fork_server(control_fd: int) -> None:
    """Fork and kill workers on request; end when the parent process has ended.

    The requests come over a socket. "fork" and "fork ahead" come with two descriptors (channel, progress) and are
    answered with the pid; "end PID" is answered with the wait status.
    """
    with socket.socket(fileno=control_fd) as control:
        control.sendall(READY_MESSAGE)
        children: set[int] = set()
        while True:
            message, descriptors, *_ = socket.recv_fds(control, 64, 2)
            command, _, argument = message.decode().partition(" ")
            if command == "fork":
                answer = _fork_worker(control, children, *descriptors, reads_ahead=argument == "ahead")
            elif command == "end":
                answer = _kill_worker(children, int(argument))
            else:  # an empty message: the parent has closed its end
                break
            with suppress(OSError):
                control.sendall(str(answer).encode())
        for child in list(children):
            _kill_worker(children, child)


def _fork_worker(control: socket.socket, children: set[int], channel: int, progress: int, *, reads_ahead: bool) -> int:
    """Fork a worker that uses the two descriptors; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _run_worker(socket.socket(fileno=channel), progress, reads_ahead)
        finally:
            os._exit(0)  # never return into the loop of the fork server
    os.close(channel)
    os.close(progress)
    children.add(pid)
    return pid


def _kill_worker(children: set[int], pid: int) -> int:
    """Kill the worker if it is still running; return its status as from `os.waitpid`, 0 if that is not available."""
    if pid not in children:
        return 0
    children.discard(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # no effect on a worker that has ended: only this function waits for it
    for _ in range(MAX_KILL_POLLS):  # a process that hangs in the kernel, on a dead disk, can't be killed
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    return 0


def _run_worker(channel: socket.socket, progress: int, reads_ahead: bool) -> None:
    """Work on batches until the channel ends.

    `reads_ahead`: a thread reads the next batch meanwhile, so that there is no gap; a single batch takes longer.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside a library
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    progress_map = mmap.mmap(progress, PROGRESS_BYTES)
    receive: Callable[[], WorkBatch] = partial(receive_message, channel)
    if reads_ahead:
        batches: queue.SimpleQueue[WorkBatch] = queue.SimpleQueue()
        threading.Thread(target=_receive_batches, args=(channel, batches), daemon=True).start()
        receive = batches.get
    idle_memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    while True:
        send_message(channel, _compute_results(receive(), progress_map, idle_memory))


def _receive_batches(channel: socket.socket, batches: queue.SimpleQueue[WorkBatch]) -> None:
    """Put each received batch into the queue; end the process when the channel is closed."""
    with suppress(EOFError, OSError):
        while True:
            batches.put(receive_message(channel))
    os._exit(0)  # the results of the current batch are not needed any more


def _compute_results(batch: WorkBatch, progress_map: mmap.mmap, idle_memory: int) -> tuple[list[Any], float]:
    """Run the task on each item, with timers; note the current item in the progress map.

    Returns:
        The results, and the CPU seconds of all items.
    """
    # Limit the memory: a faulty decoder gets a MemoryError.
    limit, (_, hard) = idle_memory + batch.cost.memory, resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    task: Callable[[Any], Any] = pickle.loads(batch.task)
    results: list[Any] = []
    started = time.process_time()
    for position, item in enumerate(batch.items):
        progress_map[:] = batch.number.to_bytes(8, "little") + position.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_REAL, batch.cost.seconds)
        signal.setitimer(signal.ITIMER_PROF, batch.cost.cpu_seconds)
        try:
            results.append(task(item))
        except Exception as error:  # an error of the task must not stop the job  # noqa: BLE001
            results.append(WorkerLost(f"it can't be read ({type(error).__name__}: {error})"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    return results, time.process_time() - started


def send_message(channel: socket.socket, message: object) -> None:
    """Pickle and send one message, after its length."""
    data = pickle.dumps(message, protocol=5)
    channel.sendall(len(data).to_bytes(8, "little") + data)  # in one piece, which wakes the receiver once


def receive_message(channel: socket.socket) -> Any:
    """Receive the next message. Raises EOFError when the other end is closed."""
    return pickle.loads(_receive_exactly(channel, int.from_bytes(_receive_exactly(channel, 8), "little")))


def _receive_exactly(channel: socket.socket, size: int) -> bytearray:
    """Receive `size` bytes."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data
