"""Vectors and what is known of their pictures, in a file for other tools: Parquet, npz or CSV, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting, NothingIndexed
from simile.core.settings import Settings

pass
import csv
import json
import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from math import isnan
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simile.core.filter_parser import as_number
from simile.store.backup.export_rows import Listing, Rows, listing
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.encoders import find_fingerprint
from simile.store.database import schema
from simile.store.home import Home

WRITERS: dict[str, Callable[[Listing, Path], None]] = {
    ".parquet": write_parquet,
    ".npz": write_npz,
    ".csv": write_csv,
}


def export(settings: Settings, output: Path, encoder: str | None = None) -> dict[str, Any]:
    """Writes every picture that the encoder (the one in use, if none is named) has seen; gives counts, fit for JSON.

    In bounded memory, as of one moment; `output` is there whole or not at all. Raises BadSetting, NothingIndexed,
    NoSuchEncoder.
    """
    write = _writer(output)
    home = Home(settings.home, settings.database_url)
    schema.check(home)
    with Catalogue(home) as catalogue:
        fingerprint = _fingerprint(home, catalogue, encoder)
        with listing(catalogue, fingerprint) as listed:
            try:
                write_durably(output, lambda path: write(listed, path))
            except OSError as error:
                raise BadSetting(
                    f"{output} can't be written: {error.strerror or error}. Make space, or name another --output."
                ) from error
            lacking = catalogue.count_images() - listed.count
            return {
                "output": str(output),
                "encoder": fingerprint,
                "pictures": listed.count,
                "lacking": max(lacking, 0),
                "metadata": list(listed.names),
            }


def _writer(output: Path) -> Callable[[Listing, Path], None]:
    if output.is_dir():
        raise BadSetting(f"{output} can't be written: it is a folder. Name another --output.")
    write = WRITERS.get(output.suffix.lower())
    if write is None:
        raise BadSetting(f"{output} can't be written: name a file that ends in {', '.join(WRITERS)}.")
    return write


def _fingerprint(home: Home, catalogue: Catalogue, reference: str | None) -> str:
    if reference is not None:
        return find_fingerprint(home, reference, (record.fingerprint for record in catalogue.encoders()))
    active = catalogue.active_encoder()
    if active is None:
        raise NothingIndexed(f"{home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    return active.fingerprint


METADATA = "metadata."  # before each name that a manifest gave, so that none hides a column of ours


def write_csv(listed: Listing, path: Path) -> None:
    """One line a picture: facts, metadata, mu_0 …, log_variance_0 …; nine digits give back each float32."""
    dimensions = range(listed.encoder.dimensions)
    header = ["image_id", "path", "paths", "sha256", "format", "bytes", "width", "height"]
    header += [METADATA + name for name in listed.names]
    header += [f"mu_{n}" for n in dimensions]
    header += [f"log_variance_{n}" for n in dimensions] if listed.has_variance else []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for rows in listed.chunks():
            numbers = np.hstack([rows.mu, rows.log_variance]) if listed.has_variance else rows.mu
            for row, facts in enumerate(_facts(rows)):
                texts = [rows.metadata[row].get(name, "") for name in listed.names]
                writer.writerow([*facts, *texts, *(_digits(value) for value in numbers[row].tolist())])


def _facts(rows: Rows) -> list[list[Any]]:
    ids = rows.ids.tolist()
    first = [_first(paths) for paths in rows.paths]
    every = [json.dumps(paths, ensure_ascii=False) for paths in rows.paths]
    columns = (ids, first, every, rows.sha256, rows.formats, rows.sizes, rows.widths, rows.heights)
    return [list(row) for row in zip(*columns, strict=True)]


def _first(paths: tuple[str, ...]) -> str:
    return paths[0] if paths else ""


def _digits(value: float) -> str:
    return "" if isnan(value) else f"{value:.9g}"


def write_npz(listed: Listing, path: Path) -> None:
    """Arrays of one length, without pickle: ids, paths, sha256, mu, log_variance, and metadata.NAME as text.

    An npz holds one array after the other, so each grows in a file of its own first.
    """
    dimensions = listed.encoder.dimensions
    with ExitStack() as stack:
        arrays: dict[str, _Growing] = {}

        def add(name: str, dtype: str, *shape: int) -> None:
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            arrays[name] = _Growing(file, np.dtype(dtype), shape)

        add("ids", "<i8")
        add("paths", f"<U{listed.longest['path']}")
        add("sha256", "<U64")
        add("mu", "<f4", dimensions)
        if listed.has_variance:
            add("log_variance", "<f4", dimensions)
        for name in listed.names:
            add(METADATA + name, f"<U{max(1, listed.longest[name])}")
        for rows in listed.chunks():
            for name, array in arrays.items():
                array.extend(_column(name, rows))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                array.put_into(archive, name)


def _column(name: str, rows: Rows) -> Any:
    if name.startswith(METADATA):
        return [texts.get(name.removeprefix(METADATA), "") for texts in rows.metadata]
    return [_first(paths) for paths in rows.paths] if name == "paths" else getattr(rows, name)


class _Growing:
    """An array on disk whose rows come bit by bit. shape: of one row."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file, self._dtype, self._shape, self._rows = file, dtype, shape, 0

    def extend(self, rows: Any) -> None:
        more: NDArray[Any] = np.asarray(rows, self._dtype)
        self._file.write(more.tobytes())
        self._rows += len(more)

    def put_into(self, archive: zipfile.ZipFile, name: str) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows, *self._shape)}
        self._file.seek(0)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(self._file, file, 1 << 20)


