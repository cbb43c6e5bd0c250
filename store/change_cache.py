"""A value that is computed from the catalogue, and again after the next change of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ChangeCache(Generic[T]):
    """Safe to share between threads: one computes, the others wait for it."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._cached: tuple[int, T] | None = None

    def get(self, change: int) -> T:
        """Return the value as of this change of the catalogue, or a later one."""
        cached = self._cached
        if cached is None or cached[0] < change:
            with self._lock:
                cached = self._cached
                if cached is None or cached[0] < change:
                    cached = self._cached = change, self._compute()
        return cached[1]
