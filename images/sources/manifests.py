"""Manifests: CSV, Parquet or JSON Lines files that list images with metadata.

One column has the paths (relative to the manifest); the other columns become metadata that can be searched by.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simile.core.errors import BadSetting
from simile.images.datasets.json_lines import read_json_lines
from simile.images.datasets.values import MAX_VALUE_LENGTH, format_value
from simile.images.sources.buckets import is_s3_url
from simile.images.sources.paths import is_utf8

MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file", "filename", "file_name", "image")
CSV_DELIMITERS = ",;\t"
MAX_CELL_LENGTH = MAX_VALUE_LENGTH  # a cell in quotes ends within so many characters and lines
MAX_CELL_LINES = 1_000
PARQUET_BATCH_ROWS = 2000  # rows of a Parquet file in memory at once

ManifestEntry = tuple[str, dict[str, str]]  # an absolute path, and the other columns by name


class TableRow(NamedTuple):
    """A row of a CSV or Parquet file."""

    number: int  # of its first line in a CSV file, of the row in a Parquet file; both from 1
    cells: list[str]
    problem: str = ""  # why the row can't be used; it then has no cells


class _BadRow(Exception):
    """The row can't be used; with the reason for people."""


def is_manifest(path: str) -> bool:
    """Return whether the path ends like a manifest."""
    return path.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(manifest: str, on_failure: Callable[[str, str], object]) -> Iterator[ManifestEntry]:
    """Yield every row, in order, without reading the whole file into memory. Empty cells are left out.

    Args:
        manifest: Path of the file.
        on_failure: Called with the position ("list.csv, line 3") and the reason for each row that can't be used.

    Raises:
        BadSetting: The file can't be read, or is no manifest.
    """
    if manifest.lower().endswith(".jsonl"):
        yield from _read_json_manifest(manifest, on_failure)
        return
    folder, is_parquet = str(Path(manifest).parent), manifest.lower().endswith(".parquet")
    rows = _read_parquet_rows(manifest) if is_parquet else _read_csv_rows(Path(manifest))
    header = next(rows, TableRow(0, []))
    if header.problem:
        raise BadSetting(f"{manifest}, line {header.number}: {header.problem}. Correct the line.")
    if not header.cells:
        raise BadSetting(f"{manifest} is empty. Write a header with a column `path`, and a line for each image.")
    names = [name.strip() for name in header.cells]
    path_column = find_column(names, PATH_COLUMNS)
    if path_column is None:
        raise BadSetting(f"{manifest} has no column `path`, only {', '.join(names)}. Name the column of paths `path`.")
    for number, cells, row_problem in rows:
        path = cells[path_column] if cells else ""
        if problem := row_problem or ("" if path else f"column {names[path_column]} is empty"):
            on_failure(f"{manifest}, {'row' if is_parquet else 'line'} {number}", problem)
            continue
        pairs = enumerate(zip(names, cells, strict=True))
        yield (
            _make_absolute(folder, path),
            {name: cell for number, (name, cell) in pairs if cell and number != path_column},
        )


def _read_json_manifest(manifest: str, on_failure: Callable[[str, str], object]) -> Iterator[ManifestEntry]:
    """Yield every line with a path; each line has its own names."""
    folder = str(Path(manifest).parent)
    for number, values, line_problem in read_json_lines(Path(manifest)):
        names = list(values)
        path_name = None if line_problem else find_column(names, PATH_COLUMNS)
        if path_name is None:
            on_failure(f"{manifest}, line {number}", line_problem or "there is no path under the name `file_name`")
        else:
            yield _make_absolute(folder, values.pop(names[path_name])), values


def _make_absolute(folder: str, path: str) -> str:
    """Return the path from a manifest's folder as an absolute path, without ".."; a URL of a store stays one."""
    # abspath() and not resolve(): links are not resolved, as in folders.
    return path if is_s3_url(path) else os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118


def find_column(names: Sequence[str], candidates: Sequence[str]) -> int | None:
    """Return the index of the first candidate among the names of columns, in any case; None if there is none."""
    lower_names = [name.strip().lower() for name in names]
    return next((lower_names.index(name) for name in candidates if name in lower_names), None)


def read_csv_rows(file: Path) -> Iterator[TableRow]:
    """Yield every row of a CSV file that is not blank, the header first; see `_read_csv_rows`.

    Raises:
        BadSetting: The file can't be read, or a row can't be used; the message names the line.
    """
    for row in _read_csv_rows(file):
        if row.problem:
            raise BadSetting(f"{file}, line {row.number}: {row.problem}. Correct the line.")
        yield row


def _read_csv_rows(file: Path) -> Iterator[TableRow]:
    """Yield every row that is not blank, the header first. A row that can't be used does not end the rest.

    The delimiter (comma, semicolon or tab) is the most frequent in the first line. All rows have as many cells as the
    first; additional empty cells, which spreadsheets write, are dropped. Blanks around a cell are dropped, those
    between quotes belong to it. Python's csv module does not tell cells with quotes from others.

    Raises:
        BadSetting: The file can't be read.
    """
    try:
        # Spreadsheets write a byte order mark. A line that is not UTF-8 is found by its surrogates.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            first_line = next((line for line in text if line.strip()), "")
            text.seek(0)
            splitter = _RowSplitter(max(CSV_DELIMITERS, key=first_line.count))
            yield from _check_columns(splitter.split_rows(_LineReader(text)))
    except OSError as error:
        raise BadSetting(f"{file} can't be read ({error.strerror}). Name a CSV file.") from None


