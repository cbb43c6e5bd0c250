"""What became of an operation that was cut short: it is completed where the file is gone already, else taken back.

Every step of dedup/actions.py can be the last one before a kill; each leaves one of the states told apart here. Nothing
is removed before the bytes were read elsewhere in the same call.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from simile.core.atomic_write import sync
from simile.dedup.cleanup import trash
from simile.dedup.cleanup.file_identity import SetAside, exists, holds, one_file, why_not
from simile.dedup.cleanup.file_ops import place
from simile.dedup.cleanup.journal import Journal, Operation, State

Outcome = tuple[State, str]


def settle(operation: Operation) -> Outcome:
    """`done`, `cancelled` (all is as before), or `unclear` with the reason. Safe to repeat, and to kill."""
    try:
        if operation.action in ("hardlink", "symlink"):
            return _settle_link(operation)
        return _settle_move(operation)
    except OSError as error:
        return "unclear", f"{operation.path}: {why_not(error)}"
    except SetAside as error:
        return "unclear", error.reason


def settle_journal(journal: Journal) -> None:
    """Settles what the journal says was begun and not ended. The caller holds the home's lock.

    What was unclear is asked again: a disk may be back.
    """
    for number, entry in journal.entries.items():
        if entry.state in ("intent", "unclear"):
            outcome = settle(entry.operation)
            if outcome != (entry.state, entry.reason):
                journal.note(number, *outcome)


def _settle_link(operation: Operation) -> Outcome:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    if is_our_link(operation) and not _is_own(temporary, operation):
        temporary.replace(path)  # another file had come to the place when the link was put there
    if is_our_link(operation):
        if exists(aside) and not (_leads_to_bytes(operation) and holds(aside, operation.sha256)):
            aside.replace(path)  # it, or the kept file, was written to meanwhile: the old one comes back
            return _cleared(operation)
        _remove(aside)
        _remove(temporary)
        return "done", ""
    if exists(aside) and not exists(path):
        place(aside, path)
    if exists(aside) and not _is_spare(aside, operation):
        raise _displaced(operation, aside)
    return _cleared(operation)


def _leads_to_bytes(operation: Operation) -> bool:
    """Whether the link that was made shows the bytes that the file had."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if holds(keep, operation.sha256):
        return True
    if operation.action == "symlink":
        return False
    if not one_file(path, keep) and not holds(path, operation.sha256):  # the last name of bytes that nobody else has
        raise _displaced(operation, Path(operation.aside))
    return not one_file(path, keep)


def _settle_move(operation: Operation) -> Outcome:
    path, target = Path(operation.path), Path(operation.target)
    if exists(Path(operation.aside)):
        _settle_aside(operation)
    arrived = holds(target, operation.sha256)
    if not exists(path):
        if arrived:
            _remove(Path(operation.temporary))
            return "done", ""
        if not _is_original(target, operation):
            raise SetAside(f"it is gone, and {target} does not hold it; put that disk back, if it is missing")
        place(target, path)  # it was changed in the moment before it went, and so is not wanted there
    elif not holds(path, operation.sha256) and not one_file(path, target):
        if _is_original(path, operation) or (_is_original(target, operation) and not arrived):
            if exists(target) and not _is_empty(target):
                raise _displaced(operation, target)
        elif arrived:  # it went, and another file has come to be at its place
            return "done", ""
    return _cleared(operation)


def _settle_aside(operation: Operation) -> None:
    """On the way to another disk the file had another name: it goes, or it comes back."""
    path, target, aside = Path(operation.path), Path(operation.target), Path(operation.aside)
    copied = holds(aside, operation.sha256) and holds(target, operation.sha256)
    if one_file(aside, path) or copied:
        _remove(aside)
    elif exists(path):
        raise _displaced(operation, aside)
    else:
        place(aside, path)


def _displaced(operation: Operation, where: Path) -> SetAside:
    return SetAside(f"{operation.path} was changed by something else meanwhile; what was there before is {where}")


def is_our_link(operation: Operation) -> bool:
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
    return identity == (operation.keep_device, operation.keep_inode) or one_file(path, Path(operation.keep_path))


def _cleared(operation: Operation) -> Outcome:
    """Takes away what the operation made for itself; the file is where it was."""
    aside, temporary = Path(operation.aside), Path(operation.temporary)
    if _is_spare(aside, operation):
        _remove(aside)
    if operation.target or temporary.is_symlink() or _is_spare(temporary, operation):  # part of a copy, or a link
        _remove(temporary)
    if operation.target:
        _clear_target(operation, Path(operation.target))
    return "cancelled", ""


def _clear_target(operation: Operation, target: Path) -> None:
    if exists(target) and (_is_empty(target) or _is_spare(target, operation)):
        _remove(target)
    if operation.info and not exists(target) and trash.is_of(Path(operation.info), Path(operation.path)):
        _remove(Path(operation.info))


def _is_original(path: Path, operation: Operation) -> bool:
    """Whether it is the very file that the operation is about, whatever was written into it."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (operation.device, operation.inode)


def _is_own(temporary: Path, operation: Operation) -> bool:
    """Whether a name that only the operation uses holds nothing but a link, or the file that the link replaced."""
    if not exists(temporary) or temporary.is_symlink() or one_file(temporary, Path(operation.keep_path)):
        return True
    return _is_original(temporary, operation) or holds(temporary, operation.sha256)


def _is_spare(extra: Path, operation: Operation) -> bool:
    """Whether what this one holds is at the file's own place too; or, for links, in the kept file."""
    path, keep = Path(operation.path), Path(operation.keep_path)
    if one_file(extra, path) or one_file(extra, keep):
        return True
    if not holds(extra, operation.sha256):
        return False
    return holds(path, operation.sha256) or (not operation.target and holds(keep, operation.sha256))


def _is_empty(path: Path) -> bool:
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):
        sync(path.parent)
