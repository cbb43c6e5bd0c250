"""The trash that desktops share: https://specifications.freedesktop.org/trash-spec/latest/"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from simile.core.atomic_write import sync
from simile.dedup.cleanup.file_identity import SetAside, exists, why_not


@dataclass(frozen=True)
class Trash:
    """One trash folder. `top`: the folder of its disk, to which its paths are relative; None: they are absolute."""

    folder: Path
    top: Path | None = None

    def free_names(self, path: Path) -> tuple[Path, Path]:
        """Where the file would lie, and its .trashinfo: names that nothing has."""
        for number in count(1):
            name = path.name if number == 1 else f"{path.stem}.{number}{path.suffix}"
            target, info = self.folder / "files" / name, self.folder / "info" / f"{name}.trashinfo"
            if not exists(target) and not exists(info):
                return target, info
        raise AssertionError

    def write_info(self, info: Path, path: Path) -> None:
        """Says where the file came from. Raises FileExistsError where the name was taken meanwhile."""
        named = path if self.top is None else path.relative_to(self.top)
        text = f"[Trash Info]\nPath={quote(os.fsencode(named))}\nDeletionDate={datetime.now():%Y-%m-%dT%H:%M:%S}\n"
        with info.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        sync(info.parent)


def trash_for(path: Path) -> Trash:
    """The trash of the disk that the file is on, made if there is none. Raises SetAside."""
    own = _own_trash()
    try:
        if _device(own) == path.lstat().st_dev:
            return _made(Trash(own))
        top = _top(path)
        for folder in (top / ".Trash" / str(os.getuid()), top / f".Trash-{os.getuid()}"):
            if folder.parent == top or _is_shared(folder.parent):
                return _made(Trash(folder, top))
    except OSError as error:
        raise SetAside(f"there is no trash for it: {why_not(error)}") from None
    raise AssertionError


def is_in_trash(path: Path) -> bool:
    """Whether it lies in somebody's trash, to be thrown away any day; by the names that the specification gives."""
    if _own_trash() in path.parents:
        return True
    return any(folder == ".Trash" or folder.startswith(".Trash-") for folder in path.parts[:-1])


def is_of(info: Path, path: Path) -> bool:
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


def _own_trash() -> Path:
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if data.startswith(os.sep) else Path.home() / ".local" / "share"
    return Path(os.path.realpath(folder)) / "Trash"


def _device(folder: Path) -> int:
    """The disk that the folder is on, or would be."""
    while not folder.is_dir():
        folder = folder.parent
    return folder.stat().st_dev


def _top(path: Path) -> Path:
    """The topmost folder above the file on the same disk."""
    folder, device = path.parent, path.lstat().st_dev
    while folder.parent != folder and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder


def _is_shared(folder: Path) -> bool:
    """Whether an administrator made it for everybody: a real folder with the sticky bit. The rest is a trap."""
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)


def _made(trash: Trash) -> Trash:
    for folder in (trash.folder, trash.folder / "files", trash.folder / "info"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise SetAside(f"the trash {folder} is a symbolic link")
    return trash
