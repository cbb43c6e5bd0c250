"""File operations that never overwrite anything: rename to a free name, exchange two files, copy with attributes."""

from __future__ import annotations

import base64
import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_identity import READ_BLOCK_BYTES, SkippedFile, identify_file
from simile.dedup.cleanup.journal import FileOperation

# Constants of linux/fcntl.h and linux/fs.h for renameat2.
_AT_FDCWD = -100  # relative to the current folder; without effect on absolute paths
_RENAME_EXCHANGE = 2
# The errors of file systems that do not support an operation.
SYNC_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES}
EXCHANGE_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
LINK_UNSUPPORTED_ERRNOS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def reserve_name(path: Path) -> None:
    """Create an empty file, so that no other program takes the name. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


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
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _copy_bytes(descriptor, target)
    except OSError:  # for example, the disk is full
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    if identify_file(target).sha256 != operation.sha256:
        target.unlink()
        raise SkippedFile(f"{source} no longer contains its bytes")
    _restore_file_attributes(target, operation)
    sync_folders(target.parent)


def read_extended_attributes(path: Path) -> dict[str, str]:
    """Return the extended attributes of a file as base64; unreadable ones are left out."""
    attributes: dict[str, str] = {}
    with suppress(OSError, AttributeError):  # AttributeError: the system has no extended attributes
        for name in os.listxattr(path, follow_symlinks=False):
            with suppress(OSError):
                attributes[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
    return attributes


def _copy_bytes(source: int, target: Path) -> None:
    """Copy from a descriptor to a new file and sync it."""
    output = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while block := os.read(source, READ_BLOCK_BYTES):
            remaining = memoryview(block)
            while remaining:
                remaining = remaining[os.write(output, remaining) :]
        os.fsync(output)
    finally:
        os.close(output)


def _restore_file_attributes(path: Path, operation: FileOperation) -> None:
    """Restore owner, extended attributes, mode and times as far as the user has permission."""
    with suppress(PermissionError):
        os.chown(path, operation.uid, operation.gid)
    for name, value in operation.attributes.items():
        with suppress(OSError, AttributeError):
            os.setxattr(path, name, base64.b64decode(value))
    with suppress(PermissionError):  # FAT supports hardly any modes
        path.chmod(operation.mode)
    os.utime(path, ns=(operation.atime_ns, operation.mtime_ns))
    fsync_path(path)
