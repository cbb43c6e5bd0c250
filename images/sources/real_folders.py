"""Compare folders by what they are on the disk, whatever their names: links, `..`, `~`, capital letters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from heapq import nlargest
from itertools import takewhile

from simile.images.sources.buckets import is_s3_url, restore_url

MAX_COMPARED_NAMES = 200  # comparing texts in full takes a millisecond each


def make_absolute_folder(text: str) -> str:
    """Return the absolute path of a folder that a user named; `~` is expanded, and links only before `..`.

    A folder in a bucket stays a URL.
    """
    url = restore_url(text)
    if is_s3_url(url):
        return url
    path = os.path.expanduser(text)  # noqa: PTH111  # a text may end with a separator
    if os.pardir in path.split(os.sep):  # noqa: PTH206
        return os.path.realpath(path)
    return os.path.abspath(path)  # noqa: PTH100


class RealFolder:
    """A folder, an archive or a file that a user named, and the indexed paths that are in it under any name.

    Links to folders are resolved on both sides; a link to a file belongs to the folder that holds the link.
    """

    def __init__(self, text: str) -> None:
        self.path = make_absolute_folder(text)
        self._parent, self._name = os.path.split(self.path)
        self._real_path = os.path.realpath(self.path)
        self._is_file = os.path.isfile(self.path)  # noqa: PTH113  # never raises
        self._get_identity = cache(_get_identity)
        self._get_real_folder: Callable[[str], str] = cache(os.path.realpath)
        self._find_relative_folder: Callable[[str], str | None] = cache(self._compare_folder)

    def find_relative(self, path: str) -> str | None:
        """Return a path relative to the folder, "" if it is the folder itself; None if it is not in it."""
        if path == self.path:
            return ""
        parent, name = os.path.split(path)
        folder = self._find_relative_folder(parent)
        if folder is not None:
            return os.path.join(folder, name)  # noqa: PTH118  # called for every file
        return "" if self._is_file and name == self._name and self._is_same(parent, self._parent) else None

    def contains(self, path: str) -> bool:
        """Return whether the path is in the folder, or is it."""
        return self.find_relative(path) is not None

    def find_other_names(self, folders: Iterable[str]) -> list[str]:
        """Return the names by which the outermost of these folders lead into it through links, without its own path."""
        names = set()
        for holding_folder in folders:
            folder = holding_folder
            if self._is_file and self._is_same(folder, self._parent):
                names.add(os.path.join(folder, self._name))  # noqa: PTH118
            if self._find_relative_folder(folder) is None:
                continue
            parent = os.path.dirname(folder)  # noqa: PTH120
            while parent != folder and self._find_relative_folder(parent) is not None:
                folder, parent = parent, os.path.dirname(parent)  # noqa: PTH120
            names.add(folder)
        return sorted(names - {self.path})

    def _is_same(self, folder: str, other: str) -> bool:
        identity = self._get_identity(folder)
        return folder == other or (identity is not None and identity == self._get_identity(other))

    def _compare_folder(self, folder: str) -> str | None:
        """Return a folder relative to this one, "" for this one; None if it is not in it."""
        if _is_below(folder, self.path):
            return folder[len(self.path) :].strip(os.sep)
        ancestor = real = self._get_real_folder(folder)
        if _is_below(real, self._real_path):
            return real[len(self._real_path) :].strip(os.sep)
        identity = self._get_identity(self.path)
        if identity is None:
            return None
        while self._get_identity(ancestor) != identity:
            parent = os.path.dirname(ancestor)  # noqa: PTH120
            if parent == ancestor:
                return None
            ancestor = parent
        return real[len(ancestor) :].strip(os.sep)


def _is_below(path: str, folder: str) -> bool:
    """Return whether the path is the folder or in it, by the names."""
    return f"{path}{os.sep}".startswith(folder.rstrip(os.sep) + os.sep)


def _get_identity(path: str) -> tuple[int, int] | None:
    """Return device and inode, which identify a folder under any name; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116  # called for every folder
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def find_nearest(text: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most like the text, the nearest first."""

    def estimate(name: str) -> tuple[int, int]:
        return _count_equal(text, name) + _count_equal(reversed(text), reversed(name)), -len(name)

    return get_close_matches(text, sorted(nlargest(MAX_COMPARED_NAMES, set(names), key=estimate)), count, 0.0)


def _count_equal(first: Iterable[str], second: Iterable[str]) -> int:
    """Return how many characters are equal from the start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def describe_nearest_folders(folder: str, indexed_folders: Iterable[str]) -> str:
    """Return a sentence with the indexed folders that are most like a folder without indexed files."""
    known = set(indexed_folders)
    common = os.path.commonpath(known) if known else os.sep
    for indexed in list(known):
        path = indexed
        while path != common and (path := os.path.dirname(path)) not in known:  # noqa: PTH120
            known.add(path)
    nearest = find_nearest(folder, known)
    return f"The nearest indexed folders are {', '.join(nearest)}." if nearest else "Nothing is indexed."
