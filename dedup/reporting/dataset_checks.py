"""Effects of copies on a dataset: leaks between splits, conflicting labels, class sizes before and after a cleanup."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.grouping.findings import Findings
from simile.dedup.grouping.groups import SAME_BYTES_REASON, CopyMatches
from simile.dedup.records import CleanupPlan, DuplicateGroup, ImageFile, ImagePair, Tier
from simile.images.sources.real_folders import (
    RealFolder,
    describe_nearest_folders,
    find_nearest,
    make_absolute_folder,
)
from simile.store.catalogue.catalogue import Catalogue

SPLIT_COLUMN = "split"  # the manifest column with a file's split
FOLDER_LABELS = "folders"

LabelReader = Callable[[ImageFile], str | None]


@dataclass(frozen=True, kw_only=True)
class SplitLeak:
    """Two files of different splits that are copies of each other, and what was found of their images."""

    pair: ImagePair
    first: ImageFile
    second: ImageFile
    first_split: str
    second_split: str


@dataclass(frozen=True, kw_only=True)
class SplitLeakCount:
    """The leaks of one tier between two splits."""

    first: str
    second: str
    tier: Tier
    pairs: int
    files: Mapping[str, int]  # how many files of each split are in the pairs, by split


@dataclass(frozen=True)
class LabelConflict:
    """A group whose files have different labels, and the paths with each label."""

    group: DuplicateGroup
    labels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassCount:
    """The number of files of a class before and after a plan is applied."""

    before: int
    after: int


class DatasetSplits:
    """The splits of a dataset: a name in the manifest column `split`, the name of a folder, or a path."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raise BadSetting for fewer than two names, or for the same name twice."""
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise BadSetting(f"between can't be {', '.join(names)!r}. Name at least two different splits: train test.")
        self.names = tuple(names)
        self._folders = {name: RealFolder(name) for name in names if os.sep in name}

    def get_split(self, file: ImageFile) -> str | None:
        """Return the split of a file; the innermost of nested folders counts."""
        return self.get_split_for_path(file.path, file.labels.get(SPLIT_COLUMN))

    def get_split_for_path(self, path: str, manifest_split: str | None = None) -> str | None:
        """Return the split of a path; the manifest's split takes precedence."""
        if manifest_split is not None and manifest_split in self.names:
            return manifest_split
        innermost = self._find_innermost(path)
        if innermost is not None:
            return innermost[1]
        return next((folder for folder in reversed(_get_parent_folders(path)) if folder in self.names), None)

    def get_folders_below_split(self, path: str) -> Sequence[str]:
        """Return the path's folders below its split's folder, outermost first; all folders if it is in no split."""
        innermost = self._find_innermost(path)
        if innermost is not None:
            return _get_parent_folders(innermost[0])
        folders = _get_parent_folders(path)
        positions = [position for position, folder in enumerate(folders) if folder in self.names]
        return folders[positions[-1] + 1 :] if positions else folders

    def _find_innermost(self, path: str) -> tuple[str, str] | None:
        """Return the path relative to the innermost split that is a path and contains it, and the split's name."""
        relative = ((folder.find_relative(path), name) for name, folder in self._folders.items())
        containing = [(below, name) for below, name in relative if below is not None]
        return min(containing, key=lambda found: len(found[0]), default=None)


def _get_parent_folders(path: str) -> list[str]:
    """Return the names of a path's folders, of an absolute path from "" (the root) on."""
    return path.split(os.sep)[:-1]  # called for every file; a Path is ten times slower  # noqa: PTH206


