"""What is measured of a collection behind the searches, and kept: in memory, and in HOME/gauges for other processes."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from zipfile import BadZipFile

from simile.core.atomic_write import write_atomically
from simile.core.errors import SimileError
from simile.store.home import Home, translate_write_errors
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

FILE_CHECK_SECONDS = 2.0  # seconds until a file that another process may have written is looked for again


class CacheEntry(Protocol):
    """Something that holds for the vectors of one encoder, in one segment and what was newer."""

    @property
    def encoder(self) -> str: ...

    @property
    def segment(self) -> int | None: ...

    def fits(self, images: int) -> bool:
        """Whether it still holds for so many pictures."""


EntryT = TypeVar("EntryT", bound=CacheEntry)


def _fits_snapshot(entry: CacheEntry, snapshot: Snapshot) -> bool:
    return entry.fits(len(snapshot))


@dataclass(frozen=True)
class CacheSpec(Generic[EntryT]):
    """How something is measured, written and read. suffix: of its files.

    measure: takes what to measure and an event that says stop, and gives None then. load: may raise OSError, EOFError,
    BadZipFile, ValueError, KeyError or TypeError for what is no such file. holds: whether what was measured of this
    segment still holds, where its `fits` can't say.
    """

    suffix: str
    measure: Callable[[Snapshot, threading.Event], EntryT | None]
    save: Callable[[EntryT, Path], object]
    load: Callable[[Path], EntryT]
    is_valid: Callable[[EntryT, Snapshot], bool] = _fits_snapshot


class BackgroundCache(Generic[EntryT]):
    """One thing that is measured of the vectors in use. Safe to share between threads; nobody ever waits for it.

    `always`: has it measured as soon as somebody asks for it; else only what another process has measured is known,
    until `start`.
    """

    def __init__(self, home: Home, spec: CacheSpec[EntryT], *, compute_on_demand: bool) -> None:
        self._home, self._spec, self._compute_on_demand = home, spec, compute_on_demand
        self._entry: EntryT | None = None
        self._next_file_check = 0.0  # time.monotonic() from which a file is looked for again
        self._stop_event = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, snapshot: Snapshot) -> EntryT | None:
        """What is known of these vectors now. One of before their segment was made serves until there is another."""
        known = self._entry
        if known is None or not self._is_valid(known, snapshot):
            now = time.monotonic()
            if now >= self._next_file_check:
                self._next_file_check = now + FILE_CHECK_SECONDS
                self._reload(snapshot)
        known = self._entry
        return known if known is not None and known.encoder == snapshot.encoder.fingerprint else None

    def start(self, snapshot: Snapshot) -> None:
        """Has it measured, unless that is under way."""
        with self._start_lock:
            if not self.is_measuring and not self._stop_event.is_set():
                self._thread = threading.Thread(target=self._compute, args=(snapshot,), name="measure", daemon=True)
                self._thread.start()

    @property
    def is_measuring(self) -> bool:
        """Whether this process is at it."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Until what is being measured has been."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stops measuring. What was not finished is begun anew by whoever needs it next."""
        self._stop_event.set()
        self.wait()

    def put(self, entry: EntryT) -> None:
        """Makes this what is known, in this process."""
        self._entry = entry

    def _reload(self, snapshot: Snapshot) -> None:
        found = self._load_entry(snapshot)
        if found is not None:
            self._entry = found
        if self._compute_on_demand and (found is None or not self._is_valid(found, snapshot)):
            self.start(snapshot)

    def _compute(self, snapshot: Snapshot) -> None:
        try:
            with self._try_lock() as alone:
                if not alone:  # another process is at it
                    return
                found = self._load_entry(snapshot)
                if found is None or not self._is_valid(found, snapshot):
                    found = self._spec.measure(snapshot, self._stop_event)
                    if found is not None:
                        self._save_entry(found)
            if found is not None:
                self._entry = found
        except SimileError as error:  # such as an encoder that was removed meanwhile
            log.warning("What is usual in this collection could not be measured: %s", error)

    @contextmanager
    def _try_lock(self) -> Iterator[bool]:
        """Whether no other process measures this now. Where nothing can be written, everybody does."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / f"{self._spec.suffix.strip('-')}.lock").open("wb")
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

    @property
    def _folder(self) -> Path:
        return self._home.root / "gauges"

    def _get_path(self, encoder: str, segment: int | None) -> Path:
        return self._folder / f"{encoder[:16]}-{segment or 0}{self._spec.suffix}"

    def _is_valid(self, entry: EntryT, snapshot: Snapshot) -> bool:
        same = (entry.encoder, entry.segment) == (snapshot.encoder.fingerprint, snapshot.base_segment_id)
        return same and self._spec.is_valid(entry, snapshot)

    def _load_entry(self, snapshot: Snapshot) -> EntryT | None:
        encoder = snapshot.encoder.fingerprint
        with suppress(OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
            found = self._spec.load(self._get_path(encoder, snapshot.base_segment_id))
            return found if (found.encoder, found.segment) == (encoder, snapshot.base_segment_id) else None
        return None

    def _save_entry(self, entry: EntryT) -> None:
        path = self._get_path(entry.encoder, entry.segment)
        try:
            with translate_write_errors(path):
                write_atomically(path, lambda temporary: self._spec.save(entry, temporary))
                for old in self._folder.glob(f"{entry.encoder[:16]}-*{self._spec.suffix}"):
                    if old != path:
                        old.unlink(missing_ok=True)
        except SimileError as error:  # it stays in memory
            log.info("%s", error)
