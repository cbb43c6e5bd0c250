"""Which pictures of a folder, or of another home, does this home have already?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting, NoSuchPath, UnreadableImage
from simile.core.records import Failure
from simile.dedup.detection.lookup import Match, have_already
from simile.dedup.grouping.keep_rules import is_fixed
from simile.dedup.records import TIERS, Plan, Removal
from simile.dedup.reporting.exports import write_csv
from simile.images.sources import archives
from simile.images.sources.reader import read_bytes
from simile.images.sources.sources import walk
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home

COLUMNS = ("path", "tier", "match", "image_id", "distance", "agreement", "reason")
NOT_FOUND = "not found"
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Checked:
    """One file, with the pictures of the home that it is a copy of, the surest first; none: the home lacks it."""

    path: str
    sha256: str
    size: int
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Comparison:
    """What came of it. failures: files that could not be read; nothing is known of them."""

    source: str
    checked: list[Checked] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def found(self) -> list[Checked]:
        return [one for one in self.checked if one.matches]


def compare_with(searcher: Searcher, source: Path, on_progress: OnProgress) -> Comparison:
    """Looks every picture of the source up in the searcher's home: a folder, a file, an archive, or another home.

    Pictures are read anew, whatever encoder made the other home's vectors. A file is never found as itself: what lies
    in the source does not count as a match. Raises NoSuchPath, BadSetting, NothingIndexed.
    """
    paths, failures = _files(source, searcher.home)
    if not paths and not failures:
        raise BadSetting(f"against can't be {source}: it holds no pictures. Name another folder, or a home.")
    found = Comparison(str(source), [], failures)
    is_outside = _outside(source, paths)
    for number, path in enumerate(paths):
        try:
            found.checked.append(_look_up(searcher, path, is_outside))
        except UnreadableImage as error:
            found.failures.append(Failure(path, error.reason))
        on_progress("comparing", number + 1, len(paths))
    return found


def plan_against(comparison: Comparison, searcher: Searcher) -> Plan:
    """The source's files may go where this home has a copy; the home's stay."""
    uploads = str(searcher.home.uploads)
    removals = [
        removal
        for one in comparison.found
        if not is_fixed(one.path, uploads) and (removal := _removal(one, searcher, uploads)) is not None
    ]
    return Plan(tuple(removals), (), datetime.now(UTC).isoformat(timespec="seconds"), str(searcher.home.root))


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """Fit for JSON: each file with its matches, the files that could not be read, counts."""
    return {
        "against": comparison.source,
        "files": [
            {
                "path": one.path,
                "sha256": one.sha256,
                "size": one.size,
                "matches": [vars(match) for match in one.matches],
            }
            for one in comparison.checked
        ],
        "failures": [vars(failure) for failure in comparison.failures],
        "found": len(comparison.found),
        "not_found": len(comparison.checked) - len(comparison.found),
    }


def comparison_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    """Rows of COLUMNS: one for each match, one for a file without any."""
    for one in comparison.checked:
        for match in one.matches:
            agreement = "" if match.agreement is None else match.agreement
            yield one.path, match.tier, match.path, match.image_id, match.distance, agreement, match.reason
        if not one.matches:
            yield one.path, NOT_FOUND, "", "", "", "", ""
    for failure in comparison.failures:
        yield failure.path, "unreadable", "", "", "", "", failure.reason


def write_comparison(path: Path, comparison: Comparison) -> None:
    """As .csv or .json. Raises BadSetting."""

    def write(at: Path) -> None:
        if path.suffix.lower() == ".csv":
            write_csv(at, COLUMNS, comparison_rows(comparison))
        else:
            at.write_text(json.dumps(comparison_json(comparison), ensure_ascii=False, allow_nan=False), "utf-8")

    try:
        write_durably(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def _files(source: Path, home: Home) -> tuple[list[str], list[Failure]]:
    """The files of a folder, or those that another home has indexed."""
    if not os.path.lexists(source):
        raise NoSuchPath(source)
    other = Home(source)
    if other.root.resolve() == home.root.resolve():
        raise BadSetting(f"against can't be {source}: that is this home itself. Name another one, or leave it out.")
    if not other.catalogue.is_file():
        found = walk([source], skip=[home.root])
        return [file.path for file in found.files], list(found.failures)
    schema.check(other)
    with Catalogue(other) as catalogue:
        return [row.path for row in catalogue.located()], []


def _outside(source: Path, paths: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path does not belong to what is compared."""
    folder, given = str(Path(os.path.abspath(source))), frozenset(paths)  # noqa: PTH100  # as walk() names files
    return lambda path: path not in given and not f"{path}{os.sep}".startswith(folder + os.sep)


def _look_up(searcher: Searcher, path: str, is_outside: Callable[[str], bool]) -> Checked:
    inside = archives.read_member(path, searcher.limits)
    data = read_bytes(Path(path), searcher.limits) if inside is None else inside
    matches = [match for match in have_already(searcher, data, path) if match.tier != "similar"]
    known = searcher.catalogue.images([match.image_id for match in matches])
    kept = []
    for match in matches:
        others = (
            [other for other in known[match.image_id].paths if is_outside(other)] if match.image_id in known else []
        )
        if others:
            kept.append(replace(match, path=match.path if match.path in others else others[0]))
    ordered = sorted(kept, key=lambda match: (TIERS.index(match.tier), match.distance, match.path))
    return Checked(path, hashlib.sha256(data).hexdigest(), len(data), tuple(ordered))


def _removal(one: Checked, searcher: Searcher, uploads: str) -> Removal | None:
    """The file, kept for it the surest match that a plan may rely on."""
    match = next((match for match in one.matches if not is_fixed(match.path, uploads)), None)
    if match is None:
        return None
    kept = searcher.catalogue.image(match.image_id)
    group = hashlib.sha256(f"{one.path}\0{match.path}".encode()).hexdigest()[:16]
    return Removal(one.path, one.sha256, match.path, kept.sha256, match.tier, group, f"{match.reason}; in the home")
