"""Manifests: CSV or Parquet files that list images with metadata.

One column has the paths (relative to the manifest); the other columns become metadata that can be searched by.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from simile.core.errors import BadSetting

MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file", "filename", "file_name", "image")
CSV_DELIMITERS = ",;\t"
PARQUET_BATCH_ROWS = 2000  # rows of a Parquet file in memory at once

ManifestEntry = tuple[str, dict[str, str]]  # an absolute path, and the other columns by name
ManifestRow = tuple[list[str], str]  # cells, and the position ("line 3") for messages


def is_manifest(path: str) -> bool:
    """Return whether the path ends like a manifest."""
    return path.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(manifest: str) -> Iterator[ManifestEntry]:
    """Yield every row, in order, without reading the whole file into memory. Empty cells are left out.

    Raises:
        BadSetting: The file is no manifest; the message names the line.
    """
    folder = str(Path(manifest).parent)
    rows: Iterator[ManifestRow]
    if manifest.lower().endswith(".parquet"):
        rows = _read_parquet_rows(manifest)
    else:
        rows = ((cells, f"line {line}") for line, cells in read_csv_rows(Path(manifest)))
    header = next(rows, ([], ""))[0]
    if not header:
        raise BadSetting(f"{manifest} is empty. Write a header with a column `path`, and a line for each image.")
    names = [name.strip() for name in header]
    path_column = find_column(names, PATH_COLUMNS)
    if path_column is None:
        raise BadSetting(f"{manifest} has no column `path`, only {', '.join(header)}. Name the column of paths `path`.")
    for cells, position in rows:
        path = cells[path_column]
        if not path:
            raise BadSetting(f"{manifest}, {position}: column {names[path_column]} is empty. Correct the line.")
        # abspath() and not resolve(): links are not resolved, as in folders.
        absolute = os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118
        pairs = enumerate(zip(names, cells, strict=True))
        yield absolute, {name: cell for number, (name, cell) in pairs if cell and number != path_column}


def find_column(names: Sequence[str], candidates: Sequence[str]) -> int | None:
    """Return the index of the first candidate among the names of columns, in any case; None if there is none."""
    lower_names = [name.strip().lower() for name in names]
    return next((lower_names.index(name) for name in candidates if name in lower_names), None)


def read_csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped cells) of every line that is not blank, the header first.

    The delimiter (comma, semicolon or tab) is the most frequent in the first line. All rows have as many cells as the
    first; additional empty cells, which spreadsheets write, are dropped.

    Raises:
        BadSetting: The file cannot be read or is no CSV; the message names the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:  # spreadsheets write a byte order mark
            first_line = next((line for line in text if line.strip()), "")
            text.seek(0)
            delimiter = max(CSV_DELIMITERS, key=first_line.count)
            reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
            yield from _check_rows(file, reader)
    except OSError as error:
        raise BadSetting(f"{file} can't be read ({error.strerror}). Name a CSV file.") from None
    except UnicodeDecodeError:
        line = _find_invalid_line(file)
        raise BadSetting(f"{file}, line {line}: not UTF-8 text. Save it as CSV in UTF-8.") from None


def _find_invalid_line(file: Path) -> int:
    """Return the number of the first line that is not UTF-8 (the text layer decodes ahead and cannot tell)."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _check_rows(file: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells; raise BadSetting for a row with another number of cells than the first."""
    columns = 0
    try:
        for raw_cells in reader:
            cells = [cell.strip() for cell in raw_cells]
            if not any(cells):
                continue
            columns = columns or len(cells)
            if len(cells) < columns or any(cells[columns:]):
                raise BadSetting(
                    f"{file}, line {reader.line_num}: {len(cells)} columns, and the first line has {columns}. Correct "
                    "the line, or put quotes around a cell that contains the separator."
                )
            yield reader.line_num, cells[:columns]
    except csv.Error as error:
        raise BadSetting(f"{file}, line {reader.line_num}: {error}. Correct the line.") from None


def _read_parquet_rows(manifest: str) -> Iterator[ManifestRow]:
    """Yield the names of the columns, then the rows."""
    import pyarrow  # takes a tenth of a second, and only Parquet files need it  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(manifest) as table:
            yield list(table.schema_arrow.names), "the header"
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield [_format_cell(cell) for cell in cells], f"row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise BadSetting(f"{manifest} can't be read as Parquet ({str(error).splitlines()[0]}).") from None


def _format_cell(cell: Any) -> str:
    """Return a cell as people write it; "" for null and NaN."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, Iterable) and not isinstance(cell, str | bytes | dict):
        return ", ".join(map(_format_cell, cell))
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else str(cell)