def _check_columns(rows: Iterable[TableRow]) -> Iterator[TableRow]:
    """Yield the rows that are not blank; one with another number of cells than the first gets a problem."""
    columns = 0
    for row in rows:
        columns = columns or len(row.cells)
        if row.problem:
            yield row
        elif len(row.cells) < columns or any(row.cells[columns:]):
            counts = f"{len(row.cells)} column{'s' * (len(row.cells) > 1)}, and the first line has {columns}"
            yield TableRow(row.number, [], f"{counts}; a cell with the separator in it needs quotes")
        else:
            yield TableRow(row.number, row.cells[:columns])


class _LineReader:
    """Reads lines with their numbers; lines can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = enumerate(lines, 1)
        self._returned: deque[tuple[int, str]] = deque()

    def take(self) -> tuple[int, str] | None:
        """Return number and text of the next line, None at the end."""
        return self._returned.popleft() if self._returned else next(self._lines, None)

    def put_back(self, lines: Sequence[tuple[int, str]]) -> None:
        """Put the lines that were taken last back, in their order."""
        self._returned.extendleft(reversed(lines))


class _RowSplitter:
    """Splits lines of CSV into rows of cells."""

    _QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._blanks = re.compile(rf"[^\S{delimiter}]*")

    def split_rows(self, lines: _LineReader) -> Iterator[TableRow]:
        """Yield every row that is not blank. After a row that can't be split, the next line begins a row again."""
        while taken := lines.take():
            number, row = taken
            further: list[tuple[int, str]] = []
            try:
                while (cells := self._split(row)) is None:
                    row += self._take_up_to_quote(lines, further, MAX_CELL_LENGTH + len(taken[1]) - len(row))
                if any(len(cell) > MAX_CELL_LENGTH for cell in cells):
                    raise _BadRow(f"a cell has more than {MAX_CELL_LENGTH:,} characters")
                if not is_utf8(row):
                    raise _BadRow("not UTF-8 text; save the file as CSV in UTF-8")
            except _BadRow as error:
                lines.put_back(further)
                yield TableRow(number, [], str(error))
            else:
                if any(cells):
                    yield TableRow(number, cells)

    @staticmethod
    def _take_up_to_quote(lines: _LineReader, further: list[tuple[int, str]], max_length: int) -> str:
        """Return the next lines up to the first with a quote, and append them to `further`. Raises _BadRow."""
        text = ""
        while '"' not in text:
            taken = lines.take()
            if taken is not None:
                further.append(taken)
                text += taken[1]
            if taken is None or len(text) > max_length or len(further) > MAX_CELL_LINES:
                raise _BadRow("a quote is not closed")
        return text

    def _split(self, row: str) -> list[str] | None:
        """Return the cells of a row; None if a quote is not closed in it. Raises _BadRow."""
        if '"' not in row:
            return [cell.strip() for cell in row.split(self._delimiter)]
        cells: list[str] = []
        position = 0
        while True:
            start = self._skip_blanks(row, position)
            if row.startswith('"', start):
                quoted = self._QUOTED.match(row, start)
                if quoted is None:
                    return None
                cells.append(quoted[1].replace('""', '"'))
                end = self._skip_blanks(row, quoted.end())
                if not row.startswith(self._delimiter, end) and end < len(row):
                    raise _BadRow("text follows a closing quote")
            else:
                end = row.find(self._delimiter, position)
                end = len(row) if end < 0 else end
                cells.append(row[position:end].strip())
            if end == len(row):
                return cells
            position = end + 1

    def _skip_blanks(self, row: str, position: int) -> int:
        found = self._blanks.match(row, position)
        return found.end() if found else position


def _read_parquet_rows(manifest: str) -> Iterator[TableRow]:
    """Yield the names of the columns, then the rows."""
    import pyarrow  # takes a tenth of a second, and only Parquet files need it  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        # As dictionaries, texts that repeat take no memory before they are checked: a few KB can hold GB of text.
        kinds = pyarrow.parquet.read_schema(manifest)
        texts = [field.name for field in kinds if field.type in (pyarrow.string(), pyarrow.binary())]
        with pyarrow.parquet.ParquetFile(manifest, read_dictionary=texts) as table:
            yield TableRow(0, list(table.schema_arrow.names))
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for cells in zip(*map(_list_column, batch.columns), strict=True):
                    number += 1
                    yield TableRow(number, [format_value(cell) for cell in cells])
    except (pyarrow.ArrowException, OSError) as error:
        raise BadSetting(f"{manifest} can't be read as Parquet ({str(error).splitlines()[0]}).") from None


def _list_column(column: Any) -> list[Any]:
    """Return the cells of a column; bytes if some are not UTF-8, which Arrow does not check when it reads a file.

    Raises pyarrow.ArrowInvalid for a text that is too long.
    """
    import pyarrow.compute  # noqa: PLC0415

    values = getattr(column, "dictionary", None)
    if values is not None and values.type in (pyarrow.string(), pyarrow.binary()):
        if (pyarrow.compute.max(pyarrow.compute.binary_length(values)).as_py() or 0) > 4 * MAX_CELL_LENGTH:  # in UTF-8
            raise pyarrow.ArrowInvalid(f"a cell has more than {MAX_CELL_LENGTH:,} characters")
        column = column.dictionary_decode()
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast("binary").to_pylist())
