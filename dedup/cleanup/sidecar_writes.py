"""Write the sidecar of a kept file, recover a write that was interrupted, and undo it.

The journal contains the bytes of the sidecar before the write, so undo restores them. The new document is written under
the operation's temporary name first, and takes the sidecar's name in one step.
"""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.core.errors import UnreadableImage
from simile.dedup.cleanup.file_ops import (
    FileIdentity,
    SkippedFile,
    exchange_files,
    has_content,
    identify_file,
    path_exists,
    rename_without_overwrite,
    restore_attributes,
    sync_folders,
)
from simile.dedup.cleanup.journal import FileOperation
from simile.images.formats import Limits
from simile.images.metadata.sidecars import add_to_xmp
from simile.images.sources.reader import read_bytes

CHANGED_REASON = "its sidecar {} was changed at this moment"


@dataclass(frozen=True, kw_only=True)
class SidecarWrite:
    """A sidecar with a rating and keywords that it did not have."""

    path: Path
    before: FileIdentity | None  # None: there is no file yet
    content_before: bytes | None
    content: bytes

    @property
    def sha256(self) -> str:
        """Return the hash of the new document."""
        return hashlib.sha256(self.content).hexdigest()


def prepare_write(path: Path, rating: int | None, keywords: tuple[str, ...]) -> SidecarWrite:
    """Return what to write into a sidecar. Raises SkippedFile if it can't be read as XMP."""
    if not path_exists(path):
        return SidecarWrite(
            path=path, before=None, content_before=None, content=add_to_xmp(None, str(path), rating, keywords)
        )
    before = identify_file(path)
    try:
        content_before = read_bytes(path, Limits())
        content = add_to_xmp(content_before, str(path), rating, keywords)
    except UnreadableImage as error:
        raise SkippedFile(f"the sidecar of the file to keep, {path}, can't be written: {error.reason}") from None
    if hashlib.sha256(content_before).hexdigest() != before.sha256:
        raise SkippedFile(CHANGED_REASON.format(path))
    return SidecarWrite(path=path, before=before, content_before=content_before, content=content)


def write_sidecar(operation: FileOperation, write: SidecarWrite) -> None:
    """Write a sidecar. Raises SkippedFile, OSError; recovery then takes the write back."""
    path, temporary = write.path, Path(operation.temporary)
    _write_file(temporary, write.content)
    if write.before is None:
        try:
            rename_without_overwrite(temporary, path)
        except FileExistsError:
            raise SkippedFile(CHANGED_REASON.format(path)) from None
        return
    temporary.chmod(operation.mode)
    with suppress(PermissionError):
        os.chown(temporary, operation.uid, operation.gid)
    if not write.before.is_at(path):
        raise SkippedFile(CHANGED_REASON.format(path))
    exchange_files(temporary, path)
    sync_folders(path.parent)
    if path_exists(temporary):
        if not write.before.is_at(temporary):  # another program had replaced it: put that file back
            exchange_files(temporary, path)
            raise SkippedFile(CHANGED_REASON.format(path))
        temporary.unlink()


def recover_write(operation: FileOperation) -> bool:
    """Complete an interrupted write or take it back; return whether the new document is in the sidecar.

    Raises SkippedFile if another program changed the sidecar in between.
    """
    path, temporary = Path(operation.path), Path(operation.temporary)
    is_written = has_content(path, operation.sha256)
    if path_exists(temporary):
        is_foreign = is_written and operation.content is not None and not _has_content_before(temporary, operation)
        if is_foreign and not has_content(temporary, operation.sha256):
            exchange_files(temporary, path)
            is_written = False
        temporary.unlink()
        sync_folders(path.parent)
    return is_written


def undo_write(operation: FileOperation) -> None:
    """Give the sidecar its bytes, mode and times of before, or remove a new one. Raises SkippedFile, OSError."""
    path, temporary = Path(operation.path), Path(operation.temporary)
    temporary.unlink(missing_ok=True)
    if not has_content(path, operation.sha256):
        if _has_content_before(path, operation) or (operation.content is None and not path_exists(path)):
            return  # an interrupted undo restored it
        raise SkippedFile(f"{path} was changed since; it stays as it is")
    if operation.content is None:
        path.unlink()
    else:
        _write_file(temporary, base64.b64decode(operation.content))
        restore_attributes(temporary, operation)
        temporary.replace(path)
    sync_folders(path.parent)


def _has_content_before(path: Path, operation: FileOperation) -> bool:
    if operation.content is None:
        return False
    return has_content(path, hashlib.sha256(base64.b64decode(operation.content)).hexdigest())


def _write_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    fsync_path(path)
