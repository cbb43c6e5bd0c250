"""A function for worker processes; a module of its own, so that they import nothing else."""

from __future__ import annotations

import os


def abort_on_crash(data: bytes, path: str) -> str:
    """Return the path, or abort the process if the file says "crash"."""
    if data == b"crash":
        os.abort()
    return path
