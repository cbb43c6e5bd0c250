"""Derived arrays in the home: .npz files that may be deleted at any time and are then computed again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from simile.core.arrays import ARRAY_FILE_ERRORS, read_arrays, write_arrays
from simile.core.atomic_write import write_atomically
from simile.core.errors import HomeNotWritable
from simile.store.home import translate_write_errors

OnProgress = Callable[[str, int, int], object]  # (stage, done, total)


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Report no progress: the default of functions that take `on_progress`."""


def save_derived_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays atomically; if the home is not writable, do nothing: they are computed again next time."""
    with suppress(HomeNotWritable), translate_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda temporary: write_arrays(temporary, **arrays))


def load_derived_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a file; None if the file is missing or damaged."""
    with suppress(*ARRAY_FILE_ERRORS):
        return read_arrays(path)
    return None
