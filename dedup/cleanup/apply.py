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
from simile.dedup.cleanup.actions import Destinations, carry_out
from simile.dedup.cleanup.file_identity import SetAside, Sighting, look
from simile.dedup.cleanup.journal import Action, Journal, all_journals, start_journal
from simile.dedup.cleanup.plan import read_plan
from simile.dedup.cleanup.recovery import settle_journal
from simile.dedup.cleanup.safety import Earlier, lies_in, make_ground, make_proof, refusals
from simile.dedup.records import Plan, Removal
from simile.images.paths import printable
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

    action: Action | None = None
    target: Path | None = None
    roots: tuple[Path, ...] = ()
    dry_run: bool = False
    wait: float = 0.0

    @property
    def only_says(self) -> bool:
        """Whether nothing is touched."""
        return self.dry_run or self.action is None


@dataclass
class Applied:
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
) -> Applied:
    """Applies a plan under the home's lock, when what a killed one left is settled. Cut short, it is called again.

    Raises BadSetting (no plan, no place to move to), NoSuchPath, NothingIndexed, HomeBusy, HomeNotWritable, HomeError.
    """
    plan = read_plan(plan_path)
    home = Home(settings.home, settings.database_url)
    base = _base(home, request)
    if request.only_says:
        schema.check(home)
        with Catalogue(home) as catalogue:
            return _Applying(catalogue, settings, plan, request, base).run("", on_progress)
    if schema.revision(home) is None:
        schema.check(home)
    with home.lock("simile dedup apply", request.wait):
        schema.upgrade(home)
        for journal in all_journals(home):
            settle_journal(journal)
        with Catalogue(home) as catalogue:
            return _Applying(catalogue, settings, plan, request, base).run(printable(str(plan_path)), on_progress)


def _base(home: Home, request: ApplyRequest) -> Path | None:
    """The folder to move to, made if it is missing and something is to be moved."""
    if request.action != "move":
        return None
    if request.target is None:
        raise BadSetting("A folder to move to is missing. Name one with --move-to.")
    real, inside = os.path.realpath(request.target), os.path.realpath(home.root)
    if lies_in(real, inside) or real == inside:
        raise BadSetting(f"{request.target} lies in simile's own home. Name another folder with --move-to.")
    try:
        if not request.only_says:
            Path(real).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{request.target} can't be made: {error.strerror}. Name another with --move-to.") from None
    return Path(real)


class _Applying:
    """One plan on its way."""

    def __init__(
        self, catalogue: Catalogue, settings: Settings, plan: Plan, request: ApplyRequest, base: Path | None
    ) -> None:
        self.catalogue, self.plan, self.request = catalogue, plan, request
        self.result = Applied(request.only_says)
        self.ground = make_ground(catalogue, plan, request.roots)
        self.proof = make_proof(catalogue, settings, plan)
        self.earlier = Earlier(all_journals(catalogue.home))
        self.destinations: Destinations | None = None
        if request.action is not None:
            self.destinations = Destinations(request.action, base, self.ground, uuid.uuid4().hex[:12])
        self.journal: Journal | None = None

    def run(self, plan_name: str, on_progress: OnProgress) -> Applied:
        """Line by line; each is judged by what the files are at that moment."""
        lines = self.plan.removals
        done = {number for number, line in enumerate(lines) if self.earlier.has_done(line, self.ground)}
        refused = refusals(self.plan, self.ground, done)
        for number, line in enumerate(lines):
            try:
                if number in refused:
                    raise SetAside(refused[number])
                if number in done:
                    self.result.already += 1
                else:
                    self._one(number + 1, line, plan_name)
            except SetAside as error:
                self.result.set_aside.append(Failure(line.path, error.reason))
            on_progress("applying", number + 1, len(lines))
        self._decide()
        return self.result

    def _one(self, number: int, removal: Removal, plan_name: str) -> None:
        """One line. Raises SetAside."""
        seen, keep = self._checked(removal)
        if not self.request.only_says:
            self._act(number, removal, (seen, keep), plan_name)
        self.result.applied += 1
        self.result.bytes_freed += seen.size if seen.links == 1 else 0  # else another name still has them

    def _act(self, number: int, removal: Removal, files: tuple[Sighting, Sighting], plan_name: str) -> None:
        assert self.destinations is not None
        operation = self.destinations.operation(number, removal.path, removal.tier, files)
        journal = self._journal(plan_name)
        journal.intend(operation)
        state, reason = carry_out(operation, *files, self.destinations.trash(files[0].path))
        journal.note(number, state, reason)
        if state != "done":
            raise SetAside(reason)
        self.earlier.add(operation)

    def _journal(self, plan_name: str) -> Journal:
        """Begun with the first file that goes: a plan of which nothing is done leaves none."""
        if self.journal is None:
            target = self.request.target and printable(str(self.request.target.absolute()))
            header = {"action": self.request.action, "target": target, "plan": plan_name}
            self.journal = start_journal(self.catalogue.home, header)
            self.result.journal = self.journal.name
        return self.journal

    def _checked(self, removal: Removal) -> tuple[Sighting, Sighting]:
        """Both files, read just now, if the one may go for the other. Raises SetAside."""
        path = self.ground.resolve(removal.path)
        self.earlier.check_place(path)
        keep = self._kept(removal)
        seen = look(path)
        if (seen.device, seen.inode) == (keep.device, keep.inode):
            raise SetAside("it is the file that is to be kept, under another name")
        if seen.size == 0:
            raise SetAside("it is empty: no picture")
        if seen.sha256 != removal.sha256:
            raise SetAside("it was changed since the plan was made")
        if self.destinations is not None:
            self.destinations.check(seen, keep)
        self.proof.check(seen, keep)
        self.earlier.check(path, seen.sha256, keep.sha256, self.proof)
        self._check_links(seen)
        return seen, keep

    def _kept(self, removal: Removal) -> Sighting:
        """The file to keep. Raises SetAside, which names it."""
        try:
            place = self.ground.resolve(removal.keep_path)
            self.earlier.check_place(place)
            keep = look(place)
            if keep.sha256 != removal.keep_sha256:
                raise SetAside("it was changed since the plan was made")
        except SetAside as error:
            raise SetAside(f"the file to keep, {removal.keep_path}: {error.reason}") from None
        return keep

    def _check_links(self, seen: Sighting) -> None:
        """Raises SetAside for a file that another indexed path is a symbolic link to, unless a link takes its place."""
        image_id = self.proof.ids.get(seen.sha256)
        if image_id is None or self.request.action in ("hardlink", "symlink"):
            return
        for path in self.catalogue.image(image_id).paths:
            if os.path.islink(path) and os.path.realpath(path) == str(seen.path):  # noqa: PTH114  # any text
                raise SetAside(f"{path} is a symbolic link to it, and would lead nowhere")

    def _decide(self) -> None:
        """Stores the plan's decisions, but for those that would prove what nothing else does."""
        said = [one for one in self.plan.decisions if not self.proof.is_outdated(one, self.plan.created_at)]
        may = [one for one in said if self.proof.may_record(one)]
        self.result.decisions = len(may) if self.request.only_says else self.catalogue.decide(may)
        for one in said:
            if not self.proof.may_record(one):
                name = f"decision on {one.first_sha256[:12]}… and {one.second_sha256[:12]}…"
                reason = "simile did not find the two to be copies; say it on the page /duplicates, if they are"
                self.result.set_aside.append(Failure(name, reason))
