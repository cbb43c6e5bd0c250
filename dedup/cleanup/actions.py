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

pass
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from simile.core.atomic_write import sync
from simile.dedup.cleanup.file_identity import SetAside, Sighting, exists, why_not
from simile.dedup.cleanup.file_ops import copy, operation_facts, place, reserve, swap, sync_names
from simile.dedup.cleanup.journal import Action, Operation
from simile.dedup.cleanup.recovery import Outcome, settle
from simile.dedup.cleanup.safety import Ground, lies_in
from simile.dedup.cleanup.trash import Trash, trash_for

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


OTHER_DISK = "it lies on another disk than the file to keep: use --symlink, --move-to or --trash"


@dataclass(frozen=True)
class Destinations:
    """What is done with all files of a plan. base: the folder to move to. token: makes names that nobody else has."""

    action: Action
    base: Path | None
    ground: Ground
    token: str

    def operation(self, number: int, named: str, tier: str, files: tuple[Sighting, Sighting]) -> Operation:
        """All that doing and undoing needs to know of (the file that goes, the one to keep).

        Raises SetAside where there is no place for it.
        """
        seen, keep = files
        own = f".simile-{self.token}-{number}"
        facts: dict[str, Any] = operation_facts(seen, keep)
        try:
            facts |= self._place(named, seen, keep, own)
        except OSError as error:
            raise SetAside(why_not(error)) from None
        aside = str(seen.path.with_name(f"{own}.old"))
        return Operation(number=number, action=self.action, named=named, tier=tier, aside=aside, **facts)

    def check(self, seen: Sighting, keep: Sighting) -> None:
        """Raises SetAside where the action can't be done to these files, so far as looking at them tells."""
        if self.base is not None:
            _check_outside(seen, keep, self.base)
        if self.action in ("hardlink", "symlink") and seen.sha256 != keep.sha256:
            raise SetAside("its bytes differ from those of the file to keep: a link would change what it shows")
        if self.action == "hardlink" and seen.device != keep.device:
            raise SetAside(OTHER_DISK)

    def trash(self, path: Path) -> Trash | None:
        return trash_for(path) if self.action == "trash" else None

    def _place(self, named: str, seen: Sighting, keep: Sighting, own: str) -> dict[str, str]:
        if self.base is not None:
            target = _free_target(self.base / self.ground.layout(named), self.base)
            return {"target": str(target), "temporary": str(target.with_name(f"{own}.new")), "base": str(self.base)}
        if trash := self.trash(seen.path):
            _check_outside(seen, keep, trash.folder)
            target, info = trash.free_names(seen.path)
            return {"target": str(target), "temporary": str(target.with_name(f"{own}.new")), "info": str(info)}
        return {"temporary": str(seen.path.with_name(f"{own}.new"))}


def _check_outside(seen: Sighting, keep: Sighting, folder: Path) -> None:
    """Whoever empties the folder must not take the kept file with it."""
    if lies_in(str(seen.path), str(folder)):
        raise SetAside(f"it lies in {folder} already")
    if lies_in(str(keep.path), str(folder)):
        raise SetAside(f"the file to keep lies in {folder}, which may be emptied one day")


def _free_target(wanted: Path, base: Path) -> Path:
    """A name below `base` that nothing has, in folders as they were."""
    folder = wanted.parent
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            for made in [folder, *folder.parents][: len(folder.relative_to(base).parts) + 1]:
                sync(made)
    if os.path.realpath(folder) != str(folder):
        raise SetAside(f"{folder} leads out of {base} by a symbolic link")
    target, number = wanted, 1
    while exists(target):
        number += 1
        target = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return target
