"""What copies do to a dataset: leaks between its splits, conflicting labels, classes before and after a removal."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.grouping.findings import Findings, all_files
from simile.dedup.grouping.groups import SAME_BYTES, Copies
from simile.dedup.records import Group, Pair, PictureFile, Plan, Tier
from simile.store.catalogue.catalogue import Catalogue

SPLIT = "split"  # the column of a manifest that names a file's split
FOLDERS = "folders"


@dataclass(frozen=True)
class Leak:
    """Two files of two splits that are copies of each other."""

    tier: Tier
    first: PictureFile
    second: PictureFile
    first_split: str
    second_split: str
    distance: float
    agreement: float | None
    reason: str


@dataclass(frozen=True)
class LeakCount:
    """Leaks of one tier between two splits. pairs: as listed. files: how many of each split are in them, by name."""

    first: str
    second: str
    tier: Tier
    pairs: int
    files: Mapping[str, int]


@dataclass(frozen=True)
class Conflict:
    """A group whose files have several labels, each with the paths under it."""

    group: Group
    labels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassCount:
    """How many files a class has, and how many when a plan is done."""

    before: int
    after: int


class Splits:
    """The parts of a dataset, by name: what a manifest's column `split` says, a folder of that name, or a path."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises BadSetting for fewer than two names, or the same twice."""
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise BadSetting(f"between can't be {', '.join(names)!r}. Name two different splits or more: train test.")
        self.names = tuple(names)
        self._prefixes = {name: os.path.abspath(name) + os.sep for name in names if os.sep in name}  # noqa: PTH100
        self._places = {name: place for place, name in enumerate(names)}

    def of(self, file: PictureFile) -> str | None:
        """The split of a file; of nested folders the innermost counts."""
        return self.at(file.path, file.labels.get(SPLIT))

    def at(self, path: str, said: str | None = None) -> str | None:
        """The split of a path. said: what a manifest says."""
        if said is not None and said in self._places:
            return said
        inside = [name for name, prefix in self._prefixes.items() if path.startswith(prefix)]
        if inside:
            return max(inside, key=lambda name: len(self._prefixes[name]))
        folders = _folders(path)
        return next((folder for folder in reversed(folders) if folder in self._places), None)

    def below(self, path: str) -> Sequence[str]:
        """The folders of a path, from the split's own on without it; all of them outside splits."""
        folders = _folders(path)
        prefix = max((prefix for prefix in self._prefixes.values() if path.startswith(prefix)), key=len, default="")
        if prefix:
            return folders[prefix.count(os.sep) :]
        places = [place for place, folder in enumerate(folders) if folder in self._places]
        return folders[places[-1] + 1 :] if places else folders


def _folders(path: str) -> list[str]:
    """The folders of an absolute path, from the root's "" on."""
    return path.split(os.sep)[:-1]  # noqa: PTH206  # for every file; a Path takes ten times as long


def find_leaks(findings: Findings, copies: Copies, splits: Splits) -> list[Leak]:
    """Copies across two splits, tier by tier, the nearest first: every file that has one, beside one that it has.

    So of a picture that lies a thousand times in both there are some two thousand leaks, not a million. Pictures with
    equal pixels are one picture to what is near to it: each of its files is.
    """
    leaks = [leak for files in findings.files.values() if len(files) > 1 for leak in _within(files, splits)]
    held = dict(findings.files)
    for star in copies.alike:
        held[star.kept] = tuple(file for one in (star.kept, *star.others) for file in findings.files[one])
        leaks += _alike(held[star.kept], splits, next(iter(copies.pixels.of[star.others[0]].values())))
    for first, second, pair in copies.near.pairs():
        leaks += _across(pair, held[first], held[second], splits)
    return leaks


def count_splits(catalogue: Catalogue, splits: Splits, only: Filter | None = None) -> dict[str, int]:
    """How many files each split has. Raises BadSetting for one that has none."""
    said = {path: text for path, _, text in catalogue.labels(SPLIT)}
    counts = Counter(splits.at(file.path, said.get(file.path)) for file in all_files(catalogue, only))
    for name in splits.names:
        if not counts[name]:
            raise BadSetting(
                f"between can't be {name!r}: no indexed file lies in a folder of that name or in that path, and no "
                f"manifest's column `{SPLIT}` says so. Check the spelling."
            )
    return {name: counts[name] for name in splits.names}


