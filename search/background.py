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

from simile.core.atomic_write import write_durably
from simile.core.errors import SimileError
from simile.store.home import Home, writing
from simile.store.index.snapshot import Snapshot

log = logging.getLogger(__name__)

LOOKED = 2.0  # seconds until a file that another process may have written is looked for again


class Measured(Protocol):
    """Something that holds for the vectors of one encoder, in one segment and what was newer."""

    @property
    def encoder(self) -> str: ...

    @property
    def segment(self) -> int | None: ...

    def fits(self, images: int) -> bool:
        """Whether it still holds for so many pictures."""


M = TypeVar("M", bound=Measured)


def _of_as_many(measured: Measured, snapshot: Snapshot) -> bool:
    return measured.fits(len(snapshot))


@dataclass(frozen=True)
class Kind(Generic[M]):
    """How something is measured, written and read. suffix: of its files.

    measure: takes what to measure and an event that says stop, and gives None then. load: may raise OSError, EOFError,
    BadZipFile, ValueError, KeyError or TypeError for what is no such file. holds: whether what was measured of this
    segment still holds, where its `fits` can't say.
    """

    suffix: str
    measure: Callable[[Snapshot, threading.Event], M | None]
    save: Callable[[M, Path], object]
    load: Callable[[Path], M]
    holds: Callable[[M, Snapshot], bool] = _of_as_many


class Behind(Generic[M]):
    """One thing that is measured of the vectors in use. Safe to share between threads; nobody ever waits for it.

    `always`: has it measured as soon as somebody asks for it; else only what another process has measured is known,
    until `start`.
    """

    def __init__(self, home: Home, kind: Kind[M], *, always: bool) -> None:
        self._home, self._kind, self._always = home, kind, always
        self._known: M | None = None
        self._look_at = 0.0  # time.monotonic() from which a file is looked for again
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def current(self, snapshot: Snapshot) -> M | None:
        """What is known of these vectors now. One of before their segment was made serves until there is another."""
        known = self._known
        if known is None or not self._fits(known, snapshot):
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + LOOKED
                self._look(snapshot)
        known = self._known
        return known if known is not None and known.encoder == snapshot.encoder.fingerprint else None

    def start(self, snapshot: Snapshot) -> None:
        """Has it measured, unless that is under way."""
        with self._starting:
            if not self.is_measuring and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._make, args=(snapshot,), name="measure", daemon=True)
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
        self._stopping.set()
        self.wait()

    def keep(self, measured: M) -> None:
        """Makes this what is known, in this process."""
        self._known = measured

    def _look(self, snapshot: Snapshot) -> None:
        found = self._read(snapshot)
        if found is not None:
            self._known = found
        if self._always and (found is None or not self._fits(found, snapshot)):
            self.start(snapshot)

    def _make(self, snapshot: Snapshot) -> None:
        try:
            with self._alone() as alone:
                if not alone:  # another process is at it
                    return
                found = self._read(snapshot)
                if found is None or not self._fits(found, snapshot):
                    found = self._kind.measure(snapshot, self._stopping)
                    if found is not None:
                        self._write(found)
            if found is not None:
                self._known = found
        except SimileError as error:  # such as an encoder that was removed meanwhile
            log.warning("What is usual in this collection could not be measured: %s", error)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process measures this now. Where nothing can be written, everybody does."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / f"{self._kind.suffix.strip('-')}.lock").open("wb")
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

    def _path(self, encoder: str, segment: int | None) -> Path:
        return self._folder / f"{encoder[:16]}-{segment or 0}{self._kind.suffix}"

    def _fits(self, measured: M, snapshot: Snapshot) -> bool:
        same = (measured.encoder, measured.segment) == (snapshot.encoder.fingerprint, snapshot.base)
        return same and self._kind.holds(measured, snapshot)

    def _read(self, snapshot: Snapshot) -> M | None:
        encoder = snapshot.encoder.fingerprint
        with suppress(OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
            found = self._kind.load(self._path(encoder, snapshot.base))
            return found if (found.encoder, found.segment) == (encoder, snapshot.base) else None
        return None

    def _write(self, measured: M) -> None:
        path = self._path(measured.encoder, measured.segment)
        try:
            with writing(path):
                write_durably(path, lambda temporary: self._kind.save(measured, temporary))
                for old in self._folder.glob(f"{measured.encoder[:16]}-*{self._kind.suffix}"):
                    if old != path:
                        old.unlink(missing_ok=True)
        except SimileError as error:  # it stays in memory
            log.info("%s", error)
