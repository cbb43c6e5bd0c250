"""What copies do to a dataset: leaks between its splits, conflicting labels, classes before and after a removal."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.grouping.findings import Findings, iterate_files
from simile.dedup.grouping.groups import SAME_BYTES_REASON, CopyMatches
from simile.dedup.records import CleanupPlan, DuplicateGroup, ImageFile, ImagePair, Tier
from simile.store.catalogue.catalogue import Catalogue

SPLIT_COLUMN = "split"  # the column of a manifest that names a file's split
FOLDER_LABELS = "folders"


@dataclass(frozen=True)
class SplitLeak:
    """Two files of two splits that are copies of each other."""

    tier: Tier
    first: ImageFile
    second: ImageFile
    first_split: str
    second_split: str
    distance: float
    agreement: float | None
    reason: str


@dataclass(frozen=True)
class SplitLeakCount:
    """Leaks of one tier between two splits. pairs: as listed. files: how many of each split are in them, by name."""

    first: str
    second: str
    tier: Tier
    pairs: int
    files: Mapping[str, int]


@dataclass(frozen=True)
class LabelConflict:
    """A group whose files have several labels, each with the paths under it."""

    group: DuplicateGroup
    labels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassCount:
    """How many files a class has, and how many when a plan is done."""

    before: int
    after: int


class DatasetSplits:
    """The parts of a dataset, by name: what a manifest's column `split` says, a folder of that name, or a path."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises BadSetting for fewer than two names, or the same twice."""
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise BadSetting(f"between can't be {', '.join(names)!r}. Name two different splits or more: train test.")
        self.names = tuple(names)
        self._prefixes = {name: os.path.abspath(name) + os.sep for name in names if os.sep in name}  # noqa: PTH100
        self._positions = {name: place for place, name in enumerate(names)}

    def get_split(self, file: ImageFile) -> str | None:
        """The split of a file; of nested folders the innermost counts."""
        return self.get_split_for_path(file.path, file.labels.get(SPLIT_COLUMN))

    def get_split_for_path(self, path: str, manifest_split: str | None = None) -> str | None:
        """The split of a path. said: what a manifest says."""
        if manifest_split is not None and manifest_split in self._positions:
            return manifest_split
        inside = [name for name, prefix in self._prefixes.items() if path.startswith(prefix)]
        if inside:
            return max(inside, key=lambda name: len(self._prefixes[name]))
        folders = _get_parent_folders(path)
        return next((folder for folder in reversed(folders) if folder in self._positions), None)

    def get_folders_below_split(self, path: str) -> Sequence[str]:
        """The folders of a path, from the split's own on without it; all of them outside splits."""
        folders = _get_parent_folders(path)
        prefix = max((prefix for prefix in self._prefixes.values() if path.startswith(prefix)), key=len, default="")
        if prefix:
            return folders[prefix.count(os.sep) :]
        places = [place for place, folder in enumerate(folders) if folder in self._positions]
        return folders[places[-1] + 1 :] if places else folders


def _get_parent_folders(path: str) -> list[str]:
    """The folders of an absolute path, from the root's "" on."""
    return path.split(os.sep)[:-1]  # for every file; a Path takes ten times as long  # noqa: PTH206


def find_leaks(findings: Findings, copies: CopyMatches, splits: DatasetSplits) -> list[SplitLeak]:
    """Copies across two splits, tier by tier, the nearest first: every file that has one, beside one that it has.

    So of a picture that lies a thousand times in both there are some two thousand leaks, not a million. Pictures with
    equal pixels are one picture to what is near to it: each of its files is.
    """
    leaks = [leak for files in findings.files.values() if len(files) > 1 for leak in _iterate_byte_leaks(files, splits)]
    held = dict(findings.files)
    for star in copies.pixel_stars:
        held[star.kept_id] = tuple(file for one in (star.kept_id, *star.other_ids) for file in findings.files[one])
        leaks += _iterate_pixel_leaks(
            held[star.kept_id], splits, next(iter(copies.pixel_matches.neighbours[star.other_ids[0]].values()))
        )
    for first, second, pair in copies.near_matches.iterate_pairs():
        leaks += _iterate_pair_leaks(pair, held[first], held[second], splits)
    return leaks


def count_splits(catalogue: Catalogue, splits: DatasetSplits, filter: Filter | None = None) -> dict[str, int]:
    """How many files each split has. Raises BadSetting for one that has none."""
    said = {path: text for path, _, text in catalogue.duplicates.iterate_labels(SPLIT_COLUMN)}
    counts = Counter(
        splits.get_split_for_path(file.path, said.get(file.path)) for file in iterate_files(catalogue, filter)
    )
    for name in splits.names:
        if not counts[name]:
            raise BadSetting(
                f"between can't be {name!r}: no indexed file lies in a folder of that name or in that path, and no "
                f"manifest's column `{SPLIT_COLUMN}` says so. Check the spelling."
            )
    return {name: counts[name] for name in splits.names}


