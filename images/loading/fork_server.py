"""What runs beside the job: a nursery that imports the decoder once, and the worker processes that it forks.

A worker takes a group of items and gives back their results. What a damaged picture can do to a process, it does to
the worker alone: the system kills it when it crashes, takes too much memory, or sits over one item for too long. All
of it single-threaded when it forks, and without torch, so that a worker starts in milliseconds.
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
from typing import Any

READY_MESSAGE = b"ready"
PROGRESS_BYTES = 16  # the group's number and the item's place in it, 8 bytes each
MIN_WORKER_MEMORY = 1 << 30  # bytes a worker may always have
BYTES_PER_PIXEL = 16  # of the largest picture allowed: decoded, converted, laid over a background
MAX_KILL_POLLS = 2000  # times 1 ms that a killed worker has to be gone


@dataclass(frozen=True)
class WorkBatch:
    """One group on its way to a worker. `task`: a pickled function of one item that can be imported."""

    number: int
    task: bytes
    items: list[Any]
    seconds: float
    max_pixels: int


@dataclass(frozen=True)
class WorkerLost:
    """Stands for the result of an item that its worker did not survive."""

    reason: str


def run_fork_server(control_fd: int) -> None:
    """The nursery's life: forks a worker, or ends one, as the job asks; ends itself when the job is gone."""
    with socket.socket(fileno=control_fd) as control:
        control.sendall(READY_MESSAGE)
        children: set[int] = set()
        while True:
            message, descriptors, *_ = socket.recv_fds(control, 64, 2)
            word, _, number = message.decode().partition(" ")
            if word == "fork":
                answer = _fork_worker(control, children, *descriptors)
            elif word == "end":
                answer = _kill_worker(children, int(number))
            else:
                break
            with suppress(OSError):
                control.sendall(str(answer).encode())
        for child in list(children):
            _kill_worker(children, child)


def _fork_worker(control: socket.socket, children: set[int], channel: int, progress: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _run_worker(socket.socket(fileno=channel), progress)
        finally:
            os._exit(0)  # never back into the nursery's own loop
    os.close(channel)
    os.close(progress)
    children.add(pid)
    return pid


def _kill_worker(children: set[int], pid: int) -> int:
    """Kills the worker if it still lives; gives how it ended, as `os.waitpid` says it, 0 where that can't be had."""
    if pid not in children:
        return 0
    children.discard(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # does nothing to one that has ended: it is waited for only here
    for _ in range(MAX_KILL_POLLS):  # a process that hangs in the kernel, on a dead disk, can't be killed
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    return 0


def _run_worker(channel: socket.socket, progress: int) -> None:
    """A worker's life. The next group is read while one is worked on, so that there is no gap between them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is stuck in
    place = mmap.mmap(progress, PROGRESS_BYTES)
    waiting: queue.SimpleQueue[WorkBatch] = queue.SimpleQueue()
    threading.Thread(target=_receive_batches, args=(channel, waiting), daemon=True).start()
    while True:
        send_message(channel, _compute_results(waiting.get(), place))


def _receive_batches(channel: socket.socket, batches: queue.SimpleQueue[WorkBatch]) -> None:
    with suppress(EOFError, OSError):
        while True:
            batches.put(receive_message(channel))
    os._exit(0)  # whatever the worker is busy with, nobody waits for it any more


def _compute_results(batch: WorkBatch, progress_map: mmap.mmap) -> list[Any]:
    _limit_memory(batch.max_pixels)
    task: Callable[[Any], Any] = pickle.loads(batch.task)
    results: list[Any] = []
    for number, item in enumerate(batch.items):
        progress_map[:] = batch.number.to_bytes(8, "little") + number.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_REAL, batch.seconds)
        try:
            results.append(task(item))
        except Exception as error:  # the task's own fault, and no reason to stop the job  # noqa: BLE001
            results.append(WorkerLost(f"it can't be read ({type(error).__name__}: {error})"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return results


def _limit_memory(max_pixels: int) -> None:
    """More than the largest picture can need is a fault of a decoder: it gets a MemoryError, and the job lives."""
    most = MIN_WORKER_MEMORY + BYTES_PER_PIXEL * max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def send_message(channel: socket.socket, message: object) -> None:
    """One message, behind its length."""
    data = pickle.dumps(message, protocol=5)
    channel.sendall(len(data).to_bytes(8, "little"))
    channel.sendall(data)


def receive_message(channel: socket.socket) -> Any:
    """The next message. Raises EOFError when the other end is gone."""
    return pickle.loads(_receive_exactly(channel, int.from_bytes(_receive_exactly(channel, 8), "little")))


def _receive_exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        got = channel.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return data
