"""Undo what a plan did: every file is back with its bytes, mode and times. Nothing is overwritten."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from simile.core.errors import BadSetting
from simile.core.records import Failure, OnProgress
from simile.core.settings import Settings
from simile.dedup.cleanup.file_ops import (
    SkippedFile,
    copy_file,
    describe_os_error,
    has_content,
    identify_file,
    is_empty_file,
    is_same_file,
    path_exists,
    rename_without_overwrite,
    sync_folders,
)
from simile.dedup.cleanup.journal import (
    UNDOABLE_STATES,
    FileOperation,
    JournalEntry,
    OperationJournal,
    find_journal,
    read_journals,
)
from simile.dedup.cleanup.recovery import is_operation_link, recover_journal
from simile.dedup.cleanup.sidecar_writes import undo_write
from simile.store.database import schema
from simile.store.home import Home

PATH_OCCUPIED_REASON = "another file is there now; move it away, and undo again"


@dataclass
class UndoResult:
    """What undo did."""

    journal: str
    restored: int = 0
    set_aside: list[Failure] = field(default_factory=list)  # files that were not restored


def undo_journal(
    settings: Settings, journal_name: str | None = None, wait: float = 0, on_progress: OnProgress = lambda *_: None
) -> UndoResult:
    """Undo a journal, the last file first. An interrupted undo continues when it is called again.

    Args:
        journal_name: None: the newest journal with something to undo.
        wait: Seconds to wait for the home's lock.

    Raises BadSetting if there is nothing to undo, HomeError for a damaged journal, HomeBusy.
    """
    home = Home.from_settings(settings)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock("simile dedup undo", wait):
        journal = _recover_and_find_journal(home, journal_name)
        entries = [entry for entry in reversed(journal.entries.values()) if entry.state in UNDOABLE_STATES]
        result = UndoResult(journal.name)
        for count, entry in enumerate(entries, 1):
            try:
                undo_entry(journal, entry)
                result.restored += 1
            except SkippedFile as error:
                result.set_aside.append(Failure(entry.operation.named, error.reason))
            on_progress("undoing", count, len(entries))
        unclear = (entry for entry in journal.entries.values() if entry.state == "unclear")
        result.set_aside += [Failure(entry.operation.named, entry.reason) for entry in unclear]
        return result


def _recover_and_find_journal(home: Home, name: str | None) -> OperationJournal:
    """Recover all interrupted operations and return the journal to undo. Raises BadSetting."""
    with suppress(BadSetting):  # choose before recovery: recovery may be all that this journal needs
        name = find_journal(home, name).name
    for journal in read_journals(home):
        recover_journal(journal)
    return find_journal(home, name)


def undo_entry(journal: OperationJournal, entry: JournalEntry) -> None:
    """Restore one file. Raises SkippedFile; the journal then still lists it as undoable."""
    operation, is_retry = entry.operation, entry.state == "undoing"
    if not is_retry:
        journal.write_state(operation.number, "undoing")
    try:
        _restore_file(operation, is_retry)
    except (OSError, SkippedFile) as error:
        journal.write_state(operation.number, "done")  # "undoing" would mean that the file may be half restored
        raise error if isinstance(error, SkippedFile) else SkippedFile(describe_os_error(error)) from None
    journal.write_state(operation.number, "undone")


def _restore_file(operation: FileOperation, is_retry: bool) -> None:
    """Restore a file; `is_retry`: an earlier undo was interrupted at this file."""
    path = Path(operation.path)
    if os.path.realpath(path.parent) != str(path.parent):
        raise SkippedFile("its folder is now a symbolic link, or is reached through one")
    path.parent.mkdir(parents=True, exist_ok=True)
    if operation.role == "sidecar":
        undo_write(operation)
        return
    if is_retry and path_exists(path) and is_empty_file(path):
        path.unlink()  # it reserved the name on a file system without hard links
    if operation.action in ("hardlink", "symlink"):
        _replace_link_by_copy(operation)
    elif path_exists(path):
        _finish_restore(operation, is_retry)
        _clean_target_folder(operation)
    else:
        _move_back(operation)
        _clean_target_folder(operation)


def _move_back(operation: FileOperation) -> None:
    """Move a file back to its path, which is free."""
    path, target, temporary = Path(operation.path), Path(operation.target), _get_temporary_path(operation)
    _check_target(target, operation)
    try:
        rename_without_overwrite(target, path)
    except FileExistsError:
        raise SkippedFile(PATH_OCCUPIED_REASON) from None
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_file(target, temporary, operation)
        rename_without_overwrite(temporary, path)
        target.unlink()


def _finish_restore(operation: FileOperation, is_retry: bool) -> None:
    """Handle a file at the path: an interrupted undo restored it, or another file is in the way."""
    path, target = Path(operation.path), Path(operation.target)
    _remove_stale_copy(_get_temporary_path(operation), path)
    if is_same_file(path, target):
        target.unlink()
    elif not has_content(path, operation.sha256):
        raise SkippedFile(PATH_OCCUPIED_REASON)
    elif path_exists(target):
        if not (is_retry and path.lstat().st_mtime_ns == operation.mtime_ns):
            raise SkippedFile(f"a file with the same bytes is there already; this one stays at {target}")
        _check_target(target, operation)
        target.unlink()


def _replace_link_by_copy(operation: FileOperation) -> None:
    """Replace a link by a file with its own bytes."""
    path, keep, temporary = Path(operation.path), Path(operation.keep_path), _get_temporary_path(operation)
    if not path_exists(path):
        # The link was deleted: restore the file from the kept one.
        copy_file(_check_source(keep, operation), temporary, operation)
        try:
            rename_without_overwrite(temporary, path)
        except FileExistsError:
            raise SkippedFile(PATH_OCCUPIED_REASON) from None
        return
    if not is_operation_link(operation):
        _remove_stale_copy(temporary, path)
        if not has_content(path, operation.sha256):
            raise SkippedFile(PATH_OCCUPIED_REASON)
        return  # the file has its own bytes already
    status = path.lstat()
    copy_file(_check_source(keep if stat.S_ISLNK(status.st_mode) else path, operation), temporary, operation)
    if not os.path.samestat(path.lstat(), status):
        temporary.unlink()
        raise SkippedFile(PATH_OCCUPIED_REASON)
    temporary.replace(path)
    sync_folders(path.parent)


def _check_source(path: Path, operation: FileOperation) -> Path:
    """Return the path if it contains the file's bytes. Raises SkippedFile."""
    if not has_content(path, operation.sha256):
        raise SkippedFile(f"its bytes were kept in {path}, which is missing or was changed since")
    return path


def _check_target(target: Path, operation: FileOperation) -> None:
    """Raise SkippedFile if the target no longer contains the file's bytes."""
    try:
        sha256 = identify_file(target).sha256
    except SkippedFile as error:
        raise SkippedFile(f"the file at {target} can't be restored: {error.reason}") from None
    if sha256 != operation.sha256:
        raise SkippedFile(f"{target} was changed since; it stays there")


def _clean_target_folder(operation: FileOperation) -> None:
    """Remove the file's .trashinfo, and folders at the target that are empty now."""
    if operation.info:
        Path(operation.info).unlink(missing_ok=True)
    base = Path(operation.base) if operation.base else None
    folder = Path(operation.target).parent
    with suppress(OSError):  # the first folder that is not empty ends the loop
        while base is not None and base in folder.parents:
            folder.rmdir()
            folder = folder.parent


def _remove_stale_copy(temporary: Path, path: Path) -> None:
    """Remove a temporary file of an interrupted undo: an incomplete copy, or a second name of the file."""
    if path_exists(temporary) and (is_same_file(temporary, path) or temporary.lstat().st_nlink == 1):
        temporary.unlink()


def _get_temporary_path(operation: FileOperation) -> Path:
    return Path(operation.aside).with_suffix(".undo")
