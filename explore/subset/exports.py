"""Write a subset: as a manifest that `simile index` reads, or as copies of the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_output, write_output_file
from simile.core.csv_cells import escape_formulas
from simile.core.errors import BadSetting, SimileError
from simile.explore.subset.subset import SubsetImage
from simile.search.searcher import Searcher

SUBSET_SUFFIXES = (".csv", ".parquet")
_OWN_COLUMNS = ("path", "image_id", "represents")


def write_subset(searcher: Searcher, images: Sequence[SubsetImage], output: Path) -> None:
    """Write paths, ids and metadata in the format of the suffix, one of SUBSET_SUFFIXES."""
    metadata = searcher.catalogue.metadata.get_for_images([image.image_id for image in images])
    names = sorted({name for texts in metadata.values() for name in texts} - set(_OWN_COLUMNS))
    columns: dict[str, list[Any]] = {
        "path": [image.path for image in images],
        "image_id": [image.image_id for image in images],
        "represents": [image.count for image in images],
    }
    columns |= {name: [metadata.get(image.image_id, {}).get(name) for image in images] for name in names}
    if output.suffix.lower() == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(escape_formulas(columns))
        writer.writerows(escape_formulas(row) for row in zip(*columns.values(), strict=True))
        write_output_file(output, text.getvalue().encode())
    else:
        import pyarrow as pa  # noqa: PLC0415  # takes half a second, and only Parquet needs it
        from pyarrow import parquet  # noqa: PLC0415

        write_output(output, lambda path: parquet.write_table(pa.table(columns), path))


def copy_subset(searcher: Searcher, images: Sequence[SubsetImage], folder: Path) -> dict[int, str]:
    """Copy the files of a subset to a folder; return the reason for each image that can't be read, by id.

    A name that is taken gets the id of its image in front. Raises BadSetting if the folder can't be written, or holds
    files: nothing is overwritten.
    """
    failures: dict[int, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadSetting(f"{folder} is not empty. Name a new folder for the copies.")
        for image in images:
            try:
                data, _ = searcher.read_file(image.image_id)
            except SimileError as error:
                failures[image.image_id] = str(error)
                continue
            target = folder / image.name
            if target.exists():
                target = folder / f"{image.image_id}-{image.name}"
            target.write_bytes(data)
    except OSError as error:
        raise BadSetting(f"{folder} can't be written: {error.strerror or error}. Name another folder.") from error
    return failures
