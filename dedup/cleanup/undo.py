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
from simile.dedup.cleanup.file_identity import SetAside, Sighting, exists, holds, look, one_file, why_not
from simile.dedup.cleanup.file_ops import copy, place, sync_names
from simile.dedup.cleanup.journal import TO_UNDO, Entry, Journal, Operation, all_journals, find_journal
from simile.dedup.cleanup.recovery import is_our_link, settle_journal
from simile.store.database import schema
from simile.store.home import Home

OnProgress = Callable[[str, int, int], None]
IN_THE_WAY = "another file has come to be there since; move it away, and undo again"


@dataclass
class Undone:
    """What `undo` did. `set_aside`: files that are not back, and why."""

    journal: str
    restored: int = 0
    set_aside: list[Failure] = field(default_factory=list)


def undo(
    settings: Settings, name: str | None = None, wait: float = 0, on_progress: OnProgress = lambda *_: None
) -> Undone:
    """Takes a journal back, by default the newest that has something to undo; the last file first.

    Cut short, it goes on when it is called again. Raises BadSetting where there is nothing, HomeBusy, HomeError.
    """
    home = Home(settings.home, settings.database_url)
    if schema.revision(home) is None:
        schema.check(home)
    with home.lock("simile dedup undo", wait):
        journal = _settled(home, name)
        entries = [entry for entry in reversed(journal.entries.values()) if entry.state in TO_UNDO]
        done = Undone(journal.name)
        for count, entry in enumerate(entries, 1):
            try:
                _take_back(journal, entry)
                done.restored += 1
            except SetAside as error:
                done.set_aside.append(Failure(entry.operation.named, error.reason))
            on_progress("undoing", count, len(entries))
        done.set_aside += [
            Failure(entry.operation.named, entry.reason)
            for entry in journal.entries.values()
            if entry.state == "unclear"
        ]
        return done


def _settled(home: Home, name: str | None) -> Journal:
    """The journal to undo, when all that was cut short is settled. Raises BadSetting."""
    with suppress(BadSetting):  # chosen before: settling may have been all that there was to do
        name = find_journal(home, name).name
    for journal in all_journals(home):
        settle_journal(journal)
    return find_journal(home, name)


def _take_back(journal: Journal, entry: Entry) -> None:
    """One file. Raises SetAside; then the journal still has it as something to undo."""
    operation, again = entry.operation, entry.state == "undoing"
    if not again:
        journal.note(operation.number, "undoing")
    try:
        _restore(operation, again)
    except (OSError, SetAside) as error:
        journal.note(operation.number, "done")  # not "undoing": that means that something of it may be half done
        raise error if isinstance(error, SetAside) else SetAside(why_not(error)) from None
    journal.note(operation.number, "undone")


def _restore(operation: Operation, again: bool) -> None:
    """`again`: an undo before this one was cut short at this file."""
    folder = Path(operation.path).parent
    if os.path.realpath(folder) != str(folder):
        raise SetAside("its folder is a symbolic link by now, or lies behind one")
    folder.mkdir(parents=True, exist_ok=True)
    if again and exists(Path(operation.path)) and _is_empty(Path(operation.path)):
        Path(operation.path).unlink()  # it kept the name, where there are no hard links
    if operation.action in ("hardlink", "symlink"):
        _make_independent(operation)
    else:
        _bring_back(operation, again)


def _bring_back(operation: Operation, again: bool) -> None:
    """A file that went elsewhere."""
    path, target = Path(operation.path), Path(operation.target)
    if exists(path):
        _finish_coming_back(operation, again)
    else:
        _check_bytes(target, operation)
        try:
            place(target, path)
        except FileExistsError:
            raise SetAside(IN_THE_WAY) from None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(target, _temporary(operation), operation)
            place(_temporary(operation), path)
            target.unlink()
    _leave(operation)


def _finish_coming_back(operation: Operation, again: bool) -> None:
    """Something is at the place already: what an undo that was cut short put there, or what is in the way."""
    path, target = Path(operation.path), Path(operation.target)
    _remove_own(_temporary(operation), path)
    if one_file(path, target):
        target.unlink()
    elif not holds(path, operation.sha256):
        raise SetAside(IN_THE_WAY)
    elif exists(target):
        if not (again and path.lstat().st_mtime_ns == operation.mtime_ns):
            raise SetAside(f"a file with the same bytes is there already; this one stays at {target}")
        _check_bytes(target, operation)
        target.unlink()


def _make_independent(operation: Operation) -> None:
    """A file that became a link: it gets bytes of its own again."""
    path, keep, temporary = Path(operation.path), Path(operation.keep_path), _temporary(operation)
    if not exists(path):
        copy(_source(keep, operation), temporary, operation)
        try:
            place(temporary, path)
        except FileExistsError:
            raise SetAside(IN_THE_WAY) from None
        return
    if not is_our_link(operation):
        _remove_own(temporary, path)
        if not holds(path, operation.sha256):
            raise SetAside(IN_THE_WAY)
        return  # it has its own bytes already
    facts = path.lstat()
    copy(_source(keep if stat.S_ISLNK(facts.st_mode) else path, operation), temporary, operation)
    now = path.lstat()
    if (now.st_dev, now.st_ino) != (facts.st_dev, facts.st_ino):
        temporary.unlink()
        raise SetAside(IN_THE_WAY)
    temporary.replace(path)
    sync_names(path.parent)


def _source(path: Path, operation: Operation) -> Path:
    """Where the file's bytes are. Raises SetAside if they are not there any more."""
    if not holds(path, operation.sha256):
        raise SetAside(f"its bytes were kept in {path}, which is gone or was changed since")
    return path


def _check_bytes(target: Path, operation: Operation) -> Sighting:
    try:
        seen = look(target)
    except SetAside as error:
        raise SetAside(f"what was {operation.action}d to {target} can't be brought back: {error.reason}") from None
    if seen.sha256 != operation.sha256:
        raise SetAside(f"{target} was changed since; it stays there")
    return seen


def _leave(operation: Operation) -> None:
    """Clears what was made at the target for this file: its .trashinfo, folders that are empty now."""
    if operation.info:
        Path(operation.info).unlink(missing_ok=True)
    base = Path(operation.base) if operation.base else None
    folder = Path(operation.target).parent
    with suppress(OSError):
        while base is not None and base in folder.parents:
            folder.rmdir()
            folder = folder.parent


def _remove_own(temporary: Path, path: Path) -> None:
    """A copy that an undo before this one did not finish, or (as a name of the file itself) did not clear away."""
    if exists(temporary) and (one_file(temporary, path) or temporary.lstat().st_nlink == 1):
        temporary.unlink()


def _temporary(operation: Operation) -> Path:
    return Path(operation.aside).with_suffix(".undo")


def _is_empty(path: Path) -> bool:
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0
