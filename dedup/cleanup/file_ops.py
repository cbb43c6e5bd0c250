"""Identify a file by its bytes and its inode, and change files without ever overwriting anything."""

from __future__ import annotations

import base64
import ctypes
import errno
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.core.errors import InputError
from simile.dedup.cleanup.journal import FileOperation

READ_BLOCK_BYTES = 1 << 20
# O_NONBLOCK: never wait for a named pipe that replaced the file since it was checked.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# Constants of linux/fcntl.h and linux/fs.h for renameat2.
_AT_FDCWD = -100  # relative to the current folder; without effect on absolute paths
_RENAME_EXCHANGE = 2
# The errors of file systems that do not support an operation.
SYNC_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES}
EXCHANGE_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
LINK_UNSUPPORTED_ERRNOS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


# The plan has the hash of the time when simile read the file. Only that reading is known to be before the change.
OTHER_BYTES_REASON = "its bytes are not those that the plan names: it was changed or damaged after simile read it"


class SkippedFile(InputError):
    """A file is left as it is. `reason` is a phrase without a full stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. The file was not changed.")
        self.reason = reason


@dataclass(frozen=True)
class FileIdentity:
    """A regular file, with its status at the moment when its bytes were hashed."""

    path: Path
    sha256: str
    status: os.stat_result

    def is_at(self, path: Path) -> bool:
        """Return whether this file is at the path and was not written since; links are not followed."""
        try:
            status = path.lstat()
        except OSError:
            return False
        is_same = os.path.samestat(status, self.status) and stat.S_ISREG(status.st_mode)
        return is_same and (status.st_size, status.st_mtime_ns) == (self.status.st_size, self.status.st_mtime_ns)


def identify_file(path: Path) -> FileIdentity:
    """Open a regular file without following a link, and hash it. Raises SkippedFile."""
    try:
        mode = path.lstat().st_mode  # checked before opening: opening a device may have effects
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise SkippedFile("it is a symbolic link, which is not followed" if stat.S_ISLNK(mode) else f"it is {kind}")
        descriptor = os.open(path, _READ_FLAGS)
        try:
            return _identify_open_file(path, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SkippedFile(describe_os_error(error)) from None


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
    return FileIdentity(path, digest.hexdigest(), status)


def has_content(path: Path, sha256: str) -> bool:
    """Return whether a regular file with these bytes is at the path."""
    try:
        return identify_file(path).sha256 == sha256
    except SkippedFile:
        return False


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths are names of one file; links are not followed."""
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except OSError:
        return False


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


def reserve_name(path: Path) -> None:
    """Create an empty file, so that no other program takes the name. Raises FileExistsError."""
    os.close(os.open(path, _CREATE_FLAGS, 0o600))


def rename_without_overwrite(source: Path, target: Path) -> None:
    """Rename a file within its file system. Raises FileExistsError if the target exists.

    At each moment the file has at least one name. In between it has both names, or (without hard links) the target is
    an empty file.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in LINK_UNSUPPORTED_ERRNOS:
            raise
        reserve_name(target)
        try:
            source.replace(target)
        except OSError:
            target.unlink()  # the empty file from above
            raise
    else:
        source.unlink()
    sync_folders(target.parent, source.parent)


def sync_folders(*folders: Path) -> None:
    """Write the file names in folders to the disk, if the file system supports that."""
    for folder in set(folders):
        try:
            fsync_path(folder)
        except OSError as error:
            if error.errno not in SYNC_UNSUPPORTED_ERRNOS:
                raise


def exchange_files(first: Path, second: Path) -> None:
    """Exchange two files in one atomic step, so that a file that just appeared at `second` is not lost.

    If the system does not support that, `first` replaces `second`.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in EXCHANGE_UNSUPPORTED_ERRNOS:
            raise OSError(number, os.strerror(number), str(second))
    first.replace(second)


def copy_file(source: Path, target: Path, operation: FileOperation) -> None:
    """Copy the file of an operation with its attributes, and verify its bytes. Raises SkippedFile, OSError."""
    target.unlink(missing_ok=True)  # left by this operation when it was interrupted
    try:
        with (
            os.fdopen(os.open(source, _READ_FLAGS), "rb") as source_file,
            os.fdopen(os.open(target, _CREATE_FLAGS, 0o600), "wb") as target_file,
        ):
            shutil.copyfileobj(source_file, target_file, READ_BLOCK_BYTES)
            target_file.flush()
            os.fsync(target_file.fileno())
    except OSError:  # for example, the disk is full
        target.unlink(missing_ok=True)
        raise
    if identify_file(target).sha256 != operation.sha256:
        target.unlink()
        raise SkippedFile(f"{source} no longer contains its bytes")
    restore_attributes(target, operation)
    sync_folders(target.parent)


def restore_attributes(target: Path, operation: FileOperation) -> None:
    """Give a file the owner, extended attributes, mode and times of the operation, as far as permitted; sync it."""
    with suppress(PermissionError):
        os.chown(target, operation.uid, operation.gid)
    for name, value in operation.attributes.items():
        with suppress(OSError, AttributeError):
            os.setxattr(target, name, base64.b64decode(value))
    with suppress(PermissionError):  # FAT supports hardly any modes
        target.chmod(operation.mode)
    os.utime(target, ns=(operation.atime_ns, operation.mtime_ns))
    fsync_path(target)


def read_extended_attributes(path: Path) -> dict[str, str]:
    """Return the extended attributes of a file as base64; unreadable ones are left out."""
    attributes: dict[str, str] = {}
    with suppress(OSError, AttributeError):  # AttributeError: the system has no extended attributes
        for name in os.listxattr(path, follow_symlinks=False):
            with suppress(OSError):
                attributes[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
    return attributes
