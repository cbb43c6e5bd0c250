"""Write files and folders so that after a crash the old or the new version is there, complete."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from simile.core.errors import BadSetting

REPLACED = ".replaced-"  # prefix of a folder's name while a new folder takes its place


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, then fsync the file and rename it to `path`."""
    # A unique name, because two uploads of the same bytes write the same path at the same time.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)  # makes the rename itself durable
    finally:
        temporary.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Flush a file's contents, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(new_folder: Path, target: Path) -> None:
    """Move `new_folder` to `target`, and delete the folder that was there before, if any.

    Both must have the same parent. If the process is killed at any moment, the old or the new folder is complete;
    `finish_replacing` then restores its name.
    """
    old_folder = target.with_name(REPLACED + target.name)
    if target.exists():
        shutil.rmtree(old_folder, ignore_errors=True)
        target.rename(old_folder)
    new_folder.rename(target)
    fsync_path(target.parent)
    shutil.rmtree(old_folder, ignore_errors=True)


def finish_replacing(folder: Path) -> None:
    """Clean up after a killed `replace_folder` in `folder`. No other process may replace folders there meanwhile."""
    for old_folder in folder.glob(f"{REPLACED}*"):
        target = old_folder.with_name(old_folder.name.removeprefix(REPLACED))
        if target.exists():
            shutil.rmtree(old_folder, ignore_errors=True)
        else:
            old_folder.rename(target)


def check_output_path(path: Path, suffixes: Sequence[str]) -> None:
    """Check that an output file can be written before its content is computed.

    Args:
        path: The file.
        suffixes: The suffixes allowed, in lower case; empty for any suffix.

    Raises:
        BadSetting: The suffix is not allowed, the path is a folder, or its parent does not exist.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path} can't be written: its folder does not exist. Create it, or name another file.")


def write_output_file(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises BadSetting if there is no space or no permission."""
    write_output(path, lambda temporary: temporary.write_bytes(data))


def write_output(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` as write_atomically does. Raises BadSetting if there is no space or no permission."""
    try:
        write_atomically(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error
