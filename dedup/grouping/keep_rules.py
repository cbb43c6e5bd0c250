"""Which file of a group to keep: rules, asked in order until one tells the files apart.

largest            the most pixels
least-compressed   a format without loss, then the most bytes for a pixel
oldest             modified first
under:FOLDER       the files in this folder or archive
labelled           the files that a manifest says something of

Before all of them: a file of its own, not one in an archive or an upload, which no plan may remove. After all of them:
the shortest path, then the first by the alphabet; so two files are never equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from simile.core.errors import BadSetting
from simile.dedup.records import ImageFile
from simile.images.sources import archives

DEFAULT_KEEP_RULES = ("largest", "least-compressed", "oldest")
LOSSLESS_FORMATS = frozenset({"png", "bmp", "tiff", "ppm", "qoi", "tga", "pcx"})
UNDER_PREFIX = "under:"


@dataclass(frozen=True)
class KeepRule:
    """One question. key: the smaller, the better. words: what is better about the first of two files."""

    get_key: Callable[[ImageFile], Any]
    explain: Callable[[ImageFile, ImageFile], str]


class KeepRanking:
    """The order in which files of a group are kept. `uploads`: the folder of files that simile stored itself."""

    def __init__(self, rules: Sequence[str] = DEFAULT_KEEP_RULES, uploads: str = "") -> None:
        """Raises BadSetting for a rule that is none."""
        fixed = cache(partial(is_protected, uploads_folder=uploads))  # asked again and again
        loose = KeepRule(lambda file: fixed(file.path), lambda *_: "a file of its own, outside archives")
        self._rules = [
            loose,
            *(_find_rule(name) for name in parse_keep_rules(rules)),
            _SHORTEST_PATH_RULE,
            _ALPHABETICAL_RULE,
        ]

    def get_sort_key(self, file: ImageFile) -> tuple[Any, ...]:
        """For sorting: the one to keep comes first."""
        return tuple(rule.get_key(file) for rule in self._rules)

    def sort(self, files: Iterable[ImageFile]) -> list[ImageFile]:
        """The files, the one to keep first."""
        return sorted(files, key=self.get_sort_key)

    def choose_kept(self, files: Sequence[ImageFile]) -> ImageFile:
        """The one to keep, of one at least."""
        return files[0] if len(files) == 1 else min(files, key=self.get_sort_key)

    def explain(self, kept_file: ImageFile, other_file: ImageFile) -> str:
        """Why the one is kept rather than the other: the first rule that tells them apart."""
        for rule in self._rules:
            if rule.get_key(kept_file) < rule.get_key(other_file):
                return rule.explain(kept_file, other_file)
            if rule.get_key(kept_file) > rule.get_key(other_file):
                break
        return "it matches all the others directly"  # the rules would keep the other one, which does not


def parse_keep_rules(texts: Iterable[str]) -> tuple[str, ...]:
    """The rules that are named, one by one or several behind commas. Raises BadSetting."""
    rules: list[str] = []
    for part in (part for text in texts for part in _split_rules(text)):
        rule = (
            UNDER_PREFIX + os.path.abspath(part.removeprefix(UNDER_PREFIX)) if part.startswith(UNDER_PREFIX) else part  # noqa: PTH100
        )
        if not part.startswith(UNDER_PREFIX) and part not in _KEEP_RULES:
            raise BadSetting(f"keep can't be {part!r}. Use {', '.join(_KEEP_RULES)} or {UNDER_PREFIX}FOLDER.")
        if part == UNDER_PREFIX:
            raise BadSetting(f"keep can't be {part!r}: it names no folder. Write {UNDER_PREFIX}FOLDER.")
        rules.append(rule)
    return tuple(dict.fromkeys(rules))


def is_protected(path: str, uploads_folder: str) -> bool:
    """Whether no plan may touch the file: it lies in an archive, or simile stored it itself."""
    return os.path.dirname(path) == uploads_folder or archives.split_member_path(path) is not None  # noqa: PTH120  # for every file


def format_modified_time(file: ImageFile) -> str:
    """When it was last modified, in UTC, to the second."""
    return f"{file.modified_at:%Y-%m-%d %H:%M:%S}"


def _split_rules(text: str) -> list[str]:
    """What stands between the commas; behind `under:` a comma may belong to the folder's name."""
    parts: list[str] = []
    for part in text.split(","):
        known = part.strip() in _KEEP_RULES or part.strip().startswith(UNDER_PREFIX)
        if parts and parts[-1].startswith(UNDER_PREFIX) and not known:
            parts[-1] += "," + part
        elif part.strip():
            parts.append(part.strip())
    return parts


def _find_rule(name: str) -> KeepRule:
    return _make_under_rule(name.removeprefix(UNDER_PREFIX)) if name.startswith(UNDER_PREFIX) else _KEEP_RULES[name]


def _make_under_rule(folder: str) -> KeepRule:
    inside = folder.rstrip(os.sep) + os.sep
    return KeepRule(lambda file: not f"{file.path}{os.sep}".startswith(inside), lambda *_: f"in {folder}")


def _compute_bytes_per_pixel(file: ImageFile) -> float:
    return file.size / max(1, file.width * file.height)


def _get_compression_key(file: ImageFile) -> tuple[bool, float]:
    return file.format not in LOSSLESS_FORMATS, -_compute_bytes_per_pixel(file)


def _explain_compression(kept_file: ImageFile, other_file: ImageFile) -> str:
    if _get_compression_key(kept_file)[0] != _get_compression_key(other_file)[0]:
        return f"without loss: {kept_file.format}, not {other_file.format}"
    return f"less compressed: {_compute_bytes_per_pixel(kept_file):.3g} bytes a pixel, not {_compute_bytes_per_pixel(other_file):.3g}"


_KEEP_RULES = {
    "largest": KeepRule(
        lambda file: -file.width * file.height,
        lambda kept, other: f"larger: {kept.width}×{kept.height}, not {other.width}×{other.height}",
    ),
    "least-compressed": KeepRule(_get_compression_key, _explain_compression),
    "oldest": KeepRule(
        lambda file: file.mtime_ns,
        lambda kept, other: f"older: {format_modified_time(kept)}, not {format_modified_time(other)}",
    ),
    "labelled": KeepRule(lambda file: not file.labels, lambda *_: "a manifest says something of it"),
}
_SHORTEST_PATH_RULE = KeepRule(lambda file: len(file.path), lambda *_: "shorter path")
_ALPHABETICAL_RULE = KeepRule(lambda file: file.path, lambda *_: "first by the alphabet")
