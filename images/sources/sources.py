"""What a person may name as a source of pictures, and the files that it means.

a folder                everything below it            models/folders.py
a file                  that file
an archive              the pictures in it             models/archives.py
a manifest              the files it lists, with what it says of them      models/manifests.py
"photos/**/*.jpg"       a pattern that matches files, or folders, or archives
-                       a list on stdin, one in each line or ended by NUL bytes; files, folders, archives
"""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO

from simile.core.errors import NoSuchPath
from simile.core.records import Failure, FileStat
from simile.images.sources import archives
from simile.images.sources.folders import (
    NOT_UTF8_REASON,
    FileFactsTuple,
    FolderWalker,
    WalkResult,
    get_file_failure_reason,
    get_folder_identities,
)
from simile.images.sources.manifests import is_manifest, read_manifest
from simile.images.sources.paths import PathPatterns, is_utf8, pattern_to_regex

LISTED_CHUNK_SIZE = 500  # listed files that are looked up together
STDIN_SOURCE = "-"


@dataclass
class SourcePart:
    """Some of the files.

    tree: the folder or archive that they lie in; the parts of a tree follow each other, each behind the one before by
    path, in no order within (an archive is one part). None for files that were listed one by one; `metadata` is what a
    manifest says of each of them, `missing` are listed paths where nothing is. `pattern`: what was known below a
    folder and matches is gone if its file is.
    """

    root: str | None
    files: list[FileFactsTuple] = field(default_factory=list)
    metadata: list[dict[str, str]] | None = None
    missing: list[str] = field(default_factory=list)
    pattern: tuple[str, re.Pattern[str]] | None = None


def is_stdin(source: Path | str) -> bool:
    return str(source) == STDIN_SOURCE


def is_pattern(source: Path | str) -> bool:
    """Whether it is a pattern: a file that really has a star in its name is meant before that."""
    return glob.has_magic(str(source)) and not os.path.lexists(source)


