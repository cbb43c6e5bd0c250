"""The checks that decide whether a file of a plan may be touched. Nothing that a plan says is trusted.

AllowedPaths         where files may be touched: only in places that the home or the command line names
find_contradictions  lines that contradict other lines of the plan
CopyEvidence         whether two files are copies by something other than the plan
OperationHistory     what earlier operations rely on
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import cache
from pathlib import Path

from simile.core.errors import UnreadableImage
from simile.core.settings import Settings
from simile.dedup.cleanup.file_ops import FileIdentity, SkippedFile, has_content, path_exists
from simile.dedup.cleanup.journal import ACTIVE_STATES, FileOperation, OperationJournal
from simile.dedup.cleanup.recovery import is_operation_link
from simile.dedup.cleanup.trash import is_in_trash
from simile.dedup.grouping.matches import find_component_roots
from simile.dedup.records import CleanupPlan, Decision, Removal, Tier, sort_pair
from simile.images.formats import Limits
from simile.images.sources.archives import split_member_path
from simile.store.catalogue.catalogue import Catalogue

MAX_SOURCE_RUNS = 10_000  # the latest runs, whose sources are folders that users named


# Allowed paths


class AllowedPaths:
    """The places where files may be touched. No path contains links, except those that the plan or users name."""

    def __init__(self, catalogue: Catalogue, plan: CleanupPlan, roots: Iterable[Path]) -> None:
        """Collect the allowed places for a plan's files; `roots` are the folders named with --root."""
        plan_paths = {path for removal in plan.removals for path in (removal.path, removal.keep_path)}
        runs = catalogue.runs.get_latest(MAX_SOURCE_RUNS)
        sources = {source for run in runs if run.kind == "index" for source in run.settings.get("sources", ())}
        self.home = os.path.realpath(catalogue.home.root)
        self.indexed_paths = catalogue.files.get_many(plan_paths).keys()  # those of the plan's paths that are indexed
        self.extra_roots = tuple(os.path.abspath(root) for root in roots)  # noqa: PTH100  # Path.absolute() leaves `..` in
        # The folders named by users; sources are those of `simile index`.
        self.named_folders = (*self.extra_roots, *sorted(source for source in sources if source.startswith(os.sep)))
        self._get_real_folder = cache(os.path.realpath)

    def resolve(self, path: str) -> Path:
        """Return the path with links to its folder resolved (the file itself may be a link).

        Raises SkippedFile if the file is in no allowed place.
        """
        if split_member_path(path) is not None:
            raise SkippedFile("it is in an archive, which is never changed")
        real = self.get_real_path(path)
        if is_inside(real, self.home):
            raise SkippedFile("it is in simile's own home")
        if path not in self.indexed_paths and not any(is_inside(path, root) for root in self.extra_roots):
            raise SkippedFile("it is not indexed, and in no --root")
        if real != path and not self._are_links_allowed(path, real):
            raise SkippedFile(
                f"a symbolic link leads to it in {Path(real).parent}; name that folder with --root to allow it"
            )
        return Path(real)

    def get_real_path(self, path: str) -> str:
        """Return the path with all links to its folder resolved."""
        folder, name = os.path.split(path)
        return str(Path(self._get_real_folder(folder)) / name)

    def get_relative_path(self, path: str) -> Path:
        """Return the path relative to the outermost named folder that contains it, or to the file system's root."""
        containing = [folder for folder in self.named_folders if is_inside(path, folder)]
        return Path(path).relative_to(min(containing, key=len, default=os.sep))

    def _are_links_allowed(self, path: str, real: str) -> bool:
        """Return whether the links lead into a folder named with --root, or back into the named folder."""
        folders = {folder for folder in self.named_folders if is_inside(path, folder)} | set(self.extra_roots)
        return any(is_inside(real, os.path.realpath(folder)) for folder in folders)


