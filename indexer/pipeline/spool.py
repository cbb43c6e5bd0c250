"""A list that may become longer than memory: it goes to a temporary file, and is read from front to back."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

SPOOL_BLOCK_SIZE = 5000  # items kept in memory, and written together: a megabyte of paths


class Spool(Generic[T]):
    """Grows at its end until it is first read; read as often as one likes, by one reader at a time."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the spool lives
        self._tail: list[T] = []
        self._count = self._blocks = 0
        self.extend(items)

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        self._tail.append(item)
        self._count += 1
        if len(self._tail) == SPOOL_BLOCK_SIZE:
            pickle.dump(self._tail, self._file, protocol=5)
            self._tail = []
            self._blocks += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        self._file.seek(0)
        for _ in range(self._blocks):
            block: list[T] = pickle.load(self._file)
            yield from block
        yield from self._tail

    def close(self) -> None:
        """Frees the file."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()
