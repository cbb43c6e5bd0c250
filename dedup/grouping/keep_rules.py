"""Rules that choose which file of a group to keep. The first rule that distinguishes two files decides.

largest            the most pixels
least-compressed   colours, bits and transparency that are really there, then the weakest traces of compression, a
                   lossless codec, and the most bytes per pixel of one codec; not what the format's name promises
oldest             the earliest modification time
under:FOLDER       files in this folder or archive
labelled           files with labels from a manifest

Before all rules, ordinary files are preferred to files in archives and uploads, which no plan may touch. After all
rules, the shortest path is kept, then the first in alphabetical order; so two files are never equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import log2
from typing import Any

from simile.core.errors import BadSetting
from simile.dedup.grouping.quality import MIN_CHROMA, MIN_STEP, is_reencoded
from simile.dedup.records import ImageFile
from simile.images.sources import archives
from simile.images.sources.buckets import is_remote
from simile.images.sources.real_folders import RealFolder, describe_nearest_folders, make_absolute_folder

DEFAULT_KEEP_RULES = ("largest", "least-compressed", "oldest")
UNDER_PREFIX = "under:"


@dataclass(frozen=True)
class KeepRule:
    """One rule."""

    get_key: Callable[[ImageFile], Any]  # the file with the smaller key is kept
    explain: Callable[[ImageFile, ImageFile], str]  # says what is better about the first of two files


class KeepRanking:
    """The order in which files of a group are kept."""

    def __init__(self, rules: Sequence[str] = DEFAULT_KEEP_RULES, uploads_folder: str = "") -> None:
        """Parse the rules. Raises BadSetting for an unknown rule."""
        is_file_protected = cache(partial(is_protected, uploads_folder=uploads_folder))  # called often per path
        self._rules = [
            KeepRule(lambda file: is_file_protected(file.path), lambda *_: "a single file, outside of archives"),
            *map(_find_rule, parse_keep_rules(rules)),
            KeepRule(lambda file: len(file.path), lambda *_: "shorter path"),
            KeepRule(lambda file: file.path, lambda *_: "first in alphabetical order"),
        ]

    def get_sort_key(self, file: ImageFile) -> tuple[Any, ...]:
        """Return a sort key; the file to keep has the smallest key."""
        return tuple(rule.get_key(file) for rule in self._rules)

    def sort(self, files: Iterable[ImageFile]) -> list[ImageFile]:
        """Sort the files, the file to keep first."""
        return sorted(files, key=self.get_sort_key)

    def choose_kept(self, files: Sequence[ImageFile]) -> ImageFile:
        """Return the file to keep of at least one file."""
        return files[0] if len(files) == 1 else min(files, key=self.get_sort_key)

    def explain(self, kept_file: ImageFile, other_file: ImageFile) -> str:
        """Say why the first file is kept instead of the second."""
        for rule in self._rules:
            kept_key, other_key = rule.get_key(kept_file), rule.get_key(other_file)
            if kept_key < other_key:
                return rule.explain(kept_file, other_file)
            if kept_key > other_key:
                break
        return "it matches all the others directly"  # the rules prefer the other file, which does not


def parse_keep_rules(texts: Iterable[str]) -> tuple[str, ...]:
    """Parse rules, each text one rule or several separated by commas. Raises BadSetting for an unknown rule."""
    rules = []
    for rule in (rule for text in texts for rule in _split_rules(text)):
        folder = rule.removeprefix(UNDER_PREFIX)
        if rule in _KEEP_RULES:
            rules.append(rule)
        elif folder == rule:
            raise BadSetting(f"keep can't be {rule!r}. Use {', '.join(_KEEP_RULES)} or {UNDER_PREFIX}FOLDER.")
        elif not folder:
            raise BadSetting(f"keep can't be {rule!r}: it names no folder. Use {UNDER_PREFIX}FOLDER.")
        else:
            rules.append(UNDER_PREFIX + make_absolute_folder(folder))
    return tuple(dict.fromkeys(rules))


def is_protected(path: str, uploads_folder: str) -> bool:
    """Return whether no plan may touch the file: it is in an archive or a bucket, or simile stored it as an upload."""
    parent = os.path.dirname(path)  # noqa: PTH120  # called for every file; a Path is slower
    return parent == uploads_folder or is_remote(path) or archives.split_member_path(path) is not None


def _format_modified_time(file: ImageFile) -> str:
    """Format the modification time in UTC, to the second."""
    return f"{file.modified_at:%Y-%m-%d %H:%M:%S}"


def _split_rules(text: str) -> list[str]:
    """Split at commas, except at a comma that belongs to the folder's name after `under:`."""
    rules: list[str] = []
    for part in text.split(","):
        is_rule = part.strip() in _KEEP_RULES or part.strip().startswith(UNDER_PREFIX)
        if rules and rules[-1].startswith(UNDER_PREFIX) and not is_rule:
            rules[-1] += "," + part
        elif part.strip():
            rules.append(part.strip())
    return rules


