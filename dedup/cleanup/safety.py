"""Where files may be touched: by what the home knows and the command line names, never by what a plan says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.dedup.cleanup.file_identity import FileIdentity, SkippedFile, has_content, path_exists
from simile.dedup.cleanup.journal import FileOperation, OperationJournal, iterate_active_entries
from simile.dedup.cleanup.recovery import is_operation_link
from simile.dedup.cleanup.trash import is_in_trash
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.images.formats import Limits
from simile.images.sources.archives import split_member_path
from simile.store.catalogue.catalogue import Catalogue

pass

pass

MAX_SOURCE_RUNS = 10_000  # of the latest: their sources are folders that were named by hand


@dataclass
class AllowedPaths:
    """home: its folder, without links. indexed: the known files among those asked for. sources, roots: folders."""

    home: str
    indexed_paths: Collection[str]
    source_folders: tuple[str, ...]
    extra_roots: tuple[str, ...]
    _real_folders: dict[str, str] = field(default_factory=dict)

    def resolve(self, path: str) -> Path:
        """The file's place without links on the way (the file itself may be one). Raises SetAside if it leads out."""
        if split_member_path(path) is not None:
            raise SkippedFile("it lies in an archive, which is never changed")
        real = self.get_real_path(path)
        if is_inside(real, self.home):
            raise SkippedFile("it lies in simile's own home")
        root = next((root for root in self.extra_roots if is_inside(path, root)), None)
        if root is None and path not in self.indexed_paths:
            raise SkippedFile("it is not indexed, and in no --root")
        if real != path and not self._are_links_allowed(path, real):
            raise SkippedFile(
                f"a symbolic link leads to it in {Path(real).parent}; name that with --root, if it may go"
            )
        return Path(real)

    def get_real_path(self, path: str) -> str:
        """The path with every link on the way to its folder resolved."""
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return str(Path(self._real_folders[folder]) / name)

    def get_relative_path(self, path: str) -> Path:
        """The path relative to the outermost folder that was named with it in it, else to the root of all."""
        named = [
            folder for folder in (*self.extra_roots, *self.source_folders) if is_inside(path, folder) and path != folder
        ]
        return Path(path).relative_to(min(named, key=len, default=os.sep))

    def _are_links_allowed(self, path: str, real: str) -> bool:
        """Whether the links on the way are those of a folder that was named by hand, or lead back into it."""
        named = (folder for folder in (*self.extra_roots, *self.source_folders) if is_inside(path, folder))
        return any(is_inside(real, os.path.realpath(folder)) for folder in named) or any(
            is_inside(real, os.path.realpath(root)) for root in self.extra_roots
        )


def is_inside(path: str, folder: str) -> bool:
    """Whether the path is in the folder, by their names alone."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def make_allowed_paths(catalogue: Catalogue, plan: CleanupPlan, roots: Iterable[Path]) -> AllowedPaths:
    """The ground for a plan's files."""
    asked = {path for removal in plan.removals for path in (removal.path, removal.keep_path)}
    runs = catalogue.runs.get_latest(MAX_SOURCE_RUNS)
    sources = {source for run in runs if run.kind == "index" for source in run.settings.get("sources", ())}
    return AllowedPaths(
        os.path.realpath(catalogue.home.root),
        catalogue.files.get_many(asked).keys(),
        tuple(sorted(source for source in sources if source.startswith(os.sep))),
        tuple(os.path.abspath(root) for root in roots),  # noqa: PTH100  # Path.absolute() leaves `..` in
    )


def find_contradictions(
    plan: CleanupPlan, allowed_paths: AllowedPaths, done_lines: Collection[int] = ()
) -> dict[int, str]:
    """Lines that contradict the plan as a whole, by their number: judged before anything is touched.

    `done`: lines that were carried out before, when their files became links to the kept ones.
    """
    lines = {number: removal for number, removal in enumerate(plan.removals) if number not in done_lines}
    places = {
        number: (_resolve_plan_path(allowed_paths, one.path), _resolve_plan_path(allowed_paths, one.keep_path))
        for number, one in lines.items()
    }
    reasons = {
        number: "it is the file that is to be kept, under this name or another"
        for number, (place, keep) in places.items()
        if place.is_same(keep)
    }
    removed = {
        name for number, (place, _) in places.items() for name in place.get_names(without_identity=number in reasons)
    }
    kept = {name for _, keep in places.values() for name in keep.get_names()}
    seen: set[object] = set()
    for number, (place, keep) in places.items():
        if number not in reasons and keep.get_names() & removed:
            reasons[number] = "the file that is to be kept for it is to be removed by the same plan"
        elif number not in reasons and place.get_names() & kept:
            reasons[number] = "the same plan keeps it for another file"
        elif number not in reasons and place.get_names(without_identity=True) & seen:
            reasons[number] = "the plan names it twice"
        seen |= place.get_names(without_identity=True)
    return reasons


