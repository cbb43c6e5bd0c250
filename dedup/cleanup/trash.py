"""The trash that desktops share: https://specifications.freedesktop.org/trash-spec/latest/"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from simile.core.atomic_write import fsync_path
from simile.dedup.cleanup.file_identity import SkippedFile, describe_os_error, path_exists


@dataclass(frozen=True)
class Trash:
    """One trash folder. `top`: the folder of its disk, to which its paths are relative; None: they are absolute."""

    folder: Path
    top_folder: Path | None = None

    def find_free_names(self, path: Path) -> tuple[Path, Path]:
        """Where the file would lie, and its .trashinfo: names that nothing has."""
        for number in count(1):
            name = path.name if number == 1 else f"{path.stem}.{number}{path.suffix}"
            target, info = self.folder / "files" / name, self.folder / "info" / f"{name}.trashinfo"
            if not path_exists(target) and not path_exists(info):
                return target, info
        raise AssertionError

    def write_info(self, info: Path, path: Path) -> None:
        """Says where the file came from. Raises FileExistsError where the name was taken meanwhile."""
        named = path if self.top_folder is None else path.relative_to(self.top_folder)
        text = f"[Trash Info]\nPath={quote(os.fsencode(named))}\nDeletionDate={datetime.now():%Y-%m-%dT%H:%M:%S}\n"
        with info.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fsync_path(info.parent)


def open_trash(path: Path) -> Trash:
    """The trash of the disk that the file is on, made if there is none. Raises SetAside."""
    own = _get_home_trash()
    try:
        if _get_device(own) == path.lstat().st_dev:
            return _create_trash(Trash(own))
        top = _find_top_folder(path)
        for folder in (top / ".Trash" / str(os.getuid()), top / f".Trash-{os.getuid()}"):
            if folder.parent == top or _is_shared_trash(folder.parent):
                return _create_trash(Trash(folder, top))
    except OSError as error:
        raise SkippedFile(f"there is no trash for it: {describe_os_error(error)}") from None
    raise AssertionError


def is_in_trash(path: Path) -> bool:
    """Whether it lies in somebody's trash, to be thrown away any day; by the names that the specification gives."""
    if _get_home_trash() in path.parents:
        return True
    return any(folder == ".Trash" or folder.startswith(".Trash-") for folder in path.parts[:-1])


def is_info_for(info: Path, path: Path) -> bool:
    """Whether a .trashinfo speaks of this file, or of none yet: others may have used the name meanwhile."""
    try:
        lines = info.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    if not lines:  # killed between making it and writing to it
        return True
    said = next((line.removeprefix("Path=") for line in lines if line.startswith("Path=")), "")
    wanted = quote(os.fsencode(path))
    return bool(said) and (wanted == said or wanted.endswith(f"/{said}"))


def _get_home_trash() -> Path:
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if data.startswith(os.sep) else Path.home() / ".local" / "share"
    return Path(os.path.realpath(folder)) / "Trash"


def _get_device(folder: Path) -> int:
    """The disk that the folder is on, or would be."""
    while not folder.is_dir():
        folder = folder.parent
    return folder.stat().st_dev


def _find_top_folder(path: Path) -> Path:
    """The topmost folder above the file on the same disk."""
    folder, device = path.parent, path.lstat().st_dev
    while folder.parent != folder and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder


def _is_shared_trash(folder: Path) -> bool:
    """Whether an administrator made it for everybody: a real folder with the sticky bit. The rest is a trap."""
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