def count_leaks(leaks: Iterable[Leak]) -> list[LeakCount]:
    """The leaks by the two splits and the tier."""
    pairs: Counter[tuple[str, str, Tier]] = Counter()
    paths: defaultdict[tuple[str, str, Tier], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for leak in leaks:
        key = (leak.first_split, leak.second_split, leak.tier)
        pairs[key] += 1
        for known, file in zip(paths[key], (leak.first, leak.second), strict=True):
            known.add(file.path)
    return [
        LeakCount(
            first, second, tier, count, dict(zip((first, second), map(len, paths[first, second, tier]), strict=True))
        )
        for (first, second, tier), count in pairs.items()
    ]


LabelOf = Callable[[PictureFile], str | None]


def label_reader(spec: str, splits: Splits | None = None) -> LabelOf:
    """What gives a file's label. spec: `folders`, or the name of a manifest's column.

    Its folder's name is the label; within a split, the first folder below the split's own.
    """
    if spec != FOLDERS:
        return lambda file: file.labels.get(spec) or None

    def of_folder(file: PictureFile) -> str | None:
        if splits is None or splits.at(file.path) is None:
            return _folders(file.path)[-1] or None
        return next(iter(splits.below(file.path)), None)

    return of_folder


def find_conflicts(groups: Iterable[Group], label_of: LabelOf) -> list[Conflict]:
    """The groups in which one picture has several labels; files without a label are passed over."""
    found = []
    for group in groups:
        labels: dict[str, tuple[str, ...]] = {}
        for member in group.members:
            label = label_of(member.file)
            if label is not None:
                labels[label] = (*labels.get(label, ()), member.file.path)
        if len(labels) > 1:
            found.append(Conflict(group, labels))
    return found


def count_classes(
    catalogue: Catalogue, spec: str, plan: Plan, splits: Splits | None = None, only: Filter | None = None
) -> dict[str, ClassCount]:
    """Files of each class before and after the plan, by name."""
    gone = {removal.path for removal in plan.removals}
    before: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for path, label in _labelled(catalogue, spec, splits, only):
        before[label] += 1
        removed[label] += path in gone
    return {label: ClassCount(count, count - removed[label]) for label, count in sorted(before.items())}


def check_labels(catalogue: Catalogue, spec: str, splits: Splits | None = None, only: Filter | None = None) -> None:
    """Raises BadSetting where no file has a label."""
    if next(_labelled(catalogue, spec, splits, only), None) is not None:
        return
    where = "lies in a class folder below its split" if spec == FOLDERS else "has it in its manifest"
    raise BadSetting(
        f"labels can't be {spec!r}: no indexed file {where}. Use folders, or a column of the manifest that was indexed."
    )


def _labelled(catalogue: Catalogue, spec: str, splits: Splits | None, only: Filter | None) -> Iterator[tuple[str, str]]:
    """(path, label) of every file that has one."""
    label_of = label_reader(spec, splits)
    said = {} if spec == FOLDERS else {path: {spec: text} for path, _, text in catalogue.labels(spec)}
    for file in all_files(catalogue, only):
        label = label_of(replace(file, labels=said.get(file.path, {})))
        if label is not None:
            yield file.path, label


def _within(files: Sequence[PictureFile], splits: Splits) -> Iterator[Leak]:
    """Files with the same bytes in several splits."""
    for (one, first), (two, second) in combinations(_parts(files, splits).items(), 2):
        for left, right in _beside(first, second):
            yield Leak("bytes", left, right, one, two, 0.0, 1.0, SAME_BYTES)


def _alike(files: Sequence[PictureFile], splits: Splits, pair: Pair) -> Iterator[Leak]:
    """Pictures with equal pixels in several splits."""
    for (one, first), (two, second) in combinations(_parts(files, splits).items(), 2):
        for left, right in _beside(first, second, of_another=True):
            yield Leak("pixels", left, right, one, two, pair.distance, pair.agreement, pair.reason)


def _across(pair: Pair, ours: Sequence[PictureFile], theirs: Sequence[PictureFile], splits: Splits) -> Iterator[Leak]:
    """The files of two pictures in several splits."""
    first, second = _parts(ours, splits), _parts(theirs, splits)
    for one, two in combinations(splits.names, 2):
        for left, right in ((first, second), (second, first)):
            for file, other in _beside(left.get(one, ()), right.get(two, ())):
                yield Leak(pair.tier, file, other, one, two, pair.distance, pair.agreement, pair.reason)


def _beside(
    first: Sequence[PictureFile], second: Sequence[PictureFile], *, of_another: bool = False
) -> Iterator[tuple[PictureFile, PictureFile]]:
    """Every file of either side, beside one of the other side. of_another: beside one of another picture."""
    shown = set()
    partner = _partner(first, of_another=of_another)
    for file in second:
        other = partner(file)
        if other is not None:
            shown.add(other.path)
            yield other, file
    partner = _partner(second, of_another=of_another)
    for file in first:
        other = partner(file)
        if other is not None and file.path not in shown:
            yield file, other


def _partner(files: Sequence[PictureFile], *, of_another: bool) -> Callable[[PictureFile], PictureFile | None]:
    """What finds the first of the files that may stand beside one, at once however many there are."""
    head = next(iter(files), None)
    if head is None or not of_another:
        return lambda _: head
    other = next((file for file in files if file.image_id != head.image_id), None)
    return lambda file: head if file.image_id != head.image_id else other


def _parts(files: Sequence[PictureFile], splits: Splits) -> dict[str, list[PictureFile]]:
    """The files by split, in the order in which the splits were named."""
    found: dict[str, list[PictureFile]] = {name: [] for name in splits.names}
    for file in files:
        name = splits.of(file)
        if name is not None:
            found[name].append(file)
    return {name: held for name, held in found.items() if held}