@dataclass(frozen=True)
class _PlanPath:
    """path: as in the plan; real: without links on the way; identity: device and inode, None where nothing is."""

    path: str
    real: str
    identity: tuple[int, int] | None

    def get_names(self, *, without_identity: bool = False) -> set[object]:
        """What tells it apart. `bare`: by name alone, for a file that shares its bytes with another name."""
        return {self.path, self.real} | (set() if without_identity or self.identity is None else {self.identity})

    def is_same(self, other: _PlanPath) -> bool:
        return bool(self.get_names() & other.get_names())


def _resolve_plan_path(allowed_paths: AllowedPaths, path: str) -> _PlanPath:
    real = allowed_paths.get_real_path(path)
    try:
        facts = os.lstat(real)
    except OSError:
        return _PlanPath(path, real, None)
    return _PlanPath(path, real, (facts.st_dev, facts.st_ino))


ImageIdPair = tuple[int, int]


@dataclass
class CopyEvidence:
    """What is known of the pictures in a plan. `ids`: of those that the home knows, by hash; `said`, `decided_at`: what
    people decided and when, by two hashes in order; `classes`: pictures of the same pixels have one; `near`: classes
    that match.
    """

    settings: Settings
    image_ids: dict[str, int]
    verdicts: dict[tuple[str, str], bool]
    decided_at: dict[tuple[str, str], datetime]
    pixel_classes: _PixelClasses
    near_pairs: set[ImageIdPair] = field(default_factory=set)

    def check_copy(self, file: FileIdentity, kept_file: FileIdentity) -> None:
        """Raises SetAside unless the two files hold copies of one picture."""
        if file.sha256 == kept_file.sha256 or (said := self._get_verdict(file.sha256, kept_file.sha256)):
            return
        if said is False:
            raise SkippedFile("it was decided that the two are different pictures")
        if file.sha256 not in self.image_ids or kept_file.sha256 not in self.image_ids:
            self._verify_pixels(file.path, kept_file.path)
        elif not self.are_copies(file.sha256, kept_file.sha256):
            raise SkippedFile(
                "the home does not know the two as copies; run `simile dedup` again, or decide on them at /duplicates"
            )

    def are_copies(self, first_sha256: str, second_sha256: str) -> bool:
        """Whether the home knows the pictures with these hashes as copies: same bytes or pixels, near, or decided."""
        if first_sha256 == second_sha256:
            return True
        said = self._get_verdict(first_sha256, second_sha256)
        if said is not None or first_sha256 not in self.image_ids or second_sha256 not in self.image_ids:
            return bool(said)
        first, second = (
            self.pixel_classes.find(self.image_ids[first_sha256]),
            self.pixel_classes.find(self.image_ids[second_sha256]),
        )
        return first == second or _order_id_pair(first, second) in self.near_pairs

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

    def _get_verdict(self, first_sha256: str, second_sha256: str) -> bool | None:
        return self.verdicts.get((min(first_sha256, second_sha256), max(first_sha256, second_sha256)))

    def _verify_pixels(self, path: Path, keep_path: Path) -> None:
        from simile.dedup.detection.lookup import verify_copy  # noqa: PLC0415  # only for files that the home does not know

        try:
            same = verify_copy(path, keep_path, Limits.from_settings(self.settings))
        except UnreadableImage as error:
            raise SkippedFile(f"it can't be compared with the file to keep: {error.name}: {error.reason}") from None
        if not same:
            raise SkippedFile("the two pictures do not match, laid on each other")


def load_copy_evidence(catalogue: Catalogue, settings: Settings, plan: CleanupPlan) -> CopyEvidence:
    """Reads what the home knows, before anything that the plan says is stored."""
    # A plan may say at any time that two are different: that only ever saves a file.
    decisions = {(one.first_sha256, one.second_sha256): one for one in catalogue.duplicates.get_decisions()}
    said = {pair: one.same for pair, one in decisions.items()}
    said |= {(one.first_sha256, one.second_sha256): False for one in plan.decisions if not one.same}
    hashes = {sha for removal in plan.removals for sha in (removal.sha256, removal.keep_sha256)}
    hashes |= {sha for pair in said for sha in pair}
    hashes |= {sha for one in plan.decisions for sha in (one.first_sha256, one.second_sha256)}
    ids = {sha: known.image_id for sha, known in catalogue.images.find_by_sha256(hashes).items()}
    decided_at = {pair: one.decided_at for pair, one in decisions.items()}
    proof = CopyEvidence(settings, ids, said, decided_at, _PixelClasses())
    _load_pairs(catalogue, proof)
    return proof


