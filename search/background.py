"""Compute a value from the indexed vectors in the background; keep it in memory and, for other processes, on disk."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from simile.core.arrays import ARRAY_FILE_ERRORS
from simile.core.atomic_write import write_atomically
from simile.core.errors import SimileError
from simile.images.loading.sandbox import WorkCancelled
from simile.store.home import Home, translate_write_errors
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

FILE_CHECK_SECONDS = 2.0  # how often to look for a file that another process may have written


@dataclass(frozen=True)
class CacheEntry(ABC):
    """A value that was computed from the vectors of one encoder in one base segment."""

    suffix: ClassVar[str]  # of its files

    encoder: str  # fingerprint of the encoder
    segment: int | None  # id of the base segment; None if there was none

    @abstractmethod
    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether the value is still valid for a snapshot with the same encoder and base segment."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the value to a file."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises one of ARRAY_FILE_ERRORS for a bad one."""


EntryT = TypeVar("EntryT", bound=CacheEntry)


class BackgroundCache(Generic[EntryT]):
    """One value computed from the indexed vectors. Safe to share between threads; `get` never waits for it.

    Args:
        home: The value is saved in its folder `gauges`.
        entry_type: The class of the value.
        measure: Computes the value; returns None if the event was set, which means stop.
        compute_on_demand: Compute a missing value on the first `get`. Otherwise only `start` computes it, and `get`
            returns what another process has saved.
    """

    def __init__(
        self,
        home: Home,
        entry_type: type[EntryT],
        measure: Callable[[Snapshot, threading.Event], EntryT | None],
        *,
        compute_on_demand: bool,
    ) -> None:
        self._folder, self._suffix = home.root / "gauges", entry_type.suffix
        self._entry_type, self._measure, self._compute_on_demand = entry_type, measure, compute_on_demand
        self._entry: EntryT | None = None
        self._next_file_check = 0.0  # time.monotonic()
        self._stop_event = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, snapshot: Snapshot) -> EntryT | None:
        """Return the cached value for these vectors; a stale value is returned until the new one is ready."""
        if self._entry is None or not _is_valid(self._entry, snapshot):
            now = time.monotonic()
            if now >= self._next_file_check:
                self._next_file_check = now + FILE_CHECK_SECONDS
                self._reload(snapshot)
        entry = self._entry
        return entry if entry is not None and entry.encoder == snapshot.encoder.fingerprint else None

    def start(self, snapshot: Snapshot) -> None:
        """Start to compute the value, unless that has started already."""
        with self._start_lock:
            if not self.is_measuring and not self._stop_event.is_set():
                self._thread = threading.Thread(target=self._compute, args=(snapshot,), name="measure", daemon=True)
                self._thread.start()

    @property
    def is_measuring(self) -> bool:
        """Whether this process computes the value now."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the computation has ended, or this long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def close(self) -> None:
        """Stop the computation; an unfinished value is dropped."""
        self._stop_event.set()
        self.wait()

    def _reload(self, snapshot: Snapshot) -> None:
        entry = self._load_entry(snapshot)
        if entry is not None:
            self._entry = entry
        if self._compute_on_demand and (entry is None or not _is_valid(entry, snapshot)):
            self.start(snapshot)

    def _compute(self, snapshot: Snapshot) -> None:
        try:
            with self._try_lock() as is_locked:
                if not is_locked:  # another process computes it
                    return
                entry = self._load_entry(snapshot)
                if entry is None or not _is_valid(entry, snapshot):
                    entry = self._measure(snapshot, self._stop_event)
                    if entry is not None:
                        self._save_entry(entry)
            if entry is not None:
                self._entry = entry
        except WorkCancelled:
            log.debug("background computation ended with its worker processes (%s)", self._suffix)
        except SimileError as error:  # such as an encoder that was removed meanwhile
            log.warning("background computation failed (%s): %s", self._suffix, error)

    @contextmanager
    def _try_lock(self) -> Iterator[bool]:
        """Yield whether no other process computes the value. Without a lock file every process computes its own."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / f"{self._suffix.strip('-')}.lock").open("wb")
        except OSError:
            yield True
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _get_path(self, encoder: str, segment: int | None) -> Path:
        return self._folder / f"{encoder[:16]}-{segment or 0}{self._suffix}"

    def _load_entry(self, snapshot: Snapshot) -> EntryT | None:
        with suppress(*ARRAY_FILE_ERRORS):
            entry = self._entry_type.load(self._get_path(snapshot.encoder.fingerprint, snapshot.base_segment_id))
            return entry if _has_same_source(entry, snapshot) else None
        return None

    def _save_entry(self, entry: EntryT) -> None:
        path = self._get_path(entry.encoder, entry.segment)
        try:
            with translate_write_errors(path):
                write_atomically(path, entry.save)
                for old in self._folder.glob(f"{entry.encoder[:16]}-*{self._suffix}"):
                    if old != path:
                        old.unlink(missing_ok=True)
        except SimileError as error:  # the value stays in memory
            log.info("%s", error)


def _has_same_source(entry: CacheEntry, snapshot: Snapshot) -> bool:
    return (entry.encoder, entry.segment) == (snapshot.encoder.fingerprint, snapshot.base_segment_id)


def _is_valid(entry: CacheEntry, snapshot: Snapshot) -> bool:
    return _has_same_source(entry, snapshot) and entry.fits(snapshot)
