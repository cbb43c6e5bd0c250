"""The desktop's trash: https://specifications.freedesktop.org/trash-spec/latest/

The trash is implemented here because the journal must know a file's name in the trash before the file is moved.
send2trash chooses the name itself and does not return it, so an interrupted `apply` could not be completed or undone.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_ops import SkippedFile, describe_os_error, path_exists

MAX_NAME_BYTES = 255 - len(".trashinfo")  # of a name in the trash: file systems allow 255
MAX_SUFFIX_BYTES = 16


@dataclass(frozen=True)
class Trash:
    """One trash folder."""

    folder: Path
    top_folder: Path | None = None  # paths in .trashinfo are relative to this folder of the disk; None: absolute

    def find_free_names(self, path: Path) -> tuple[Path, Path]:
        """Return unused paths for the file in the trash and for its .trashinfo."""
        for number in count(1):
            name = make_free_name(path, "" if number == 1 else f".{number}", MAX_NAME_BYTES)
            target, info = self.folder / "files" / name, self.folder / "info" / f"{name}.trashinfo"
            if not path_exists(target) and not path_exists(info):
                return target, info
        raise AssertionError

    def write_info(self, info: Path, path: Path) -> None:
        """Write where the file came from. Raises FileExistsError if the name was taken meanwhile."""
        original = path if self.top_folder is None else path.relative_to(self.top_folder)
        text = f"[Trash Info]\nPath={quote(os.fsencode(original))}\nDeletionDate={datetime.now():%Y-%m-%dT%H:%M:%S}\n"
        with info.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fsync_path(info.parent)


def open_trash(path: Path) -> Trash:
    """Return the trash of the file's disk; create it if it does not exist. Raises SkippedFile."""
    home_trash = _get_home_trash()
    try:
        device = path.lstat().st_dev
        if _get_device(home_trash) == device:
            return _create_trash(Trash(home_trash))
        # The topmost folder above the file on the same disk.
        top = path.parent
        while top.parent != top and top.parent.stat().st_dev == device:
            top = top.parent
        shared = top / ".Trash"
        folder = shared / str(os.getuid()) if _is_shared_trash(shared) else top / f".Trash-{os.getuid()}"
        return _create_trash(Trash(folder, top))
    except OSError as error:
        raise SkippedFile(f"there is no trash for it: {describe_os_error(error)}") from None


def is_in_trash(path: Path) -> bool:
    """Return whether the path is in a user's trash, by the folder names of the specification."""
    if _get_home_trash() in path.parents:
        return True
    return any(folder == ".Trash" or folder.startswith(".Trash-") for folder in path.parts[:-1])


def is_info_for(info: Path, path: Path) -> bool:
    """Return whether a .trashinfo belongs to this file, or is empty; another program may have used the name."""
    try:
        lines = info.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    if not lines:  # killed between creating and writing it
        return True
    original = next((line.removeprefix("Path=") for line in lines if line.startswith("Path=")), "")
    quoted = quote(os.fsencode(path))
    return bool(original) and (quoted == original or quoted.endswith(f"/{original}"))


def make_free_name(path: Path, number: str, max_bytes: int) -> str:
    """Return the file's name with a number before its suffix, shortened to a number of bytes.

    The whole name is in the .trashinfo and in the journal, so undo and a desktop restore it.
    """
    stem, suffix = path.stem, path.suffix
    if len(os.fsencode(suffix)) > MAX_SUFFIX_BYTES:  # words after a dot
        stem, suffix = path.name, ""
    end, start = number + suffix, os.fsencode(stem)
    length = max_bytes - len(os.fsencode(end))
    return os.fsdecode(start if len(start) <= length else _cut_utf8(start, length)) + end


def _cut_utf8(text: bytes, length: int) -> bytes:
    """Return at most `length` bytes from the start, without a part of a character at the end."""
    while length > 0 and text[length] & 0xC0 == 0x80:
        length -= 1
    return text[:length]


def _get_home_trash() -> Path:
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if data.startswith(os.sep) else Path.home() / ".local" / "share"
    return Path(os.path.realpath(folder)) / "Trash"


def _get_device(folder: Path) -> int:
    """Return the device of a folder, or the device on which it would be created."""
    while not folder.is_dir():
        folder = folder.parent
    return folder.stat().st_dev


def _is_shared_trash(folder: Path) -> bool:
    """Return whether an administrator created the folder for all users: a real folder with the sticky bit."""
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)


def _create_trash(trash: Trash) -> Trash:
    for folder in (trash.folder, trash.folder / "files", trash.folder / "info"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise SkippedFile(f"the trash {folder} is a symbolic link")
    return trash
