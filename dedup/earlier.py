"""What was done by earlier plans and still stands: files that went, and what others were kept for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dedup.ground import Ground, lies_in
from dedup.journal import Journal, Operation, standing
from dedup.proof import Proof
from dedup.records import Removal
from dedup.settling import is_our_link
from dedup.sighting import SetAside, exists, holds
from dedup.trash import is_in_trash


class Earlier:
    """All operations that were not undone, of this plan too."""

    def __init__(self, journals: Iterable[Journal]) -> None:
        self._gone: dict[tuple[str, str], Operation] = {}
        self._kept_for: dict[str, dict[tuple[str, str], Operation]] = {}
        self._linked: dict[str, Operation] = {}
        self._folders: set[str] = set()
        for entry in standing(journals):
            self.add(entry.operation, done=entry.state == "done")

    def add(self, operation: Operation, *, done: bool = True) -> None:
        if done:
            self._gone[operation.named, operation.sha256] = operation
        if operation.action == "symlink":
            self._linked[operation.keep_path] = operation
        kept_for = self._kept_for.setdefault(operation.keep_sha256, {})
        kept_for.setdefault((operation.sha256, operation.keep_path), operation)
        if operation.target:
            self._folders.add(operation.base or str(Path(operation.target).parent))

    def has_done(self, removal: Removal, ground: Ground) -> bool:
        """Whether this line was carried out, and nothing has come to be at its place since."""
        operation = self._gone.get((removal.path, removal.sha256))
        if operation is None or operation.keep_sha256 != removal.keep_sha256:
            return False
        return is_our_link(operation) or not exists(Path(ground.real(removal.path)))

    def check_place(self, path: Path) -> None:
        """Raises SetAside for a file among those that went: they may be thrown away, or be wanted back."""
        if is_in_trash(path):
            raise SetAside("it lies in a trash")
        for folder in self._folders:
            if lies_in(str(path), folder):
                raise SetAside(f"it lies in {folder}, where files of an earlier plan went")

    def check(self, path: Path, sha256: str, keep_sha256: str, proof: Proof) -> None:
        """Raises SetAside if the file is what others were kept for, and the one to keep does not stand in for it."""
        if linked := self._linked.get(str(path)):
            raise SetAside(f"{linked.named} is a symbolic link to it; undo that first")
        if sha256 == keep_sha256:  # nobody loses anything
            return
        for operation in self._kept_for.get(sha256, {}).values():
            if proof.are_copies(operation.sha256, keep_sha256):
                continue
            if operation.keep_path == str(path) or not holds(Path(operation.keep_path), sha256):
                raise SetAside(f"it was kept for {operation.named}, which the file to keep is no copy of")
