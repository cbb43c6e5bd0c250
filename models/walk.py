"""Which files a person means by "these folders": sorted, hidden ones left out, every oddity accounted for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import NoSuchPath
from core.records import Failure, FileFacts
from models.images import PICTURE_SUFFIXES, sniff


@dataclass
class Found:
    """What a walk met. `ignored`: files that neither their name nor their first bytes call a picture."""

    files: list[FileFacts] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored: int = 0


def walk(sources: Sequence[Path], skip: Sequence[Path] = ()) -> Found:
    """Files of all sources, each once: sorted by path within a source, the sources in their order.

    A source that is a file is always taken. In folders, hidden files are passed over, symbolic links are
    followed (but a folder is entered once, and never one that holds the source, so loops end), and files of other
    kinds are ignored. What can't be opened as a file (broken links, names that are not UTF-8) is a failure. `skip`:
    folders not to enter, for the home may lie among the pictures. Raises NoSuchPath.
    """
    found = Found()
    seen: set[str] = set()
    skipped = _folders(folder for folder in skip if folder.is_dir())
    # Path.absolute() would keep "..", resolve() would follow links.
    roots = dict.fromkeys(os.path.abspath(source) for source in sources)  # noqa: PTH100
    check_sources(sources)
    for root in roots:
        for path in _entries(root, skipped):
            if path not in seen:
                seen.add(path)
                _take(path, found, named=path in roots)
    return found


def check_sources(sources: Sequence[Path]) -> None:
    """Raises NoSuchPath for the first source that does not exist."""
    for source in sources:
        if not os.path.lexists(os.path.abspath(source)):  # noqa: PTH100  # as in walk()
            raise NoSuchPath(source)


def is_gone(path: str) -> bool:
    """Whether nothing has this path any more; what can't be looked at, behind a closed folder, may still be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _entries(root: str, skipped: set[tuple[int, int]]) -> list[str]:
    if not _is_folder(Path(root)):
        return [root]
    return sorted(_in_folder(root, skipped | _folders(Path(root).resolve().parents)))


def _folders(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode: what tells folders apart whatever they are called."""
    return {(facts.st_dev, facts.st_ino) for facts in (path.stat() for path in paths)}


def _is_folder(entry: os.DirEntry[str] | Path) -> bool:
    """False too for links that lead in a circle, through a file or to where nobody may look: `_take` reports them."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _in_folder(root: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Every entry below `root` that is not a folder, and folders that can't be read; always the same ones."""
    waiting = [root]  # not recursive: folders can be nested deeper than Python's calls
    while waiting:
        folder = waiting.pop()
        try:
            facts = Path(folder).stat()
            if (facts.st_dev, facts.st_ino) in entered:
                continue
            entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as listing:
                # Sorted, so that of two links to one folder it is always the same one that is entered.
                entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            yield folder  # `_take` finds out why and says so
            continue
        folders = []
        for entry in entries:
            if _is_folder(entry):
                folders.append(entry.path)
            else:
                yield entry.path
        waiting += reversed(folders)


def _take(path: str, found: Found, *, named: bool) -> None:
    if reason := _unusable(path):
        found.failures.append(Failure(printable(path), reason))
        return
    try:
        facts = Path(path).stat()
        if stat.S_ISREG(facts.st_mode) and not named and not _is_picture(path):
            found.ignored += 1
            return
        found.files.append(FileFacts(path, facts.st_size, facts.st_mtime_ns))
    except OSError as error:
        found.failures.append(Failure(printable(path), _reason(path, error)))


def _unusable(path: str) -> str | None:
    if not is_utf8(path):
        return "the file's name is not valid UTF-8; rename it"
    return "the folder can't be opened" if _is_folder(Path(path)) else None


def _reason(path: str, error: OSError) -> str:
    try:
        return f"a broken symbolic link to {printable(str(Path(path).readlink()))}"
    except OSError:  # no link, or in a folder that may be listed but not entered
        return error.strerror or "can't be opened"


def _is_picture(path: str) -> bool:
    """By its suffix; where that says nothing, by its first bytes."""
    if Path(path).suffix.lower() in PICTURE_SUFFIXES:
        return True
    with Path(path).open("rb") as file:
        return sniff(file.read(32))


def is_utf8(path: str) -> bool:
    """Whether the name can be stored and shown."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str) -> str:
    """The path with bytes that are not UTF-8 written as escapes, so that it can be stored and shown."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