def is_inside(path: str, folder: str) -> bool:
    """Return whether the path is in the folder, by their names only."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


# Contradictions in the plan


def find_contradictions(
    plan: CleanupPlan, allowed_paths: AllowedPaths, done_lines: Collection[int] = ()
) -> dict[int, str]:
    """Find lines that contradict the plan as a whole, before anything is touched.

    Args:
        done_lines: Lines that were executed before; their files may be links to the kept files now.

    Returns:
        The reasons by line number.
    """

    def identify(path: str) -> tuple[frozenset[str], frozenset[object]]:
        """Return the names of a file, in the plan and without links, and all that identifies it: also its inode."""
        names = frozenset({path, allowed_paths.get_real_path(path)})
        try:
            status = os.lstat(allowed_paths.get_real_path(path))
        except OSError:
            return names, names
        return names, names | {(status.st_dev, status.st_ino)}

    lines = {
        number: (*identify(removal.path), identify(removal.keep_path)[1])
        for number, removal in enumerate(plan.removals)
        if number not in done_lines
    }
    reasons = {
        number: "it is the file that is to be kept, under this or another name"
        for number, (_, keys, kept_keys) in lines.items()
        if keys & kept_keys
    }
    # A file that is the kept file itself counts by its names only: its inode is also that of the kept file.
    removed_keys = {key for number, (names, keys, _) in lines.items() for key in (names if number in reasons else keys)}
    all_kept_keys = {key for _, _, kept_keys in lines.values() for key in kept_keys}
    seen_names: set[str] = set()
    for number, (names, keys, kept_keys) in lines.items():
        if number not in reasons:
            if kept_keys & removed_keys:
                reasons[number] = "the file that is to be kept for it is removed by the same plan"
            elif keys & all_kept_keys:
                reasons[number] = "the same plan keeps it for another file"
            elif names & seen_names:
                reasons[number] = "the plan names it twice"
        seen_names |= names
    return reasons


# Evidence that two files are copies


class CopyEvidence:
    """What the home knows about the images of a plan, before any decision of the plan is stored."""

    def __init__(self, catalogue: Catalogue, settings: Settings, plan: CleanupPlan) -> None:
        self.settings = settings
        decisions = {
            (record.first_sha256, record.second_sha256): record for record in catalogue.duplicates.get_decisions()
        }
        self.decided_at = {pair: record.decided_at for pair, record in decisions.items()}
        # Same or different, by two hashes. The plan's `different` decisions are believed: they only prevent a removal.
        self.verdicts = {pair: record.same for pair, record in decisions.items()}
        plan_pairs = {(decision.first_sha256, decision.second_sha256): decision.same for decision in plan.decisions}
        self.verdicts |= {pair: False for pair, same in plan_pairs.items() if not same}
        hashes = {sha for removal in plan.removals for sha in (removal.sha256, removal.keep_sha256)}
        hashes |= {sha for pair in self.verdicts | plan_pairs for sha in pair}
        self.image_ids = {sha: known.image_id for sha, known in catalogue.images.find_by_sha256(hashes).items()}
        # Image id -> smallest id with the same pixels; a near pair holds between all images of two such classes.
        decided: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
        for (first, second), same in self.verdicts.items():
            if first in self.image_ids and second in self.image_ids:
                decided[same].add(sort_pair(self.image_ids[first], self.image_ids[second]))
        pixel_pairs, near_pairs = (
            {(pair.first, pair.second) for pair in catalogue.duplicates.iterate_pairs((tier,))} - decided[False]
            for tier in ("pixels", "near")
        )
        self.pixel_classes = find_component_roots(pixel_pairs)
        self.near_pairs = {self._get_class_pair(*pair) for pair in near_pairs | decided[True]}
        # Image id -> smallest id of its series; copies of a shot belong to it.
        shots = {(pair.first, pair.second) for pair in catalogue.duplicates.iterate_pairs(("series",))}
        self.series = find_component_roots((shots - decided[False]) | pixel_pairs | near_pairs | decided[True])

    def check_match(self, file: FileIdentity, kept_file: FileIdentity, tier: Tier) -> None:
        """Raise SkippedFile unless the two files are copies of one image, or in the tier `series` of one series."""
        verdict = self.verdicts.get(sort_pair(file.sha256, kept_file.sha256))
        if file.sha256 == kept_file.sha256 or verdict:
            return
        if verdict is False:
            raise SkippedFile("users decided that the two are different images")
        if file.sha256 not in self.image_ids or kept_file.sha256 not in self.image_ids:
            self._verify_pixels(file.path, kept_file.path)
        elif not (
            self.are_copies(file.sha256, kept_file.sha256)
            or (tier == "series" and self._are_in_series(file.sha256, kept_file.sha256))
        ):
            kind = "shots of a series" if tier == "series" else "copies"
            raise SkippedFile(
                f"the home does not know the two as {kind}; run `simile dedup` again, or decide on them at /duplicates"
            )

    def are_copies(self, first_sha256: str, second_sha256: str) -> bool:
        """Return whether the home knows the images as copies: same bytes or pixels, near, or decided."""
        if first_sha256 == second_sha256:
            return True
        verdict = self.verdicts.get(sort_pair(first_sha256, second_sha256))
        if verdict is not None or first_sha256 not in self.image_ids or second_sha256 not in self.image_ids:
            return bool(verdict)
        first, second = self._get_class_pair(self.image_ids[first_sha256], self.image_ids[second_sha256])
        return first == second or (first, second) in self.near_pairs

    def _are_in_series(self, first_sha256: str, second_sha256: str) -> bool:
        first, second = self.image_ids[first_sha256], self.image_ids[second_sha256]
        return self.series.get(first, first) == self.series.get(second, second)

    def may_record(self, decision: Decision) -> bool:
        """Return whether a plan's decision may be stored: `same` only if the images are known as copies anyway.

        Otherwise a plan would be its own evidence when it is applied a second time.
        """
        return not decision.same or self.are_copies(decision.first_sha256, decision.second_sha256)

    def is_outdated(self, decision: Decision, created_at: str) -> bool:
        """Return whether the home has a decision on the pair that is newer than the plan, or may be newer."""
        decided_at = self.decided_at.get((decision.first_sha256, decision.second_sha256))
        try:
            return decided_at is not None and datetime.fromisoformat(created_at) <= decided_at
        except (ValueError, TypeError):  # not a time, or a time without a time zone
            return True

    def _get_class_pair(self, first: int, second: int) -> tuple[int, int]:
        return sort_pair(self.pixel_classes.get(first, first), self.pixel_classes.get(second, second))

    def _verify_pixels(self, path: Path, keep_path: Path) -> None:
        """Compare two files of which the home does not know one."""
        from simile.dedup.detection.lookup import verify_copy  # slow import, rarely needed  # noqa: PLC0415

        try:
            is_copy = verify_copy(path, keep_path, Limits.from_settings(self.settings))
        except UnreadableImage as error:
            raise SkippedFile(f"it can't be compared with the file to keep: {error.name}: {error.reason}") from None
        if not is_copy:
            raise SkippedFile(
                "the two images do not match when they are aligned, or each has something that the other lacks"
            )


# Earlier operations


class OperationHistory:
    """All operations that were not undone, including those of the current plan."""

    def __init__(self, journals: Iterable[OperationJournal]) -> None:
        self._removals: dict[tuple[str, str], FileOperation] = {}  # by path in the plan and hash
        # hash of a kept file -> the operations that rely on it, one per (removed hash, kept path)
        self._dependent_operations: dict[str, dict[tuple[str, str], FileOperation]] = {}
        self._symlinks_by_target: dict[str, FileOperation] = {}
        self._target_folders: set[str] = set()
        for entry in (entry for journal in journals for entry in journal.entries.values()):
            if entry.state in ACTIVE_STATES:
                self.add(entry.operation, done=entry.state == "done")

    def add(self, operation: FileOperation, *, done: bool = True) -> None:
        """Add an operation; `done` False: it is not known to be complete."""
        if operation.role == "sidecar":  # no file was removed
            return
        if done:
            self._removals[operation.named, operation.sha256] = operation
        if operation.action == "symlink":
            self._symlinks_by_target[operation.keep_path] = operation
        if operation.role == "image":
            dependents = self._dependent_operations.setdefault(operation.keep_sha256, {})
            dependents.setdefault((operation.sha256, operation.keep_path), operation)
        if operation.target:
            self._target_folders.add(operation.base or str(Path(operation.target).parent))

    def is_done(self, removal: Removal, allowed_paths: AllowedPaths) -> bool:
        """Return whether this line was executed, and no other file is at its path since then."""
        operation = self._removals.get((removal.path, removal.sha256))
        if operation is None or operation.keep_sha256 != removal.keep_sha256:
            return False
        return is_operation_link(operation) or not path_exists(Path(allowed_paths.get_real_path(removal.path)))

    def check_location(self, path: Path) -> None:
        """Raise SkippedFile for a file among removed files: these may be deleted or restored at any time."""
        if is_in_trash(path):
            raise SkippedFile("it is in a trash")
        for folder in self._target_folders:
            if is_inside(str(path), folder):
                raise SkippedFile(f"it is in {folder}, where an earlier plan moved files to")

    def check_dependents(self, path: Path, sha256: str, keep_sha256: str, evidence: CopyEvidence) -> None:
        """Raise SkippedFile if the file was kept for others that are no copies of the new kept file."""
        if link := self._symlinks_by_target.get(str(path)):
            raise SkippedFile(f"{link.named} is a symbolic link to it; undo that first")
        if sha256 == keep_sha256:  # the same bytes stay
            return
        for operation in self._dependent_operations.get(sha256, {}).values():
            if evidence.are_copies(operation.sha256, keep_sha256):
                continue
            if operation.keep_path == str(path) or not has_content(Path(operation.keep_path), sha256):
                raise SkippedFile(f"it was kept for {operation.named}, of which the file to keep is no copy")