def find_leaks(findings: Findings, copies: CopyMatches, splits: DatasetSplits) -> list[SplitLeak]:
    """Find copies in different splits, tier by tier, the nearest first.

    Every file that has a copy in another split is listed once, with one such copy. So an image with 1000 files in both
    splits gives some 2000 leaks, not a million. All files with equal pixels count as one image in near pairs.
    """
    leaks: list[SplitLeak] = []
    for files in findings.files.values():
        if len(files) > 1:
            image_id = files[0].image_id or 0
            leaks += _iterate_leaks(ImagePair(image_id, image_id, "bytes", 0.0, 1.0, SAME_BYTES_REASON), files, splits)
    files_by_image = dict(findings.files)
    for star in copies.pixel_stars:
        files = tuple(file for image_id in (star.kept_id, *star.other_ids) for file in findings.files[image_id])
        files_by_image[star.kept_id] = files
        pair = next(iter(copies.pixel_matches.neighbours[star.other_ids[0]].values()))
        leaks += _iterate_leaks(pair, files, splits)
    for first, second, pair in copies.near_matches.iterate_pairs():
        leaks += _iterate_leaks(pair, files_by_image[first], splits, files_by_image[second])
    return leaks


def count_splits(catalogue: Catalogue, splits: DatasetSplits, filter: Filter | None = None) -> dict[str, int]:
    """Count the files of each split. Raises BadSetting for a split without files."""
    manifest_splits = {path: text for path, _, text in catalogue.duplicates.iterate_labels(SPLIT_COLUMN)}
    counts = Counter(
        splits.get_split_for_path(file.path, manifest_splits.get(file.path))
        for file in catalogue.duplicates.iterate_files(None, filter)
    )
    for name in splits.names:
        if not counts[name]:
            raise BadSetting(_explain_empty_split(name, catalogue.files.get_folders(), set(manifest_splits.values())))
    return {name: counts[name] for name in splits.names}


def _explain_empty_split(name: str, folders: Sequence[str], manifest_splits: Collection[str]) -> str:
    if os.sep in name:
        nearest = describe_nearest_folders(make_absolute_folder(name), folders)
        return f"between can't be {name!r}: no indexed file is in that folder. {nearest}"
    names = {part for folder in folders for part in folder.split(os.sep) if part} | set(manifest_splits)  # noqa: PTH206
    return (
        f"between can't be {name!r}: no indexed file is in a folder of that name, and no manifest has it in the column "
        f"`{SPLIT_COLUMN}`. The nearest names are {', '.join(find_nearest(name, names))}."
    )


def count_leaks(leaks: Iterable[SplitLeak]) -> list[SplitLeakCount]:
    """Count the leaks by tier and pair of splits."""
    leaks_by_key: defaultdict[tuple[str, str, Tier], list[SplitLeak]] = defaultdict(list)
    for leak in leaks:
        leaks_by_key[leak.first_split, leak.second_split, leak.pair.tier].append(leak)
    return [
        SplitLeakCount(
            first=first,
            second=second,
            tier=tier,
            pairs=len(group),
            files={first: len({leak.first.path for leak in group}), second: len({leak.second.path for leak in group})},
        )
        for (first, second, tier), group in leaks_by_key.items()
    ]


def make_label_reader(label_source: str, splits: DatasetSplits | None = None) -> LabelReader:
    """Return a function that gives a file's label.

    Args:
        label_source: `folders`, or the name of a manifest column. With `folders` the label is the name of the file's
            folder; within a split, the first folder below the split's folder.
    """
    if label_source != FOLDER_LABELS:
        return lambda file: file.labels.get(label_source) or None

    def read_folder_label(file: ImageFile) -> str | None:
        if splits is None or splits.get_split_for_path(file.path) is None:
            return _get_parent_folders(file.path)[-1] or None
        return next(iter(splits.get_folders_below_split(file.path)), None)

    return read_folder_label


def find_label_conflicts(groups: Iterable[DuplicateGroup], read_label: LabelReader) -> list[LabelConflict]:
    """Find the groups whose files have different labels; files without a label are ignored."""
    conflicts = []
    for group in groups:
        paths_by_label: dict[str, tuple[str, ...]] = {}
        for member in group.members:
            label = read_label(member.file)
            if label is not None:
                paths_by_label[label] = (*paths_by_label.get(label, ()), member.file.path)
        if len(paths_by_label) > 1:
            conflicts.append(LabelConflict(group, paths_by_label))
    return conflicts


