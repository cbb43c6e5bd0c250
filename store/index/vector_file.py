"""The indexed vectors of a segment in one file that never changes, mapped into memory: exact distances come from it.

Layout, little-endian: a header of 4096 bytes (JSON) | vectors (n, d) float32 | padding to 8 bytes | ids (n,) int64.
The rows are in the order of ids, so that a row's place says its id and an id is found by halving.
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
    """ids: (n,) ascending. vectors: (n, d) float32. notes: what else the header says."""

    ids: Ids
    vectors: FloatArray
    header: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """Maps the file into memory: all processes share one copy. Raises IndexDamaged, OSError."""
        with path.open("rb") as file:
            notes = _parse_header(file.read(HEADER_BYTES), path)
        rows, dimensions = notes["rows"], notes["dimensions"]
        after, size = _compute_ids_offset(rows, dimensions), path.stat().st_size
        if size != after + 8 * rows:
            raise IndexDamaged(f"{path} has {size:,} bytes instead of {after + 8 * rows:,}. Run `simile rebuild`.")
        if not rows:
            return cls(NO_IDS, np.empty((0, dimensions), np.float32), notes)
        vectors = np.memmap(path, "<f4", "r", HEADER_BYTES, (rows, dimensions))
        ids = np.memmap(path, "<i8", "r", after, (rows,))
        return cls(np.asarray(ids), np.asarray(vectors), notes)  # as plain arrays: a memmap's slices cost more


def write_vector_file(path: Path, dimensions: int, chunks: Iterable[tuple[Ids, FloatArray]]) -> int:
    """Writes (ids (m,), vectors (m, d)) chunk by chunk, ids ascending over all of them; gives how many rows.

    Raises IndexDamaged if an id comes twice or too late.
    """
    kept = [NO_IDS]
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for ids, vectors in chunks:
            file.write(np.ascontiguousarray(vectors, "<f4").data)
            kept.append(ids)
        all_ids = np.concatenate(kept)
        if (all_ids[1:] <= all_ids[:-1]).any():
            raise IndexDamaged("The ids of the vectors do not ascend. Run `simile verify`, then `simile rebuild`.")
        file.write(bytes(_compute_ids_offset(len(all_ids), dimensions) - file.tell()))
        file.write(all_ids.astype("<i8").data)
    write_header(path, {"rows": len(all_ids), "dimensions": dimensions})
    return len(all_ids)


def write_header(path: Path, header: dict[str, Any]) -> None:
    """Puts the header into a file that nobody reads yet; `rows` and `dimensions` must be in it."""
    text = json.dumps({"format": VECTOR_FILE_FORMAT} | header).encode()
    with path.open("r+b") as file:
        file.write(text.ljust(HEADER_BYTES))


def _parse_header(data: bytes, path: Path) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = json.loads(data)
        known = notes["format"] == VECTOR_FILE_FORMAT and notes["rows"] >= 0 and notes["dimensions"] >= 0
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise IndexDamaged(f"{path} is no file of vectors that this simile reads. Run `simile rebuild`.")
    return notes


def _compute_ids_offset(rows: int, dimensions: int) -> int:
    """Where the ids begin: aligned, for numpy to read them in place."""
    return (HEADER_BYTES + 4 * rows * dimensions + 7) // 8 * 8
