"""Manifests: CSV or Parquet files that name pictures and say things about them.

A column of paths (relative to the manifest), and any other columns: what they say becomes searchable.
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
MANIFEST_PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file", "filename", "file_name", "image")
MANIFEST_DELIMITERS = ",;\t"
PARQUET_BATCH_ROWS = 2000  # of a Parquet file in memory at once

ManifestEntry = tuple[str, dict[str, str]]  # an absolute path, and what the other columns say by their names


def is_manifest(path: str) -> bool:
    """Whether its name calls it a manifest."""
    return path.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(manifest: str) -> Iterator[ManifestEntry]:
    """Every row, in order, never the whole file in memory. Empty cells are left out.

    Raises BadSetting where the file can't be understood, naming the line.
    """
    folder = str(Path(manifest).parent)
    rows = _read_parquet_rows(manifest) if manifest.lower().endswith(".parquet") else _read_csv_rows(manifest)
    header, _ = next(rows)
    key = _find_path_column(manifest, header)
    names = [name.strip() for name in header]
    for cells, where in rows:
        path = cells[key]
        if not path:
            raise BadSetting(f"{manifest}, {where}: column {names[key]} names no file. Correct the line.")
        said = {name: cell for number, (name, cell) in enumerate(zip(names, cells, strict=True)) if number != key}
        # abspath() and not resolve(): as in walk(), links are not followed.
        yield os.path.abspath(os.path.join(folder, path)), {name: cell for name, cell in said.items() if cell}  # noqa: PTH100, PTH118


def _find_path_column(manifest: str, header: Sequence[str]) -> int:
    names = [name.strip().lower() for name in header]
    for name in MANIFEST_PATH_COLUMNS:
        if name in names:
            return names.index(name)
    raise BadSetting(f"{manifest} has no column `path`, only {', '.join(header)}. Name the column of paths so.")


ManifestRow = tuple[list[str], str]  # cells, and where they stand: for messages


def _read_csv_rows(manifest: str) -> Iterator[ManifestRow]:
    try:
        with Path(manifest).open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(MANIFEST_DELIMITERS, key=first.count), strict=True)
            yield from _check_rows(manifest, reader)
    except OSError as error:
        raise BadSetting(f"{manifest} can't be read ({error.strerror}). Name another file.") from None
    except UnicodeDecodeError:
        raise BadSetting(f"{manifest} is not UTF-8 text. Save it as CSV in UTF-8.") from None


def _check_rows(manifest: str, reader: Any) -> Iterator[ManifestRow]:
    columns = 0
    try:
        for cells in reader:
            where = f"line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            columns = columns or len(cells)
            if len(cells) != columns:
                raise BadSetting(
                    f"{manifest}, {where}: {len(cells)} columns, and the first line has {columns}. Correct the line, "
                    "or put quotes around a cell that holds the separator."
                )
            yield [cell.strip() for cell in cells], where
    except csv.Error as error:
        raise BadSetting(f"{manifest}, line {reader.line_num}: {error}. Correct the line.") from None
    if not columns:
        raise BadSetting(f"{manifest} is empty. Write a header with a column `path`, and a line for each picture.")


def _read_parquet_rows(manifest: str) -> Iterator[ManifestRow]:
    import pyarrow  # a tenth of a second that only a Parquet file needs  # noqa: PLC0415
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
    """A cell as a person would write it; nothing for null and NaN."""
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
