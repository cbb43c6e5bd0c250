"""What may be done with a file that goes. Each action leaves every byte somewhere, at every moment.

move, trash   the file goes to a free name elsewhere; to another disk as a checked copy, before it goes here
hardlink      the file becomes a second name of the kept one, which has the same bytes
symlink       the file becomes a symbolic link to the kept one, likewise

The journal has the operation before anything here is called. What fails half-way is settled as after a kill.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dedup.destinations import OTHER_DISK
from dedup.journal import Operation
from dedup.placing import copy, place, reserve, swap, sync_names
from dedup.settling import Outcome, settle
from dedup.sighting import SetAside, Sighting, exists, why_not
from dedup.trash import Trash

CHANGED = "it, or the file to keep, was changed at this very moment"


def carry_out(operation: Operation, seen: Sighting, keep: Sighting, trash: Trash | None = None) -> Outcome:
    """Does it: `done`; or `cancelled`, when all is as before, or `unclear`, with the reason."""
    try:
        if not (seen.is_at(seen.path) and keep.is_at(keep.path)):
            raise SetAside(CHANGED)
        if any(os.path.realpath(path.parent) != str(path.parent) for path in (seen.path, keep.path)):
            raise SetAside("its folder, or that of the file to keep, became a symbolic link at this very moment")
        if operation.action in ("hardlink", "symlink"):
            _replace_by_link(operation, seen, keep)
        else:
            _move(operation, seen, keep, trash)
    except (OSError, SetAside) as error:
        state, reason = settle(operation)
        return state, reason or (error.reason if isinstance(error, SetAside) else _words(operation, error))
    return "done", ""


def _replace_by_link(operation: Operation, seen: Sighting, keep: Sighting) -> None:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    if operation.action == "hardlink":
        os.link(keep.path, temporary, follow_symlinks=False)
    else:
        temporary.symlink_to(keep.path)
    os.link(path, aside, follow_symlinks=False)  # the old file keeps a name until all is well
    if not (seen.is_at(aside) and seen.is_at(path) and keep.is_at(keep.path)):
        raise SetAside(CHANGED)
    if operation.action == "hardlink" and not keep.is_at(temporary):
        raise SetAside(CHANGED)
    swap(temporary, path)
    sync_names(path.parent)
    if exists(temporary) and not seen.is_at(temporary):  # another file had come to the place
        swap(temporary, path)
        raise SetAside(CHANGED)
    if not (seen.is_at(aside) and keep.is_at(keep.path)):  # somebody wrote into one of them meanwhile
        aside.replace(path)
        raise SetAside(CHANGED)
    temporary.unlink(missing_ok=True)
    aside.unlink()
    sync_names(path.parent)


def _move(operation: Operation, seen: Sighting, keep: Sighting, trash: Trash | None) -> None:
    path, target = Path(operation.path), Path(operation.target)
    if trash is not None:
        trash.write_info(Path(operation.info), path)
    reserve(target)
    try:
        path.replace(target)  # whatever has the name at this moment: nothing can slip in between
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _move_far(operation, seen, keep)
    if not (seen.is_at(target) and keep.is_at(keep.path)):
        place(target, path)
        raise SetAside(CHANGED)
    sync_names(target.parent, path.parent)
    return None


def _move_far(operation: Operation, seen: Sighting, keep: Sighting) -> None:
    """To another disk: the copy is complete and checked before the file loses its name."""
    path, target = Path(operation.path), Path(operation.target)
    aside, temporary = Path(operation.aside), Path(operation.temporary)
    copy(path, temporary, operation)
    temporary.replace(target)  # the empty file that keeps the name
    sync_names(target.parent)
    if exists(aside):
        raise SetAside(f"{aside} is in the way")
    path.replace(aside)
    if not (seen.is_at(aside) and keep.is_at(keep.path)):
        place(aside, path)
        raise SetAside(CHANGED)
    aside.unlink()
    sync_names(path.parent)


def _words(operation: Operation, error: OSError) -> str:
    if error.errno == errno.EXDEV and operation.action == "hardlink":
        return OTHER_DISK
    if isinstance(error, FileExistsError | FileNotFoundError):
        return CHANGED
    return why_not(error)
