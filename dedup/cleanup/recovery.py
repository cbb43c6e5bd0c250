"""What became of an operation that was cut short: it is completed where the file is gone already, else taken back.

Every step of dedup/actions.py can be the last one before a kill; each leaves one of the states told apart here. Nothing
is removed before the bytes were read elsewhere in the same call.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup import trash
from simile.dedup.cleanup.file_identity import SkippedFile, describe_os_error, has_content, is_same_file, path_exists
from simile.dedup.cleanup.file_ops import rename_without_overwrite
from simile.dedup.cleanup.journal import FileOperation, OperationJournal, OperationState

OperationOutcome = tuple[OperationState, str]


def recover_operation(operation: FileOperation) -> OperationOutcome:
    """`done`, `cancelled` (all is as before), or `unclear` with the reason. Safe to repeat, and to kill."""
    try:
        if operation.action in ("hardlink", "symlink"):
            return _recover_link(operation)
        return _recover_move(operation)
    except OSError as error:
        return "unclear", f"{operation.path}: {describe_os_error(error)}"
    except SkippedFile as error:
        return "unclear", error.reason


def recover_journal(journal: OperationJournal) -> None:
    """Settles what the journal says was begun and not ended. The caller holds the home's lock.

    What was unclear is asked again: a disk may be back.
    """
    for number, entry in journal.entries.items():
        if entry.state in ("intent", "unclear"):
            outcome = recover_operation(entry.operation)
            if outcome != (entry.state, entry.reason):
                journal.write_state(number, *outcome)


def _recover_link(operation: FileOperation) -> OperationOutcome:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    if is_operation_link(operation) and not _is_own_temporary(temporary, operation):
        temporary.replace(path)  # another file had come to the place when the link was put there
    if is_operation_link(operation):
        if path_exists(aside) and not (_has_original_content(operation) and has_content(aside, operation.sha256)):
            aside.replace(path)  # it, or the kept file, was written to meanwhile: the old one comes back
            return _clean_up_operation(operation)
        _remove_durably(aside)
        _remove_durably(temporary)
        return "done", ""
    if path_exists(aside) and not path_exists(path):
        rename_without_overwrite(aside, path)
    if path_exists(aside) and not _is_redundant_copy(aside, operation):
        raise _make_displaced_error(operation, aside)
    return _clean_up_operation(operation)


def _has_original_content(operation: FileOperation) -> bool:
    """Whether the link that was made shows the bytes that the file had."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if has_content(keep, operation.sha256):
        return True
    if operation.action == "symlink":
        return False
    if not is_same_file(path, keep) and not has_content(
        path, operation.sha256
    ):  # the last name of bytes that nobody else has
        raise _make_displaced_error(operation, Path(operation.aside))
    return not is_same_file(path, keep)


def _recover_move(operation: FileOperation) -> OperationOutcome:
    path, target = Path(operation.path), Path(operation.target)
    if path_exists(Path(operation.aside)):
        _recover_aside_file(operation)
    arrived = has_content(target, operation.sha256)
    if not path_exists(path):
        if arrived:
            _remove_durably(Path(operation.temporary))
            return "done", ""
        if not _is_original_file(target, operation):
            raise SkippedFile(f"it is gone, and {target} does not hold it; put that disk back, if it is missing")
        rename_without_overwrite(
            target, path
        )  # it was changed in the moment before it went, and so is not wanted there
    elif not has_content(path, operation.sha256) and not is_same_file(path, target):
        if _is_original_file(path, operation) or (_is_original_file(target, operation) and not arrived):
            if path_exists(target) and not _is_empty_file(target):
                raise _make_displaced_error(operation, target)
        elif arrived:  # it went, and another file has come to be at its place
            return "done", ""
    return _clean_up_operation(operation)


def _recover_aside_file(operation: FileOperation) -> None:
    """On the way to another disk the file had another name: it goes, or it comes back."""
    path, target, aside = Path(operation.path), Path(operation.target), Path(operation.aside)
    copied = has_content(aside, operation.sha256) and has_content(target, operation.sha256)
    if is_same_file(aside, path) or copied:
        _remove_durably(aside)
    elif path_exists(path):
        raise _make_displaced_error(operation, aside)
    else:
        rename_without_overwrite(aside, path)


def _make_displaced_error(operation: FileOperation, location: Path) -> SkippedFile:
    return SkippedFile(f"{operation.path} was changed by something else meanwhile; what was there before is {location}")


def is_operation_link(operation: FileOperation) -> bool:
    """Whether the path is the link that the operation makes, and not the file that was there, or another one."""
    path = Path(operation.path)
    try:
        facts = path.lstat()
        if operation.action == "symlink":
            return stat.S_ISLNK(facts.st_mode) and os.readlink(path) == operation.keep_path  # noqa: PTH115
    except OSError:
        return False
    identity = (facts.st_dev, facts.st_ino)
    if identity == (operation.device, operation.inode) or not stat.S_ISREG(facts.st_mode):
        return False
    return identity == (operation.keep_device, operation.keep_inode) or is_same_file(path, Path(operation.keep_path))


def _clean_up_operation(operation: FileOperation) -> OperationOutcome:
    """Takes away what the operation made for itself; the file is where it was."""
    aside, temporary = Path(operation.aside), Path(operation.temporary)
    if _is_redundant_copy(aside, operation):
        _remove_durably(aside)
    if (
        operation.target or temporary.is_symlink() or _is_redundant_copy(temporary, operation)
    ):  # part of a copy, or a link
        _remove_durably(temporary)
    if operation.target:
        _clean_up_target(operation, Path(operation.target))
    return "cancelled", ""


def _clean_up_target(operation: FileOperation, target: Path) -> None:
    if path_exists(target) and (_is_empty_file(target) or _is_redundant_copy(target, operation)):
        _remove_durably(target)
    if operation.info and not path_exists(target) and trash.is_info_for(Path(operation.info), Path(operation.path)):
        _remove_durably(Path(operation.info))


def _is_original_file(path: Path, operation: FileOperation) -> bool:
    """Whether it is the very file that the operation is about, whatever was written into it."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (operation.device, operation.inode)


def _is_own_temporary(temporary: Path, operation: FileOperation) -> bool:
    """Whether a name that only the operation uses holds nothing but a link, or the file that the link replaced."""
    if not path_exists(temporary) or temporary.is_symlink() or is_same_file(temporary, Path(operation.keep_path)):
        return True
    return _is_original_file(temporary, operation) or has_content(temporary, operation.sha256)


def _is_redundant_copy(copy_path: Path, operation: FileOperation) -> bool:
    """Whether what this one holds is at the file's own place too; or, for links, in the kept file."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if is_same_file(copy_path, path) or is_same_file(copy_path, keep):
        return True
    if not has_content(copy_path, operation.sha256):
        return False
    return has_content(path, operation.sha256) or (not operation.target and has_content(keep, operation.sha256))


def _is_empty_file(path: Path) -> bool:
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def _remove_durably(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):
        fsync_path(path.parent)
