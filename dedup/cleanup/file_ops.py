"""Steps on files that never overwrite anything: bring a file to a free name, copy it with all that it is."""

from __future__ import annotations

import base64
import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import sync
from simile.dedup.cleanup.file_identity import BLOCK, SetAside, Sighting, look
from simile.dedup.cleanup.journal import Operation

# File systems without hard links say one of these.
EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES}
NO_SWAP = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def reserve(path: Path) -> None:
    """Makes an empty file, so that nobody else takes the name. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def place(source: Path, path: Path) -> None:
    """Gives a file another name in its file system. Raises FileExistsError where there is something already.

    In between it has both names, or (without hard links) the new one is an empty file: nothing is ever without a name.
    """
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        reserve(path)
        try:
            source.replace(path)
        except OSError:
            path.unlink()  # the empty file of this moment
            raise
    else:
        source.unlink()
    sync_names(path.parent, source.parent)


def sync_names(*folders: Path) -> None:
    """Has the names in folders written to the disk, where the file system takes such a request."""
    for folder in set(folders):
        try:
            sync(folder)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise


def swap(one: Path, other: Path) -> None:
    """Puts each of two files at the other's name, in one step: whatever is there at this moment gets a name.

    Where the system can't, `one` is put at the other's name, and what was there loses it.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        one.replace(other)
        return
    here = -100  # AT_FDCWD: relative to this folder, though both are absolute
    if rename(here, os.fsencode(one), here, os.fsencode(other), EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in NO_SWAP:
        raise OSError(number, os.strerror(number), str(other))
    one.replace(other)


def copy(source: Path, target: Path, operation: Operation) -> None:
    """Copies the file of an operation to a new name: bytes, checked, and what it was like. Raises SetAside, OSError."""
    target.unlink(missing_ok=True)  # left by this very operation, when it was cut short
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _write_out(descriptor, target)
    except OSError:  # the disk is full, or gone
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    if look(target).sha256 != operation.sha256:
        target.unlink()
        raise SetAside(f"{source} does not hold its bytes any more")
    _make_like(target, operation)
    sync_names(target.parent)


def attributes_of(path: Path) -> dict[str, str]:
    """The extended attributes of a file, base64; what can't be read is left out."""
    found: dict[str, str] = {}
    with suppress(OSError, AttributeError):  # not on every system
        for name in os.listxattr(path, follow_symlinks=False):
            with suppress(OSError):
                found[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
    return found


def operation_facts(seen: Sighting, keep: Sighting) -> dict[str, object]:
    """What an operation notes of the two files, so that the one can be made again."""
    names = ("sha256", "size", "mode", "mtime_ns", "atime_ns", "uid", "gid", "device", "inode")
    return {name: getattr(seen, name) for name in names} | {
        "path": str(seen.path),
        "attributes": attributes_of(seen.path),
        "keep_path": str(keep.path),
        "keep_sha256": keep.sha256,
        "keep_device": keep.device,
        "keep_inode": keep.inode,
    }


def _write_out(source: int, target: Path) -> None:
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while block := os.read(source, BLOCK):
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(out, rest) :]
        os.fsync(out)
    finally:
        os.close(out)


def _make_like(path: Path, operation: Operation) -> None:
    """Owner, attributes, mode and times as they were, so far as this user may set them."""
    with suppress(PermissionError):
        os.chown(path, operation.uid, operation.gid)
    for name, value in operation.attributes.items():
        with suppress(OSError, AttributeError):
            os.setxattr(path, name, base64.b64decode(value))
    with suppress(PermissionError):  # FAT knows hardly any modes
        path.chmod(operation.mode)
    os.utime(path, ns=(operation.atime_ns, operation.mtime_ns))
    sync(path)
