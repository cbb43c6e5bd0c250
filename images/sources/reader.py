"""Read the bytes of an image file or object: regular files only, within the size limit."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from simile.core.errors import UnreadableImage
from simile.core.records import Failure
from simile.images.formats import Limits, check_byte_count
from simile.images.sources.archives import read_archive_member
from simile.images.sources.buckets import is_remote, read_remote
from simile.images.sources.paths import CHANGED_REASON

Content = TypeVar("Content", bytes, mmap.mmap)


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
        data = _open_regular_file(path, lambda descriptor: _read_descriptor(descriptor, path, limits, size))
    except NotADirectoryError as error:
        if (member := read_archive_member(str(path), limits)) is not None:
            return member
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error
    check_byte_count(len(data), path, limits)  # the file may have grown since it was opened
    if not data:
        raise UnreadableImage(path, "the file is empty")
    return data


def map_bytes(path: str, limits: Limits) -> mmap.mmap:
    """Return the bytes of a regular file in a folder, which are read when they are used.

    For the use in a worker process only: if the file is truncated meanwhile, the process ends. Raises UnreadableImage,
    ImageTooLarge.
    """

    def map_descriptor(descriptor: int) -> mmap.mmap:
        _check_regular_file(os.fstat(descriptor), Path(path), limits)
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)

    try:
        return _open_regular_file(Path(path), map_descriptor)
    except NotADirectoryError as error:
        raise UnreadableImage(path, _get_open_failure_reason(Path(path), error)) from error


def _open_regular_file(path: Path, read: Callable[[int], Content]) -> Content:
    """Return what `read` returns for the descriptor of a file. Raises UnreadableImage, NotADirectoryError."""
    try:
        # O_NONBLOCK: opening a pipe without a writer would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return read(descriptor)
        finally:
            os.close(descriptor)
    except NotADirectoryError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or nothing to map
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error


def make_failure(path: str, error: UnreadableImage | MemoryError) -> Failure:
    """Return why a file was skipped; the reason is a phrase without the path."""
    return Failure(path, error.reason if isinstance(error, UnreadableImage) else "there is not enough memory for it")


def _read_descriptor(descriptor: int, path: Path, limits: Limits, size: int | None) -> bytes:
    """Read at most one byte more than the file had when it was opened."""
    facts = os.fstat(descriptor)
    _check_regular_file(facts, path, limits, size)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(min(facts.st_size, limits.max_bytes) + 1)


def _check_regular_file(facts: os.stat_result, path: Path, limits: Limits, size: int | None = None) -> None:
    """Raise UnreadableImage if this is no regular file, or not of this size; ImageTooLarge if it is too large."""
    if not stat.S_ISREG(facts.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(facts.st_mode), "device")
        raise UnreadableImage(path, f"not a regular file: {kind}")
    if size not in (None, facts.st_size):
        raise UnreadableImage(path, CHANGED_REASON)
    check_byte_count(facts.st_size, path, limits)


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