def _find_rule(name: str) -> KeepRule:
    """Return the rule of a parsed name."""
    if not name.startswith(UNDER_PREFIX):
        return _KEEP_RULES[name]
    folder = RealFolder(name.removeprefix(UNDER_PREFIX))
    return KeepRule(lambda file: not folder.contains(file.path), lambda *_: f"in {folder.path}")


def check_keep_folders(rules: Iterable[str], paths: Iterable[str]) -> None:
    """Raise BadSetting for a rule `under:FOLDER` that no path of the collection is in: it would protect nothing."""
    folders = (RealFolder(rule.removeprefix(UNDER_PREFIX)) for rule in rules if rule.startswith(UNDER_PREFIX))
    missing = list(folders)
    known: set[str] = set()
    for path in paths if missing else ():
        missing = [folder for folder in missing if not folder.contains(path)]
        if not missing:
            return
        known.add(os.path.dirname(path))  # noqa: PTH120  # called for every file
    for folder in missing:
        nearest = describe_nearest_folders(folder.path, known)
        raise BadSetting(f"keep can't be 'under:{folder.path}': no indexed file is in that folder. {nearest}")


def _compute_bytes_per_pixel(file: ImageFile) -> float:
    return file.size / max(1, file.width * file.height)


def _get_compression_key(file: ImageFile) -> tuple[float, ...]:
    """Return the respects of _COMPRESSION_REASONS, each the smaller the better."""
    measurement = file.measurement
    if measurement is None:
        return tuple([0.0] * len(_COMPRESSION_REASONS))
    colour_class = sum(measurement.colours <= limit for limit in (64, 512))
    codec_rank = _CODECS.index(measurement.codec) if measurement.codec in _CODECS else len(_CODECS)
    return (
        measurement.chroma[0] < MIN_CHROMA,
        colour_class,
        -measurement.depth,
        not measurement.has_alpha,
        -measurement.frames,
        round(2 * log2(max(MIN_STEP, measurement.step))),
        is_reencoded(measurement),
        measurement.codec != "lossless",
        codec_rank,
        -_compute_bytes_per_pixel(file),
    )


def _explain_compression(kept_file: ImageFile, other_file: ImageFile) -> str:
    keys = zip(_get_compression_key(kept_file), _get_compression_key(other_file), strict=True)
    position = next(number for number, (kept_key, other_key) in enumerate(keys) if kept_key != other_key)
    return _COMPRESSION_REASONS[position](kept_file, other_file)


def _explain_rates(kept_file: ImageFile, other_file: ImageFile) -> str:
    kept_rate, other_rate = _compute_bytes_per_pixel(kept_file), _compute_bytes_per_pixel(other_file)
    return f"less compressed: {kept_rate:.3g} bytes per pixel, not {other_rate:.3g}"


# Lossy codecs are not compared by their bytes; a user decides. The first is shown as the one to keep.
_CODECS = ("lossless", "heif", "jpeg", "jpeg2000", "webp", "avif")
_COMPRESSION_REASONS: tuple[Callable[[ImageFile, ImageFile], str], ...] = (
    lambda *_: "in colour, not grey",
    lambda *_: "more different colours",
    lambda *_: "more bits per channel",
    lambda *_: "with transparency",
    lambda *_: "more frames, pages or images",
    lambda *_: "weaker traces of JPEG compression",
    lambda *_: "not compressed again",
    lambda kept, other: f"lossless: {kept.format}, not {other.format}",
    lambda kept, other: f"{kept.format} rather than {other.format}: their quality can't be compared",
    _explain_rates,
)
_KEEP_RULES = {
    "largest": KeepRule(
        lambda file: -file.width * file.height,
        lambda kept, other: f"larger: {kept.width}×{kept.height}, not {other.width}×{other.height}",
    ),
    "least-compressed": KeepRule(_get_compression_key, _explain_compression),
    "oldest": KeepRule(
        lambda file: file.mtime_ns,
        lambda kept, other: f"older: {_format_modified_time(kept)}, not {_format_modified_time(other)}",
    ),
    "labelled": KeepRule(lambda file: not file.labels, lambda *_: "it has labels from a manifest"),
}
