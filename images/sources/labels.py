"""Labels of images from class folders or from a CSV file, and labels as numbers.

folders     photos/cats/indoors/1.jpg in the source photos is a cat: the first folder below the source, as in
            torchvision's ImageFolder; an image directly in photos has no label
FILE.csv    a header, a column of paths and a column of labels, separated by comma, semicolon or tab
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.formats import IMAGE_SUFFIXES
from simile.images.sources.manifests import PATH_COLUMNS, find_column, read_csv_rows

IntArray = NDArray[np.int64]

NO_LABEL = -1  # the class number of an image without a label
LABEL_COLUMNS = ("label", "class", "category", "y", "labels", "class_name", "target")


def read_labels(spec: str, paths: Sequence[str], roots: Sequence[Path] = ()) -> list[str | None]:
    """Return the label of each absolute path in the sources `roots`, None if it has none.

    `spec` is "folders", or a CSV file. Raises NoSuchPath if the file does not exist, and BadSetting if it cannot be
    used or contradicts itself, or if no image has a label.
    """
    if not paths:
        return []
    # Path.absolute() keeps "..", resolve() resolves links: as in walk_sources().
    folders = [os.path.abspath(root) for root in roots]  # noqa: PTH100
    if spec == "folders":
        return _read_folder_labels(paths, folders)
    path = Path(os.path.abspath(spec))  # noqa: PTH100
    if not path.exists():
        if os.sep not in spec and not spec.lower().endswith((".csv", ".tsv", ".txt")):
            raise BadSetting(f"labels can't be {spec!r}. Use folders, or name a CSV file.")
        raise NoSuchPath(spec)
    return _match_table_labels(_read_label_table(path), path, paths, folders)


# Class folders


def _read_folder_labels(paths: Sequence[str], roots: Sequence[str]) -> list[str | None]:
    """Return the class folder of each path. Raises BadSetting if no path has one."""
    folders = sorted((root for root in roots if Path(root).is_dir()), key=len)  # the outermost first
    labels: list[str | None]
    if folders:
        labels = [_find_class_folder(path, folders) for path in paths]
        if not any(labels) and len(folders) > 1:  # the sources were photos/*: they are the classes themselves
            roots_of = [[folder for folder in folders if _is_inside(path, folder)] for path in paths]
            labels = [Path(outer[0]).name if outer else None for outer in roots_of]
    else:  # the sources were photos/*/*.jpg
        labels = [Path(path).parent.name or None for path in paths]
    if not any(labels):
        raise BadSetting(
            f"labels can't be folders: no image is in a class folder below {', '.join(folders)}, but for example "
            f"{paths[0]}. Put each class into a folder of its own, or name a CSV file."
        )
    return labels


def _find_class_folder(path: str, folders: Sequence[str]) -> str | None:
    """Return the first folder below the outermost of `folders` that contains the image."""
    root = next((folder for folder in folders if _is_inside(path, folder)), None)
    below = Path(path).relative_to(root).parts if root is not None else ()
    return below[0] if len(below) > 1 else None


def _is_inside(path: str, folder: str) -> bool:
    """Return whether the path is below the folder."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


# A CSV file


class _LabelRow(NamedTuple):
    """A row of a CSV file."""

    line: int
    key: str  # the path or name as it is written there
    label: str | None


def _read_label_table(file: Path) -> list[_LabelRow]:
    """Return every row, from a file with or without a header."""
    rows = list(read_csv_rows(file))
    if not rows:
        raise BadSetting(f"{file} is empty. Write a header, and a path and a label in each line.")
    key_column, label_column, has_header = _find_columns(file, rows[0].number, rows[0].cells)
    table = []
    for line, cells, _ in rows[1:] if has_header else rows:
        if not cells[key_column]:
            raise BadSetting(f"{file}, line {line}: column {key_column + 1} names no image. Correct the line.")
        table.append(_LabelRow(line, cells[key_column], cells[label_column].strip() or None))
    return table


def _find_columns(file: Path, line: int, header: Sequence[str]) -> tuple[int, int, bool]:
    """Return the column of paths, the column of labels, and whether the first line is a header."""
    if len(header) < 2:
        raise BadSetting(
            f"{file}, line {line}: only one column, {header[0]!r}. Write a path and a label in each line, "
            "separated by comma, semicolon or tab."
        )
    key, label = find_column(header, (*PATH_COLUMNS, "id")), find_column(header, LABEL_COLUMNS)
    has_header = key is not None or label is not None or Path(header[0].lower()).suffix not in IMAGE_SUFFIXES
    if key is None:
        key = 1 if label == 0 else 0
    if label is None:
        label = 1 if key == 0 else 0
    return key, label, has_header


