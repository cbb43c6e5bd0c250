"""Read the bytes of an image file: regular files only, within the size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

# Pillow loads the formats below on its own only after all of its plugins: naming them keeps the others out.
from PIL import (
    IcoImagePlugin,  # noqa: F401
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from simile.core.errors import UnreadableImage

if TYPE_CHECKING:  # worker processes load this module, and no pydantic
    pass
from simile.images.formats import Limits, check_byte_count


def read_bytes(path: Path, limits: Limits) -> bytes:
    """The bytes of one regular file, in a folder or in an archive.

    Raises UnreadableImage, or ImageTooLarge when it is over `limits.max_bytes`.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = _read_regular_file(descriptor, path, limits)
        finally:
            os.close(descriptor)
    except NotADirectoryError as error:
        from simile.images.sources.archives import read_archive_member  # noqa: PLC0415  # it needs what is defined here

        if (member := read_archive_member(str(path), limits)) is not None:
            return member
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableImage(path, _get_open_failure_reason(path, error)) from error
    check_byte_count(len(data), path, limits)  # it may have grown meanwhile
    if not data:
        raise UnreadableImage(path, "the file is empty")
    return data


def _read_regular_file(descriptor: int, path: Path, limits: Limits) -> bytes:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableImage(path, f"not a regular file: {_get_file_kind(facts.st_mode)}")
    check_byte_count(facts.st_size, path, limits)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(min(facts.st_size, limits.max_bytes) + 1)


def _get_file_kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _get_open_failure_reason(path: Path, error: OSError | ValueError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT:
        return "a link that leads nowhere" if path.is_symlink() else "there is no such file"
    reasons = {
        errno.EACCES: "no permission to read it",
        errno.EPERM: "no permission to read it",
        errno.ELOOP: "a link that leads in a circle",
        errno.ENOTDIR: "there is no such file",
        errno.ENXIO: "not a regular file: socket",  # so answers open() to a socket
    }
    return reasons.get(code or 0) or f"it can't be read ({getattr(error, 'strerror', None) or error})"
