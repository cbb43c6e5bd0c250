"""The files in a folder, at any depth: sorted, hidden ones left out, every oddity accounted for."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from simile.core.records import Failure, FileFacts
from simile.images.formats import PICTURE_SUFFIXES, sniff
from simile.images.paths import is_utf8, printable
from simile.images.sources.gitignore import Patterns

Facts = tuple[str, int, int, int]  # a FileFacts without its names: sorted twice as fast, and no burden to the collector
Identity = tuple[int, int]  # device and inode: what tells folders apart whatever they are called

_SUFFIXES = PICTURE_SUFFIXES | {suffix.upper() for suffix in PICTURE_SUFFIXES}  # lower() for a million names is slow


@dataclass
class Found:
    """What a walk met. `ignored`: files that neither their name nor their first bytes call a picture."""

    files: list[FileFacts] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored: int = 0

    def fail(self, path: str, reason: str) -> None:
        self.failures.append(Failure(printable(path), reason))


@dataclass
class Folders:
    """How folders are walked, and what was met on the way.

    `skipped`: folders not to enter. `named`: files that are taken whatever their kind.
    """

    patterns: Patterns = field(default_factory=Patterns)
    skipped: frozenset[Identity] = frozenset()
    named: frozenset[str] = frozenset()
    found: Found = field(default_factory=Found)

    def files(self, root: str) -> Iterator[list[Facts]]:
        """The files below `root` in lists, each behind the one before by path; `found.files` stays empty.

        Hidden files are passed over, symbolic links are followed (but a folder is entered once, and never one that
        holds the source, so loops end), and files of other kinds are ignored. Memory: the largest folder's names.
        """
        entered = set(self.skipped | identities(Path(root).resolve().parents))
        # Not recursive: folders can be nested deeper than Python's calls. A list waits its turn between two folders.
        waiting: list[str | list[Facts]] = [root]
        while waiting:
            next_one = waiting.pop()
            if isinstance(next_one, list):
                yield next_one
            elif listed := self._listed(next_one, entered, len(_below(root))):
                waiting += reversed(_in_order(_below(next_one), *listed))

    def _listed(self, folder: str, entered: set[Identity], cut: int) -> tuple[list[Facts], list[str]] | None:
        """Files and names of folders in a folder; None where it must not or can't be entered."""
        try:
            facts = Path(folder).stat()
            if (facts.st_dev, facts.st_ino) in entered:
                return None
            entered.add((facts.st_dev, facts.st_ino))
            # By its descriptor, so that the system need not find the way to it again for every file in it.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(descriptor) as entries:
                    return self._sorted_out(folder, self._wanted(entries, _below(folder)[cut:]))
            finally:
                os.close(descriptor)
        except OSError:
            self.found.fail(folder, _why_not_entered(folder))
            return None

    def _wanted(self, entries: Iterable[os.DirEntry[str]], base: str) -> Iterable[os.DirEntry[str]]:
        return self._matching(entries, base) if self.patterns else entries

    def _matching(self, entries: Iterable[os.DirEntry[str]], base: str) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            path = base + entry.name
            if self.patterns.enters(path) if _is_folder(entry) else self.patterns.takes(path):
                yield entry

    def _sorted_out(self, folder: str, entries: Iterable[os.DirEntry[str]]) -> tuple[list[Facts], list[str]]:
        base, suffixes, files, folders = _below(folder), _SUFFIXES, [], []
        for entry in entries:  # half a million times: no function is called here that can be spared
            name = entry.name
            if name[0] == ".":
                continue
            try:
                if entry.is_dir():
                    folders.append(name)
                    continue
            except OSError:  # a link in a circle: stat says so
                pass
            try:
                facts = entry.stat()
                if name[name.rfind(".") :] in suffixes or self._is_wanted(base + name, facts):
                    files.append((base + name, facts.st_size, facts.st_mtime_ns, 0))
            except OSError as error:
                self.found.fail(base + name, why_not(base + name, error))
        return self._storable(files), folders

    def _is_wanted(self, path: str, facts: os.stat_result) -> bool:
        """A file without a telling name. What is no regular file is handed on: the decoder says what it is."""
        if not stat.S_ISREG(facts.st_mode) or path in self.named or _is_picture(path):
            return True
        self.found.ignored += 1
        return False

    def _storable(self, files: list[Facts]) -> list[Facts]:
        if "".join(map(itemgetter(0), files)).isascii():
            return files
        for path, *_ in files:
            if not is_utf8(path):
                self.found.fail(path, NOT_UTF8)
        return [facts for facts in files if is_utf8(facts[0])]


NOT_UTF8 = "the file's name is not valid UTF-8; rename it"


def _in_order(base: str, files: list[Facts], folders: list[str]) -> list[str | list[Facts]]:
    """The files of a folder in lists, with the folders between them where their files belong by path."""
    if not folders:
        return [files]  # half a million of them need not be sorted to be compared
    files.sort()
    order: list[str | list[Facts]] = []
    start = 0
    for folder in sorted(base + name + os.sep for name in folders):
        at = bisect_left(files, (folder, 0, 0, 0), start)
        if at > start:
            order.append(files[start:at])
        order.append(folder[:-1])
        start = at
    return [*order, files[start:]] if start < len(files) else order


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _below(folder: str) -> str:
    return folder if folder.endswith(os.sep) else folder + os.sep


def identities(folders: Iterable[Path]) -> frozenset[Identity]:
    return frozenset((facts.st_dev, facts.st_ino) for facts in (folder.stat() for folder in folders))


def _why_not_entered(folder: str) -> str:
    return "the folder can't be opened" if is_utf8(folder) else NOT_UTF8


def why_not(path: str, error: OSError) -> str:
    """Why there is no file at a path."""
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
