"""List the image files in a folder, at any depth: sorted, without hidden files, with a reason for each failure."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from simile.core.records import Failure, FileStat, IgnoredFile
from simile.images.formats import IMAGE_SUFFIXES, has_image_signature
from simile.images.sources.partners import FILM_SUFFIXES, RAW_SUFFIXES, get_suffix, select_partners
from simile.images.sources.paths import NOT_UTF8_REASON, PathPatterns, is_utf8, make_printable

# A FileStat as a plain tuple: it sorts twice as fast, and the garbage collector ignores it.
FileFactsTuple = tuple[str, int, int, int]
FolderIdentity = tuple[int, int]  # device and inode, which identify a folder under any name

SIDECAR_SUFFIX = ".xmp"  # of metadata in a file of their own, which are read with their image
# Of a dataset in the layout of Hugging Face's imagefolder: they describe the images in their folder and below.
METADATA_FILE_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

MAX_LISTED_KINDS = 6  # in a message
MAX_KIND_LENGTH = 8  # characters; a longer suffix is a part of a name

_METADATA_FILE_ENDS = tuple(os.sep + name for name in METADATA_FILE_NAMES)

# lower() for a million names is slow.
_IMAGE_SUFFIXES_BOTH_CASES = IMAGE_SUFFIXES | {suffix.upper() for suffix in IMAGE_SUFFIXES}


@dataclass(kw_only=True)
class WalkResult:
    """The result of a walk."""

    files: list[FileStat] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)  # files and folders that cannot be used
    ignored_kinds: Counter[str] = field(default_factory=Counter)  # number of files that are no images, by kind
    ignored_files: list[IgnoredFile] | None = None  # the files themselves, if there is a list
    partners: set[str] = field(default_factory=set)  # raw files and films that belong to an image (partners.py)

    @property
    def ignored_count(self) -> int:
        """Number of files that are no images by name and first bytes."""
        return self.ignored_kinds.total()

    def add_ignored(self, path: str, kind: str | None = None) -> None:
        """Add a file that is ignored; its kind is its suffix."""
        kind = kind or _get_kind(path)
        self.ignored_kinds[kind] += 1
        if self.ignored_files is not None:
            self.ignored_files.append(IgnoredFile(make_printable(path), kind))

    def leave_out_raw_partners(self, files: list[FileFactsTuple]) -> list[FileFactsTuple]:
        """Return the files of a folder or archive without raw files that belong to an image, which are counted."""
        raw_paths = [path for path, *_ in files if get_suffix(path) in RAW_SUFFIXES]
        partners = select_partners(map(itemgetter(0), files), raw_paths)
        self.partners |= partners
        return [file for file in files if file[0] not in partners] if partners else files

    def add_failure(self, path: str, reason: str) -> None:
        """Add a failure, with a path that can be shown."""
        self.failures.append(Failure(make_printable(path), reason))


@dataclass(kw_only=True)
class FolderWalker:
    """Walks folders and collects failures on the way."""

    patterns: PathPatterns = field(default_factory=PathPatterns)
    skip_folders: frozenset[FolderIdentity] = frozenset()  # not entered
    explicit_files: frozenset[str] = frozenset()  # selected whatever their format
    result: WalkResult = field(default_factory=WalkResult)  # failures and number of ignored files, so far
    _root_names: dict[str, str] = field(default_factory=dict)  # of the folders to walk, by their paths without links
    _are_roots_links: bool = False  # whether any of them is named by a link

    def add_root(self, root: str) -> None:
        """Tell in advance that a folder will be walked: links from other folders into it are not entered."""
        real = os.path.realpath(root)
        if root == real or real not in self._root_names:
            self._root_names[real] = root
        self._are_roots_links |= root != real

    def find_walked_name(self, folder: str, file_name: str = "") -> str | None:
        """Return the path by which the walk enters a folder without following a link in one of the roots.

        Roots that are not named by a link themselves come first, then the innermost. None if no root holds the folder
        itself, or if a hidden folder or a pattern keeps the walk from it, or from the file of this name in it.
        """
        real = os.path.realpath(folder)
        walked = None
        for ancestor in map(str, (Path(real), *Path(real).parents)):
            root, below = self._root_names.get(ancestor), real[len(ancestor) :].strip(os.sep)
            if root is None or (walked is not None and root != ancestor) or not self._allows_path(below, file_name):
                continue
            walked = _with_separator(root) + below if below else root
            if root == ancestor:
                break
        return walked

    def _is_walked_elsewhere(self, folder: str, prefix_length: int) -> bool:
        """Return whether a folder that may be a link is walked by its real name, so that this one is not needed."""
        # Patterns can include all files under the link's name, and none under the real one. No file has this name.
        is_included = self.patterns.include and self.patterns.allows_file(folder[prefix_length:] + "/\0")
        return self.find_walked_name(folder, "\0" if is_included else "") not in (None, folder)

    def _allows_path(self, folder: str, file_name: str) -> bool:
        """Return whether the walk of a root enters the folder below it, and selects the file."""
        parts = folder.split(os.sep) if folder else []  # noqa: PTH206
        if any(part.startswith(".") for part in parts):
            return False
        if not all(self.patterns.allows_folder("/".join(parts[:end])) for end in range(1, len(parts) + 1)):
            return False
        return not file_name or self.patterns.allows_file("/".join([*parts, file_name]))

    def iterate_files(self, root: str) -> Iterator[list[FileFactsTuple]]:
        """Yield the files below `root` in lists; the lists are in the order of paths. `result.files` stays empty.

        Hidden files are skipped. Symbolic links are followed unless they lead into a folder that is walked by its own
        name. A folder is entered once, and never a folder that contains the source, so loops end. Files that are no
        images are ignored. The memory is that of the largest folder's names.
        """
        self.add_root(root)
        if self.find_walked_name(root) != root:
            return
        visited = set(self.skip_folders | get_folder_identities(Path(root).resolve().parents))
        # A stack and no recursion: folders can be nested deeper than Python's limit. It holds folders to read, and
        # lists of files that come between two folders.
        stack: list[str | list[FileFactsTuple]] = [root]
        while stack:
            entry = stack.pop()
            if isinstance(entry, list):
                yield entry
            elif listed := self._read_folder(entry, visited, len(_with_separator(root))):
                stack += reversed(merge_in_order(_with_separator(entry), *listed))

    def _read_folder(
        self, folder: str, visited: set[FolderIdentity], prefix_length: int
    ) -> tuple[list[FileFactsTuple], list[str]] | None:
        """Return the files and the names of the folders in a folder; None if it must not or cannot be entered.

        It is added to `visited`. Patterns apply to a path without `prefix_length` characters, those of the source.
        """
        try:
            facts = Path(folder).stat()
            if (facts.st_dev, facts.st_ino) in visited:
                return None
            visited.add((facts.st_dev, facts.st_ino))
            # With a descriptor the system need not resolve the folder's path again for every file.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(descriptor) as scanned:
                    entries: Iterable[os.DirEntry[str]] = scanned
                    if self.patterns:
                        entries = self._select_entries(scanned, _with_separator(folder)[prefix_length:])
                    return self._classify_entries(folder, entries, prefix_length)
            finally:
                os.close(descriptor)
        except OSError:
            self.result.add_failure(folder, "the folder can't be opened" if is_utf8(folder) else NOT_UTF8_REASON)
            return None

    def _select_entries(self, entries: Iterable[os.DirEntry[str]], base: str) -> Iterator[os.DirEntry[str]]:
        """Yield the entries that the patterns allow; `base` is the folder's path below the source."""
        for entry in entries:
            path = base + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if self.patterns.allows_folder(path) if is_folder else self.patterns.allows_file(path):
                yield entry

    def _classify_entries(
        self, folder: str, entries: Iterable[os.DirEntry[str]], prefix_length: int
    ) -> tuple[list[FileFactsTuple], list[str]]:
        """Return the image files and the names of the folders among the entries."""
        are_roots_links = self._are_roots_links and len(self._root_names) > 1
        base, suffixes, files, folders = _with_separator(folder), _IMAGE_SUFFIXES_BOTH_CASES, [], []
        films: list[tuple[str, os.stat_result]] = []
        for entry in entries:  # up to half a million: this loop avoids function calls
            name = entry.name
            if name[0] == ".":
                continue
            try:
                if entry.is_dir():
                    may_be_link = entry.is_symlink() or are_roots_links
                    if not may_be_link or not self._is_walked_elsewhere(base + name, prefix_length):
                        folders.append(name)
                    continue
            except OSError:  # a link in a circle: stat below reports it
                pass
            try:
                facts = entry.stat()
                suffix = name[name.rfind(".") :]
                if suffix in FILM_SUFFIXES:
                    films.append((base + name, facts))
                elif suffix in suffixes or self._accepts_file(base + name, facts):
                    files.append((base + name, facts.st_size, facts.st_mtime_ns, 0))
            except OSError as error:
                self.result.add_failure(base + name, get_file_failure_reason(base + name, error))
        # Drop names that are not UTF-8; one check of all names is faster than one per file.
        if not "".join(map(itemgetter(0), files)).isascii():
            for path, *_ in files:
                if not is_utf8(path):
                    self.result.add_failure(path, NOT_UTF8_REASON)
            files = [file for file in files if is_utf8(file[0])]
        return self.result.leave_out_raw_partners(self._add_films(files, films)), folders

    def _add_films(self, files: list[FileFactsTuple], films: list[tuple[str, os.stat_result]]) -> list[FileFactsTuple]:
        """Return the files, with those films that are images in truth; the films of Live Photos become partners."""
        partners = select_partners(map(itemgetter(0), files), [path for path, _ in films if is_utf8(path)])
        self.result.partners |= partners
        others = [(path, facts) for path, facts in films if path not in partners and self._accepts_file(path, facts)]
        return files + [(path, facts.st_size, facts.st_mtime_ns, 0) for path, facts in others if is_utf8(path)]

    def _accepts_file(self, path: str, facts: os.stat_result) -> bool:
        """Return whether a file without a known suffix is selected. The decoder reports what is no regular file."""
        if not stat.S_ISREG(facts.st_mode) or path in self.explicit_files:
            return True
        suffix = Path(path).suffix.lower()
        if suffix == SIDECAR_SUFFIX or path.endswith(_METADATA_FILE_ENDS):
            return False
        if suffix in IMAGE_SUFFIXES:
            return True
        with Path(path).open("rb") as file:
            is_image = has_image_signature(file.read(32))
        if not is_image:
            self.result.add_ignored(path)
        return is_image


