"""Derived arrays in the home: .npz files that may be deleted at any time and are then computed again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from simile.core.arrays import write_arrays
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
