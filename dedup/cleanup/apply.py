"""Carrying a plan out: every line is checked against the files themselves, noted in the journal, and done.

A plan may come from anywhere, and be old, wrong or malicious. What holds whatever it says: a file goes only if, at this
moment, another one with its picture stays; both were read just now; both lie where the home or the command line, never
the plan, allows it; and that they are copies is known without the plan.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from simile.core.errors import BadSetting
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.dedup.cleanup.actions import TargetPlanner, execute_operation
from simile.dedup.cleanup.file_identity import FileIdentity, SkippedFile, identify_file
from simile.dedup.cleanup.journal import CleanupAction, OperationJournal, create_journal, read_journals
from simile.dedup.cleanup.plan import read_plan
from simile.dedup.cleanup.recovery import recover_journal
from simile.dedup.cleanup.safety import (
    OperationHistory,
    find_contradictions,
    is_inside,
    load_copy_evidence,
    make_allowed_paths,
)
from simile.dedup.records import CleanupPlan, Removal
from simile.images.sources.paths import make_printable
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ApplyRequest:
    """What to do with the files that go; without an action only what would happen is said.

    target: where to, for `move`. roots: folders beside the indexed ones whose files may be touched. wait: seconds for
    the home's lock.
    """

    action: CleanupAction | None = None
    target_folder: Path | None = None
    extra_roots: tuple[Path, ...] = ()
    dry_run: bool = False
    wait: float = 0.0

    @property
    def is_read_only(self) -> bool:
        """Whether nothing is touched."""
        return self.dry_run or self.action is None


@dataclass
class ApplyResult:
    """What was done, or would be. already: lines that were done before. decisions: how many were stored.

    bytes_freed: of the files that went, where they were.
    """

    dry_run: bool
    journal: str | None = None
    applied: int = 0
    already: int = 0
    decisions: int = 0
    bytes_freed: int = 0
    set_aside: list[Failure] = field(default_factory=list)


def apply_plan(
    settings: Settings, plan_path: Path, request: ApplyRequest, on_progress: OnProgress = lambda *_: None
) -> ApplyResult:
    """Applies a plan under the home's lock, when what a killed one left is settled. Cut short, it is called again.

    Raises BadSetting (no plan, no place to move to), NoSuchPath, NothingIndexed, HomeBusy, HomeNotWritable, HomeError.
    """
    plan = read_plan(plan_path)
    home = Home(settings.home, settings.database_url)
    base = _resolve_target_folder(home, request)
    if request.is_read_only:
        schema.check_schema(home)
        with Catalogue(home) as catalogue:
            return _PlanApplier(catalogue, settings, plan, request, base).run("", on_progress)
    if schema.read_revision(home) is None:
        schema.check_schema(home)
    with home.lock("simile dedup apply", request.wait):
        schema.upgrade_schema(home)
        for journal in read_journals(home):
            recover_journal(journal)
        with Catalogue(home) as catalogue:
            return _PlanApplier(catalogue, settings, plan, request, base).run(
                make_printable(str(plan_path)), on_progress
            )


def _resolve_target_folder(home: Home, request: ApplyRequest) -> Path | None:
    """The folder to move to, made if it is missing and something is to be moved."""
    if request.action != "move":
        return None
    if request.target_folder is None:
        raise BadSetting("A folder to move to is missing. Name one with --move-to.")
    real, inside = os.path.realpath(request.target_folder), os.path.realpath(home.root)
    if is_inside(real, inside) or real == inside:
        raise BadSetting(f"{request.target_folder} lies in simile's own home. Name another folder with --move-to.")
    try:
        if not request.is_read_only:
            Path(real).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(
            f"{request.target_folder} can't be made: {error.strerror}. Name another with --move-to."
        ) from None
    return Path(real)


class _PlanApplier:
    """One plan on its way."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        plan: CleanupPlan,
        request: ApplyRequest,
        target_folder: Path | None,
    ) -> None:
        self.catalogue, self.plan, self.request = catalogue, plan, request
        self.result = ApplyResult(request.is_read_only)
        self.allowed_paths = make_allowed_paths(catalogue, plan, request.extra_roots)
        self.evidence = load_copy_evidence(catalogue, settings, plan)
        self.history = OperationHistory(read_journals(catalogue.home))
        self.target_planner: TargetPlanner | None = None
        if request.action is not None:
            self.target_planner = TargetPlanner(
                request.action, target_folder, self.allowed_paths, uuid.uuid4().hex[:12]
            )
        self.journal: OperationJournal | None = None

    def run(self, plan_name: str, on_progress: OnProgress) -> ApplyResult:
        """Line by line; each is judged by what the files are at that moment."""
        lines = self.plan.removals
        done = {number for number, line in enumerate(lines) if self.history.is_done(line, self.allowed_paths)}
        refused = find_contradictions(self.plan, self.allowed_paths, done)
        for number, line in enumerate(lines):
            try:
                if number in refused:
                    raise SkippedFile(refused[number])
                if number in done:
                    self.result.already += 1
                else:
                    self._apply_removal(number + 1, line, plan_name)
            except SkippedFile as error:
                self.result.set_aside.append(Failure(line.path, error.reason))
            on_progress("applying", number + 1, len(lines))
        self._store_decisions()
        return self.result

    def _apply_removal(self, number: int, removal: Removal, plan_name: str) -> None:
        """One line. Raises SetAside."""
        seen, keep = self._check_files(removal)
        if not self.request.is_read_only:
            self._execute_removal(number, removal, (seen, keep), plan_name)
        self.result.applied += 1
        self.result.bytes_freed += seen.size if seen.link_count == 1 else 0  # else another name still has them

    def _execute_removal(
        self, number: int, removal: Removal, files: tuple[FileIdentity, FileIdentity], plan_name: str
    ) -> None:
        assert self.target_planner is not None
        operation = self.target_planner.make_operation(number, removal.path, removal.tier, files)
        journal = self._get_journal(plan_name)
        journal.write_intent(operation)
        state, reason = execute_operation(operation, *files, self.target_planner.get_trash(files[0].path))
        journal.write_state(number, state, reason)
        if state != "done":
            raise SkippedFile(reason)
        self.history.add(operation)

    def _get_journal(self, plan_name: str) -> OperationJournal:
        """Begun with the first file that goes: a plan of which nothing is done leaves none."""
        if self.journal is None:
            target = self.request.target_folder and make_printable(str(self.request.target_folder.absolute()))
            header = {"action": self.request.action, "target": target, "plan": plan_name}
            self.journal = create_journal(self.catalogue.home, header)
            self.result.journal = self.journal.name
        return self.journal

    def _check_files(self, removal: Removal) -> tuple[FileIdentity, FileIdentity]:
        """Both files, read just now, if the one may go for the other. Raises SetAside."""
        path = self.allowed_paths.resolve(removal.path)
        self.history.check_location(path)
        keep = self._check_kept_file(removal)
        seen = identify_file(path)
        if (seen.device, seen.inode) == (keep.device, keep.inode):
            raise SkippedFile("it is the file that is to be kept, under another name")
        if seen.size == 0:
            raise SkippedFile("it is empty: no picture")
        if seen.sha256 != removal.sha256:
            raise SkippedFile("it was changed since the plan was made")
        if self.target_planner is not None:
            self.target_planner.check_files(seen, keep)
        self.evidence.check_copy(seen, keep)
        self.history.check_dependents(path, seen.sha256, keep.sha256, self.evidence)
        self._check_links(seen)
        return seen, keep

    def _check_kept_file(self, removal: Removal) -> FileIdentity:
        """The file to keep. Raises SetAside, which names it."""
        try:
            place = self.allowed_paths.resolve(removal.keep_path)
            self.history.check_location(place)
            keep = identify_file(place)
            if keep.sha256 != removal.keep_sha256:
                raise SkippedFile("it was changed since the plan was made")
        except SkippedFile as error:
            raise SkippedFile(f"the file to keep, {removal.keep_path}: {error.reason}") from None
        return keep

    def _check_links(self, identity: FileIdentity) -> None:
        """Raises SetAside for a file that another indexed path is a symbolic link to, unless a link takes its place."""
        image_id = self.evidence.image_ids.get(identity.sha256)
        if image_id is None or self.request.action in ("hardlink", "symlink"):
            return
        for path in self.catalogue.images.get(image_id).paths:
            if os.path.islink(path) and os.path.realpath(path) == str(identity.path):  # noqa: PTH114  # any text
                raise SkippedFile(f"{path} is a symbolic link to it, and would lead nowhere")

    def _store_decisions(self) -> None:
        """Stores the plan's decisions, but for those that would prove what nothing else does."""
        said = [one for one in self.plan.decisions if not self.evidence.is_outdated(one, self.plan.created_at)]
        may = [one for one in said if self.evidence.may_record(one)]
        self.result.decisions = len(may) if self.request.is_read_only else self.catalogue.duplicates.save_decisions(may)
        for one in said:
            if not self.evidence.may_record(one):
                name = f"decision on {one.first_sha256[:12]}… and {one.second_sha256[:12]}…"
                reason = "simile did not find the two to be copies; say it on the page /duplicates, if they are"
                self.result.set_aside.append(Failure(name, reason))
