"""Which pictures of a folder, or of another home, does this home have already?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting, NoSuchPath, UnreadableImage
from simile.core.records import Failure
from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.records import TIERS, CleanupPlan, Removal
from simile.dedup.reporting.exports import write_csv
from simile.images.sources import archives
from simile.images.sources.reader import read_bytes
from simile.images.sources.sources import walk_sources
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home

COMPARISON_COLUMNS = ("path", "tier", "match", "image_id", "distance", "agreement", "reason")
NOT_FOUND_TIER = "not found"
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FileMatches:
    """One file, with the pictures of the home that it is a copy of, the surest first; none: the home lacks it."""

    path: str
    sha256: str
    size: int
    matches: tuple[ImageMatch, ...]


@dataclass(frozen=True)
class SourceComparison:
    """What came of it. failures: files that could not be read; nothing is known of them."""

    source: str
    files: list[FileMatches] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def files_with_matches(self) -> list[FileMatches]:
        return [one for one in self.files if one.matches]


def compare_source(searcher: Searcher, source: Path, on_progress: OnProgress) -> SourceComparison:
    """Looks every picture of the source up in the searcher's home: a folder, a file, an archive, or another home.

    Pictures are read anew, whatever encoder made the other home's vectors. A file is never found as itself: what lies
    in the source does not count as a match. Raises NoSuchPath, BadSetting, NothingIndexed.
    """
    paths, failures = _list_source_files(source, searcher.home)
    if not paths and not failures:
        raise BadSetting(f"against can't be {source}: it holds no pictures. Name another folder, or a home.")
    found = SourceComparison(str(source), [], failures)
    is_outside = _make_outside_test(source, paths)
    for number, path in enumerate(paths):
        try:
            found.files.append(_match_file(searcher, path, is_outside))
        except UnreadableImage as error:
            found.failures.append(Failure(path, error.reason))
        on_progress("comparing", number + 1, len(paths))
    return found


def make_source_plan(comparison: SourceComparison, searcher: Searcher) -> CleanupPlan:
    """The source's files may go where this home has a copy; the home's stay."""
    uploads = str(searcher.home.uploads)
    removals = [
        removal
        for one in comparison.files_with_matches
        if not is_protected(one.path, uploads) and (removal := _make_source_removal(one, searcher, uploads)) is not None
    ]
    return CleanupPlan(tuple(removals), (), datetime.now(UTC).isoformat(timespec="seconds"), str(searcher.home.root))


def comparison_to_json(comparison: SourceComparison) -> dict[str, object]:
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
            for one in comparison.files
        ],
        "failures": [vars(failure) for failure in comparison.failures],
        "found": len(comparison.files_with_matches),
        "not_found": len(comparison.files) - len(comparison.files_with_matches),
    }


def iterate_comparison_rows(comparison: SourceComparison) -> Iterator[tuple[object, ...]]:
    """Rows of COLUMNS: one for each match, one for a file without any."""
    for one in comparison.files:
        for match in one.matches:
            agreement = "" if match.agreement is None else match.agreement
            yield one.path, match.tier, match.path, match.image_id, match.distance, agreement, match.reason
        if not one.matches:
            yield one.path, NOT_FOUND_TIER, "", "", "", "", ""
    for failure in comparison.failures:
        yield failure.path, "unreadable", "", "", "", "", failure.reason


def write_comparison(path: Path, comparison: SourceComparison) -> None:
    """As .csv or .json. Raises BadSetting."""

    def write(at: Path) -> None:
        if path.suffix.lower() == ".csv":
            write_csv(at, COMPARISON_COLUMNS, iterate_comparison_rows(comparison))
        else:
            at.write_text(json.dumps(comparison_to_json(comparison), ensure_ascii=False, allow_nan=False), "utf-8")

    try:
        write_atomically(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def _list_source_files(source: Path, home: Home) -> tuple[list[str], list[Failure]]:
    """The files of a folder, or those that another home has indexed."""
    if not os.path.lexists(source):
        raise NoSuchPath(source)
    other = Home(source)
    if other.root.resolve() == home.root.resolve():
        raise BadSetting(f"against can't be {source}: that is this home itself. Name another one, or leave it out.")
    if not other.catalogue_path.is_file():
        found = walk_sources([source], skip=[home.root])
        return [file.path for file in found.files], list(found.failures)
    schema.check_schema(other)
    with Catalogue(other) as catalogue:
        return [row.path for row in catalogue.duplicates.iterate_files()], []


def _make_outside_test(source: Path, paths: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path does not belong to what is compared."""
    folder, given = str(Path(os.path.abspath(source))), frozenset(paths)  # noqa: PTH100  # as walk() names files
    return lambda path: path not in given and not f"{path}{os.sep}".startswith(folder + os.sep)


def _match_file(searcher: Searcher, path: str, is_outside: Callable[[str], bool]) -> FileMatches:
    inside = archives.read_archive_member(path, searcher.limits)
    data = read_bytes(Path(path), searcher.limits) if inside is None else inside
    matches = [match for match in find_existing_copies(searcher, data, path) if match.tier != "similar"]
    known = searcher.catalogue.images.get_many([match.image_id for match in matches])
    kept = []
    for match in matches:
        others = (
            [other for other in known[match.image_id].paths if is_outside(other)] if match.image_id in known else []
        )
        if others:
            kept.append(replace(match, path=match.path if match.path in others else others[0]))
    ordered = sorted(kept, key=lambda match: (TIERS.index(match.tier), match.distance, match.path))
    return FileMatches(path, hashlib.sha256(data).hexdigest(), len(data), tuple(ordered))


def _make_source_removal(file_matches: FileMatches, searcher: Searcher, uploads: str) -> Removal | None:
    """The file, kept for it the surest match that a plan may rely on."""
    match = next((match for match in file_matches.matches if not is_protected(match.path, uploads)), None)
    if match is None:
        return None
    kept = searcher.catalogue.images.get(match.image_id)
    group = hashlib.sha256(f"{file_matches.path}\0{match.path}".encode()).hexdigest()[:16]
    return Removal(
        file_matches.path,
        file_matches.sha256,
        match.path,
        kept.sha256,
        match.tier,
        group,
        f"{match.reason}; in the home",
    )
