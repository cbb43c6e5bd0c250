"""Files that are whole after a crash: the old one or the new one, never a part."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """`write(temporary path)`, then fsync and rename: after a crash the old file or the new one is there, whole."""
    # A name of its own: two uploads of the same bytes write the same path at the same time.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Has the file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
