"""Steps on files that never overwrite anything: bring a file to a free name, copy it with all that it is."""

from __future__ import annotations

import base64
import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_identity import READ_BLOCK_BYTES, FileIdentity, SkippedFile, identify_file
from simile.dedup.cleanup.journal import FileOperation

# File systems without hard links say one of these.
RENAME_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
SYNC_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES}
EXCHANGE_UNSUPPORTED_ERRNOS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
LINK_UNSUPPORTED_ERRNOS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def reserve_name(path: Path) -> None:
    """Makes an empty file, so that nobody else takes the name. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def rename_without_overwrite(source: Path, target: Path) -> None:
    """Gives a file another name in its file system. Raises FileExistsError where there is something already.

    In between it has both names, or (without hard links) the new one is an empty file: nothing is ever without a name.
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
            target.unlink()  # the empty file of this moment
            raise
    else:
        source.unlink()
    sync_folders(target.parent, source.parent)


def sync_folders(*folders: Path) -> None:
    """Has the names in folders written to the disk, where the file system takes such a request."""
    for folder in set(folders):
        try:
            fsync_path(folder)
        except OSError as error:
            if error.errno not in SYNC_UNSUPPORTED_ERRNOS:
                raise


def exchange_files(first: Path, second: Path) -> None:
    """Puts each of two files at the other's name, in one step: whatever is there at this moment gets a name.

    Where the system can't, `one` is put at the other's name, and what was there loses it.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        first.replace(second)
        return
    here = -100  # AT_FDCWD: relative to this folder, though both are absolute
    if rename(here, os.fsencode(first), here, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in EXCHANGE_UNSUPPORTED_ERRNOS:
        raise OSError(number, os.strerror(number), str(second))
    first.replace(second)


def copy_file(source: Path, target: Path, operation: FileOperation) -> None:
    """Copies the file of an operation to a new name: bytes, checked, and what it was like. Raises SetAside, OSError."""
    target.unlink(missing_ok=True)  # left by this very operation, when it was cut short
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _copy_bytes(descriptor, target)
    except OSError:  # the disk is full, or gone
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    if identify_file(target).sha256 != operation.sha256:
        target.unlink()
        raise SkippedFile(f"{source} does not hold its bytes any more")
    _restore_file_attributes(target, operation)
    sync_folders(target.parent)


def read_extended_attributes(path: Path) -> dict[str, str]:
    """The extended attributes of a file, base64; what can't be read is left out."""
    found: dict[str, str] = {}
    with suppress(OSError, AttributeError):  # not on every system
        for name in os.listxattr(path, follow_symlinks=False):
            with suppress(OSError):
                found[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
    return found


def make_operation_fields(identity: FileIdentity, kept_file: FileIdentity) -> dict[str, object]:
    """What an operation notes of the two files, so that the one can be made again."""
    names = ("sha256", "size", "mode", "mtime_ns", "atime_ns", "uid", "gid", "device", "inode")
    return {name: getattr(identity, name) for name in names} | {
        "path": str(identity.path),
        "attributes": read_extended_attributes(identity.path),
        "keep_path": str(kept_file.path),
        "keep_sha256": kept_file.sha256,
        "keep_device": kept_file.device,
        "keep_inode": kept_file.inode,
    }


def _copy_bytes(source: int, target: Path) -> None:
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while block := os.read(source, READ_BLOCK_BYTES):
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(out, rest) :]
        os.fsync(out)
    finally:
        os.close(out)


def _restore_file_attributes(path: Path, operation: FileOperation) -> None:
    """Owner, attributes, mode and times as they were, so far as this user may set them."""
    with suppress(PermissionError):
        os.chown(path, operation.uid, operation.gid)
    for name, value in operation.attributes.items():
        with suppress(OSError, AttributeError):
            os.setxattr(path, name, base64.b64decode(value))
    with suppress(PermissionError):  # FAT knows hardly any modes
        path.chmod(operation.mode)
    os.utime(path, ns=(operation.atime_ns, operation.mtime_ns))
    fsync_path(path)
