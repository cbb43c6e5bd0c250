"""Identify a file by its bytes and its inode, so that a later check can tell whether it is still the same file."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from simile.core.errors import InputError

READ_BLOCK_BYTES = 1 << 20


class SkippedFile(InputError):
    """A file is left as it is. `reason` is a phrase without a full stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. The file was not changed.")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """A regular file at the moment when its bytes were hashed. Times are nanoseconds since 1970."""

    path: Path
    sha256: str
    size: int
    mode: int
    mtime_ns: int
    atime_ns: int
    uid: int
    gid: int
    device: int
    inode: int
    link_count: int  # number of hard links

    def is_at(self, path: Path) -> bool:
        """Return whether this file is at the path and was not written since; links are not followed."""
        try:
            status = path.lstat()
        except OSError:
            return False
        current = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))
        return current == (self.device, self.inode, self.size, self.mtime_ns, True)


def identify_file(path: Path) -> FileIdentity:
    """Open a regular file without following a link, and hash it. Raises SkippedFile."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # checked before opening: opening a device may have effects
            raise SkippedFile(_describe_file_type(path))
        # O_NONBLOCK: never wait for a named pipe that replaced the file since the check.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _identify_open_file(path, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SkippedFile(describe_os_error(error)) from None


def has_content(path: Path, sha256: str) -> bool:
    """Return whether a regular file with these bytes is at the path."""
    try:
        return identify_file(path).sha256 == sha256
    except SkippedFile:
        return False


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths are names of one file; links are not followed."""
    try:
        status, other_status = path.lstat(), other.lstat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (other_status.st_dev, other_status.st_ino)


def is_empty_file(path: Path) -> bool:
    """Return whether the path is a regular file without content, such as a placeholder. Raises OSError."""
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def path_exists(path: Path) -> bool:
    """Return whether anything has this name; a broken link counts."""
    return os.path.lexists(path)


def describe_os_error(error: OSError) -> str:
    """Return the system's message as a phrase."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "it does not exist"
    return f"the system reports: {error.strerror or error}"


def _identify_open_file(path: Path, descriptor: int) -> FileIdentity:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SkippedFile("it is not a regular file")
    digest, size = hashlib.sha256(), 0
    # Stop after the known size: a file that grows all the time must not be read forever.
    while size <= status.st_size and (block := os.read(descriptor, READ_BLOCK_BYTES)):
        digest.update(block)
        size += len(block)
    after = os.fstat(descriptor)
    if (size, status.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SkippedFile("it is being written to")
    return FileIdentity(
        path=path,
        sha256=digest.hexdigest(),
        size=size,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        device=status.st_dev,
        inode=status.st_ino,
        link_count=status.st_nlink,
    )


def _describe_file_type(path: Path) -> str:
    if path.is_symlink():
        return "it is a symbolic link, which is not followed"
    return "it is a folder" if path.is_dir() else "it is not a regular file"
