"""Recover an interrupted operation: complete it if the file is removed already, otherwise take it back.

A kill can come after any step of actions.py; each step leaves one of the situations that are distinguished here.
Nothing is removed before its bytes were read elsewhere in the same call.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup import trash
from simile.dedup.cleanup.file_ops import (
    SkippedFile,
    describe_os_error,
    has_content,
    is_empty_file,
    is_same_file,
    path_exists,
    rename_without_overwrite,
)
from simile.dedup.cleanup.journal import FileOperation, OperationJournal, OperationState
from simile.dedup.cleanup.sidecar_writes import recover_write

OperationOutcome = tuple[OperationState, str]  # state, reason


def recover_operation(operation: FileOperation) -> OperationOutcome:
    """Complete or take back an operation. It can be repeated, and killed.

    Returns:
        `done`, `cancelled` (everything is as before), or `unclear` with the reason.
    """
    try:
        if operation.role == "sidecar":
            return ("done" if recover_write(operation) else "cancelled"), ""
        if operation.action in ("hardlink", "symlink"):
            return _recover_link(operation)
        return _recover_move(operation)
    except OSError as error:
        return "unclear", f"{operation.path}: {describe_os_error(error)}"
    except SkippedFile as error:
        return "unclear", error.reason


def recover_journal(journal: OperationJournal) -> None:
    """Recover all unfinished operations of a journal. The caller holds the home's lock.

    Unclear operations are tried again: a missing disk may be back.
    """
    for number, entry in journal.entries.items():
        if entry.state in ("intent", "unclear"):
            outcome = recover_operation(entry.operation)
            if outcome != (entry.state, entry.reason):
                journal.write_state(number, *outcome)


def is_operation_link(operation: FileOperation) -> bool:
    """Return whether the operation's link is at the path, and not the original file or another one."""
    path = Path(operation.path)
    try:
        status = path.lstat()
        if operation.action == "symlink":
            return stat.S_ISLNK(status.st_mode) and os.readlink(path) == operation.keep_path  # noqa: PTH115
    except OSError:
        return False
    identity = (status.st_dev, status.st_ino)
    if identity == (operation.device, operation.inode) or not stat.S_ISREG(status.st_mode):
        return False
    return identity == (operation.keep_device, operation.keep_inode) or is_same_file(path, Path(operation.keep_path))


def _recover_link(operation: FileOperation) -> OperationOutcome:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    if is_operation_link(operation) and not _is_own_temporary(temporary, operation):
        temporary.replace(path)  # another file had appeared at the path before the exchange: put it back
    if is_operation_link(operation):
        # The link is in place. Complete the operation, unless one of the files was written to meanwhile.
        if path_exists(aside) and not (_shows_original_content(operation) and has_content(aside, operation.sha256)):
            aside.replace(path)
            return _clean_up_operation(operation)
        _remove_durably(aside)
        _remove_durably(temporary)
        return "done", ""
    # The link is not in place: take the operation back.
    if path_exists(aside) and not path_exists(path):
        rename_without_overwrite(aside, path)
    if path_exists(aside) and not _is_redundant_copy(aside, operation):
        raise _make_displaced_error(operation, aside)
    return _clean_up_operation(operation)


def _shows_original_content(operation: FileOperation) -> bool:
    """Return whether the new link shows the bytes of the original file."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if has_content(keep, operation.sha256):
        return True
    if operation.action == "symlink":
        return False
    # The kept file was replaced, and the hard link is the last name of what it contained before.
    if not is_same_file(path, keep) and not has_content(path, operation.sha256):
        raise _make_displaced_error(operation, Path(operation.aside))
    return not is_same_file(path, keep)


def _recover_move(operation: FileOperation) -> OperationOutcome:
    path, target = Path(operation.path), Path(operation.target)
    if path_exists(Path(operation.aside)):
        _recover_aside_file(operation)
    has_arrived = has_content(target, operation.sha256)
    if not path_exists(path):
        if has_arrived:
            _remove_durably(Path(operation.temporary))
            return "done", ""
        if not _is_original_file(target, operation):
            raise SkippedFile(f"it is missing, and {target} does not contain it; if that disk is missing, connect it")
        rename_without_overwrite(target, path)  # the file was changed just before the move, so it must not move
    elif not has_content(path, operation.sha256) and not is_same_file(path, target):
        # There is a file at the path with other content: the changed original, or a new file.
        if _is_original_file(path, operation) or (_is_original_file(target, operation) and not has_arrived):
            if path_exists(target) and not is_empty_file(target):
                raise _make_displaced_error(operation, target)
        elif has_arrived:  # the file was moved, and another file appeared in its place
            return "done", ""
    return _clean_up_operation(operation)


def _recover_aside_file(operation: FileOperation) -> None:
    """Handle the file's temporary name of a move to another disk: remove it, or rename it back."""
    path, target, aside = Path(operation.path), Path(operation.target), Path(operation.aside)
    is_copied = has_content(aside, operation.sha256) and has_content(target, operation.sha256)
    if is_same_file(aside, path) or is_copied:
        _remove_durably(aside)
    elif path_exists(path):
        raise _make_displaced_error(operation, aside)
    else:
        rename_without_overwrite(aside, path)


def _make_displaced_error(operation: FileOperation, location: Path) -> SkippedFile:
    return SkippedFile(f"{operation.path} was changed by another program; the earlier file is {location}")


def _clean_up_operation(operation: FileOperation) -> OperationOutcome:
    """Remove the operation's temporary files; the file is where it was."""
    aside, temporary, target = Path(operation.aside), Path(operation.temporary), Path(operation.target)
    if _is_redundant_copy(aside, operation):
        _remove_durably(aside)
    # The temporary file is a partial copy, or a link.
    if operation.target or temporary.is_symlink() or _is_redundant_copy(temporary, operation):
        _remove_durably(temporary)
    if operation.target:
        if path_exists(target) and (is_empty_file(target) or _is_redundant_copy(target, operation)):
            _remove_durably(target)
        info = Path(operation.info)
        if operation.info and not path_exists(target) and trash.is_info_for(info, Path(operation.path)):
            _remove_durably(info)
    return "cancelled", ""


def _is_original_file(path: Path, operation: FileOperation) -> bool:
    """Return whether the path is the operation's file by its inode, even if it was written to."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (operation.device, operation.inode)


def _is_own_temporary(temporary: Path, operation: FileOperation) -> bool:
    """Return whether the temporary name is unused, a link, or the file that the link replaced."""
    if not path_exists(temporary) or temporary.is_symlink() or is_same_file(temporary, Path(operation.keep_path)):
        return True
    return _is_original_file(temporary, operation) or has_content(temporary, operation.sha256)


def _is_redundant_copy(copy_path: Path, operation: FileOperation) -> bool:
    """Return whether the content of `copy_path` is also at the file's path or, for links, in the kept file."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if is_same_file(copy_path, path) or is_same_file(copy_path, keep):
        return True
    if not has_content(copy_path, operation.sha256):
        return False
    return has_content(path, operation.sha256) or (not operation.target and has_content(keep, operation.sha256))


def _remove_durably(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):
        fsync_path(path.parent)
