"""Read and write .npz files of arrays, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

ARRAY_FILE_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile)  # of missing and damaged files


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as an uncompressed .npz file at exactly this path."""
    with path.open("wb") as file:  # np.savez appends .npz to a path, but not to an open file
        np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read all arrays of a file. Raises one of ARRAY_FILE_ERRORS for a file that is missing or damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)
