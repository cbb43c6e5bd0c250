"""Export vectors and image facts to a Parquet, npz or CSV file for other tools."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from simile.core.atomic_write import write_output
from simile.core.csv_cells import escape_formulas
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.filters.parser import parse_number
from simile.core.records import PhotoMetadata
from simile.core.settings import Settings
from simile.indexer.maintenance.dataset_formats import DATASET_SUFFIXES, write_dataset
from simile.models.checkpoints.description import resolve_name
from simile.store.backup.export_rows import ExportReader, ExportRows, open_export_reader
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint
from simile.store.database import schema as database_schema
from simile.store.home import Home

METADATA_PREFIX = "metadata."  # before metadata names, so that none can hide another column
PHOTO_COLUMNS = {f"photo.{field.name}": field.name for field in fields(PhotoMetadata)}
FACT_COLUMNS = ("image_id", "path", "paths", "sha256", "format", "bytes", "width", "height")


def export_embeddings(
    settings: Settings,
    output: Path,
    encoder: str | None = None,
    *,
    dataset_format: str | None = None,
    label: str | None = None,
) -> dict[str, Any]:
    """Export every image with a vector, from one consistent read, with limited memory.

    Args:
        settings: Settings with the home.
        output: File to write atomically; its suffix selects the format. With fiftyone, a folder.
        encoder: Fingerprint (or its start) of the encoder; None for the active one.
        dataset_format: coco, fiftyone or label-studio; None: the suffix selects.
        label: Name of the metadata with the class; None for `class` or `label`. Only with a dataset format.

    Returns:
        Counts and names for JSON.

    Raises:
        BadSetting: The file can't be written.
        NothingIndexed: The home has no encoder.
        NoSuchEncoder: No encoder matches.
    """
    check_export_output(output, dataset_format)
    home = Home.from_settings(settings)
    database_schema.check_schema(home)
    with Catalogue(home) as catalogue:
        fingerprint = _resolve_fingerprint(home, catalogue, encoder)
        with open_export_reader(catalogue, fingerprint) as reader:
            if dataset_format is None:
                write_output(output, lambda path: EXPORT_WRITERS[output.suffix.lower()](reader, path))
            else:
                write_dataset(catalogue, reader, output, dataset_format, label)
            return {
                "output": str(output),
                "encoder": fingerprint,
                "pictures": reader.count,
                "lacking": max(catalogue.images.count() - reader.count, 0),
                "metadata": list(reader.numeric_by_name),
            }


def check_export_output(output: Path, dataset_format: str | None) -> None:
    """Raise BadSetting for an output that can't be written in the format."""
    suffixes = DATASET_SUFFIXES[dataset_format] if dataset_format is not None else tuple(EXPORT_WRITERS)
    if suffixes and (output.suffix.lower() not in suffixes or output.is_dir()):
        raise BadSetting(f"{output} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if not suffixes and output.exists() and not output.is_dir():
        raise BadSetting(f"{output} can't be written: a dataset of FiftyOne is a folder. Name another one.")


def read_table(catalogue: Catalogue, home: Home, encoder: str | None = None) -> Any:
    """Return all images with a vector as a `pyarrow.Table`, with the columns of `write_parquet`.

    Raises NothingIndexed, NoSuchEncoder.
    """
    import pyarrow as pa  # noqa: PLC0415

    with open_export_reader(catalogue, _resolve_fingerprint(home, catalogue, encoder)) as reader:
        schema, tables = read_arrow_tables(reader)
        return pa.concat_tables([schema.empty_table(), *tables])


def _resolve_fingerprint(home: Home, catalogue: Catalogue, reference: str | None) -> str:
    if reference is not None:
        known = (record.fingerprint for record in catalogue.encoders.get_all())
        return find_fingerprint(home, resolve_name(home.encoders, reference), known)
    active = catalogue.encoders.find_active()
    if active is None:
        raise NothingIndexed(f"{home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    return active.fingerprint


def _get_columns(rows: ExportRows, table: ExportReader) -> dict[str, Any]:
    """Return the values of facts, metadata and photo metadata by the name of the column; None for missing metadata."""
    first_paths = [paths[0] if paths else "" for paths in rows.paths]
    values = (rows.ids.tolist(), first_paths, rows.paths, rows.sha256, rows.formats, rows.sizes, rows.widths)
    columns: dict[str, Any] = dict(zip(FACT_COLUMNS, (*values, rows.heights), strict=True))
    for name in table.numeric_by_name:
        columns[METADATA_PREFIX + name] = [texts.get(name) for texts in rows.metadata]
    for column, name in _get_photo_columns(table).items():
        columns[column] = [None if photo is None else getattr(photo, name) for photo in rows.photos]
    return columns


def _get_photo_columns(table: ExportReader) -> dict[str, str]:
    """Return PHOTO_COLUMNS if an image has photo metadata, else no columns."""
    return PHOTO_COLUMNS if table.has_photos else {}


def write_csv(table: ExportReader, path: Path) -> None:
    """Write a line per image: facts, metadata, photo metadata, mu_0 …, log_variance_0 …; lists are JSON.

    Nine digits are exact for float32.
    """
    vectors = ["mu", "log_variance"] if table.has_variance else ["mu"]
    header = [*FACT_COLUMNS, *(METADATA_PREFIX + name for name in table.numeric_by_name), *_get_photo_columns(table)]
    header += [f"{vector}_{n}" for vector in vectors for n in range(table.encoder.dimensions)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(escape_formulas(header))
        for rows in table.iterate_chunks():
            columns = _get_columns(rows, table)
            for name in columns.keys() & {"paths", "photo.keywords"}:
                columns[name] = [
                    None if value is None else json.dumps(value, ensure_ascii=False) for value in columns[name]
                ]
            numbers = np.hstack([getattr(rows, vector) for vector in vectors])
            for row, values in enumerate(zip(*columns.values(), strict=True)):
                floats = ("" if isnan(value) else f"{value:.9g}" for value in numbers[row].tolist())
                writer.writerow([*escape_formulas(values), *floats])


def write_npz(table: ExportReader, path: Path) -> None:
    """Write arrays of equal length without pickle: ids, paths, sha256, mu, log_variance, and metadata.NAME as text.

    An npz file stores one array after another, so each array is first written to a temporary file.
    """
    dtypes = {"ids": "<i8", "paths": f"<U{max(1, table.max_lengths['path'])}", "sha256": "<U64", "mu": "<f4"}
    dtypes |= {"log_variance": "<f4"} if table.has_variance else {}
    dtypes |= {METADATA_PREFIX + name: f"<U{max(1, table.max_lengths[name])}" for name in table.numeric_by_name}
    with ExitStack() as stack:
        files = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in dtypes}
        for name, file in files.items():
            shape = (table.count, table.encoder.dimensions) if dtypes[name] == "<f4" else (table.count,)
            header = {"descr": dtypes[name], "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for rows in table.iterate_chunks():
            columns = _get_columns(rows, table)
            columns |= {"ids": rows.ids, "paths": columns["path"], "mu": rows.mu, "log_variance": rows.log_variance}
            for name, file in files.items():
                is_text = dtypes[name].startswith("<U")
                values = [value or "" for value in columns[name]] if is_text else columns[name]
                file.write(np.asarray(values, dtypes[name]).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, file in files.items():
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(file, member, 1 << 20)


def write_parquet(table: ExportReader, path: Path) -> None:
    """Write columns image_id, path, paths, sha256, format, bytes, width, height, metadata.NAME, photo.NAME, mu,
    log_variance.

    mu and log_variance are lists of d float32, or null; metadata with numbers only is double; photo.taken has no time
    zone, see PhotoMetadata.
    """
    from pyarrow import parquet  # noqa: PLC0415

    schema, tables = read_arrow_tables(table)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in tables:
            writer.write_table(part)


def read_arrow_tables(table: ExportReader) -> tuple[Any, Iterator[Any]]:
    """Return the schema of the columns that `write_parquet` describes, and an iterator of Arrow tables of some rows."""
    import pyarrow as pa  # noqa: PLC0415  # takes half a second, and only Parquet and data frames need it

    def make_vector_array(values: NDArray[np.float32]) -> Any:
        """Convert (n, d) to n lists; a row of NaN becomes null."""
        missing = pa.array(np.isnan(values).all(axis=1))
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=vector, mask=missing)

    def read_tables() -> Iterator[Any]:
        for rows in table.iterate_chunks():
            columns = _get_columns(rows, table)
            for name, is_number in table.numeric_by_name.items():
                if is_number:
                    texts = columns[METADATA_PREFIX + name]
                    columns[METADATA_PREFIX + name] = [None if text is None else parse_number(text) for text in texts]
            columns |= {"mu": make_vector_array(rows.mu), "log_variance": make_vector_array(rows.log_variance)}
            arrays = [
                columns[name] if kind is vector else pa.array(columns[name], kind) for name, kind in types.items()
            ]
            yield pa.Table.from_arrays(arrays, schema=schema)

    vector = pa.list_(pa.float32(), table.encoder.dimensions)
    integer, text = pa.int32(), pa.string()
    kinds = (pa.int64(), text, pa.list_(text), text, text, pa.int64(), integer, integer)
    types = dict(zip(FACT_COLUMNS, kinds, strict=True))
    types |= {
        METADATA_PREFIX + name: pa.float64() if number else text for name, number in table.numeric_by_name.items()
    }
    photo_kinds: dict[Any, Any] = {
        **{datetime | None: pa.timestamp("us"), int | None: integer, float | None: pa.float64()},
        **{str | None: text, tuple[str, ...]: pa.list_(text)},
    }
    hints = get_type_hints(PhotoMetadata)
    types |= {column: photo_kinds[hints[name]] for column, name in _get_photo_columns(table).items()}
    types |= {"mu": vector} | ({"log_variance": vector} if table.has_variance else {})
    schema = pa.schema(types, metadata={"encoder": table.encoder.fingerprint})
    return schema, read_tables()


EXPORT_WRITERS: dict[str, Callable[[ExportReader, Path], None]] = {
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".csv": write_csv,
}
