"""Where files may be touched: by what the home knows and the command line names, never by what a plan says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.dedup.cleanup.file_identity import SetAside, Sighting
from simile.dedup.records import Decision, Plan
from simile.images.formats import Limits
from simile.images.sources.archives import split
from simile.store.catalogue.catalogue import Catalogue

pass
from simile.dedup.cleanup.journal import Journal, Operation, standing

pass
from simile.dedup.cleanup.file_identity import SetAside, exists, holds
from simile.dedup.cleanup.recovery import is_our_link
from simile.dedup.cleanup.trash import is_in_trash
from simile.dedup.records import Removal

RUNS_LOOKED_AT = 10_000  # of the latest: their sources are folders that were named by hand


@dataclass
class Ground:
    """home: its folder, without links. indexed: the known files among those asked for. sources, roots: folders."""

    home: str
    indexed: Collection[str]
    sources: tuple[str, ...]
    roots: tuple[str, ...]
    _folders: dict[str, str] = field(default_factory=dict)

    def resolve(self, path: str) -> Path:
        """The file's place without links on the way (the file itself may be one). Raises SetAside if it leads out."""
        if split(path) is not None:
            raise SetAside("it lies in an archive, which is never changed")
        real = self.real(path)
        if lies_in(real, self.home):
            raise SetAside("it lies in simile's own home")
        root = next((root for root in self.roots if lies_in(path, root)), None)
        if root is None and path not in self.indexed:
            raise SetAside("it is not indexed, and in no --root")
        if real != path and not self._stays_in(path, real):
            raise SetAside(f"a symbolic link leads to it in {Path(real).parent}; name that with --root, if it may go")
        return Path(real)

    def real(self, path: str) -> str:
        """The path with every link on the way to its folder resolved."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return str(Path(self._folders[folder]) / name)

    def layout(self, path: str) -> Path:
        """The path relative to the outermost folder that was named with it in it, else to the root of all."""
        named = [folder for folder in (*self.roots, *self.sources) if lies_in(path, folder) and path != folder]
        return Path(path).relative_to(min(named, key=len, default=os.sep))

    def _stays_in(self, path: str, real: str) -> bool:
        """Whether the links on the way are those of a folder that was named by hand, or lead back into it."""
        named = (folder for folder in (*self.roots, *self.sources) if lies_in(path, folder))
        return any(lies_in(real, os.path.realpath(folder)) for folder in named) or any(
            lies_in(real, os.path.realpath(root)) for root in self.roots
        )


def lies_in(path: str, folder: str) -> bool:
    """Whether the path is in the folder, by their names alone."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def make_ground(catalogue: Catalogue, plan: Plan, roots: Iterable[Path]) -> Ground:
    """The ground for a plan's files."""
    asked = {path for removal in plan.removals for path in (removal.path, removal.keep_path)}
    runs = catalogue.runs(RUNS_LOOKED_AT)
    sources = {source for run in runs if run.kind == "index" for source in run.settings.get("sources", ())}
    return Ground(
        os.path.realpath(catalogue.home.root),
        catalogue.known_at(asked).keys(),
        tuple(sorted(source for source in sources if source.startswith(os.sep))),
        tuple(os.path.abspath(root) for root in roots),  # noqa: PTH100  # Path.absolute() leaves `..` in
    )


def refusals(plan: Plan, ground: Ground, done: Collection[int] = ()) -> dict[int, str]:
    """Lines that contradict the plan as a whole, by their number: judged before anything is touched.

    `done`: lines that were carried out before, when their files became links to the kept ones.
    """
    lines = {number: removal for number, removal in enumerate(plan.removals) if number not in done}
    places = {number: (_place(ground, one.path), _place(ground, one.keep_path)) for number, one in lines.items()}
    reasons = {
        number: "it is the file that is to be kept, under this name or another"
        for number, (place, keep) in places.items()
        if place.is_same(keep)
    }
    removed = {name for number, (place, _) in places.items() for name in place.names(bare=number in reasons)}
    kept = {name for _, keep in places.values() for name in keep.names()}
    seen: set[object] = set()
    for number, (place, keep) in places.items():
        if number not in reasons and keep.names() & removed:
            reasons[number] = "the file that is to be kept for it is to be removed by the same plan"
        elif number not in reasons and place.names() & kept:
            reasons[number] = "the same plan keeps it for another file"
        elif number not in reasons and place.names(bare=True) & seen:
            reasons[number] = "the plan names it twice"
        seen |= place.names(bare=True)
    return reasons


@dataclass(frozen=True)
class _Place:
    """path: as in the plan; real: without links on the way; identity: device and inode, None where nothing is."""

    path: str
    real: str
    identity: tuple[int, int] | None

    def names(self, *, bare: bool = False) -> set[object]:
        """What tells it apart. `bare`: by name alone, for a file that shares its bytes with another name."""
        return {self.path, self.real} | (set() if bare or self.identity is None else {self.identity})

    def is_same(self, other: _Place) -> bool:
        return bool(self.names() & other.names())


def _place(ground: Ground, path: str) -> _Place:
    real = ground.real(path)
    try:
        facts = os.lstat(real)
    except OSError:
        return _Place(path, real, None)
    return _Place(path, real, (facts.st_dev, facts.st_ino))