class _PathMatcher:
    """Finds the images for a key of a CSV file, by the most exact comparison that finds any."""

    def __init__(self, paths: Sequence[str], folders: Sequence[str]) -> None:
        """Index the paths; `folders` are the folder of the CSV file, then the sources."""
        self.folders = folders
        self.paths = [_normalise_unicode(path) for path in paths]
        self.by_path = {path: number for number, path in enumerate(self.paths)}
        self.by_name: dict[str, list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        for number, path in enumerate(self.paths):
            self.by_name[Path(path).name].append(number)
            self.by_stem[Path(path).stem].append(number)

    def find_matches(self, key: str) -> list[int]:
        """Return the indices of the images: by the path from the CSV file, from a source, or by the end of the path.

        The end of the path is compared with the suffix first, then without.
        """
        key = _normalise_unicode(key if os.sep in key else key.replace("\\", os.sep))
        own, *others = (self.by_path.get(os.path.normpath(Path(folder, key))) for folder in self.folders)
        for numbers in ({own}, set(others)):
            if matches := sorted(number for number in numbers if number is not None):
                return matches
        end = os.sep + os.path.normpath(key).lstrip(os.sep)
        if matches := [n for n in self.by_name[Path(key).name] if self.paths[n].endswith(end)]:
            return matches
        return [n for n in self.by_stem[Path(key).name] if os.path.splitext(self.paths[n])[0].endswith(end)]  # noqa: PTH122


def _normalise_unicode(path: str) -> str:
    """Return the path with composed accents: macOS decomposes them in file names."""
    return unicodedata.normalize("NFC", path)


def _match_table_labels(
    table: Sequence[_LabelRow], file: Path, paths: Sequence[str], roots: Sequence[str]
) -> list[str | None]:
    """Return the label of each path from the rows. Raises BadSetting for an ambiguous or contradictory row."""
    matcher = _PathMatcher(paths, [str(file.parent), *roots])
    row_of: dict[int, _LabelRow] = {}
    for row in table:
        numbers = matcher.find_matches(row.key)
        if len(numbers) > 1:
            raise BadSetting(
                f"{file}, line {row.line}: {row.key!r} may be {paths[numbers[0]]} or {paths[numbers[1]]}. "
                f"Write paths relative to the folder of {file.name}, or to a source."
            )
        for number in numbers:
            earlier = row_of.setdefault(number, row)
            if earlier.label != row.label:
                raise BadSetting(
                    f"{file}: {paths[number]} is {earlier.label!r} in line {earlier.line} and {row.label!r} in "
                    f"line {row.line}. Keep one of them."
                )
    labels = [row_of[number].label if number in row_of else None for number in range(len(paths))]
    if any(labels):
        return labels
    # Say why no image has a label.
    if row_of:
        reason = f"gives none of the {len(paths)} images a label: the column is empty. Fill it in."
    elif not table:
        reason = "has a header and no lines. Write a path and a label in each."
    else:
        reason = (
            f"names none of the {len(paths)} images: its first path is {table[0].key!r} (line {table[0].line}), and "
            f"the first image is {paths[0]}. Write full paths, paths from the folder of the CSV file, or file names."
        )
    raise BadSetting(f"{file} {reason}")


# Labels as numbers


@dataclass(frozen=True)
class LabelClasses:
    """Sorted names of classes and the number of images of each; the number of a class is its index."""

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_labels(cls, labels: Iterable[str | None]) -> LabelClasses:
        """Return the classes of the labels. Raises BadSetting if there are fewer than two."""
        counts = Counter(label for label in labels if label is not None)
        if len(counts) < 2:
            only = f"only one class, {next(iter(counts))!r}" if counts else "no class at all"
            raise BadSetting(f"The labels name {only}. Label images of two classes or more.")
        return cls(tuple(sorted(counts)), tuple(counts[name] for name in sorted(counts)))

    def to_numbers(self, labels: Sequence[str | None]) -> IntArray:
        """Return class numbers (n,); NO_LABEL for images without a label or with an unknown label."""
        number_of = {name: number for number, name in enumerate(self.names)}
        return np.array([NO_LABEL if label is None else number_of.get(label, NO_LABEL) for label in labels], np.int64)


def make_stratified_folds(labels: Sequence[str | None], k: int, seed: int) -> list[IntArray]:
    """Split rows into k (2 to n) disjoint folds of equal size, with every class spread evenly; return sorted rows.

    Images without a label are treated as a class. The same labels and seed give the same folds. Raises BadSetting.
    """
    if not 2 <= k <= len(labels):
        raise BadSetting(f"folds can't be {k} for {len(labels)} images. Use 2 to {max(2, len(labels))}.")
    rows: dict[str | None, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    random = np.random.default_rng(seed)
    classes = sorted(rows, key=lambda label: (label is None, label or ""))  # rows without a label come last
    order = np.concatenate([random.permutation(np.array(rows[label], np.int64)) for label in classes])
    return [np.sort(order[number::k]) for number in range(k)]  # each class is dealt to the folds in turn
