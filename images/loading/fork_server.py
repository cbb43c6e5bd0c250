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

READY = b"ready"
PROGRESS_BYTES = 16  # the group's number and the item's place in it, 8 bytes each
LEAST_MEMORY = 1 << 30  # bytes a worker may always have
BYTES_PER_PIXEL = 16  # of the largest picture allowed: decoded, converted, laid over a background
PATIENCE = 2000  # times 1 ms that a killed worker has to be gone


@dataclass(frozen=True)
class Work:
    """One group on its way to a worker. `task`: a pickled function of one item that can be imported."""

    number: int
    task: bytes
    items: list[Any]
    seconds: float
    max_pixels: int


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item that its worker did not survive."""

    reason: str


def run(descriptor: int) -> None:
    """The nursery's life: forks a worker, or ends one, as the job asks; ends itself when the job is gone."""
    with socket.socket(fileno=descriptor) as control:
        control.sendall(READY)
        children: set[int] = set()
        while True:
            message, descriptors, *_ = socket.recv_fds(control, 64, 2)
            word, _, number = message.decode().partition(" ")
            if word == "fork":
                answer = _fork(control, children, *descriptors)
            elif word == "end":
                answer = _end(children, int(number))
            else:
                break
            with suppress(OSError):
                control.sendall(str(answer).encode())
        for child in list(children):
            _end(children, child)


def _fork(control: socket.socket, children: set[int], channel: int, progress: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _serve(socket.socket(fileno=channel), progress)
        finally:
            os._exit(0)  # never back into the nursery's own loop
    os.close(channel)
    os.close(progress)
    children.add(pid)
    return pid


def _end(children: set[int], pid: int) -> int:
    """Kills the worker if it still lives; gives how it ended, as `os.waitpid` says it, 0 where that can't be had."""
    if pid not in children:
        return 0
    children.discard(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # does nothing to one that has ended: it is waited for only here
    for _ in range(PATIENCE):  # a process that hangs in the kernel, on a dead disk, can't be killed
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    return 0


def _serve(channel: socket.socket, progress: int) -> None:
    """A worker's life. The next group is read while one is worked on, so that there is no gap between them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is stuck in
    place = mmap.mmap(progress, PROGRESS_BYTES)
    waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(channel, waiting), daemon=True).start()
    while True:
        send(channel, _results(waiting.get(), place))


def _read(channel: socket.socket, waiting: queue.SimpleQueue[Work]) -> None:
    with suppress(EOFError, OSError):
        while True:
            waiting.put(receive(channel))
    os._exit(0)  # whatever the worker is busy with, nobody waits for it any more


def _results(work: Work, place: mmap.mmap) -> list[Any]:
    _bound_memory(work.max_pixels)
    task: Callable[[Any], Any] = pickle.loads(work.task)
    results: list[Any] = []
    for number, item in enumerate(work.items):
        place[:] = work.number.to_bytes(8, "little") + number.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_REAL, work.seconds)
        try:
            results.append(task(item))
        except Exception as error:  # noqa: BLE001  # the task's own fault, and no reason to stop the job
            results.append(Lost(f"it can't be read ({type(error).__name__}: {error})"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return results


def _bound_memory(max_pixels: int) -> None:
    """More than the largest picture can need is a fault of a decoder: it gets a MemoryError, and the job lives."""
    most = LEAST_MEMORY + BYTES_PER_PIXEL * max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def send(channel: socket.socket, message: object) -> None:
    """One message, behind its length."""
    data = pickle.dumps(message, protocol=5)
    channel.sendall(len(data).to_bytes(8, "little"))
    channel.sendall(data)


def receive(channel: socket.socket) -> Any:
    """The next message. Raises EOFError when the other end is gone."""
    return pickle.loads(_exactly(channel, int.from_bytes(_exactly(channel, 8), "little")))


def _exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        got = channel.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return data
