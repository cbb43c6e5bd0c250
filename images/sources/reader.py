"""Read the bytes of an image file or object: regular files only, within the size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.formats import Limits, check_byte_count
from simile.images.sources.archives import read_archive_member
from simile.images.sources.buckets import is_remote, read_remote
from simile.images.sources.paths import CHANGED_REASON


def read_bytes(path: Path | str, limits: Limits, size: int | None = None) -> bytes:
    """Return the bytes of one regular file, in a folder, an archive or an object store.

    `size`: that of the indexed file; a file of another size is not read. Raises UnreadableImage, ImageTooLarge, and
    ObjectsUnavailable for a file in an object store.
    """
    if isinstance(path, str):  # a Path of a URL would lack one of the two slashes
        if is_remote(path):
            return read_remote(path, limits, size)
        path = Path(path)
    try:
        # O_NONBLOCK: opening a pipe without a writer would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = _read_regular_file(descriptor, path, limits, size)
        finally:
            os.close(descriptor)
    except NotADirectoryError as error:
        if (member := read_archive_member(str(path), limits)) is not None:
            return member
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error
    check_byte_count(len(data), path, limits)  # the file may have grown since it was opened
    if not data:
        raise UnreadableImage(path, "the file is empty")
    return data


def make_failure(path: str, error: UnreadableImage | MemoryError) -> Failure:
    """Return why a file was skipped; the reason is a phrase without the path."""
    return Failure(path, error.reason if isinstance(error, UnreadableImage) else "there is not enough memory for it")


def _read_regular_file(descriptor: int, path: Path, limits: Limits, size: int | None) -> bytes:
    """Read at most one byte more than the file had when it was opened."""
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(facts.st_mode), "device")
        raise UnreadableImage(path, f"not a regular file: {kind}")
    if size not in (None, facts.st_size):
        raise UnreadableImage(path, CHANGED_REASON)
    check_byte_count(facts.st_size, path, limits)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(min(facts.st_size, limits.max_bytes) + 1)


def _get_open_failure_reason(path: Path, error: OSError | ValueError) -> str:
    """Return why a file could not be opened, for people."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT:
        return "a broken symbolic link" if path.is_symlink() else "there is no such file"
    reasons = {
        errno.EACCES: "no permission to read it",
        errno.EPERM: "no permission to read it",
        errno.ELOOP: "a symbolic link that leads in a circle",
        errno.ENOTDIR: "there is no such file",
        errno.ENXIO: "not a regular file: socket",  # the error of open() for a socket
    }
    return reasons.get(code or 0) or f"it can't be read ({getattr(error, 'strerror', None) or error})"
