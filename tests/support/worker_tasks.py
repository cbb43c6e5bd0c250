"""Functions for worker processes; a module of its own, so that the workers import nothing else."""

from __future__ import annotations

import os
import time

from simile.core.errors import ImageTooLarge, NotFinite


def abort_on_crash(data: bytes, path: str) -> str:
    """Return the path, or abort the process if the file says "crash"."""
    if data == b"crash":
        os.abort()
    return path


def burn(data: bytes, name: str) -> float:
    """Use CPU time; the name says how much."""
    started = time.process_time()
    while time.process_time() - started < float(name):
        pass
    return time.process_time() - started


def fail(data: bytes, name: str) -> None:
    raise {"large": ImageTooLarge("x", "too large"), "finite": NotFinite("NaN"), "bug": KeyError("bug")}[name]


def allocate(data: bytes, name: str) -> int:
    return len(bytearray(int(name)))


def get_pid(data: bytes, name: str) -> int:
    return os.getpid()


def wait(data: bytes, name: str) -> None:
    time.sleep(float(name))