class ImageSources:
    """Sources, ready to be walked. `found`: what was set aside on the way, so far."""

    def __init__(
        self, sources: Sequence[Path | str], skip: Sequence[Path] = (), patterns: PathPatterns | None = None
    ) -> None:
        """`skip`: folders not to enter, for the home may lie among the pictures. Raises NoSuchPath."""
        check_sources([Path(source) for source in sources])
        self.patterns = patterns or PathPatterns()
        self.sources = list(
            dict.fromkeys(str(source) if _is_special(source) else _make_absolute(source) for source in sources)
        )
        named = frozenset(path for path in self.sources if _is_file(path) and not _is_container(path))
        skipped = get_folder_identities(folder for folder in skip if folder.is_dir())
        self._walker = FolderWalker(self.patterns, skipped, named)
        # Whether a file can come twice; a single folder's can't, and its paths need not be kept.
        self._seen_paths: set[str] | None = None if len(self.sources) == 1 and _is_folder(self.sources[0]) else set()
        self._failed_paths: set[str] = set()

    @property
    def result(self) -> WalkResult:
        return self._walker.result

    def iterate_parts(self) -> Iterator[SourcePart]:
        """The files, each once; sources in their order."""
        for source in self.sources:
            for part in self._iterate_source(source):
                if self._seen_paths is not None:
                    _drop_seen_files(part, self._seen_paths)
                yield part

    def _iterate_source(self, source: str) -> Iterator[SourcePart]:
        if is_stdin(source):
            yield from self._iterate_entries(((path, None) for path in read_path_list(sys.stdin.buffer)), expand=True)
        elif is_pattern(source):
            yield from self._match_pattern(source)
        elif is_manifest(source) and _is_file(source):
            yield from self._iterate_entries(read_manifest(source), expand=False)
        else:
            yield from self._iterate_entries([(source, None)], expand=True)

    def _match_pattern(self, pattern: str) -> Iterator[SourcePart]:
        matching = [_make_absolute(path) for path in sorted(glob.iglob(pattern, recursive=True))]  # noqa: PTH207  # absolute ones too
        prefix, whole = _split_pattern(pattern)
        if not matching and not _is_folder(prefix):
            raise NoSuchPath(pattern)
        yield from self._iterate_entries(((path, None) for path in matching), expand=True)
        yield SourcePart(root=None, pattern=(prefix, whole))

    def _iterate_entries(
        self, entries: Iterable[tuple[str, dict[str, str] | None]], *, expand: bool
    ) -> Iterator[SourcePart]:
        """Entries one by one; with `expand`, folders and archives among them stand for what is in them."""
        rest = iter(entries)
        part = SourcePart(root=None)
        while chunk := list(islice(rest, LISTED_CHUNK_SIZE)):
            for path, said in chunk:
                if expand and _is_folder(path):
                    yield part
                    part = SourcePart(root=None)
                    yield from self._iterate_folder(path)
                elif expand and archives.is_archive(path) and _is_file(path):
                    yield part
                    part = SourcePart(root=None)
                    yield self._make_archive_part(path)
                else:
                    self._add_file(path, said, part)
            yield part
            part = SourcePart(root=None)

    def _iterate_folder(self, folder: str) -> Iterator[SourcePart]:
        yield SourcePart(root=folder)  # though it be empty: what was known in it has vanished
        for files in self._walker.iterate_files(folder):
            yield SourcePart(root=folder, files=files)

    def _make_archive_part(self, archive: str) -> SourcePart:
        part = SourcePart(root=archive)
        if not is_utf8(archive):
            self._add_failure(archive, NOT_UTF8_REASON)
            return part
        try:
            held, mtime_ns = archives.read_contents(archive), Path(archive).stat().st_mtime_ns
        except OSError as error:
            self._add_failure(archive, get_file_failure_reason(archive, error))
            return part
        for failure in held.failures:
            self._record_failure(failure)
        self.result.ignored_count += held.ignored_count
        part.files = [
            (f"{archive}/{name}", member.size, mtime_ns, member.offset)
            for name, member in held.members.items()
            if not self.patterns or self.patterns.allows_file(name)
        ]
        return part

    def _add_file(self, path: str, metadata: dict[str, str] | None, part: SourcePart) -> None:
        if self.patterns and not self.patterns.allows_file(_make_relative(path)):
            return
        if not is_utf8(path):
            self._add_failure(path, NOT_UTF8_REASON)
            return
        if "\0" in path:
            self._add_failure(path.replace("\0", "\\0"), "no file's name holds a NUL byte")
            return
        try:
            facts = read_file_facts(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            part.missing.append(path)
            self._add_failure(path, _get_missing_file_reason(path, error))
            return
        except OSError as error:
            self._add_failure(path, get_file_failure_reason(path, error))
            return
        if facts is None:
            self._add_failure(path, "it is a folder")
            return
        part.files.append(facts)
        if metadata is not None:
            part.metadata = part.metadata or []
            part.metadata.append(metadata)

    def _add_failure(self, path: str, reason: str) -> None:
        failures = WalkResult()
        failures.add_failure(path, reason)
        self._record_failure(failures.failures[0])

    def _record_failure(self, failure: Failure) -> None:
        if failure.path not in self._failed_paths:
            self._failed_paths.add(failure.path)
            self.result.failures.append(failure)


def walk_sources(
    sources: Sequence[Path | str], skip: Sequence[Path] = (), patterns: PathPatterns | None = None
) -> WalkResult:
    """Files of all sources, each once: sorted by path within a source, the sources in their order. Raises NoSuchPath.

    Everything in one list: for what needs all of them. A job that may meet millions takes `Sources.parts`.
    """
    opened = ImageSources(sources, skip, patterns)
    files: list[FileStat] = []
    for part in opened.iterate_parts():
        files += map(FileStat._make, part.files if part.root is None else sorted(part.files))
    return WalkResult(files, list(dict.fromkeys(opened.result.failures)), opened.result.ignored_count)


def check_sources(sources: Sequence[Path]) -> None:
    """Raises NoSuchPath for the first source that does not exist. A list on stdin and patterns are looked at later."""
    for source in sources:
        path = _make_absolute(source)
        there = is_stdin(source) or os.path.lexists(path) or is_pattern(source)
        if not there and not archives.is_regular_file(path):
            raise NoSuchPath(source)


def check_file(path: Path) -> None:
    """Raises NoSuchPath where there is no such file, in a folder or in an archive."""
    if not os.path.lexists(path) and not archives.is_regular_file(str(path)):
        raise NoSuchPath(path)


def is_path_missing(path: str) -> bool:
    """Whether nothing has this path any more; what can't be looked at, behind a closed folder, may still be there."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:  # below a file, which may be an archive
        return archives.is_member_missing(path)
    except OSError:
        return False
    return False


def get_reading_order(files: Sequence[FileStat]) -> list[int]:
    """Places of the files in the order in which they are read best: members of an archive by where they lie in it."""
    first: dict[str, int] = {}

    def key(place: int) -> tuple[int, int]:
        inside = archives.split_member_path(files[place].path)
        return (place, 0) if inside is None else (first.setdefault(inside[0], place), files[place].position)

    return sorted(range(len(files)), key=key)


def read_file_facts(path: str) -> FileStat | None:
    """What is known of one file, in a folder or in an archive; None for a folder. Raises OSError."""
    try:
        facts = Path(path).stat()
    except NotADirectoryError:
        inside = archives.split_member_path(path)
        member = archives.read_contents(inside[0]).members.get(inside[1]) if inside else None
        if inside is None or member is None:
            raise
        return FileStat(path, member.size, Path(inside[0]).stat().st_mtime_ns, member.offset)
    return None if stat.S_ISDIR(facts.st_mode) else FileStat(path, facts.st_size, facts.st_mtime_ns)


def read_path_list(file: BinaryIO) -> Iterator[str]:
    """Paths, absolute, one in each line; or ended by NUL bytes, if the first block holds one (`find -print0`)."""
    rest, end = b"", b""
    while block := file.read1(1 << 16) if hasattr(file, "read1") else file.read(1 << 16):
        end = end or (b"\0" if b"\0" in block else b"\n" if b"\n" in block else b"")
        *whole, rest = (rest + block).split(end) if end else [rest + block]
        yield from (_make_absolute(os.fsdecode(path.rstrip(b"\r"))) for path in whole if path.strip())
    if rest.strip():
        yield _make_absolute(os.fsdecode(rest.rstrip(b"\r")))


def _is_container(path: str) -> bool:
    """Whether it is a source for what is in it: the folder around it must not take it for a picture."""
    return archives.is_archive(path) or is_manifest(path)


def _is_special(source: Path | str) -> bool:
    return is_stdin(source) or is_pattern(source)


def _make_absolute(path: Path | str) -> str:
    return os.path.abspath(path)  # Path.absolute() would keep "..", resolve() would follow links  # noqa: PTH100


def _is_folder(path: str) -> bool:
    """False too for what can't be looked at: for a name that is too long, for a link in a circle."""
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir() raises there


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # as above


def _make_relative(path: str) -> str:
    """What patterns are held against, of a file that was listed: its path from here, or from the root."""
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  # for every file
    return path[len(here) :] if path.startswith(here) else path.lstrip(os.sep)


def _split_pattern(pattern: str) -> tuple[str, re.Pattern[str]]:
    """The folder that everything a pattern matches lies in, and the pattern for absolute paths."""
    parts, here = Path(_make_absolute(pattern)).parts, () if os.path.isabs(pattern) else Path.cwd().parts  # noqa: PTH117
    # The folder that a relative pattern starts from means itself, whatever it is called.
    literal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, here, strict=False)))
    fixed = next((number for number in range(literal, len(parts)) if glob.has_magic(parts[number])), len(parts) - 1)
    folder = str(Path(*parts[:fixed]))
    below = re.escape(os.path.join(folder, "")) + pattern_to_regex(os.sep.join(parts[fixed:]))  # noqa: PTH118
    return folder, re.compile(f"{below}(?:/|$)", re.DOTALL)


def _get_missing_file_reason(path: str, error: OSError) -> str:
    return get_file_failure_reason(path, error) if os.path.islink(path) else "there is no such file"  # noqa: PTH114


def _drop_seen_files(part: SourcePart, seen_paths: set[str]) -> None:
    """Takes out the files that have come before, and notes the others."""
    kept = []
    for number, (path, *_) in enumerate(part.files):
        if path not in seen_paths:
            seen_paths.add(path)
            kept.append(number)
    if len(kept) < len(part.files):
        part.files = [part.files[number] for number in kept]
        part.metadata = None if part.metadata is None else [part.metadata[number] for number in kept]