def write_parquet(listed: Listing, path: Path) -> None:
    """Columns image_id, path, paths, sha256, format, bytes, width, height, metadata.NAME, mu, log_variance.

    mu and log_variance are lists of d float32, null where there is none; metadata that is all numbers is double.
    """
    import pyarrow as pa  # noqa: PLC0415  # half a second, for those who want Parquet
    from pyarrow import parquet  # noqa: PLC0415

    vector = pa.list_(pa.float32(), listed.encoder.dimensions)
    fields = [("image_id", pa.int64()), ("path", pa.string()), ("paths", pa.list_(pa.string()))]
    fields += [("sha256", pa.string()), ("format", pa.string()), ("bytes", pa.int64())]
    fields += [("width", pa.int32()), ("height", pa.int32())]
    fields += [(METADATA + name, pa.float64() if number else pa.string()) for name, number in listed.names.items()]
    fields += [("mu", vector)] + ([("log_variance", vector)] if listed.has_variance else [])
    schema = pa.schema(fields, metadata={"encoder": listed.encoder.fingerprint})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in listed.chunks():
            arrays = [pa.array(_cells(name, rows, listed), kind) for name, kind in fields if kind is not vector]
            arrays += [_vectors(getattr(rows, name), vector) for name, kind in fields if kind is vector]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _cells(name: str, rows: Rows, listed: Listing) -> Any:
    if name.startswith(METADATA):
        key = name.removeprefix(METADATA)
        texts = [known.get(key) for known in rows.metadata]
        return [None if text is None else as_number(text) for text in texts] if listed.names[key] else texts
    if name == "path":
        return [_first(paths) for paths in rows.paths]
    named = {"image_id": rows.ids, "format": rows.formats, "bytes": rows.sizes}
    named |= {"width": rows.widths, "height": rows.heights}
    return named[name] if name in named else getattr(rows, name)


def _vectors(numbers: NDArray[np.float32], kind: Any) -> Any:
    """(n, d) as n lists, null for a row of NaN."""
    import pyarrow as pa  # noqa: PLC0415  # as above

    missing = pa.array(np.isnan(numbers).all(axis=1))
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), type=kind, mask=missing)
