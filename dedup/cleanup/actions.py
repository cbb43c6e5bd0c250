"""The actions on a file that is removed. At each moment all bytes are stored somewhere.

move, trash   the file is moved to a free name; on another disk a verified copy is made before the file is removed
hardlink      the file becomes a second name of the kept file, which has the same bytes
symlink       the file becomes a symbolic link to the kept file, which has the same bytes

The journal contains the operation before anything here is called. A failed operation is recovered like a killed one.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_ops import (
    FileIdentity,
    SkippedFile,
    copy_file,
    describe_os_error,
    exchange_files,
    path_exists,
    read_extended_attributes,
    rename_without_overwrite,
    reserve_name,
    sync_folders,
)
from simile.dedup.cleanup.journal import CleanupAction, FileOperation, OperationRole
from simile.dedup.cleanup.recovery import OperationOutcome, recover_operation
from simile.dedup.cleanup.safety import AllowedPaths, is_inside
from simile.dedup.cleanup.trash import Trash, make_free_name, open_trash

CHANGED_REASON = "it, or the file to keep, was changed at this moment"
OTHER_DISK_REASON = "it is on another disk than the file to keep: use --symlink, --move-to or --trash"


def execute_operation(
    operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity, trash: Trash | None = None
) -> OperationOutcome:
    """Execute an operation.

    Returns:
        `done`; or `cancelled` (everything is as before) or `unclear`, with the reason.
    """
    try:
        if not (identity.is_at(identity.path) and kept_file.is_at(kept_file.path)):
            raise SkippedFile(CHANGED_REASON)
        if any(os.path.realpath(path.parent) != str(path.parent) for path in (identity.path, kept_file.path)):
            raise SkippedFile("its folder, or the folder of the file to keep, became a symbolic link at this moment")
        if operation.action in ("hardlink", "symlink"):
            _replace_by_link(operation, identity, kept_file)
        else:
            _move_file(operation, identity, kept_file, trash)
    except (OSError, SkippedFile) as error:
        state, reason = recover_operation(operation)
        return state, reason or _describe_failure(operation, error)
    return "done", ""


def _replace_by_link(operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity) -> None:
    path, aside, temporary = Path(operation.path), Path(operation.aside), Path(operation.temporary)
    # Create the link under a temporary name; the old file gets a second name until all is done.
    if operation.action == "hardlink":
        os.link(kept_file.path, temporary, follow_symlinks=False)
    else:
        temporary.symlink_to(kept_file.path)
    os.link(path, aside, follow_symlinks=False)
    if not (identity.is_at(aside) and identity.is_at(path) and kept_file.is_at(kept_file.path)):
        raise SkippedFile(CHANGED_REASON)
    if operation.action == "hardlink" and not kept_file.is_at(temporary):
        raise SkippedFile(CHANGED_REASON)
    # Put the link in the file's place, and check what was there and what it shows.
    exchange_files(temporary, path)
    sync_folders(path.parent)
    if path_exists(temporary) and not identity.is_at(temporary):  # another file had appeared there
        exchange_files(temporary, path)
        raise SkippedFile(CHANGED_REASON)
    if not (identity.is_at(aside) and kept_file.is_at(kept_file.path)):  # one of them was written to meanwhile
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
        path.replace(target)  # moves whatever has the name at this moment; it is checked below
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across_disks(operation, identity, kept_file)
        return
    if not (identity.is_at(target) and kept_file.is_at(kept_file.path)):
        rename_without_overwrite(target, path)
        raise SkippedFile(CHANGED_REASON)
    sync_folders(target.parent, path.parent)


def _move_across_disks(operation: FileOperation, identity: FileIdentity, kept_file: FileIdentity) -> None:
    """Move to another disk: the copy is complete and verified before the file loses its name."""
    path, target = Path(operation.path), Path(operation.target)
    aside, temporary = Path(operation.aside), Path(operation.temporary)
    copy_file(path, temporary, operation)
    temporary.replace(target)  # replaces the empty file that reserved the name
    sync_folders(target.parent)
    if path_exists(aside):
        raise SkippedFile(f"{aside} is in the way")
    path.replace(aside)
    if not (identity.is_at(aside) and kept_file.is_at(kept_file.path)):
        rename_without_overwrite(aside, path)
        raise SkippedFile(CHANGED_REASON)
    aside.unlink()
    sync_folders(path.parent)


def _describe_failure(operation: FileOperation, error: OSError | SkippedFile) -> str:
    if isinstance(error, SkippedFile):
        return error.reason
    if error.errno == errno.EXDEV and operation.action == "hardlink":
        return OTHER_DISK_REASON
    return CHANGED_REASON if isinstance(error, FileExistsError | FileNotFoundError) else describe_os_error(error)


@dataclass(frozen=True)
class TargetPlanner:
    """Plans the operation on each file of a plan."""

    action: CleanupAction
    base_folder: Path | None  # where files are moved to
    allowed_paths: AllowedPaths
    name_token: str  # makes temporary names that no other program uses

    def make_operation(
        self,
        number: int,
        plan_path: str,
        tier: str,
        identity: FileIdentity,
        kept_file: FileIdentity,
        *,
        role: OperationRole = "image",
    ) -> FileOperation:
        """Collect all that is needed to do and undo the action. Raises SkippedFile if there is no place for the file.

        Args:
            number: As in the journal.
            plan_path: The file's path in the plan.
            role: What the file is in its line of the plan.
        """
        prefix, status = self.make_prefix(number), identity.status
        try:
            target, info = self._choose_target(plan_path, identity, kept_file)
            attributes = read_extended_attributes(identity.path)
        except OSError as error:
            raise SkippedFile(describe_os_error(error)) from None
        return FileOperation(
            number=number,
            action=self.action,
            named=plan_path,
            path=str(identity.path),
            sha256=identity.sha256,
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=status.st_mtime_ns,
            atime_ns=status.st_atime_ns,
            uid=status.st_uid,
            gid=status.st_gid,
            device=status.st_dev,
            inode=status.st_ino,
            attributes=attributes,
            keep_path=str(kept_file.path),
            keep_sha256=kept_file.sha256,
            keep_device=kept_file.status.st_dev,
            keep_inode=kept_file.status.st_ino,
            tier=tier,
            aside=str(identity.path.with_name(f"{prefix}.old")),
            temporary=str((target or identity.path).with_name(f"{prefix}.new")),
            target=str(target or ""),
            info=str(info or ""),
            base=str(self.base_folder or ""),
            role=role,
        )

    def make_prefix(self, number: int) -> str:
        """Return the start of the temporary names of an operation."""
        return f".simile-{self.name_token}-{number}"

    def check_files(self, identity: FileIdentity, kept_file: FileIdentity) -> None:
        """Raise SkippedFile if the action is impossible for these files."""
        if self.base_folder is not None:
            _check_outside(identity, kept_file, self.base_folder)
        if self.action in ("hardlink", "symlink") and identity.sha256 != kept_file.sha256:
            raise SkippedFile("its bytes differ from those of the file to keep: a link would change its content")
        if self.action == "hardlink" and identity.status.st_dev != kept_file.status.st_dev:
            raise SkippedFile(OTHER_DISK_REASON)

    def get_trash(self, path: Path) -> Trash | None:
        """Return the trash for the file; None if the action does not use it."""
        return open_trash(path) if self.action == "trash" else None

    def _choose_target(
        self, plan_path: str, identity: FileIdentity, kept_file: FileIdentity
    ) -> tuple[Path | None, Path | None]:
        """Return the file's new path and its .trashinfo; None if the action has none."""
        if self.base_folder is not None:
            preferred = self.base_folder / self.allowed_paths.get_relative_path(plan_path)
            return _find_free_target(preferred, self.base_folder), None
        if trash := self.get_trash(identity.path):
            _check_outside(identity, kept_file, trash.folder)
            return trash.find_free_names(identity.path)
        return None, None


def _check_outside(identity: FileIdentity, kept_file: FileIdentity, folder: Path) -> None:
    """Raise SkippedFile if a file is in the folder: deleting the folder must not delete the kept file."""
    if is_inside(str(identity.path), str(folder)):
        raise SkippedFile(f"it is in {folder} already")
    if is_inside(str(kept_file.path), str(folder)):
        raise SkippedFile(f"the file to keep is in {folder}, which may be deleted later")


def _find_free_target(preferred: Path, base_folder: Path) -> Path:
    """Return an unused name below the base folder; create the folders."""
    folder = preferred.parent
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            depth = len(folder.relative_to(base_folder).parts)
            for created in [folder, *folder.parents][: depth + 1]:
                fsync_path(created)
    if os.path.realpath(folder) != str(folder):
        raise SkippedFile(f"{folder} leads out of {base_folder} through a symbolic link")
    target, number = preferred, 1
    while path_exists(target):
        number += 1
        target = preferred.with_name(make_free_name(preferred, f"-{number}", 255))
    return target
