"""Export vectors and image facts to a Parquet, npz or CSV file for other tools."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from math import isnan
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.filter_parser import parse_number
from simile.core.settings import Settings
from simile.store.backup.export_rows import ExportReader, ExportRows, open_export_reader
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint
from simile.store.database import schema as database_schema
from simile.store.home import Home

METADATA_PREFIX = "metadata."  # before metadata names, so that none can hide another column


def export_embeddings(settings: Settings, output: Path, encoder: str | None = None) -> dict[str, Any]:
    """Export every image with a vector, from one consistent read, with limited memory.

    Args:
        settings: Settings with the home.
        output: File to write atomically; its suffix selects the format.
        encoder: Fingerprint (or its start) of the encoder; None for the active one.

    Returns:
        Counts and names for JSON.

    Raises:
        BadSetting: The file can't be written.
        NothingIndexed: The home has no encoder.
        NoSuchEncoder: No encoder matches.
    """
    write = _get_writer(output)
    home = Home(settings.home, settings.database_url)
    database_schema.check_schema(home)
    with Catalogue(home) as catalogue:
        fingerprint = _resolve_fingerprint(home, catalogue, encoder)
        with open_export_reader(catalogue, fingerprint) as reader:
            try:
                write_atomically(output, lambda path: write(reader, path))
            except OSError as error:
                raise BadSetting(
                    f"{output} can't be written: {error.strerror or error}. Make space, or name another --output."
                ) from error
            lacking = catalogue.images.count() - reader.count
            return {
                "output": str(output),
                "encoder": fingerprint,
                "pictures": reader.count,
                "lacking": max(lacking, 0),
                "metadata": list(reader.numeric_by_name),
            }


def _get_writer(output: Path) -> Callable[[ExportReader, Path], None]:
    if output.is_dir():
        raise BadSetting(f"{output} can't be written: it is a folder. Name another --output.")
    write = EXPORT_WRITERS.get(output.suffix.lower())
    if write is None:
        raise BadSetting(f"{output} can't be written: name a file that ends in {', '.join(EXPORT_WRITERS)}.")
    return write


def _resolve_fingerprint(home: Home, catalogue: Catalogue, reference: str | None) -> str:
    if reference is not None:
        return find_fingerprint(home, reference, (record.fingerprint for record in catalogue.encoders.get_all()))
    active = catalogue.encoders.find_active()
    if active is None:
        raise NothingIndexed(f"{home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    return active.fingerprint


def write_csv(table: ExportReader, path: Path) -> None:
    """Write a line per image: facts, metadata, mu_0 …, log_variance_0 …; nine digits are exact for float32."""
    dimensions = range(table.encoder.dimensions)
    header = ["image_id", "path", "paths", "sha256", "format", "bytes", "width", "height"]
    header += [METADATA_PREFIX + name for name in table.numeric_by_name]
    header += [f"mu_{n}" for n in dimensions]
    header += [f"log_variance_{n}" for n in dimensions] if table.has_variance else []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for rows in table.iterate_chunks():
            numbers = np.hstack([rows.mu, rows.log_variance]) if table.has_variance else rows.mu
            for row, values in enumerate(_make_fact_rows(rows)):
                texts = [rows.metadata[row].get(name, "") for name in table.numeric_by_name]
                writer.writerow([*values, *texts, *(_format_float(value) for value in numbers[row].tolist())])


def _make_fact_rows(rows: ExportRows) -> list[list[Any]]:
    ids = rows.ids.tolist()
    first = [_get_first_path(paths) for paths in rows.paths]
    every = [json.dumps(paths, ensure_ascii=False) for paths in rows.paths]
    columns = (ids, first, every, rows.sha256, rows.formats, rows.sizes, rows.widths, rows.heights)
    return [list(row) for row in zip(*columns, strict=True)]


def _get_first_path(paths: tuple[str, ...]) -> str:
    return paths[0] if paths else ""


def _format_float(value: float) -> str:
    return "" if isnan(value) else f"{value:.9g}"


def write_npz(table: ExportReader, path: Path) -> None:
    """Write arrays of equal length without pickle: ids, paths, sha256, mu, log_variance, and metadata.NAME as text.

    An npz file stores one array after another, so each array first grows in a temporary file.
    """
    dimensions = table.encoder.dimensions
    with ExitStack() as stack:
        arrays: dict[str, _GrowingArray] = {}

        def add(name: str, dtype: str, *shape: int) -> None:
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            arrays[name] = _GrowingArray(file, np.dtype(dtype), shape)

        add("ids", "<i8")
        add("paths", f"<U{table.max_lengths['path']}")
        add("sha256", "<U64")
        add("mu", "<f4", dimensions)
        if table.has_variance:
            add("log_variance", "<f4", dimensions)
        for name in table.numeric_by_name:
            add(METADATA_PREFIX + name, f"<U{max(1, table.max_lengths[name])}")
        for rows in table.iterate_chunks():
            for name, array in arrays.items():
                array.extend(_get_npz_column(name, rows))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                array.write_to(archive, name)


def _get_npz_column(name: str, rows: ExportRows) -> Any:
    if name.startswith(METADATA_PREFIX):
        return [texts.get(name.removeprefix(METADATA_PREFIX), "") for texts in rows.metadata]
    return [_get_first_path(paths) for paths in rows.paths] if name == "paths" else getattr(rows, name)


class _GrowingArray:
    """An array on disk that grows row by row; `shape` is that of a row."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file, self._dtype, self._shape, self._row_count = file, dtype, shape, 0

    def extend(self, rows: Any) -> None:
        """Append rows."""
        array: NDArray[Any] = np.asarray(rows, self._dtype)
        self._file.write(array.tobytes())
        self._row_count += len(array)

    def write_to(self, archive: zipfile.ZipFile, name: str) -> None:
        """Write the array as the member `name`.npy."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._row_count, *self._shape)}
        self._file.seek(0)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(self._file, file, 1 << 20)


def write_parquet(table: ExportReader, path: Path) -> None:
    """Write columns image_id, path, paths, sha256, format, bytes, width, height, metadata.NAME, mu, log_variance.

    mu and log_variance are lists of d float32, or null; metadata with numbers only is double.
    """
    import pyarrow as pa  # noqa: PLC0415  # takes half a second, and only Parquet needs it
    from pyarrow import parquet  # noqa: PLC0415

    vector = pa.list_(pa.float32(), table.encoder.dimensions)
    fields = [("image_id", pa.int64()), ("path", pa.string()), ("paths", pa.list_(pa.string()))]
    fields += [("sha256", pa.string()), ("format", pa.string()), ("bytes", pa.int64())]
    fields += [("width", pa.int32()), ("height", pa.int32())]
    fields += [
        (METADATA_PREFIX + name, pa.float64() if number else pa.string())
        for name, number in table.numeric_by_name.items()
    ]
    fields += [("mu", vector)] + ([("log_variance", vector)] if table.has_variance else [])
    schema = pa.schema(fields, metadata={"encoder": table.encoder.fingerprint})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in table.iterate_chunks():
            arrays = [
                pa.array(_get_parquet_column(name, rows, table), kind) for name, kind in fields if kind is not vector
            ]
            arrays += [_make_vector_array(getattr(rows, name), vector) for name, kind in fields if kind is vector]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _get_parquet_column(name: str, rows: ExportRows, table: ExportReader) -> Any:
    if name.startswith(METADATA_PREFIX):
        key = name.removeprefix(METADATA_PREFIX)
        texts = [metadata.get(key) for metadata in rows.metadata]
        return [None if text is None else parse_number(text) for text in texts] if table.numeric_by_name[key] else texts
    if name == "path":
        return [_get_first_path(paths) for paths in rows.paths]
    named = {"image_id": rows.ids, "format": rows.formats, "bytes": rows.sizes}
    named |= {"width": rows.widths, "height": rows.heights}
    return named[name] if name in named else getattr(rows, name)


def _make_vector_array(values: NDArray[np.float32], arrow_type: Any) -> Any:
    """Convert (n, d) to n lists; a row of NaN becomes null."""
    import pyarrow as pa  # noqa: PLC0415  # as above

    missing = pa.array(np.isnan(values).all(axis=1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=arrow_type, mask=missing)


EXPORT_WRITERS: dict[str, Callable[[ExportReader, Path], None]] = {
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".csv": write_csv,
}