def count_leaks(leaks: Iterable[SplitLeak]) -> list[SplitLeakCount]:
    """The leaks by the two splits and the tier."""
    pairs: Counter[tuple[str, str, Tier]] = Counter()
    paths: defaultdict[tuple[str, str, Tier], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for leak in leaks:
        key = (leak.first_split, leak.second_split, leak.tier)
        pairs[key] += 1
        for known, file in zip(paths[key], (leak.first, leak.second), strict=True):
            known.add(file.path)
    return [
        SplitLeakCount(
            first, second, tier, count, dict(zip((first, second), map(len, paths[first, second, tier]), strict=True))
        )
        for (first, second, tier), count in pairs.items()
    ]


LabelReader = Callable[[ImageFile], str | None]


def make_label_reader(label_source: str, splits: DatasetSplits | None = None) -> LabelReader:
    """What gives a file's label. spec: `folders`, or the name of a manifest's column.

    Its folder's name is the label; within a split, the first folder below the split's own.
    """
    if label_source != FOLDER_LABELS:
        return lambda file: file.labels.get(label_source) or None

    def of_folder(file: ImageFile) -> str | None:
        if splits is None or splits.get_split_for_path(file.path) is None:
            return _get_parent_folders(file.path)[-1] or None
        return next(iter(splits.get_folders_below_split(file.path)), None)

    return of_folder


def find_label_conflicts(groups: Iterable[DuplicateGroup], read_label: LabelReader) -> list[LabelConflict]:
    """The groups in which one picture has several labels; files without a label are passed over."""
    found = []
    for group in groups:
        labels: dict[str, tuple[str, ...]] = {}
        for member in group.members:
            label = read_label(member.file)
            if label is not None:
                labels[label] = (*labels.get(label, ()), member.file.path)
        if len(labels) > 1:
            found.append(LabelConflict(group, labels))
    return found


def count_classes(
    catalogue: Catalogue,
    label_source: str,
    plan: CleanupPlan,
    splits: DatasetSplits | None = None,
    filter: Filter | None = None,
) -> dict[str, ClassCount]:
    """Files of each class before and after the plan, by name."""
    gone = {removal.path for removal in plan.removals}
    before: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for path, label in _iterate_labels(catalogue, label_source, splits, filter):
        before[label] += 1
        removed[label] += path in gone
    return {label: ClassCount(count, count - removed[label]) for label, count in sorted(before.items())}


def check_labels(
    catalogue: Catalogue, label_source: str, splits: DatasetSplits | None = None, filter: Filter | None = None
) -> None:
    """Raises BadSetting where no file has a label."""
    if next(_iterate_labels(catalogue, label_source, splits, filter), None) is not None:
        return
    where = "lies in a class folder below its split" if label_source == FOLDER_LABELS else "has it in its manifest"
    raise BadSetting(
        f"labels can't be {label_source!r}: no indexed file {where}. Use folders, or a column of the manifest that was indexed."
    )


def _iterate_labels(
    catalogue: Catalogue, label_source: str, splits: DatasetSplits | None, filter: Filter | None
) -> Iterator[tuple[str, str]]:
    """(path, label) of every file that has one."""
    label_of = make_label_reader(label_source, splits)
    said = (
        {}
        if label_source == FOLDER_LABELS
        else {path: {label_source: text} for path, _, text in catalogue.duplicates.iterate_labels(label_source)}
    )
    for file in iterate_files(catalogue, filter):
        label = label_of(replace(file, labels=said.get(file.path, {})))
        if label is not None:
            yield file.path, label


def _iterate_byte_leaks(files: Sequence[ImageFile], splits: DatasetSplits) -> Iterator[SplitLeak]:
    """Files with the same bytes in several splits."""
    for (one, first), (two, second) in combinations(_group_by_split(files, splits).items(), 2):
        for left, right in _match_across_splits(first, second):
            yield SplitLeak("bytes", left, right, one, two, 0.0, 1.0, SAME_BYTES_REASON)


def _iterate_pixel_leaks(files: Sequence[ImageFile], splits: DatasetSplits, pair: ImagePair) -> Iterator[SplitLeak]:
    """Pictures with equal pixels in several splits."""
    for (one, first), (two, second) in combinations(_group_by_split(files, splits).items(), 2):
        for left, right in _match_across_splits(first, second, require_other_image=True):
            yield SplitLeak("pixels", left, right, one, two, pair.distance, pair.agreement, pair.reason)


def _iterate_pair_leaks(
    pair: ImagePair, first_files: Sequence[ImageFile], second_files: Sequence[ImageFile], splits: DatasetSplits
) -> Iterator[SplitLeak]:
    """The files of two pictures in several splits."""
    first, second = _group_by_split(first_files, splits), _group_by_split(second_files, splits)
    for one, two in combinations(splits.names, 2):
        for left, right in ((first, second), (second, first)):
            for file, other in _match_across_splits(left.get(one, ()), right.get(two, ())):
                yield SplitLeak(pair.tier, file, other, one, two, pair.distance, pair.agreement, pair.reason)


def _match_across_splits(
    first: Sequence[ImageFile], second: Sequence[ImageFile], *, require_other_image: bool = False
) -> Iterator[tuple[ImageFile, ImageFile]]:
    """Every file of either side, beside one of the other side. of_another: beside one of another picture."""
    shown = set()
    partner = _make_partner_finder(first, require_other_image=require_other_image)
    for file in second:
        other = partner(file)
        if other is not None:
            shown.add(other.path)
            yield other, file
    partner = _make_partner_finder(second, require_other_image=require_other_image)
    for file in first:
        other = partner(file)
        if other is not None and file.path not in shown:
            yield file, other


def _make_partner_finder(
    files: Sequence[ImageFile], *, require_other_image: bool
) -> Callable[[ImageFile], ImageFile | None]:
    """What finds the first of the files that may stand beside one, at once however many there are."""
    head = next(iter(files), None)
    if head is None or not require_other_image:
        return lambda _: head
    other = next((file for file in files if file.image_id != head.image_id), None)
    return lambda file: head if file.image_id != head.image_id else other


def _group_by_split(files: Sequence[ImageFile], splits: DatasetSplits) -> dict[str, list[ImageFile]]:
    """The files by split, in the order in which the splits were named."""
    found: dict[str, list[ImageFile]] = {name: [] for name in splits.names}
    for file in files:
        name = splits.get_split(file)
        if name is not None:
            found[name].append(file)
    return {name: held for name, held in found.items() if held}
