"""The vectors of a segment in one file, mapped into memory. Exact distances are computed from it.

Layout, little-endian: a header of 4096 bytes (JSON) | vectors (n, d) float32 | padding to 8 bytes | ids (n,) int64.
The rows are sorted by id, so that a binary search finds an id's row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simile.core.errors import IndexDamaged
from simile.core.records import FloatArray
from simile.store.index.flat import NO_IDS, Ids

HEADER_BYTES = 4096
VECTOR_FILE_FORMAT = "simile vectors 1"


@dataclass(frozen=True)
class VectorFile:
    """An open vector file."""

    ids: Ids  # (n,), ascending
    vectors: FloatArray  # (n, d)
    header: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """Map a file into memory, so that all processes share one copy. Raises IndexDamaged, OSError."""
        with path.open("rb") as file:
            header = _parse_header(file.read(HEADER_BYTES), path)
        rows, dimensions = header["rows"], header["dimensions"]
        ids_offset, size = _compute_ids_offset(rows, dimensions), path.stat().st_size
        expected_size = ids_offset + 8 * rows
        if size != expected_size:
            raise IndexDamaged(f"{path} has {size:,} bytes instead of {expected_size:,}. Run `simile rebuild`.")
        if not rows:
            return cls(NO_IDS, np.empty((0, dimensions), np.float32), header)
        vectors = np.memmap(path, "<f4", "r", HEADER_BYTES, (rows, dimensions))
        ids = np.memmap(path, "<i8", "r", ids_offset, (rows,))
        return cls(np.asarray(ids), np.asarray(vectors), header)  # plain arrays, because slices of a memmap are slow


def write_vector_file(path: Path, dimensions: int, chunks: Iterable[tuple[Ids, FloatArray]]) -> int:
    """Write chunks of ids (m,), ascending over all chunks, and vectors (m, dimensions); return the number of rows.

    Raises IndexDamaged if the ids do not ascend.
    """
    id_chunks = [NO_IDS]
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for ids, vectors in chunks:
            file.write(np.ascontiguousarray(vectors, "<f4").data)
            id_chunks.append(ids)
        all_ids = np.concatenate(id_chunks)
        if (all_ids[1:] <= all_ids[:-1]).any():
            raise IndexDamaged("The ids of the vectors do not ascend. Run `simile verify`, then `simile rebuild`.")
        file.write(bytes(_compute_ids_offset(len(all_ids), dimensions) - file.tell()))
        file.write(all_ids.astype("<i8").data)
    write_header(path, {"rows": len(all_ids), "dimensions": dimensions})
    return len(all_ids)


def write_header(path: Path, header: dict[str, Any]) -> None:
    """Write the header of an unpublished file. It must have `rows` and `dimensions`."""
    text = json.dumps({"format": VECTOR_FILE_FORMAT} | header).encode()
    with path.open("r+b") as file:
        file.write(text.ljust(HEADER_BYTES))


def _parse_header(data: bytes, path: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(data)
        is_valid = header["format"] == VECTOR_FILE_FORMAT and header["rows"] >= 0 and header["dimensions"] >= 0
    except (ValueError, KeyError, TypeError):
        is_valid = False
    if not is_valid:
        raise IndexDamaged(f"{path} is not a vector file that this version of simile reads. Run `simile rebuild`.")
    return header


def _compute_ids_offset(rows: int, dimensions: int) -> int:
    """Return the position of the ids, aligned to 8 bytes so that numpy reads them in place."""
    return (HEADER_BYTES + 4 * rows * dimensions + 7) // 8 * 8
