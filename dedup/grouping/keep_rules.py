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
from simile.dedup.records import PictureFile
from simile.images.sources import archives

DEFAULT_RULES = ("largest", "least-compressed", "oldest")
WITHOUT_LOSS = frozenset({"png", "bmp", "tiff", "ppm", "qoi", "tga", "pcx"})
UNDER = "under:"


@dataclass(frozen=True)
class Rule:
    """One question. key: the smaller, the better. words: what is better about the first of two files."""

    key: Callable[[PictureFile], Any]
    words: Callable[[PictureFile, PictureFile], str]


class Ranking:
    """The order in which files of a group are kept. `uploads`: the folder of files that simile stored itself."""

    def __init__(self, rules: Sequence[str] = DEFAULT_RULES, uploads: str = "") -> None:
        """Raises BadSetting for a rule that is none."""
        fixed = cache(partial(is_fixed, uploads=uploads))  # asked again and again
        loose = Rule(lambda file: fixed(file.path), lambda *_: "a file of its own, outside archives")
        self._rules = [loose, *(_rule(name) for name in read_rules(rules)), _SHORTEST, _ALPHABET]

    def key(self, file: PictureFile) -> tuple[Any, ...]:
        """For sorting: the one to keep comes first."""
        return tuple(rule.key(file) for rule in self._rules)

    def sorted(self, files: Iterable[PictureFile]) -> list[PictureFile]:
        """The files, the one to keep first."""
        return sorted(files, key=self.key)

    def best(self, files: Sequence[PictureFile]) -> PictureFile:
        """The one to keep, of one at least."""
        return files[0] if len(files) == 1 else min(files, key=self.key)

    def why(self, kept: PictureFile, other: PictureFile) -> str:
        """Why the one is kept rather than the other: the first rule that tells them apart."""
        for rule in self._rules:
            if rule.key(kept) < rule.key(other):
                return rule.words(kept, other)
            if rule.key(kept) > rule.key(other):
                break
        return "it matches all the others directly"  # the rules would keep the other one, which does not


def read_rules(texts: Iterable[str]) -> tuple[str, ...]:
    """The rules that are named, one by one or several behind commas. Raises BadSetting."""
    rules: list[str] = []
    for part in (part for text in texts for part in _parts(text)):
        rule = UNDER + os.path.abspath(part.removeprefix(UNDER)) if part.startswith(UNDER) else part  # noqa: PTH100
        if not part.startswith(UNDER) and part not in _RULES:
            raise BadSetting(f"keep can't be {part!r}. Use {', '.join(_RULES)} or {UNDER}FOLDER.")
        if part == UNDER:
            raise BadSetting(f"keep can't be {part!r}: it names no folder. Write {UNDER}FOLDER.")
        rules.append(rule)
    return tuple(dict.fromkeys(rules))


def is_fixed(path: str, uploads: str) -> bool:
    """Whether no plan may touch the file: it lies in an archive, or simile stored it itself."""
    return os.path.dirname(path) == uploads or archives.split(path) is not None  # noqa: PTH120  # for every file


def date_of(file: PictureFile) -> str:
    """When it was last modified, in UTC, to the second."""
    return f"{file.modified:%Y-%m-%d %H:%M:%S}"


def _parts(text: str) -> list[str]:
    """What stands between the commas; behind `under:` a comma may belong to the folder's name."""
    parts: list[str] = []
    for part in text.split(","):
        known = part.strip() in _RULES or part.strip().startswith(UNDER)
        if parts and parts[-1].startswith(UNDER) and not known:
            parts[-1] += "," + part
        elif part.strip():
            parts.append(part.strip())
    return parts


def _rule(name: str) -> Rule:
    return _under(name.removeprefix(UNDER)) if name.startswith(UNDER) else _RULES[name]


def _under(folder: str) -> Rule:
    inside = folder.rstrip(os.sep) + os.sep
    return Rule(lambda file: not f"{file.path}{os.sep}".startswith(inside), lambda *_: f"in {folder}")


def _bytes_per_pixel(file: PictureFile) -> float:
    return file.size / max(1, file.width * file.height)


def _compressed(file: PictureFile) -> tuple[bool, float]:
    return file.format not in WITHOUT_LOSS, -_bytes_per_pixel(file)


def _less_compressed(kept: PictureFile, other: PictureFile) -> str:
    if _compressed(kept)[0] != _compressed(other)[0]:
        return f"without loss: {kept.format}, not {other.format}"
    return f"less compressed: {_bytes_per_pixel(kept):.3g} bytes a pixel, not {_bytes_per_pixel(other):.3g}"


_RULES = {
    "largest": Rule(
        lambda file: -file.width * file.height,
        lambda kept, other: f"larger: {kept.width}×{kept.height}, not {other.width}×{other.height}",
    ),
    "least-compressed": Rule(_compressed, _less_compressed),
    "oldest": Rule(lambda file: file.mtime_ns, lambda kept, other: f"older: {date_of(kept)}, not {date_of(other)}"),
    "labelled": Rule(lambda file: not file.labels, lambda *_: "a manifest says something of it"),
}
_SHORTEST = Rule(lambda file: len(file.path), lambda *_: "shorter path")
_ALPHABET = Rule(lambda file: file.path, lambda *_: "first by the alphabet")
