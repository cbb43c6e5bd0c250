"""A bounded cache of files in the home, found by the SHA-256 of the image that they belong to.

An entry is read only after the image's row was found, so that a deleted image is not served from here. Losing an entry
costs only the time to make it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

DIGEST_BYTES = 32  # at the start of each file
MIN_FREE_BYTES = 256 << 20  # of the disk, which the cache leaves to the rest of the home
SHARES = 16  # the size is checked after each 1/16 of the limit that this process has written
BLOCK_BYTES = 4096  # a file takes up to one block more than its size


class ContentCache:
    """Entries of images: their thumbnails, and their files if those are slow to read. Safe for threads and processes.

    An entry is written to a temporary name first, and begins with a digest of its name and content: a damaged, cut off
    or swapped file counts as missing. An error of the disk, full or read-only, leaves the cache as it is.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Take the folder, which need not exist, and the limit on bytes; 0: nothing is stored."""
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._unchecked_bytes = max_bytes  # written since the last check; the first entry starts one

    def get(self, sha256: str, kind: str) -> bytes | None:
        """Return the entry of this kind of the image, if there is an intact entry."""
        path = self._get_path(sha256, kind)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)  # entries that were not used for longest are removed first
        digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        return data if digest == _compute_digest(path, data) else None

    def put(self, sha256: str, kind: str, data: bytes) -> None:
        """Store an entry, if there is room."""
        size = len(data) + BLOCK_BYTES
        if size > self._max_bytes // SHARES:
            return
        path = self._get_path(sha256, kind)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if shutil.disk_usage(self._folder).free < MIN_FREE_BYTES:
                return
            self._make_room(size)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_compute_digest(path, data) + data)
                temporary.replace(path)  # without fsync: the digest tells whether a crash has damaged it
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Remove all entries of the image."""
        with suppress(OSError):
            for path in self._get_path(sha256, "").parent.glob(f"{sha256}-*"):
                path.unlink(missing_ok=True)

    def _get_path(self, sha256: str, kind: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}-{kind}"

    def _make_room(self, size: int) -> None:
        """Count the bytes; remove the entries that were not used for longest if there is no room for one share."""
        with self._lock:
            self._unchecked_bytes += size
            if self._unchecked_bytes < self._max_bytes // SHARES:
                return
            self._unchecked_bytes = size
            files = sorted(self._list_files())
            excess = sum(count for _, count, _ in files) - self._max_bytes * (SHARES - 2) // SHARES
            for _, count, path in files:
                if excess <= 0:
                    break
                Path(path).unlink(missing_ok=True)
                excess -= count

    def _list_files(self) -> Iterator[tuple[int, int, str]]:
        """Yield time of last use, bytes on the disk, and path of each file, also of those that a kill has left."""
        for folder in self._folder.iterdir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_blocks * 512, entry.path


def _compute_digest(path: Path, data: bytes) -> bytes:
    """Return the digest of an entry, which binds the content to its name."""
    digest = hashlib.sha256(path.name.encode())
    digest.update(data)
    return digest.digest()
