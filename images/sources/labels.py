"""What people call their pictures: labels from class folders or from a CSV file, and labels as numbers.

folders     photos/cats/indoors/1.jpg under photos is a cat: the first folder below the one that was named,
            as torchvision's ImageFolder has it; a picture directly in photos has no label
FILE.csv    a header, a column of paths and a column of labels, separated by comma, semicolon or tab
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.formats import IMAGE_SUFFIXES

IntArray = NDArray[np.int64]

NO_LABEL = -1  # the number of a picture without a label
LABEL_PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file", "filename", "file_name", "image", "id")
LABEL_COLUMNS = ("label", "class", "category", "y", "labels", "class_name", "target")
LABEL_DELIMITERS = ",;\t"


def read_labels(spec: str, paths: Sequence[str], roots: Sequence[Path] = ()) -> list[str | None]:
    """The label of each of `paths` (absolute, as `walk` gives them), None where there is none.

    spec: "folders", or a CSV file. roots: the folders and files that were named and led to `paths`. Raises BadSetting
    where the file can't be used, contradicts itself, or no picture has a label at all; NoSuchPath.
    """
    if not paths:
        return []
    # Path.absolute() would keep "..", resolve() would follow links: as in walk().
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
    folders = sorted((root for root in roots if Path(root).is_dir()), key=len)  # the outermost first
    if folders:
        found = [_find_class_folder(path, folders) for path in paths]
        if not any(found) and len(folders) > 1:  # photos/* was named: the folders are the classes themselves
            found = [_find_containing_folder(path, folders) for path in paths]
    else:  # photos/*/*.jpg was named
        found = [Path(path).parent.name or None for path in paths]
    if not any(found):
        raise BadSetting(
            f"labels can't be folders: no picture lies in a class folder below {', '.join(folders)}, but for example "
            f"{paths[0]}. Put each class into a folder of its own, or name a CSV file."
        )
    return found


def _find_class_folder(path: str, folders: Sequence[str]) -> str | None:
    """The first folder below the outermost of `folders` that holds the picture."""
    root = next((folder for folder in folders if _is_inside(path, folder)), None)
    below = Path(path).relative_to(root).parts if root is not None else ()
    return below[0] if len(below) > 1 else None


def _find_containing_folder(path: str, folders: Sequence[str]) -> str | None:
    """The name of the folder that was named and holds the picture."""
    return next((Path(folder).name for folder in folders if _is_inside(path, folder)), None)


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


# A CSV file


@dataclass(frozen=True)
class _LabelRow:
    line: int
    key: str
    label: str | None


def _read_label_table(file: Path) -> list[_LabelRow]:
    """Every row with a key, from a file with or without the usual column names."""
    lines = _read_csv_lines(file)
    if not lines:
        raise BadSetting(f"{file} is empty. Write a header, and a path and a label in each line.")
    (first_line, header), rows = lines[0], lines[1:]
    key_column, label_column, headless = _find_columns(file, first_line, header)
    for line, cells in rows:
        _check_column_count(file, line, cells, len(header))
    return [
        _make_label_row(file, line, cells, key_column, label_column) for line, cells in (lines if headless else rows)
    ]


def _read_csv_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    text = _read_label_text(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(LABEL_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise BadSetting(f"{file}, line {reader.line_num}: {error}. Correct the line.") from None


def _read_label_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadSetting(f"{file} can't be read ({error.strerror}). Name a CSV file, or use folders.") from None
    try:
        return data.decode("utf-8-sig")  # spreadsheets write the mark of UTF-8 in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSetting(f"{file}, line {line}: not UTF-8 text. Save it as CSV in UTF-8.") from None


def _find_columns(file: Path, line: int, header: Sequence[str]) -> tuple[int, int, bool]:
    """Where the paths stand, where the labels, and whether the first line is a row already."""
    if len(header) < 2:
        raise BadSetting(
            f"{file}, line {line}: only one column, {header[0]!r}. Write a path and a label in each line, "
            "separated by comma, semicolon or tab."
        )
    names = [name.strip().lower() for name in header]
    key = next((names.index(name) for name in LABEL_PATH_COLUMNS if name in names), None)
    label = next((names.index(name) for name in LABEL_COLUMNS if name in names), None)
    headless = key is None and label is None and Path(names[0]).suffix in IMAGE_SUFFIXES
    if key is None:
        key = 1 if label == 0 else 0
    if label is None:
        label = 1 if key == 0 else 0
    return key, label, headless


def _check_column_count(file: Path, line: int, cells: Sequence[str], columns: int) -> None:
    """A label with a comma in it must be in quotes; empty cells at the end are spreadsheets' habit."""
    if len(cells) != columns and (len(cells) < columns or any(cells[columns:])):
        raise BadSetting(
            f"{file}, line {line}: {len(cells)} columns, and the first line has {columns}. Correct the line, or put "
            "quotes around a cell that holds the separator."
        )


def _make_label_row(file: Path, line: int, cells: Sequence[str], key_column: int, label_column: int) -> _LabelRow:
    key = cells[key_column].strip()
    if not key:
        raise BadSetting(f"{file}, line {line}: column {key_column + 1} names no picture. Correct the line.")
    return _LabelRow(line, key, cells[label_column].strip() or None)