def describe_kinds(kinds: Mapping[str, int]) -> str:
    """Describe numbers of ignored files by kind, the most frequent first: 3 pdf, 2 mov."""
    ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{count:,} {kind}" for kind, count in ranked[:MAX_LISTED_KINDS]]
    if rest := sum(count for _, count in ranked[MAX_LISTED_KINDS:]):
        texts.append(f"{rest:,} of further kinds")
    return ", ".join(texts)


def _get_kind(path: str) -> str:
    """Return the suffix in lower case, without the dot; "other" for a file without one."""
    suffix = os.path.splitext(path)[1][1:].lower()  # noqa: PTH122  # for every file
    return suffix if suffix.isascii() and suffix.isalnum() and len(suffix) <= MAX_KIND_LENGTH else "other"


def merge_in_order(base: str, files: list[FileFactsTuple], folders: list[str]) -> list[str | list[FileFactsTuple]]:
    """Return the files of a folder in lists, with the folders between them, in the order of paths."""
    if not folders:
        return [files]  # one list need not be sorted
    files.sort()
    order: list[str | list[FileFactsTuple]] = []
    start = 0
    for folder in sorted(base + name + os.sep for name in folders):
        end = bisect_left(files, (folder, 0, 0, 0), start)
        if end > start:
            order.append(files[start:end])
        order.append(folder[:-1])
        start = end
    return [*order, files[start:]] if start < len(files) else order


def _with_separator(folder: str) -> str:
    """Return the folder's path with a separator at the end."""
    return folder if folder.endswith(os.sep) else folder + os.sep


def get_folder_identities(folders: Iterable[Path]) -> frozenset[FolderIdentity]:
    """Return device and inode of each folder."""
    return frozenset((facts.st_dev, facts.st_ino) for facts in (folder.stat() for folder in folders))


def get_file_failure_reason(path: str, error: OSError) -> str:
    """Return why a file cannot be used, for people."""
    try:
        return f"a broken symbolic link to {make_printable(str(Path(path).readlink()))}"
    except OSError:  # no link, or in a folder that can be listed but not entered
        return error.strerror or "can't be opened"
