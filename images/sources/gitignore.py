"""Patterns of paths, as .gitignore has them: which files a person wants and which not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class PathPatterns:
    """`include`: only what matches one of these; `exclude`: nothing that matches one of these.

    Held against the path below the source that was named. A pattern without a slash matches a file or a folder at any
    depth; with one it starts at the source. `*` and `?` stop at a slash, `**` does not; a slash at the end means a
    folder. What lies in a folder that matches matches too.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def allows_file(self, path: str) -> bool:
        """Whether a file at this path, relative to its source, is wanted."""
        if self._exclude_regex is not None and self._exclude_regex.match(path):
            return False
        return self._include_regex is None or self._include_regex.match(path) is not None

    def allows_folder(self, folder: str) -> bool:
        """False for a folder of which no file can be wanted."""
        return self._exclude_regex is None or not self._exclude_regex.match(folder + "/")

    @cached_property
    def _include_regex(self) -> re.Pattern[str] | None:
        return _compile_any(self.include)

    @cached_property
    def _exclude_regex(self) -> re.Pattern[str] | None:
        return _compile_any(self.exclude)


def _compile_any(patterns: Iterable[str]) -> re.Pattern[str] | None:
    parts = [_anchor_pattern(pattern) for pattern in patterns]
    return re.compile("|".join(parts), re.DOTALL) if parts else None


def _anchor_pattern(pattern: str) -> str:
    folder = pattern.endswith("/")
    body = pattern.strip("/")
    anywhere = "" if "/" in body or pattern.startswith("/") else "(?:.*/)?"
    return f"{anywhere}{pattern_to_regex(body)}{'/' if folder else '(?:/|$)'}"


def pattern_to_regex(pattern: str) -> str:
    """The pattern as a regular expression, to be matched from the start of a path."""
    made, at = "", 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/"):
            made, at = made + "(?:.*/)?", at + 3
        elif rest.startswith("**"):
            made, at = made + ".*", at + 2
        elif found := re.match(r"\[(!?)([^/]+?)\]", rest):  # [a-z], [!0-9]
            made, at = made + _make_character_class(found[2], negated=bool(found[1])), at + found.end()
        else:
            made, at = made + {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0])), at + 1
    return made


def _make_character_class(characters: str, *, negated: bool) -> str:
    """One character of these, or none of these; a slash never. A range from back to front, [z-a], holds nothing."""
    inside = characters.replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[")
    made = f"(?!/)[{'^' if negated else ''}{inside}]"
    try:
        re.compile(made)
    except re.error:
        return "[^/]" if negated else "(?!)"
    return made
