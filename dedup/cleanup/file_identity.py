"""One look at a file: what it holds, and which file it is, so that a later look can tell whether it still is that."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from simile.core.errors import InputError

READ_BLOCK_BYTES = 1 << 20  # bytes read at a time


class SkippedFile(InputError):
    """A file is left as it is. `reason`: a phrase without a full stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. Nothing was done to it.")
        self.reason = reason


@dataclass(frozen=True)
class FileIdentity:
    """A regular file as it was when its bytes were hashed. Times in nanoseconds since 1970, `links`: its names."""

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
    link_count: int

    def is_at(self, path: Path) -> bool:
        """Whether this very file, not written to since, is what the path leads to (a link is not followed)."""
        try:
            facts = path.lstat()
        except OSError:
            return False
        now = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, stat.S_ISREG(facts.st_mode))
        return now == (self.device, self.inode, self.size, self.mtime_ns, True)


def identify_file(path: Path) -> FileIdentity:
    """Opens a regular file without following a link, and hashes it. Raises SetAside."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # before opening it: to open a device may do something
            raise SkippedFile(_describe_file_type(path))
        # Never waits for a fifo that came to be there this moment.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SkippedFile(describe_os_error(error)) from None
    try:
        return _identify_open_file(path, descriptor)
    except OSError as error:
        raise SkippedFile(describe_os_error(error)) from None
    finally:
        os.close(descriptor)


def has_content(path: Path, sha256: str) -> bool:
    """Whether a regular file with these bytes is there."""
    try:
        return identify_file(path).sha256 == sha256
    except SkippedFile:
        return False


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths are names of one file; links are not followed."""
    try:
        facts, others = path.lstat(), other.lstat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (others.st_dev, others.st_ino)


def path_exists(path: Path) -> bool:
    """Whether anything has this name, a broken link too."""
    return os.path.lexists(path)


def describe_os_error(error: OSError) -> str:
    """What the system says, as a phrase."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "it does not exist"
    return f"the system says: {error.strerror or error}"


def _identify_open_file(path: Path, descriptor: int) -> FileIdentity:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise SkippedFile("it is not a regular file")
    digest, size = hashlib.sha256(), 0
    while size <= facts.st_size and (
        block := os.read(descriptor, READ_BLOCK_BYTES)
    ):  # one that grows for ever ends too
        digest.update(block)
        size += len(block)
    after = os.fstat(descriptor)
    if (size, facts.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SkippedFile("it is being written to")
    return FileIdentity(
        path, digest.hexdigest(), size, stat.S_IMODE(facts.st_mode), facts.st_mtime_ns, facts.st_atime_ns,
        facts.st_uid, facts.st_gid, facts.st_dev, facts.st_ino, facts.st_nlink,
    )  # fmt: skip


def _describe_file_type(path: Path) -> str:
    if path.is_symlink():
        return "it is a symbolic link, which is not followed"
    return "it is a folder" if path.is_dir() else "it is not a regular file"
