"""Apply a plan: check every line against the files, record it in the journal, and execute it.

A plan may be written by any program, and be old, wrong or malicious. Whatever it says, a file is removed only if

- another file with its image stays, and both files were read at this moment;
- both files are in places that the home or the command line, not the plan, allows;
- the two are known to be copies without the plan.

What goes along with a file must belong to it by its name (companions.py), whatever the plan says.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from simile.core.errors import BadSetting
from simile.core.records import Failure, OnProgress
from simile.core.settings import Settings
from simile.dedup.cleanup.actions import TargetPlanner
from simile.dedup.cleanup.companions import CompanionChecker, make_finder
from simile.dedup.cleanup.file_ops import OTHER_BYTES_REASON, FileIdentity, SkippedFile, identify_file, path_exists
from simile.dedup.cleanup.journal import CleanupAction, read_journals
from simile.dedup.cleanup.plan import read_plan
from simile.dedup.cleanup.recovery import recover_journal
from simile.dedup.cleanup.runner import OperationRunner
from simile.dedup.cleanup.safety import (
    AllowedPaths,
    CopyEvidence,
    OperationHistory,
    find_contradictions,
    is_inside,
)
from simile.dedup.records import CleanupPlan, Removal
from simile.images.sources.paths import make_printable
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home


@dataclass(frozen=True, kw_only=True)
class ApplyRequest:
    """How to apply a plan."""

    action: CleanupAction | None = None  # None: only report what would happen
    target_folder: Path | None = None  # for `move`
    extra_roots: tuple[Path, ...] = ()  # allowed folders besides the indexed files
    dry_run: bool = False
    wait: float = 0.0  # seconds to wait for the home's lock

    @property
    def is_read_only(self) -> bool:
        """Return whether no file is touched."""
        return self.dry_run or self.action is None


@dataclass(kw_only=True)
class ApplyResult:
    """What was done, or would be done."""

    dry_run: bool
    journal: str | None = None
    applied: int = 0
    already: int = 0  # lines that were executed before
    decisions: int = 0  # decisions that were stored
    companions: int = 0  # files that went along with the removed ones
    sidecars_written: int = 0  # of kept files
    bytes_freed: int = 0  # in the place where the files were
    set_aside: list[Failure] = field(default_factory=list)  # skipped lines and decisions


def apply_plan(
    settings: Settings, plan_path: Path, request: ApplyRequest, on_progress: OnProgress = lambda *_: None
) -> ApplyResult:
    """Apply a plan under the home's lock, after recovering interrupted operations.

    After an interruption it continues when it is called again.

    Raises BadSetting for an invalid plan or target folder, NoSuchPath without a plan, NothingIndexed without a home,
    HomeError for a damaged journal; HomeBusy, HomeNotWritable.
    """
    plan = read_plan(plan_path)
    home = Home.from_settings(settings)
    target_folder = _resolve_target_folder(home, request)
    if request.is_read_only:
        schema.check_schema(home)
        with Catalogue(home) as catalogue:
            return _PlanApplier(catalogue, settings, plan, request, target_folder).run("", on_progress)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock("simile dedup apply", request.wait):
        schema.upgrade_schema(home)
        for journal in read_journals(home):
            recover_journal(journal)
        with Catalogue(home) as catalogue:
            applier = _PlanApplier(catalogue, settings, plan, request, target_folder)
            return applier.run(make_printable(str(plan_path)), on_progress)


def _resolve_target_folder(home: Home, request: ApplyRequest) -> Path | None:
    """Return the folder to move to, without links; create it unless the request is read-only."""
    if request.action != "move":
        return None
    if request.target_folder is None:
        raise BadSetting("The folder to move to is missing. Name one with --move-to.")
    real, home_folder = os.path.realpath(request.target_folder), os.path.realpath(home.root)
    if is_inside(real, home_folder) or real == home_folder:
        raise BadSetting(f"{request.target_folder} is in simile's own home. Name another folder with --move-to.")
    try:
        if not request.is_read_only:
            Path(real).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{request.target_folder} can't be created: {error.strerror}. Name another folder with --move-to."
        raise BadSetting(message) from None
    return Path(real)


class _PlanApplier:
    """Applies one plan."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        plan: CleanupPlan,
        request: ApplyRequest,
        target_folder: Path | None,
    ) -> None:
        self.catalogue, self.plan, self.request = catalogue, plan, request
        self.result = ApplyResult(dry_run=request.is_read_only)
        self.allowed_paths = AllowedPaths(catalogue, plan, request.extra_roots)
        self.evidence = CopyEvidence(catalogue, settings, plan)
        self.history = OperationHistory(read_journals(catalogue.home))
        keep_paths = {Path(self.allowed_paths.get_real_path(removal.keep_path)) for removal in plan.removals}
        self.companions = CompanionChecker(
            finder=make_finder(catalogue), history=self.history, evidence=self.evidence, keep_paths=keep_paths
        )
        self.removed_paths: set[Path] = set()  # by this run
        self.target_planner: TargetPlanner | None = None
        self.runner: OperationRunner | None = None  # None: nothing is changed
        if request.action is not None:
            token = uuid.uuid4().hex[:12]
            self.target_planner = TargetPlanner(request.action, target_folder, self.allowed_paths, token)

    def run(self, plan_name: str, on_progress: OnProgress) -> ApplyResult:
        """Apply line by line; each line is checked against the current state of the files."""
        removals = self.plan.removals
        if not self.request.is_read_only:
            assert self.target_planner is not None
            folder = self.request.target_folder
            target = None if folder is None else make_printable(str(folder.absolute()))
            self.runner = OperationRunner(
                home=self.catalogue.home,
                planner=self.target_planner,
                history=self.history,
                header={"action": self.request.action, "target": target, "plan": plan_name},
                lines=len(removals),
            )
        done = {number for number, line in enumerate(removals) if self.history.is_done(line, self.allowed_paths)}
        contradictions = find_contradictions(self.plan, self.allowed_paths, done)
        for number, removal in enumerate(removals):
            try:
                if number in contradictions:
                    raise SkippedFile(contradictions[number])
                if number in done:
                    self.result.already += 1
                    self._finish_removal(removal)
                else:
                    self._apply_removal(number + 1, removal)
            except SkippedFile as error:
                self.result.set_aside.append(Failure(removal.path, error.reason))
            on_progress("applying", number + 1, len(removals))
        self._store_decisions()
        if self.runner is not None and self.runner.journal is not None:
            self.result.journal = self.runner.journal.name
        return self.result

    def _apply_removal(self, number: int, removal: Removal) -> None:
        """Check and execute one line. Raises SkippedFile."""
        file, kept_file = self._check_files(removal)
        companions = self._check_companions(removal, file.path)
        write = self.companions.prepare_write(removal, kept_file) if self._moves_files else None
        if self.runner is not None:
            # The sidecar first: if it can't be written, the values would be lost with the file.
            written = None if write is None else self.runner.write_sidecar(removal, kept_file, write)
            try:
                self.runner.remove(number, removal, file, kept_file)
            except SkippedFile:
                if written is not None:
                    self.runner.take_back(written)
                raise
        self.removed_paths.add(file.path)
        self.result.applied += 1
        self.result.sidecars_written += write is not None
        if file.status.st_nlink == 1:  # otherwise another name still uses the space
            self.result.bytes_freed += file.status.st_size
        self._move_companions(removal, kept_file, companions)

    def _finish_removal(self, removal: Removal) -> None:
        """Move what an interrupted run left of a line that was executed. Raises SkippedFile."""
        path = Path(self.allowed_paths.get_real_path(removal.path))
        companions = [] if path_exists(path) else self._check_companions(removal, path)
        if companions:
            self._move_companions(removal, self._check_kept_file(removal), companions)

    @property
    def _moves_files(self) -> bool:
        """Return whether files leave their folders: a link keeps the name, and its companions stay with it."""
        return self.request.action not in ("hardlink", "symlink")

    def _check_companions(self, removal: Removal, path: Path) -> list[FileIdentity]:
        return self.companions.check(removal, path, self.removed_paths) if self._moves_files else []

    def _move_companions(self, removal: Removal, kept_file: FileIdentity, companions: list[FileIdentity]) -> None:
        """Move the files that go along with a removed image; one that can't be moved stays."""
        for file in companions:
            path = str(Path(removal.path).with_name(file.path.name))
            try:
                if self.runner is not None:
                    self.runner.remove_companion(path, removal, file, kept_file)
            except SkippedFile as error:
                self.result.set_aside.append(Failure(path, error.reason))
            else:
                self.result.companions += 1
                self.result.bytes_freed += file.status.st_size if file.status.st_nlink == 1 else 0

    def _check_files(self, removal: Removal) -> tuple[FileIdentity, FileIdentity]:
        """Read both files and return them if one may be removed because the other stays. Raises SkippedFile."""
        path = self.allowed_paths.resolve(removal.path)
        self.history.check_location(path)
        kept_file = self._check_kept_file(removal)
        file = identify_file(path)
        if os.path.samestat(file.status, kept_file.status):
            raise SkippedFile("it is the file that is to be kept, under another name")
        if file.status.st_size == 0:
            raise SkippedFile("it is empty, so it is no image")
        if file.sha256 != removal.sha256:
            raise SkippedFile(OTHER_BYTES_REASON)
        if self.target_planner is not None:
            self.target_planner.check_files(file, kept_file)
        self.evidence.check_match(file, kept_file, removal.tier)
        self.history.check_dependents(path, file.sha256, kept_file.sha256, self.evidence)
        self._check_links(file)
        return file, kept_file

    def _check_kept_file(self, removal: Removal) -> FileIdentity:
        """Read the file to keep. Raises SkippedFile with its name."""
        try:
            path = self.allowed_paths.resolve(removal.keep_path)
            self.history.check_location(path)
            kept_file = identify_file(path)
            if kept_file.sha256 != removal.keep_sha256:
                raise SkippedFile(OTHER_BYTES_REASON)
        except SkippedFile as error:
            raise SkippedFile(f"the file to keep, {removal.keep_path}: {error.reason}") from None
        return kept_file

    def _check_links(self, file: FileIdentity) -> None:
        """Raise SkippedFile if an indexed symbolic link to the file would become broken."""
        image_id = self.evidence.image_ids.get(file.sha256)
        if image_id is None or self.request.action in ("hardlink", "symlink"):
            return
        for path in self.catalogue.images.get(image_id).paths:
            if os.path.islink(path) and os.path.realpath(path) == str(file.path):  # noqa: PTH114
                raise SkippedFile(f"{path} is a symbolic link to it, which would be broken")

    def _store_decisions(self) -> None:
        """Store the plan's decisions, except outdated ones and those without evidence."""
        allowed = []
        for decision in self.plan.decisions:
            if self.evidence.is_outdated(decision, self.plan.created_at):
                continue
            if self.evidence.may_record(decision):
                allowed.append(decision)
                continue
            name = f"decision on {decision.first_sha256[:12]}… and {decision.second_sha256[:12]}…"
            reason = "simile did not find the two to be copies; if they are, decide on the page /duplicates"
            self.result.set_aside.append(Failure(name, reason))
        self.result.decisions = (
            len(allowed) if self.request.is_read_only else self.catalogue.duplicates.save_decisions(allowed)
        )
