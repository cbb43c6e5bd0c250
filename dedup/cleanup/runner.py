"""Run the operations of one plan; each is recorded in the plan's journal first."""

from __future__ import annotations

import base64
import stat
from dataclasses import dataclass, field
from itertools import count

from simile.dedup.cleanup.actions import TargetPlanner, execute_operation
from simile.dedup.cleanup.file_ops import (
    FileIdentity,
    SkippedFile,
    describe_os_error,
    path_exists,
    read_extended_attributes,
)
from simile.dedup.cleanup.journal import FileOperation, OperationJournal, OperationRole, create_journal
from simile.dedup.cleanup.recovery import recover_operation
from simile.dedup.cleanup.safety import OperationHistory
from simile.dedup.cleanup.sidecar_writes import SidecarWrite, write_sidecar
from simile.dedup.cleanup.undo import undo_entry
from simile.dedup.records import Removal
from simile.store.home import Home


@dataclass(kw_only=True)
class OperationRunner:
    """Executes operations on files and keeps the journal."""

    home: Home
    planner: TargetPlanner
    history: OperationHistory
    header: dict[str, str | None]  # of the journal
    lines: int  # of the plan; the numbers after it are free
    journal: OperationJournal | None = None  # created for the first operation: a plan without any leaves none
    _numbers: count[int] = field(init=False)

    def __post_init__(self) -> None:
        """Number the operations that are no lines of the plan."""
        self._numbers = count(self.lines + 1)

    def remove(self, number: int, removal: Removal, file: FileIdentity, keep_file: FileIdentity) -> None:
        """Execute the action on the image of a line. Raises SkippedFile if everything is as before, or unclear."""
        self._remove(number, removal.path, removal, file, keep_file, "image")

    def remove_companion(self, path: str, removal: Removal, file: FileIdentity, keep_file: FileIdentity) -> None:
        """Move a file that goes along with the image of a line. Raises SkippedFile as `remove`."""
        self._remove(next(self._numbers), path, removal, file, keep_file, "companion")

    def _remove(
        self,
        number: int,
        path: str,
        removal: Removal,
        file: FileIdentity,
        keep_file: FileIdentity,
        role: OperationRole,
    ) -> None:
        operation = self.planner.make_operation(number, path, removal.tier, file, keep_file, role=role)
        journal = self._write_intent(operation)
        outcome = execute_operation(operation, file, keep_file, self.planner.get_trash(file.path))
        journal.write_state(number, *outcome)
        if outcome[0] != "done":
            raise SkippedFile(outcome[1])
        self.history.add(operation)

    def write_sidecar(self, removal: Removal, keep_file: FileIdentity, write: SidecarWrite) -> int:
        """Write the sidecar of the kept file and return the operation's number. Raises SkippedFile."""
        operation = self._make_write_operation(next(self._numbers), removal, keep_file, write)
        journal = self._write_intent(operation)
        try:
            write_sidecar(operation, write)
            journal.write_state(operation.number, "done")
            return operation.number
        except OSError as error:
            reason = f"the sidecar {write.path} can't be written: {describe_os_error(error)}"
        except SkippedFile as error:
            reason = error.reason
        state, unclear_reason = recover_operation(operation)
        journal.write_state(operation.number, state, unclear_reason or reason)
        raise SkippedFile(unclear_reason or reason)

    def take_back(self, number: int) -> None:
        """Undo an operation of this run. Raises SkippedFile; the journal then still lists it as undoable."""
        assert self.journal is not None
        undo_entry(self.journal, self.journal.entries[number])

    def _write_intent(self, operation: FileOperation) -> OperationJournal:
        if self.journal is None:
            self.journal = create_journal(self.home, self.header)
        self.journal.write_intent(operation)
        return self.journal

    def _make_write_operation(
        self, number: int, removal: Removal, keep_file: FileIdentity, write: SidecarWrite
    ) -> FileOperation:
        status = keep_file.status if write.before is None else write.before.status
        prefix = self.planner.make_prefix(number)
        content = None if write.content_before is None else base64.b64encode(write.content_before).decode()
        return FileOperation(
            number=number,
            action=self.planner.action,
            named=str(write.path),
            path=str(write.path),
            sha256=write.sha256,
            size=len(write.content),
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=status.st_mtime_ns,
            atime_ns=status.st_atime_ns,
            uid=status.st_uid,
            gid=status.st_gid,
            device=status.st_dev,
            inode=status.st_ino,
            attributes=read_extended_attributes(write.path) if path_exists(write.path) else {},
            keep_path=str(keep_file.path),
            keep_sha256=keep_file.sha256,
            keep_device=keep_file.status.st_dev,
            keep_inode=keep_file.status.st_ino,
            tier=removal.tier,
            aside=str(write.path.with_name(f"{prefix}.old")),
            temporary=str(write.path.with_name(f"{prefix}.new")),
            role="sidecar",
            content=content,
        )
