"""Taking back what a plan did: every file is again where it was, with its bytes, mode and time. Overwrites nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from simile.core.errors import BadSetting
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.dedup.cleanup.file_identity import (
    FileIdentity,
    SkippedFile,
    describe_os_error,
    has_content,
    identify_file,
    is_same_file,
    path_exists,
)
from simile.dedup.cleanup.file_ops import copy_file, rename_without_overwrite, sync_folders
from simile.dedup.cleanup.journal import (
    UNDOABLE_STATES,
    FileOperation,
    JournalEntry,
    OperationJournal,
    find_journal,
    read_journals,
)
from simile.dedup.cleanup.recovery import is_operation_link, recover_journal
from simile.store.database import schema
from simile.store.home import Home

OnProgress = Callable[[str, int, int], None]
PATH_OCCUPIED_REASON = "another file has come to be there since; move it away, and undo again"


@dataclass
class UndoResult:
    """What `undo` did. `set_aside`: files that are not back, and why."""

    journal: str
    restored: int = 0
    set_aside: list[Failure] = field(default_factory=list)


def undo_journal(
    settings: Settings, journal_name: str | None = None, wait: float = 0, on_progress: OnProgress = lambda *_: None
) -> UndoResult:
    """Takes a journal back, by default the newest that has something to undo; the last file first.

    Cut short, it goes on when it is called again. Raises BadSetting where there is nothing, HomeBusy, HomeError.
    """
    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock("simile dedup undo", wait):
        journal = _recover_and_find_journal(home, journal_name)
        entries = [entry for entry in reversed(journal.entries.values()) if entry.state in UNDOABLE_STATES]
        done = UndoResult(journal.name)
        for count, entry in enumerate(entries, 1):
            try:
                _undo_entry(journal, entry)
                done.restored += 1
            except SkippedFile as error:
                done.set_aside.append(Failure(entry.operation.named, error.reason))
            on_progress("undoing", count, len(entries))
        done.set_aside += [
            Failure(entry.operation.named, entry.reason)
            for entry in journal.entries.values()
            if entry.state == "unclear"
        ]
        return done


def _recover_and_find_journal(home: Home, name: str | None) -> OperationJournal:
    """The journal to undo, when all that was cut short is settled. Raises BadSetting."""
    with suppress(BadSetting):  # chosen before: settling may have been all that there was to do
        name = find_journal(home, name).name
    for journal in read_journals(home):
        recover_journal(journal)
    return find_journal(home, name)


def _undo_entry(journal: OperationJournal, entry: JournalEntry) -> None:
    """One file. Raises SetAside; then the journal still has it as something to undo."""
    operation, again = entry.operation, entry.state == "undoing"
    if not again:
        journal.write_state(operation.number, "undoing")
    try:
        _restore_file(operation, again)
    except (OSError, SkippedFile) as error:
        journal.write_state(operation.number, "done")  # not "undoing": that means that something of it may be half done
        raise error if isinstance(error, SkippedFile) else SkippedFile(describe_os_error(error)) from None
    journal.write_state(operation.number, "undone")


def _restore_file(operation: FileOperation, is_retry: bool) -> None:
    """`again`: an undo before this one was cut short at this file."""
    folder = Path(operation.path).parent
    if os.path.realpath(folder) != str(folder):
        raise SkippedFile("its folder is a symbolic link by now, or lies behind one")
    folder.mkdir(parents=True, exist_ok=True)
    if is_retry and path_exists(Path(operation.path)) and _is_placeholder(Path(operation.path)):
        Path(operation.path).unlink()  # it kept the name, where there are no hard links
    if operation.action in ("hardlink", "symlink"):
        _replace_link_by_copy(operation)
    else:
        _restore_moved_file(operation, is_retry)


def _restore_moved_file(operation: FileOperation, is_retry: bool) -> None:
    """A file that went elsewhere."""
    path, target = Path(operation.path), Path(operation.target)
    if path_exists(path):
        _finish_restore(operation, is_retry)
    else:
        _check_target(target, operation)
        try:
            rename_without_overwrite(target, path)
        except FileExistsError:
            raise SkippedFile(PATH_OCCUPIED_REASON) from None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy_file(target, _get_temporary_path(operation), operation)
            rename_without_overwrite(_get_temporary_path(operation), path)
            target.unlink()
    _clean_target_folder(operation)


def _finish_restore(operation: FileOperation, is_retry: bool) -> None:
    """Something is at the place already: what an undo that was cut short put there, or what is in the way."""
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
    """A file that became a link: it gets bytes of its own again."""
    path, keep, temporary = Path(operation.path), Path(operation.keep_path), _get_temporary_path(operation)
    if not path_exists(path):
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
        return  # it has its own bytes already
    facts = path.lstat()
    copy_file(_check_source(keep if stat.S_ISLNK(facts.st_mode) else path, operation), temporary, operation)
    now = path.lstat()
    if (now.st_dev, now.st_ino) != (facts.st_dev, facts.st_ino):
        temporary.unlink()
        raise SkippedFile(PATH_OCCUPIED_REASON)
    temporary.replace(path)
    sync_folders(path.parent)


def _check_source(path: Path, operation: FileOperation) -> Path:
    """Where the file's bytes are. Raises SetAside if they are not there any more."""
    if not has_content(path, operation.sha256):
        raise SkippedFile(f"its bytes were kept in {path}, which is gone or was changed since")
    return path


def _check_target(target: Path, operation: FileOperation) -> FileIdentity:
    try:
        seen = identify_file(target)
    except SkippedFile as error:
        raise SkippedFile(f"what was {operation.action}d to {target} can't be brought back: {error.reason}") from None
    if seen.sha256 != operation.sha256:
        raise SkippedFile(f"{target} was changed since; it stays there")
    return seen


def _clean_target_folder(operation: FileOperation) -> None:
    """Clears what was made at the target for this file: its .trashinfo, folders that are empty now."""
    if operation.info:
        Path(operation.info).unlink(missing_ok=True)
    base = Path(operation.base) if operation.base else None
    folder = Path(operation.target).parent
    with suppress(OSError):
        while base is not None and base in folder.parents:
            folder.rmdir()
            folder = folder.parent


def _remove_stale_copy(temporary: Path, path: Path) -> None:
    """A copy that an undo before this one did not finish, or (as a name of the file itself) did not clear away."""
    if path_exists(temporary) and (is_same_file(temporary, path) or temporary.lstat().st_nlink == 1):
        temporary.unlink()


def _get_temporary_path(operation: FileOperation) -> Path:
    return Path(operation.aside).with_suffix(".undo")


def _is_placeholder(path: Path) -> bool:
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0