Pair = tuple[int, int]


@dataclass
class Proof:
    """What is known of the pictures in a plan. `ids`: of those that the home knows, by hash; `said`, `decided_at`: what
    people decided and when, by two hashes in order; `classes`: pictures of the same pixels have one; `near`: classes
    that match.
    """

    settings: Settings
    ids: dict[str, int]
    said: dict[tuple[str, str], bool]
    decided_at: dict[tuple[str, str], datetime]
    classes: _Classes
    near: set[Pair] = field(default_factory=set)

    def check(self, file: Sighting, keep: Sighting) -> None:
        """Raises SetAside unless the two files hold copies of one picture."""
        if file.sha256 == keep.sha256 or (said := self._said(file.sha256, keep.sha256)):
            return
        if said is False:
            raise SetAside("it was decided that the two are different pictures")
        if file.sha256 not in self.ids or keep.sha256 not in self.ids:
            self._confirm(file.path, keep.path)
        elif not self.are_copies(file.sha256, keep.sha256):
            raise SetAside(
                "the home does not know the two as copies; run `simile dedup` again, or decide on them at /duplicates"
            )

    def are_copies(self, one: str, other: str) -> bool:
        """Whether the home knows the pictures with these hashes as copies: same bytes or pixels, near, or decided."""
        if one == other:
            return True
        said = self._said(one, other)
        if said is not None or one not in self.ids or other not in self.ids:
            return bool(said)
        first, second = self.classes.of(self.ids[one]), self.classes.of(self.ids[other])
        return first == second or _pair(first, second) in self.near

    def may_record(self, decision: Decision) -> bool:
        """Whether a plan's decision may be stored: one that would prove a removal must be proven without it.

        Otherwise a plan that anybody wrote would be its own proof when it is applied a second time.
        """
        return not decision.same or self.are_copies(decision.first_sha256, decision.second_sha256)

    def is_outdated(self, decision: Decision, created_at: str) -> bool:
        """Whether people spoke of the pair in the home after the plan was made (or nobody can tell when that was)."""
        decided_at = self.decided_at.get((decision.first_sha256, decision.second_sha256))
        try:
            return decided_at is not None and datetime.fromisoformat(created_at) <= decided_at
        except (ValueError, TypeError):  # no moment, or one without a zone
            return True

    def _said(self, one: str, other: str) -> bool | None:
        return self.said.get((min(one, other), max(one, other)))

    def _confirm(self, path: Path, keep_path: Path) -> None:
        from simile.dedup.detection.lookup import confirmed  # noqa: PLC0415  # only for files that the home does not know

        try:
            same = confirmed(path, keep_path, Limits.from_settings(self.settings))
        except UnreadableImage as error:
            raise SetAside(f"it can't be compared with the file to keep: {error.name}: {error.reason}") from None
        if not same:
            raise SetAside("the two pictures do not match, laid on each other")


def make_proof(catalogue: Catalogue, settings: Settings, plan: Plan) -> Proof:
    """Reads what the home knows, before anything that the plan says is stored."""
    # A plan may say at any time that two are different: that only ever saves a file.
    decisions = {(one.first_sha256, one.second_sha256): one for one in catalogue.decisions()}
    said = {pair: one.same for pair, one in decisions.items()}
    said |= {(one.first_sha256, one.second_sha256): False for one in plan.decisions if not one.same}
    hashes = {sha for removal in plan.removals for sha in (removal.sha256, removal.keep_sha256)}
    hashes |= {sha for pair in said for sha in pair}
    hashes |= {sha for one in plan.decisions for sha in (one.first_sha256, one.second_sha256)}
    ids = {sha: known.image_id for sha, known in catalogue.images_by_sha(hashes).items()}
    decided_at = {pair: one.decided_at for pair, one in decisions.items()}
    proof = Proof(settings, ids, said, decided_at, _Classes())
    _read_pairs(catalogue, proof)
    return proof


def _read_pairs(catalogue: Catalogue, proof: Proof) -> None:
    """Pixels first: a near pair holds between whole classes of pictures with the same pixels."""
    decided: dict[bool, set[Pair]] = {True: set(), False: set()}
    for (first, second), same in proof.said.items():
        if first in proof.ids and second in proof.ids:
            decided[same].add(_pair(proof.ids[first], proof.ids[second]))
    for pair in catalogue.duplicates(("pixels",)):
        if (pair.first, pair.second) not in decided[False]:
            proof.classes.join(pair.first, pair.second)
    found = {(pair.first, pair.second) for pair in catalogue.duplicates(("near",))} - decided[False]
    proof.near = {_pair(proof.classes.of(one), proof.classes.of(other)) for one, other in found | decided[True]}


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)


class _Classes:
    """Which pictures have the same pixels: that, unlike nearness, goes from one to the next."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def of(self, image_id: int) -> int:
        """The class: the id of one of its pictures."""
        top = image_id
        while (above := self._above.get(top, top)) != top:
            top = above
        self._above[image_id] = top  # the next question takes one step
        return top

    def join(self, one: int, other: int) -> None:
        first, second = self.of(one), self.of(other)
        self._above[max(first, second)] = min(first, second)


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
