"""Where a file goes, and the operation that the journal notes before it does."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.durable import sync
from dedup.ground import Ground, lies_in
from dedup.journal import Action, Operation
from dedup.placing import operation_facts
from dedup.sighting import SetAside, Sighting, exists, why_not
from dedup.trash import Trash, trash_for

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
