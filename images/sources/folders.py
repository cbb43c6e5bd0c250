"""The files in a folder, at any depth: sorted, hidden ones left out, every oddity accounted for."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from simile.core.records import Failure, FileStat
from simile.images.formats import IMAGE_SUFFIXES, has_image_signature
from simile.images.sources.paths import PathPatterns, is_utf8, make_printable

FileFactsTuple = tuple[
    str, int, int, int
]  # a FileFacts without its names: sorted twice as fast, and no burden to the collector
FolderIdentity = tuple[int, int]  # device and inode: what tells folders apart whatever they are called

_IMAGE_SUFFIXES_BOTH_CASES = IMAGE_SUFFIXES | {
    suffix.upper() for suffix in IMAGE_SUFFIXES
}  # lower() for a million names is slow


@dataclass
class WalkResult:
    """What a walk met. `ignored`: files that neither their name nor their first bytes call a picture."""

    files: list[FileStat] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ignored_count: int = 0

    def add_failure(self, path: str, reason: str) -> None:
        self.failures.append(Failure(make_printable(path), reason))


@dataclass
class FolderWalker:
    """How folders are walked, and what was met on the way.

    `skipped`: folders not to enter. `named`: files that are taken whatever their kind.
    """

    patterns: PathPatterns = field(default_factory=PathPatterns)
    skip_folders: frozenset[FolderIdentity] = frozenset()
    explicit_files: frozenset[str] = frozenset()
    result: WalkResult = field(default_factory=WalkResult)

    def iterate_files(self, root: str) -> Iterator[list[FileFactsTuple]]:
        """The files below `root` in lists, each behind the one before by path; `found.files` stays empty.

        Hidden files are passed over, symbolic links are followed (but a folder is entered once, and never one that
        holds the source, so loops end), and files of other kinds are ignored. Memory: the largest folder's names.
        """
        entered = set(self.skip_folders | get_folder_identities(Path(root).resolve().parents))
        # Not recursive: folders can be nested deeper than Python's calls. A list waits its turn between two folders.
        waiting: list[str | list[FileFactsTuple]] = [root]
        while waiting:
            next_one = waiting.pop()
            if isinstance(next_one, list):
                yield next_one
            elif listed := self._read_folder(next_one, entered, len(_with_separator(root))):
                waiting += reversed(_merge_in_order(_with_separator(next_one), *listed))

    def _read_folder(
        self, folder: str, visited: set[FolderIdentity], prefix_length: int
    ) -> tuple[list[FileFactsTuple], list[str]] | None:
        """Files and names of folders in a folder; None where it must not or can't be entered."""
        try:
            facts = Path(folder).stat()
            if (facts.st_dev, facts.st_ino) in visited:
                return None
            visited.add((facts.st_dev, facts.st_ino))
            # By its descriptor, so that the system need not find the way to it again for every file in it.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(descriptor) as entries:
                    return self._classify_entries(
                        folder, self._filter_entries(entries, _with_separator(folder)[prefix_length:])
                    )
            finally:
                os.close(descriptor)
        except OSError:
            self.result.add_failure(folder, _get_folder_failure_reason(folder))
            return None

    def _filter_entries(self, entries: Iterable[os.DirEntry[str]], base: str) -> Iterable[os.DirEntry[str]]:
        return self._match_entries(entries, base) if self.patterns else entries

    def _match_entries(self, entries: Iterable[os.DirEntry[str]], base: str) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            path = base + entry.name
            if self.patterns.allows_folder(path) if _is_folder_entry(entry) else self.patterns.allows_file(path):
                yield entry

    def _classify_entries(
        self, folder: str, entries: Iterable[os.DirEntry[str]]
    ) -> tuple[list[FileFactsTuple], list[str]]:
        base, suffixes, files, folders = _with_separator(folder), _IMAGE_SUFFIXES_BOTH_CASES, [], []
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
                if name[name.rfind(".") :] in suffixes or self._accepts_file(base + name, facts):
                    files.append((base + name, facts.st_size, facts.st_mtime_ns, 0))
            except OSError as error:
                self.result.add_failure(base + name, get_file_failure_reason(base + name, error))
        return self._drop_invalid_names(files), folders

    def _accepts_file(self, path: str, facts: os.stat_result) -> bool:
        """A file without a telling name. What is no regular file is handed on: the decoder says what it is."""
        if not stat.S_ISREG(facts.st_mode) or path in self.explicit_files or _is_image_file(path):
            return True
        self.result.ignored_count += 1
        return False

    def _drop_invalid_names(self, files: list[FileFactsTuple]) -> list[FileFactsTuple]:
        if "".join(map(itemgetter(0), files)).isascii():
            return files
        for path, *_ in files:
            if not is_utf8(path):
                self.result.add_failure(path, NOT_UTF8_REASON)
        return [facts for facts in files if is_utf8(facts[0])]


NOT_UTF8_REASON = "the file's name is not valid UTF-8; rename it"


def _merge_in_order(base: str, files: list[FileFactsTuple], folders: list[str]) -> list[str | list[FileFactsTuple]]:
    """The files of a folder in lists, with the folders between them where their files belong by path."""
    if not folders:
        return [files]  # half a million of them need not be sorted to be compared
    files.sort()
    order: list[str | list[FileFactsTuple]] = []
    start = 0
    for folder in sorted(base + name + os.sep for name in folders):
        at = bisect_left(files, (folder, 0, 0, 0), start)
        if at > start:
            order.append(files[start:at])
        order.append(folder[:-1])
        start = at
    return [*order, files[start:]] if start < len(files) else order


def _is_folder_entry(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _with_separator(folder: str) -> str:
    return folder if folder.endswith(os.sep) else folder + os.sep


def get_folder_identities(folders: Iterable[Path]) -> frozenset[FolderIdentity]:
    return frozenset((facts.st_dev, facts.st_ino) for facts in (folder.stat() for folder in folders))


def _get_folder_failure_reason(folder: str) -> str:
    return "the folder can't be opened" if is_utf8(folder) else NOT_UTF8_REASON


def get_file_failure_reason(path: str, error: OSError) -> str:
    """Why there is no file at a path."""
    try:
        return f"a broken symbolic link to {make_printable(str(Path(path).readlink()))}"
    except OSError:  # no link, or in a folder that may be listed but not entered
        return error.strerror or "can't be opened"


def _is_image_file(path: str) -> bool:
    """By its suffix; where that says nothing, by its first bytes."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return True
    with Path(path).open("rb") as file:
        return has_image_signature(file.read(32))