class _PathMatcher:
    """Finds the pictures that a key of a CSV file may mean: the most exact way that finds any."""

    def __init__(self, paths: Sequence[str], folders: Sequence[str]) -> None:
        self.folders = folders  # the CSV file's own first
        self.paths = [_normalise_unicode(path) for path in paths]
        self.by_path = {path: number for number, path in enumerate(self.paths)}
        self.by_name: dict[str, list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        for number, path in enumerate(self.paths):
            self.by_name[Path(path).name].append(number)
            self.by_stem[Path(path).stem].append(number)

    def find_matches(self, key: str) -> list[int]:
        """By full path, relative to the CSV file, to a root, by the path's end, by that without the suffix."""
        key = _normalise_unicode(key if os.sep in key else key.replace("\\", os.sep))
        own, *roots = ([self.by_path.get(os.path.normpath(Path(folder, key)))] for folder in self.folders)
        for found in (own, [number for root in roots for number in root]):
            if numbers := {number for number in found if number is not None}:
                return sorted(numbers)
        end = os.sep + os.path.normpath(key).lstrip(os.sep)
        if named := [n for n in self.by_name[Path(key).name] if self.paths[n].endswith(end)]:
            return named
        return [n for n in self.by_stem[Path(key).name] if os.path.splitext(self.paths[n])[0].endswith(end)]  # noqa: PTH122


def _normalise_unicode(path: str) -> str:
    """One spelling of accents: macOS takes them apart in file names."""
    return unicodedata.normalize("NFC", path)


def _match_table_labels(
    table: Sequence[_LabelRow], file: Path, paths: Sequence[str], roots: Sequence[str]
) -> list[str | None]:
    pictures = _PathMatcher(paths, [str(file.parent), *roots])
    found: dict[int, _LabelRow] = {}
    for row in table:
        numbers = pictures.find_matches(row.key)
        if len(numbers) > 1:
            raise BadSetting(
                f"{file}, line {row.line}: {row.key!r} may be {paths[numbers[0]]} or {paths[numbers[1]]}. "
                f"Write paths from the folder that holds {file.name}, or from a folder that is named."
            )
        for number in numbers:
            earlier = found.setdefault(number, row)
            if earlier.label != row.label:
                raise BadSetting(
                    f"{file}: {paths[number]} is {earlier.label!r} in line {earlier.line} and {row.label!r} in "
                    f"line {row.line}. Keep one of them."
                )
    labels = [found[number].label if number in found else None for number in range(len(paths))]
    if not any(labels):
        raise BadSetting(_make_no_labels_message(file, table, paths, has_matches=bool(found)))
    return labels


def _make_no_labels_message(file: Path, table: Sequence[_LabelRow], paths: Sequence[str], *, has_matches: bool) -> str:
    if has_matches:
        return f"{file} gives none of the {len(paths)} pictures a label: the column is empty. Fill it in."
    if not table:
        return f"{file} has a header and no lines. Write a path and a label in each."
    return (
        f"{file} names none of the {len(paths)} pictures: it says {table[0].key!r} (line {table[0].line}), and the "
        f"first picture is {paths[0]}. Write full paths, paths from the folder of the CSV file, or file names."
    )


# Labels as numbers


@dataclass(frozen=True)
class LabelClasses:
    """Names of classes, sorted, with how many pictures each has; a class's number is its place."""

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_labels(cls, labels: Iterable[str | None]) -> LabelClasses:
        """The classes among `labels`. Raises BadSetting where there are fewer than two: nothing to tell apart."""
        counted = Counter(label for label in labels if label is not None)
        if len(counted) < 2:
            only = f"only one class, {next(iter(counted))!r}" if counted else "no class at all"
            raise BadSetting(f"The labels name {only}. Label pictures of two classes or more.")
        return cls(tuple(sorted(counted)), tuple(counted[name] for name in sorted(counted)))

    def to_numbers(self, labels: Sequence[str | None]) -> IntArray:
        """Class numbers (n,); NO_LABEL for pictures without one, or with one that is no class here."""
        known = {name: number for number, name in enumerate(self.names)}
        return np.array([NO_LABEL if label is None else known.get(label, NO_LABEL) for label in labels], np.int64)

    def require_count(self, min_count: int) -> None:
        """Raises BadSetting naming the first class that has fewer than `fewest` pictures."""
        for name, count in zip(self.names, self.counts, strict=True):
            if count < min_count:
                raise BadSetting(
                    f"Class {name!r} has {count} picture{'s' * (count > 1)}, and {min_count} are needed. "
                    "Add some, or leave the class out."
                )


def make_stratified_folds(labels: Sequence[str | None], k: int, seed: int) -> list[IntArray]:
    """k disjoint folds of rows, each sorted; every class is spread as evenly as it goes, and so are all pictures.

    Pictures without a label are spread like a class. The same for the same labels and seed. Raises BadSetting.
    """
    if not 2 <= k <= len(labels):
        raise BadSetting(f"folds can't be {k} for {len(labels)} pictures. Use 2 to {max(2, len(labels))}.")
    dealt = np.concatenate(list(_shuffle_by_class(labels, np.random.default_rng(seed))))
    return [np.sort(dealt[number::k]) for number in range(k)]  # dealt like cards, one class after another


def _shuffle_by_class(labels: Sequence[str | None], random: np.random.Generator) -> Iterator[IntArray]:
    """The shuffled rows of each class, those without a label last."""
    rows: dict[str | None, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    for label in [*sorted(name for name in rows if name is not None), *([None] if None in rows else [])]:
        yield random.permutation(np.array(rows[label], np.int64))
