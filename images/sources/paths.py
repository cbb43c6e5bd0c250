"""Paths of files: names that are not UTF-8, and include and exclude patterns as in .gitignore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

CHANGED_REASON = "it has changed since it was indexed; run `simile index --reread` on it"
NOT_UTF8_REASON = "the file's name is not valid UTF-8; rename it"


def is_utf8(path: str) -> bool:
    """Return whether the path can be stored and shown."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_printable(path: str) -> str:
    """Return the path with bytes that are not UTF-8 written as escapes, so that it can be stored and shown."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class PathPatterns:
    """Patterns that select files by their path relative to the source.

    A pattern without a slash matches a file or a folder at any depth; with a slash it starts at the source. `*` and
    `?` do not match a slash, `**` does; a slash at the end means a folder. Everything in a matching folder matches too.
    """

    include: tuple[str, ...] = ()  # only files that match one of these are selected; empty selects all files
    exclude: tuple[str, ...] = ()  # files that match one of these are not selected

    def __bool__(self) -> bool:
        """Return whether there is any pattern."""
        return bool(self.include or self.exclude)

    def allows_file(self, path: str) -> bool:
        """Return whether the file at this path, relative to its source, is selected."""
        if self._exclude_regex is not None and self._exclude_regex.match(path):
            return False
        return self._include_regex is None or self._include_regex.match(path) is not None

    def allows_folder(self, folder: str) -> bool:
        """Return False if no file in this folder can be selected."""
        return self._exclude_regex is None or not self._exclude_regex.match(folder + "/")

    @cached_property
    def _include_regex(self) -> re.Pattern[str] | None:
        return _compile_patterns(self.include)

    @cached_property
    def _exclude_regex(self) -> re.Pattern[str] | None:
        return _compile_patterns(self.exclude)


def _compile_patterns(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """Return one regular expression that matches if any pattern matches; None if there are no patterns."""
    parts = []
    for pattern in patterns:
        body = pattern.strip("/")
        prefix = "" if "/" in body or pattern.startswith("/") else "(?:.*/)?"
        parts.append(prefix + pattern_to_regex(body) + ("/" if pattern.endswith("/") else "(?:/|$)"))
    return re.compile("|".join(parts), re.DOTALL) if parts else None


def pattern_to_regex(pattern: str) -> str:
    """Return the pattern as a regular expression for `match` at the start of a path."""
    regex, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            regex, position = regex + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            regex, position = regex + ".*", position + 2
        elif found := re.match(r"\[(!?)([^/]+?)\]", rest):  # [a-z], [!0-9]
            regex += _make_character_class(found[2], negated=bool(found[1]))
            position += found.end()
        else:
            regex += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            position += 1
    return regex


def _make_character_class(characters: str, *, negated: bool) -> str:
    """Return a regular expression for one of (or none of) these characters, but never a slash.

    An empty range such as [z-a] matches nothing.
    """
    escaped = characters.replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
    regex = f"(?!/)[{'^' if negated else ''}{escaped}]"
    try:
        re.compile(regex)
    except re.error:
        return "[^/]" if negated else "(?!)"
    return regex