def count_classes(
    catalogue: Catalogue,
    label_source: str,
    plan: CleanupPlan,
    splits: DatasetSplits | None = None,
    filter: Filter | None = None,
) -> dict[str, ClassCount]:
    """Count the files of each class before and after the plan, by class name."""
    removed_paths = {removal.path for removal in plan.removals}
    before: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for path, label in _iterate_labels(catalogue, label_source, splits, filter):
        before[label] += 1
        removed[label] += path in removed_paths
    return {label: ClassCount(count, count - removed[label]) for label, count in sorted(before.items())}


def check_labels(
    catalogue: Catalogue, label_source: str, splits: DatasetSplits | None = None, filter: Filter | None = None
) -> None:
    """Raise BadSetting if no file has a label."""
    if next(_iterate_labels(catalogue, label_source, splits, filter), None) is not None:
        return
    place = "is in a class folder below its split" if label_source == FOLDER_LABELS else "has it in its manifest"
    columns = ", ".join(catalogue.metadata.get_names()) or "none"
    raise BadSetting(
        f"labels can't be {label_source!r}: no indexed file {place}. "
        f"Use folders, or a column of an indexed manifest (there are: {columns})."
    )


def _iterate_labels(
    catalogue: Catalogue, label_source: str, splits: DatasetSplits | None, filter: Filter | None
) -> Iterator[tuple[str, str]]:
    """Yield (path, label) of every file with a label."""
    read_label = make_label_reader(label_source, splits)
    labels_by_path: dict[str, dict[str, str]] = {}
    if label_source != FOLDER_LABELS:
        rows = catalogue.duplicates.iterate_labels(label_source)
        labels_by_path = {path: {label_source: text} for path, _, text in rows}
    for file in catalogue.duplicates.iterate_files(None, filter):
        label = read_label(ImageFile(**file._asdict(), labels=labels_by_path.get(file.path, {})))
        if label is not None:
            yield file.path, label


def _iterate_leaks(
    pair: ImagePair, files: Sequence[ImageFile], splits: DatasetSplits, other_files: Sequence[ImageFile] | None = None
) -> Iterator[SplitLeak]:
    """Yield the leaks among files with equal bytes or pixels, or between those of two near images."""
    by_split = _group_by_split(files, splits)
    sides = [(by_split, by_split)]
    if other_files is not None:
        other_by_split = _group_by_split(other_files, splits)
        sides = [(by_split, other_by_split), (other_by_split, by_split)]
    for first_split, second_split in combinations(splits.names, 2):
        for left, right in sides:
            for first, second in _match_across_splits(
                left.get(first_split, ()), right.get(second_split, ()), same_image=pair.tier == "bytes"
            ):
                yield SplitLeak(
                    pair=pair, first=first, second=second, first_split=first_split, second_split=second_split
                )


def _match_across_splits(
    first: Sequence[ImageFile], second: Sequence[ImageFile], *, same_image: bool
) -> Iterator[tuple[ImageFile, ImageFile]]:
    """Yield every file of both splits, paired with a file of the other split.

    Args:
        same_image: Whether the two files are of the same image; otherwise they must be of two images.
    """

    def find_partner(file: ImageFile, candidates: Iterable[ImageFile]) -> ImageFile | None:
        return next((other for other in candidates if same_image or other.image_id != file.image_id), None)

    # The first file of each image is enough to choose from, so at most two are compared.
    first_files: dict[int | None, ImageFile] = {}
    second_files: dict[int | None, ImageFile] = {}
    for files, files_by_image in ((first, first_files), (second, second_files)):
        for file in files:
            files_by_image.setdefault(file.image_id, file)
    listed = set()
    for file in second:
        if partner := find_partner(file, first_files.values()):
            listed.add(partner.path)
            yield partner, file
    for file in first:
        if (partner := find_partner(file, second_files.values())) and file.path not in listed:
            yield file, partner


def _group_by_split(files: Sequence[ImageFile], splits: DatasetSplits) -> dict[str, list[ImageFile]]:
    """Group the files by split, in the order of the splits' names; files without a split are left out."""
    files_by_split: dict[str, list[ImageFile]] = {name: [] for name in splits.names}
    for file in files:
        name = splits.get_split(file)
        if name is not None:
            files_by_split[name].append(file)
    return {name: split_files for name, split_files in files_by_split.items() if split_files}
