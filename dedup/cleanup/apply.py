"""Apply a plan: check every line against the files, record it in the journal, and execute it.

A plan may be written by any program, and be old, wrong or malicious. Whatever it says, a file is removed only if

- another file with its image stays, and both files were read at this moment;
- both files are in places that the home or the command line, not the plan, allows;
- the two are known to be copies without the plan.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from simile.core.errors import BadSetting
from simile.core.records import Failure, OnProgress
from simile.core.settings import Settings
from simile.dedup.cleanup.actions import TargetPlanner, execute_operation
from simile.dedup.cleanup.file_ops import FileIdentity, SkippedFile, identify_file
from simile.dedup.cleanup.journal import CleanupAction, OperationJournal, create_journal, read_journals
from simile.dedup.cleanup.plan import read_plan
from simile.dedup.cleanup.recovery import recover_journal
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

# The plan has the hash of the time when simile read the file. Only that reading is known to be before the change.
OTHER_BYTES_REASON = "its bytes are not those that the plan names: it was changed or damaged after simile read it"


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
        self.target_planner: TargetPlanner | None = None
        if request.action is not None:
            token = uuid.uuid4().hex[:12]
            self.target_planner = TargetPlanner(request.action, target_folder, self.allowed_paths, token)
        self.journal: OperationJournal | None = None

    def run(self, plan_name: str, on_progress: OnProgress) -> ApplyResult:
        """Apply line by line; each line is checked against the current state of the files."""
        removals = self.plan.removals
        done = {number for number, line in enumerate(removals) if self.history.is_done(line, self.allowed_paths)}
        contradictions = find_contradictions(self.plan, self.allowed_paths, done)
        for number, removal in enumerate(removals):
            try:
                if number in contradictions:
                    raise SkippedFile(contradictions[number])
                if number in done:
                    self.result.already += 1
                else:
                    self._apply_removal(number + 1, removal, plan_name)
            except SkippedFile as error:
                self.result.set_aside.append(Failure(removal.path, error.reason))
            on_progress("applying", number + 1, len(removals))
        self._store_decisions()
        return self.result

    def _apply_removal(self, number: int, removal: Removal, plan_name: str) -> None:
        """Check and execute one line. Raises SkippedFile."""
        file, kept_file = self._check_files(removal)
        if not self.request.is_read_only:
            assert self.target_planner is not None
            operation = self.target_planner.make_operation(number, removal.path, removal.tier, file, kept_file)
            journal = self._get_journal(plan_name)
            journal.write_intent(operation)
            trash = self.target_planner.get_trash(file.path)
            state, reason = execute_operation(operation, file, kept_file, trash)
            journal.write_state(number, state, reason)
            if state != "done":
                raise SkippedFile(reason)
            self.history.add(operation)
        self.result.applied += 1
        if file.status.st_nlink == 1:  # otherwise another name still uses the space
            self.result.bytes_freed += file.status.st_size

    def _get_journal(self, plan_name: str) -> OperationJournal:
        """Return the journal; it is created for the first operation, so that a plan without any leaves none."""
        if self.journal is None:
            target = self.request.target_folder and make_printable(str(self.request.target_folder.absolute()))
            header = {"action": self.request.action, "target": target, "plan": plan_name}
            self.journal = create_journal(self.catalogue.home, header)
            self.result.journal = self.journal.name
        return self.journal

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
        self.evidence.check_copy(file, kept_file)
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