def _load_pairs(catalogue: Catalogue, evidence: CopyEvidence) -> None:
    """Pixels first: a near pair holds between whole classes of pictures with the same pixels."""
    decided: dict[bool, set[ImageIdPair]] = {True: set(), False: set()}
    for (first, second), same in evidence.verdicts.items():
        if first in evidence.image_ids and second in evidence.image_ids:
            decided[same].add(_order_id_pair(evidence.image_ids[first], evidence.image_ids[second]))
    for pair in catalogue.duplicates.iterate_pairs(("pixels",)):
        if (pair.first, pair.second) not in decided[False]:
            evidence.pixel_classes.union(pair.first, pair.second)
    found = {(pair.first, pair.second) for pair in catalogue.duplicates.iterate_pairs(("near",))} - decided[False]
    evidence.near_pairs = {
        _order_id_pair(evidence.pixel_classes.find(one), evidence.pixel_classes.find(other))
        for one, other in found | decided[True]
    }


def _order_id_pair(first: int, second: int) -> ImageIdPair:
    return (first, second) if first < second else (second, first)


class _PixelClasses:
    """Which pictures have the same pixels: that, unlike nearness, goes from one to the next."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def find(self, image_id: int) -> int:
        """The class: the id of one of its pictures."""
        top = image_id
        while (above := self._parents.get(top, top)) != top:
            top = above
        self._parents[image_id] = top  # the next question takes one step
        return top

    def union(self, first_id: int, second_id: int) -> None:
        first, second = self.find(first_id), self.find(second_id)
        self._parents[max(first, second)] = min(first, second)


class OperationHistory:
    """All operations that were not undone, of this plan too."""

    def __init__(self, journals: Iterable[OperationJournal]) -> None:
        self._removals: dict[tuple[str, str], FileOperation] = {}
        self._dependent_operations: dict[str, dict[tuple[str, str], FileOperation]] = {}
        self._symlinks_by_target: dict[str, FileOperation] = {}
        self._target_folders: set[str] = set()
        for entry in iterate_active_entries(journals):
            self.add(entry.operation, done=entry.state == "done")

    def add(self, operation: FileOperation, *, done: bool = True) -> None:
        if done:
            self._removals[operation.named, operation.sha256] = operation
        if operation.action == "symlink":
            self._symlinks_by_target[operation.keep_path] = operation
        kept_for = self._dependent_operations.setdefault(operation.keep_sha256, {})
        kept_for.setdefault((operation.sha256, operation.keep_path), operation)
        if operation.target:
            self._target_folders.add(operation.base or str(Path(operation.target).parent))

    def is_done(self, removal: Removal, allowed_paths: AllowedPaths) -> bool:
        """Whether this line was carried out, and nothing has come to be at its place since."""
        operation = self._removals.get((removal.path, removal.sha256))
        if operation is None or operation.keep_sha256 != removal.keep_sha256:
            return False
        return is_operation_link(operation) or not path_exists(Path(allowed_paths.get_real_path(removal.path)))

    def check_location(self, path: Path) -> None:
        """Raises SetAside for a file among those that went: they may be thrown away, or be wanted back."""
        if is_in_trash(path):
            raise SkippedFile("it lies in a trash")
        for folder in self._target_folders:
            if is_inside(str(path), folder):
                raise SkippedFile(f"it lies in {folder}, where files of an earlier plan went")

    def check_dependents(self, path: Path, sha256: str, keep_sha256: str, evidence: CopyEvidence) -> None:
        """Raises SetAside if the file is what others were kept for, and the one to keep does not stand in for it."""
        if linked := self._symlinks_by_target.get(str(path)):
            raise SkippedFile(f"{linked.named} is a symbolic link to it; undo that first")
        if sha256 == keep_sha256:  # nobody loses anything
            return
        for operation in self._dependent_operations.get(sha256, {}).values():
            if evidence.are_copies(operation.sha256, keep_sha256):
                continue
            if operation.keep_path == str(path) or not has_content(Path(operation.keep_path), sha256):
                raise SkippedFile(f"it was kept for {operation.named}, which the file to keep is no copy of")
