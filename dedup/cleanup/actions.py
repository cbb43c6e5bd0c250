"""What may be done with a file that goes. Each action leaves every byte somewhere, at every moment.

move, trash   the file goes to a free name elsewhere; to another disk as a checked copy, before it goes here
hardlink      the file becomes a second name of the kept one, which has the same bytes
symlink       the file becomes a symbolic link to the kept one, likewise

The journal has the operation before anything here is called. What fails half-way is settled as after a kill.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_identity import FileIdentity, SkippedFile, describe_os_error, path_exists
from simile.dedup.cleanup.file_ops import (
    copy_file,
    exchange_files,
    make_operation_fields,
    rename_without_overwrite,
    reserve_name,
    sync_folders,
)
from simile.dedup.cleanup.journal import CleanupAction, FileOperation
from simile.dedup.cleanup.recovery import OperationOutcome, recover_operation
from simile.dedup.cleanup.safety import AllowedPaths, is_inside
from simile.dedup.cleanup.trash import Trash, open_trash

pass

CHANGED_REASON = "it, or the file to keep, was changed at this very moment"


def execute_operation(
    operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity, trash: Trash | None = None
) -> OperationOutcome:
    """Does it: `done`; or `cancelled`, when all is as before, or `unclear`, with the reason."""
    try:
        if not (identity.is_at(identity.path) and kept_file.is_at(kept_file.path)):
            raise SkippedFile(CHANGED_REASON)
        if any(os.path.realpath(path.parent) != str(path.parent) for path in (identity.path, kept_file.path)):
            raise SkippedFile("its folder, or that of the file to keep, became a symbolic link at this very moment")
        if operation.action in ("hardlink", "symlink"):
            _replace_by_link(operation, identity, kept_file)
        else:
            _move_file(operation, identity, kept_file, trash)
    except (OSError, SkippedFile) as error:
        state, reason = recover_operation(operation)
        return state, reason or (
            error.reason if isinstance(error, SkippedFile) else _describe_failure(operation, error)
        )
    return "done", ""


def _replace_by_link(operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity) -> None:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    if operation.action == "hardlink":
        os.link(kept_file.path, temporary, follow_symlinks=False)
    else:
        temporary.symlink_to(kept_file.path)
    os.link(path, aside, follow_symlinks=False)  # the old file keeps a name until all is well
    if not (identity.is_at(aside) and identity.is_at(path) and kept_file.is_at(kept_file.path)):
        raise SkippedFile(CHANGED_REASON)
    if operation.action == "hardlink" and not kept_file.is_at(temporary):
        raise SkippedFile(CHANGED_REASON)
    exchange_files(temporary, path)
    sync_folders(path.parent)
    if path_exists(temporary) and not identity.is_at(temporary):  # another file had come to the place
        exchange_files(temporary, path)
        raise SkippedFile(CHANGED_REASON)
    if not (identity.is_at(aside) and kept_file.is_at(kept_file.path)):  # somebody wrote into one of them meanwhile
        aside.replace(path)
        raise SkippedFile(CHANGED_REASON)
    temporary.unlink(missing_ok=True)
    aside.unlink()
    sync_folders(path.parent)


def _move_file(operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity, trash: Trash | None) -> None:
    path, target = Path(operation.path), Path(operation.target)
    if trash is not None:
        trash.write_info(Path(operation.info), path)
    reserve_name(target)
    try:
        path.replace(target)  # whatever has the name at this moment: nothing can slip in between
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _move_across_disks(operation, identity, kept_file)
    if not (identity.is_at(target) and kept_file.is_at(kept_file.path)):
        rename_without_overwrite(target, path)
        raise SkippedFile(CHANGED_REASON)
    sync_folders(target.parent, path.parent)
    return None


def _move_across_disks(operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity) -> None:
    """To another disk: the copy is complete and checked before the file loses its name."""
    path, target = Path(operation.path), Path(operation.target)
    aside, temporary = Path(operation.aside), Path(operation.temporary)
    copy_file(path, temporary, operation)
    temporary.replace(target)  # the empty file that keeps the name
    sync_folders(target.parent)
    if path_exists(aside):
        raise SkippedFile(f"{aside} is in the way")
    path.replace(aside)
    if not (identity.is_at(aside) and kept_file.is_at(kept_file.path)):
        rename_without_overwrite(aside, path)
        raise SkippedFile(CHANGED_REASON)
    aside.unlink()
    sync_folders(path.parent)


def _describe_failure(operation: FileOperation, error: OSError) -> str:
    if error.errno == errno.EXDEV and operation.action == "hardlink":
        return OTHER_DISK_REASON
    if isinstance(error, FileExistsError | FileNotFoundError):
        return CHANGED_REASON
    return describe_os_error(error)


OTHER_DISK_REASON = "it lies on another disk than the file to keep: use --symlink, --move-to or --trash"


@dataclass(frozen=True)
class TargetPlanner:
    """What is done with all files of a plan. base: the folder to move to. token: makes names that nobody else has."""

    action: CleanupAction
    base_folder: Path | None
    allowed_paths: AllowedPaths
    name_token: str

    def make_operation(
        self, number: int, plan_path: str, tier: str, files: tuple[FileIdentity, FileIdentity]
    ) -> FileOperation:
        """All that doing and undoing needs to know of (the file that goes, the one to keep).

        Raises SetAside where there is no place for it.
        """
        seen, keep = files
        own = f".simile-{self.name_token}-{number}"
        facts: dict[str, Any] = make_operation_fields(seen, keep)
        try:
            facts |= self._make_target_fields(plan_path, seen, keep, own)
        except OSError as error:
            raise SkippedFile(describe_os_error(error)) from None
        aside = str(seen.path.with_name(f"{own}.old"))
        return FileOperation(number=number, action=self.action, named=plan_path, tier=tier, aside=aside, **facts)

    def check_files(self, identity: FileIdentity, kept_file: FileIdentity) -> None:
        """Raises SetAside where the action can't be done to these files, so far as looking at them tells."""
        if self.base_folder is not None:
            _check_outside(identity, kept_file, self.base_folder)
        if self.action in ("hardlink", "symlink") and identity.sha256 != kept_file.sha256:
            raise SkippedFile("its bytes differ from those of the file to keep: a link would change what it shows")
        if self.action == "hardlink" and identity.device != kept_file.device:
            raise SkippedFile(OTHER_DISK_REASON)

    def get_trash(self, path: Path) -> Trash | None:
        return open_trash(path) if self.action == "trash" else None

    def _make_target_fields(
        self, plan_path: str, identity: FileIdentity, kept_file: FileIdentity, name_prefix: str
    ) -> dict[str, str]:
        if self.base_folder is not None:
            target = _find_free_target(
                self.base_folder / self.allowed_paths.get_relative_path(plan_path), self.base_folder
            )
            return {
                "target": str(target),
                "temporary": str(target.with_name(f"{name_prefix}.new")),
                "base": str(self.base_folder),
            }
        if trash := self.get_trash(identity.path):
            _check_outside(identity, kept_file, trash.folder)
            target, info = trash.find_free_names(identity.path)
            return {"target": str(target), "temporary": str(target.with_name(f"{name_prefix}.new")), "info": str(info)}
        return {"temporary": str(identity.path.with_name(f"{name_prefix}.new"))}


def _check_outside(identity: FileIdentity, kept_file: FileIdentity, folder: Path) -> None:
    """Whoever empties the folder must not take the kept file with it."""
    if is_inside(str(identity.path), str(folder)):
        raise SkippedFile(f"it lies in {folder} already")
    if is_inside(str(kept_file.path), str(folder)):
        raise SkippedFile(f"the file to keep lies in {folder}, which may be emptied one day")


def _find_free_target(preferred: Path, base_folder: Path) -> Path:
    """A name below `base` that nothing has, in folders as they were."""
    folder = preferred.parent
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            for made in [folder, *folder.parents][: len(folder.relative_to(base_folder).parts) + 1]:
                fsync_path(made)
    if os.path.realpath(folder) != str(folder):
        raise SkippedFile(f"{folder} leads out of {base_folder} by a symbolic link")
    target, number = preferred, 1
    while path_exists(target):
        number += 1
        target = preferred.with_name(f"{preferred.stem}-{number}{preferred.suffix}")
    return target
