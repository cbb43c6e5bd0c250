"""Find which images of a folder, or of another home, this home already has."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from simile.core.errors import BadSetting, NoSuchImage, NoSuchPath, UnreadableImage
from simile.core.records import Failure, OnProgress
from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.grouping.pair_changes import explain_changes
from simile.dedup.grouping.quality import find_loss
from simile.dedup.records import TIERS, CleanupPlan, ImageFile, Removal
from simile.dedup.reporting.exports import dump_json, write_csv, write_output
from simile.images.measurement import measure_image
from simile.images.sources import archives
from simile.images.sources.paths import make_printable
from simile.images.sources.reader import read_bytes
from simile.images.sources.real_folders import RealFolder
from simile.images.sources.sources import walk_sources
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home

log = logging.getLogger(__name__)

COMPARISON_COLUMNS = ("path", "tier", "match", "image_id", "distance", "agreement", "reason")
NOT_FOUND_TIER = "not found"


@dataclass(frozen=True)
class FileMatches:
    """One file with its copies in the home, the most certain first; no copies: the home does not have it."""

    path: str
    sha256: str
    size: int
    matches: tuple[ImageMatch, ...]


@dataclass(frozen=True)
class SourceComparison:
    """The compared files, and the failures: files that could not be read and of which nothing is known."""

    source: str
    files: list[FileMatches] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def files_with_matches(self) -> list[FileMatches]:
        """Return the files that the home has."""
        return [file for file in self.files if file.matches]


def compare_source(searcher: Searcher, source: Path, on_progress: OnProgress) -> SourceComparison:
    """Look up every image of a source in the searcher's home.

    All images are encoded with this home's encoder, whatever encoder the other home uses. Files of the source that are
    also indexed in this home don't count as matches.

    Args:
        source: A folder, a file, an archive, or another home.

    Raises NoSuchPath, BadSetting for a source without images or this home itself, NothingIndexed without an encoder.
    """
    paths, failures = _list_source_files(source, searcher.home)
    if not paths and not failures:
        raise BadSetting(f"against can't be {source}: it contains no images. Name another folder, or a home.")
    comparison = SourceComparison(str(source), [], failures)
    folder, source_paths = RealFolder(str(source)), frozenset(paths)

    def is_outside(path: str) -> bool:
        return path not in source_paths and not folder.contains(path)

    for done, path in enumerate(paths, 1):
        try:
            comparison.files.append(_match_file(searcher, path, is_outside))
        except UnreadableImage as error:
            comparison.failures.append(Failure(path, error.reason))
        on_progress("comparing", done, len(paths))
    return comparison


def make_source_plan(comparison: SourceComparison, searcher: Searcher) -> CleanupPlan:
    """Plan to remove the source's files of which this home has a copy; the home's files stay.

    A file stays, too, if it is better than the home's in some respect.
    """
    removals = (_make_removal(file, searcher) for file in comparison.files_with_matches)
    return CleanupPlan(
        removals=tuple(removal for removal in removals if removal is not None),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        home=str(searcher.home.root),
    )


def comparison_to_json(comparison: SourceComparison) -> dict[str, object]:
    """Return the comparison as JSON: each file with its matches, failures and counts."""
    return {
        "against": comparison.source,
        "files": [{**vars(file), "matches": [vars(match) for match in file.matches]} for file in comparison.files],
        "failures": [vars(failure) for failure in comparison.failures],
        "found": len(comparison.files_with_matches),
        "not_found": len(comparison.files) - len(comparison.files_with_matches),
    }


def iterate_comparison_rows(comparison: SourceComparison) -> Iterator[tuple[object, ...]]:
    """Yield rows of COMPARISON_COLUMNS: one for each match, one for each file without a match or that failed."""
    for file in comparison.files:
        for match in file.matches:
            values = match.tier, match.path, match.image_id, match.distance, match.agreement, match.reason
            yield file.path, *values
        if not file.matches:
            yield file.path, NOT_FOUND_TIER, "", "", "", "", ""
    for failure in comparison.failures:
        yield failure.path, "unreadable", "", "", "", "", failure.reason


def write_comparison(path: Path, comparison: SourceComparison) -> None:
    """Write .csv or .json, completely or not at all. Raises BadSetting."""

    def write(temporary: Path) -> None:
        if path.suffix.lower() == ".csv":
            write_csv(temporary, COMPARISON_COLUMNS, iterate_comparison_rows(comparison))
        else:
            temporary.write_text(dump_json(comparison_to_json(comparison)), "utf-8")

    write_output(path, write)


def _list_source_files(source: Path, home: Home) -> tuple[list[str], list[Failure]]:
    """List the files of a folder, or the files that another home has indexed."""
    if not os.path.lexists(source):
        raise NoSuchPath(source)
    other = Home(source)
    if other.root.resolve() == home.root.resolve():
        raise BadSetting(f"against can't be {source}: it is this home itself. Name another home, or omit the option.")
    if not other.catalogue_path.is_file():
        scan = walk_sources([source], skip=[home.root])
        return [file.path for file in scan.files], list(scan.failures)
    schema.check_schema(other)
    with Catalogue(other) as catalogue:
        return [path for block in catalogue.files.iterate_under(os.sep) for path, *_ in block], []


def _match_file(searcher: Searcher, path: str, is_outside: Callable[[str], bool]) -> FileMatches:
    """Look up one file; a match counts if one of its files is outside of the source."""
    member = archives.read_archive_member(path, searcher.limits)
    data = read_bytes(path, searcher.limits) if member is None else member
    copies = [match for match in find_existing_copies(searcher, data, path) if match.tier != "similar"]
    records = searcher.catalogue.images.get_many([match.image_id for match in copies])
    matches = []
    for match in copies:
        record = records.get(match.image_id)
        if record is None:
            continue
        home_path = searcher.find_intact_path(replace(record, paths=tuple(filter(is_outside, record.paths))))
        if home_path is not None:
            matches.append(replace(match, path=home_path))
    matches.sort(key=lambda match: (TIERS.index(match.tier), match.distance, match.path))
    return FileMatches(path, hashlib.sha256(data).hexdigest(), len(data), tuple(matches))


def _make_removal(file: FileMatches, searcher: Searcher) -> Removal | None:
    """Plan to remove a file and to keep its most certain match; None if a plan may not touch one of the two."""
    uploads = str(searcher.home.uploads)
    match = next((match for match in file.matches if not is_protected(match.path, uploads)), None)
    if match is None or is_protected(file.path, uploads):
        return None
    loss = "" if match.tier == "bytes" else _find_loss(file, match, searcher)
    if loss:
        log.warning("%s stays beside %s: %s", make_printable(file.path), make_printable(match.path), loss)
        return None
    return Removal(
        path=file.path,
        sha256=file.sha256,
        keep_path=match.path,
        keep_sha256=searcher.catalogue.images.get(match.image_id).sha256,
        tier=match.tier,
        group=hashlib.sha256(f"{file.path}\0{match.path}".encode()).hexdigest()[:16],
        reason=f"{match.reason}; in the home",
    )


def _find_loss(file: FileMatches, match: ImageMatch, searcher: Searcher) -> str:
    """Measure both files; return what would be lost with the source's file, "" if nothing."""
    measure, record = partial(measure_image, limits=searcher.limits), searcher.catalogue.images.get(match.image_id)
    try:
        member = archives.read_archive_member(file.path, searcher.limits)
        data = read_bytes(file.path, searcher.limits) if member is None else member
        measurement = searcher.decode_upload(measure, data, file.path), searcher.decode_file(match.image_id, measure)
    except (UnreadableImage, NoSuchImage) as error:
        return str(error)
    sides = (file.path, None, file.sha256, file.size), (match.path, match.image_id, record.sha256, record.size)
    source_file, home_file = (
        ImageFile(
            path=path,
            image_id=image_id,
            sha256=sha256,
            size=size,
            mtime_ns=0,
            width=known.size[0],
            height=known.size[1],
            format=known.codec,
            measurement=known,
        )
        for (path, image_id, sha256, size), known in zip(sides, measurement, strict=True)
    )
    is_same = match.tier == "pixels"
    objection = "" if is_same else explain_changes(match.changes, home_file, source_file)
    return objection or find_loss(home_file, source_file, same_pixels=is_same)
