"""Files and folders that are whole after a crash: the old one or the new one, never a part."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from simile.core.errors import BadSetting

pass

REPLACED = ".replaced-"  # how the name of a folder begins while another one takes its place


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write(temporary path)`, then fsync and rename: after a crash the old file or the new one is there, whole."""
    # A name of its own: two uploads of the same bytes write the same path at the same time.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Has the file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(arriving: Path, target: Path) -> None:
    """Put the folder `arriving` in the place of `target`, which need not exist. Both lie in the same folder.

    A kill at any moment leaves the old folder or the new one, whole; `finish_replacing` then gives it its name back.
    """
    aside = target.with_name(REPLACED + target.name)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    arriving.rename(target)
    fsync_path(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def finish_replacing(folder: Path) -> None:
    """Clear away what a killed `replace_folder` left in `folder`. Nobody else may be replacing there."""
    for aside in folder.glob(f"{REPLACED}*"):
        target = aside.with_name(aside.name.removeprefix(REPLACED))
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)


def check_output_path(path: Path, suffixes: Sequence[str]) -> None:
    """Raises BadSetting for a file that can't be written; `suffixes` in lower case, none for any."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path.absolute().parent} is no folder. Make it, or name another file.")


def write_output_file(path: Path, data: bytes) -> None:
    """Raises BadSetting where there is no space or no permission."""
    try:
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error
