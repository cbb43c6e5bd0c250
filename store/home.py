"""The home: a folder that holds the catalogue, encoders, segments and uploads, with a lock for writers."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, Self

from sqlalchemy import URL, make_url

from simile.core.atomic_write import finish_replacing
from simile.core.errors import DatabaseUnavailable, HomeBusy, HomeNotWritable
from simile.core.settings import Settings
from simile.images.sources.buckets import UPLOAD_SCHEME
from simile.store.database.postgresql import DatabaseLock, find_lock_holder

if TYPE_CHECKING:
    from simile.store.objects import ObjectStore

NOT_WRITABLE_ERRNOS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST),
    errno.EFBIG,  # larger than the file system or `ulimit -f` allows
}
MIN_FREE_BYTES = 32_000_000  # which uploads leave free, for changes of the catalogue and its log
OWN_FOLDERS = ("encoders", "segments", "uploads", "cache", "attributes", "maps", "measures", "gauges", "dedup")
KEYS_RESERVE_BYTES = 1 << 20  # SQLite's log and its index, for the deletion of a key's sessions


class Home:
    """Paths in a home, and its lock."""

    def __init__(self, root: Path, database_url: str | None = None, objects_url: str | None = None) -> None:
        """Take the folder, and the places of what several hosts share.

        Args:
            root: The folder.
            database_url: The SQLAlchemy URL of the catalogue; None for `catalogue.sqlite` in the folder.
            objects_url: The URL of the object store; None for the folder.
        """
        self.root = root.absolute()
        self.database_url = database_url
        self._objects_url = objects_url
        self.holds_lock = False
        self.catalogue_path = self.root / "catalogue.sqlite"
        self.encoders = self.root / "encoders"  # one subfolder for each encoder
        self.segments = self.root / "segments"  # index files
        self.uploads = self.root / "uploads"  # uploaded images
        self.cache = self.root / "cache"  # thumbnails and members of archives; may be missing
        self.attributes = self.root / "attributes"  # one subfolder for each encoder that has attributes; may be missing
        self.keys_reserve = self.root / "keys.reserve"  # exists once the home has keys: see keep_keys_reserve

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the home of the settings."""
        return cls(settings.home, settings.database_url, settings.objects)

    @cached_property
    def objects(self) -> ObjectStore:
        """The store of uploads, segments and encoders: this folder, or a store that several hosts share."""
        from simile.store.objects import open_object_store  # noqa: PLC0415  # it imports this module

        return open_object_store(self.root, self._objects_url)

    def is_upload(self, path: str) -> bool:
        """Return whether the location is that of an uploaded file."""
        return path.startswith(UPLOAD_SCHEME) or os.path.dirname(path) == str(self.uploads)  # noqa: PTH120  # no Path

    @property
    def own_folders(self) -> list[Path]:
        """The folders of the home's own files. Images in them are never a part of a source; some may be missing."""
        return [self.root / name for name in OWN_FOLDERS]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the catalogue."""
        # URL.create escapes "?" and "%" in a folder's name, which have a meaning in a URL.
        return self.database_url or URL.create("sqlite", database=str(self.catalogue_path)).render_as_string()

    def create(self) -> Home:
        """Create the missing folders; only their user may read them. Raises HomeNotWritable."""
        for folder in (self.root, self.encoders, self.segments, self.uploads):
            with translate_write_errors(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def check_free_space(self, size: int) -> None:
        """Check that a file of this size leaves enough space for the catalogue. Raises HomeNotWritable."""
        free = shutil.disk_usage(self.root).free
        if free - size < MIN_FREE_BYTES:
            raise HomeNotWritable(
                f"Only {free:,} bytes are free for {self.root}, and {MIN_FREE_BYTES:,} stay free. Make space, and try "
                "again."
            )

    def keep_keys_reserve(self) -> None:
        """Write the file that shows that the home has keys, as far as that is possible.

        With it, a home stays closed when its catalogue is emptied or lost. Its bytes are space that `use_keys_reserve`
        frees; they are random, because some file systems store zeros without using space.
        """
        with suppress(OSError), self.keys_reserve.open("ab", buffering=0) as file:
            file.write(os.urandom(max(0, KEYS_RESERVE_BYTES - file.tell())))

    @contextmanager
    def use_keys_reserve(self) -> Iterator[None]:
        """Free the reserved space for the block, so that it can end a key or a session on a full disk."""
        with suppress(OSError):
            os.truncate(self.keys_reserve, 0)
        try:
            yield
        finally:
            if self.keys_reserve.exists():
                self.keep_keys_reserve()

    @contextmanager
    def lock(self, purpose: str, wait: float = 0) -> Iterator[None]:
        """Hold the lock of the home within the block. The operating system releases it when the process ends.

        If several hosts may share the catalogue, a lock of the database is held, too. Raises HomeNotWritable, or
        HomeBusy with the `purpose` (the command) of another process that still holds the lock after `wait` seconds.
        """
        path = self.create().root / "lock"
        with translate_write_errors(path):
            file = path.open("ab+", buffering=0)  # a buffer would fail on closing when the disk is full
        with file, ExitStack() as stack:
            deadline = time.monotonic() + wait
            self._acquire_lock(file, deadline)
            if self._server_url is not None:
                stack.enter_context(self._lock_database(self._server_url, purpose, deadline))
            _write_lock_holder(
                file, f"process {os.getpid()}, `{purpose}`, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            )
            self.holds_lock = True
            try:
                with translate_write_errors(self.encoders):
                    finish_replacing(self.encoders)
                yield
            finally:
                self.holds_lock = False
                _write_lock_holder(file, "")
                fcntl.flock(file, fcntl.LOCK_UN)

    @contextmanager
    def _lock_database(self, url: URL, purpose: str, deadline: float) -> Iterator[None]:
        lock = DatabaseLock(url, purpose)
        while not lock.acquire():
            if time.monotonic() >= deadline:
                self._refuse(find_lock_holder(url))
            time.sleep(0.05)
        try:
            yield
        finally:
            lock.release()

    def _refuse(self, holder: str | None) -> NoReturn:
        raise HomeBusy(
            f"{self.root} is in use by {holder or 'another process'}. Wait until it has finished, or stop it, and try "
            "again."
        )

    @property
    def _server_url(self) -> URL | None:
        """The URL of the catalogue if it is on a server that several hosts may share."""
        is_server = (self.database_url or "").startswith("postgresql")
        return make_url(self.url) if is_server else None

    def recover(self) -> None:
        """Clean up after a killed writer, unless another writer holds the home or it can't be written."""
        with suppress(HomeBusy, HomeNotWritable, DatabaseUnavailable), self.lock("recovery"):  # lock() itself cleans up
            pass

    def is_locked(self) -> bool:
        """Return whether a process holds the home's lock now, on any host."""
        if self._server_url is not None:
            return find_lock_holder(self._server_url) is not None
        try:
            with (self.root / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there is no lock file, or it can't be read
            return False
        return False

    def _acquire_lock(self, file: IO[bytes], deadline: float) -> None:
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    self._refuse(file.read().decode())
            time.sleep(0.05)


def _write_lock_holder(file: IO[bytes], text: str) -> None:
    """Write who holds the lock. This is for people only: the lock itself is the kernel's, so a full disk is ignored."""
    try:
        file.truncate(0)
        file.write(text.encode())
    except OSError as error:
        if error.errno not in NOT_WRITABLE_ERRNOS:
            raise


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Translate an error that means "no space" or "no permission" at `path` to HomeNotWritable."""
    try:
        yield
    except Exception as error:
        number = _find_errno(error)
        if number not in NOT_WRITABLE_ERRNOS:
            raise
        raise HomeNotWritable(
            f"Can't write {path}: {os.strerror(number)}. "
            "Make space or give permission, or choose another home with --home."
        ) from error


def _find_errno(error: Exception) -> int:
    """Return the error number of the system, or 0. Libraries in Rust, and shutil, have it only in their messages."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    mentioned = re.search(r"(?:\(os error|\[Errno) (\d+)[)\]]", str(error))
    return int(mentioned[1]) if mentioned else 0
