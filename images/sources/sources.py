"""Sources of images, and the files that they contain.

a folder                all images below it                                              folders.py
s3://bucket/folder/     all images below it, in an S3 store                              bucket_folders.py
a file                  that file
an archive              the images in it                                                 archives.py
a manifest              the files that it lists, with their metadata                     manifests.py
"photos/**/*.jpg"       a pattern that matches files, folders or archives
-                       a list on stdin of files, folders and archives, separated by newlines or NUL bytes
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO

from simile.core.errors import NoSuchPath, ObjectsUnavailable
from simile.core.records import Failure, FileStat
from simile.images.datasets.metadata import DatasetMetadata
from simile.images.datasets.tar_samples import find_sample_texts
from simile.images.sources import archives
from simile.images.sources.bucket_folders import iterate_bucket_files
from simile.images.sources.buckets import exists, find_object, is_remote, is_s3_url, restore_url
from simile.images.sources.folders import (
    FileFactsTuple,
    FolderWalker,
    WalkResult,
    get_file_failure_reason,
    get_folder_identities,
)
from simile.images.sources.manifests import is_manifest, read_manifest
from simile.images.sources.paths import NOT_UTF8_REASON, PathPatterns, is_utf8, make_printable, pattern_to_regex

LISTED_CHUNK_SIZE = 500  # listed files in one part; the caller looks them up together
STDIN_SOURCE = "-"


@dataclass(kw_only=True)
class SourcePart:
    """Some of the files of a source. The parts of a root are in the order of paths, with no order inside a part."""

    root: str | None  # the folder that contains the files, or the archive, which is one part; None for listed files
    files: list[FileFactsTuple] = field(default_factory=list)
    metadata: list[dict[str, str] | None] | None = None  # of each file; None if no file has any
    missing: list[str] = field(default_factory=list)  # listed paths that do not exist
    # A folder and a regular expression: indexed files below it that match are gone if they are not in `files`.
    pattern: tuple[str, re.Pattern[str]] | None = None


def is_stdin(source: Path | str) -> bool:
    """Return whether the source is the list on stdin."""
    return str(source) == STDIN_SOURCE


def is_pattern(source: Path | str) -> bool:
    """Return whether the source is a pattern. An existing file whose name contains `*` is a file."""
    return glob.has_magic(str(source)) and not is_s3_url(restore_url(source)) and not os.path.lexists(source)


class ImageSources:
    """Sources whose files can be listed once."""

    def __init__(
        self,
        sources: Sequence[Path | str],
        skip: Sequence[Path] = (),
        patterns: PathPatterns | None = None,
        *,
        with_metadata: bool = False,
        labels: Path | None = None,
    ) -> None:
        """Check that the sources exist. Files in a folder of `skip` are listed only if named.

        With `with_metadata` the files have the metadata of their dataset, and of the annotations in the file `labels`.
        A manifest has metadata in any case.

        Raises NoSuchPath, and BadSetting for `labels` that can't be used.
        """
        check_sources(sources)
        self.patterns = patterns or PathPatterns()
        self.sources = list(
            dict.fromkeys(
                str(source) if is_stdin(source) or is_pattern(source) else _make_absolute(source) for source in sources
            )
        )
        # Files that were named explicitly; archives and manifests stand for their contents.
        self._explicit = frozenset(
            path for path in self.sources if _is_file(path) and not archives.is_archive(path) and not is_manifest(path)
        )
        skip_folders = get_folder_identities(folder for folder in skip if folder.is_dir())
        # Files that are listed one by one are compared by their paths.
        spellings = {spelling for folder in skip for spelling in (_make_absolute(folder), os.path.realpath(folder))}
        self._skip_prefixes = tuple(folder + os.sep for folder in spellings)
        self._walker = FolderWalker(patterns=self.patterns, skip_folders=skip_folders, explicit_files=self._explicit)
        self._get_real_folder: Callable[[str], str] = cache(os.path.realpath)
        for source in filter(_is_folder, self.sources):
            self._walker.add_root(source)
        # Paths that were already listed. A single folder has no path twice, so its paths need not be kept.
        is_folder = len(self.sources) == 1 and (_is_folder(self.sources[0]) or is_s3_url(self.sources[0]))
        self._seen_paths: set[str] | None = None if is_folder else set()
        self._failed_paths: set[str] = set()

        self._metadata = DatasetMetadata(labels, self.sources, self._add_failure) if with_metadata else None

    @property
    def result(self) -> WalkResult:
        """The failures and the ignored files, so far."""
        return self._walker.result

    def find_real_name(self, path: str) -> str | None:
        """Return the path under which a file is listed, if its folder has another name here than there, else None."""
        folder, name = os.path.split(path)
        if is_remote(path):
            return None
        if self._get_real_folder(folder) == folder or archives.split_member_path(path) is not None:
            return None
        walked = self._walker.find_walked_name(folder, name)
        return None if walked in (None, folder) else f"{walked}{os.sep}{name}"

    def iterate_parts(self) -> Iterator[SourcePart]:
        """Yield each file once, the sources in their order."""
        for source in self.sources:
            for part in self._iterate_source(source):
                if self._seen_paths is not None:
                    _drop_seen_files(part, self._seen_paths)
                if self._metadata is not None:
                    _add_metadata(part, self._metadata)
                yield part
        if self._metadata is not None:
            self._metadata.report_unused()

    def _iterate_source(self, source: str) -> Iterator[SourcePart]:
        """Yield the parts of one source."""
        if is_stdin(source):
            yield from self._iterate_entries(((path, None) for path in read_path_list(sys.stdin.buffer)), expand=True)
        elif is_pattern(source):
            yield from self._match_pattern(source)
        elif is_s3_url(source) and find_object(source) is None:
            yield SourcePart(root=source)  # also without files: those that are indexed are missing then
            for files in iterate_bucket_files(source, self.patterns, self.result):
                yield SourcePart(root=source, files=files)
        elif is_manifest(source) and _is_file(source):
            yield from self._iterate_entries(read_manifest(source, self._add_failure), expand=False)
        else:
            yield from self._iterate_entries([(source, None)], expand=True)

    def _match_pattern(self, pattern: str) -> Iterator[SourcePart]:
        """Yield the parts of what matches a pattern, then the pattern itself."""
        matches = [_make_absolute(path) for path in sorted(glob.iglob(pattern, recursive=True))]  # noqa: PTH207  # absolute patterns too
        prefix, regex = _split_pattern(pattern)
        if not matches and not _is_folder(prefix):
            raise NoSuchPath(pattern)
        yield from self._iterate_entries(((path, None) for path in matches), expand=True)
        yield SourcePart(root=None, pattern=(prefix, regex))

    def _iterate_entries(
        self, entries: Iterable[tuple[str, dict[str, str] | None]], *, expand: bool
    ) -> Iterator[SourcePart]:
        """Yield the parts of listed paths with metadata or None; `expand` lists the files in folders and archives."""
        rest = iter(entries)
        while chunk := list(islice(rest, LISTED_CHUNK_SIZE)):
            part = SourcePart(root=None)
            for path in (path for path, _ in chunk if expand and _is_folder(path)):
                self._walker.add_root(path)
            for path, metadata in chunk:
                is_folder = expand and _is_folder(path)
                if is_folder or (expand and archives.is_archive(path) and _is_file(path)):
                    yield part
                    part = SourcePart(root=None)
                    # Also a part without files: the indexed files of an empty folder are gone.
                    yield SourcePart(root=path) if is_folder else self._make_archive_part(path)
                    for files in self._walker.iterate_files(path) if is_folder else ():
                        yield SourcePart(root=path, files=files)
                else:
                    self._add_file(path, metadata, part)
            yield part

    def _make_archive_part(self, archive: str) -> SourcePart:
        """Return the images of an archive as one part."""
        part = SourcePart(root=archive)
        if not is_utf8(archive):
            self._add_failure(archive, NOT_UTF8_REASON)
            return part
        try:
            contents, mtime_ns = archives.read_contents(archive), Path(archive).stat().st_mtime_ns
        except OSError as error:
            self._add_failure(archive, get_file_failure_reason(archive, error))
            return part
        for failure in contents.failures:
            self._add_failure(failure.path, failure.reason)
        used = {f"{archive}/{name}" for name in find_sample_texts(contents)} if self._metadata is not None else set()
        for path in contents.ignored:
            if path not in used:
                self.result.add_ignored(path)
        files = [
            (f"{archive}/{name}", member.size, mtime_ns, member.offset)
            for name, member in contents.members.items()
            if not self.patterns or self.patterns.allows_file(name)
        ]
        part.files = self.result.leave_out_raw_partners(files)
        return part

    def _add_file(self, path: str, metadata: dict[str, str] | None, part: SourcePart) -> None:
        """Add one listed file to the part, or to the failures."""
        is_skipped = path.startswith(self._skip_prefixes) and path not in self._explicit
        if is_skipped or (self.patterns and not self.patterns.allows_file(_make_relative(path))):
            if is_skipped:
                self.result.add_ignored(path, "of the home")
            return
        if not is_utf8(path):
            self._add_failure(path, NOT_UTF8_REASON)
            return
        if "\0" in path:
            self._add_failure(path.replace("\0", "\\0"), "a file name can't contain a NUL byte")
            return
        try:
            facts = read_file_facts(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            part.missing.append(path)
            is_link = os.path.islink(path)  # noqa: PTH114
            self._add_failure(path, get_file_failure_reason(path, error) if is_link else "there is no such file")
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
        """Record the first failure of each path, with a path that can be shown."""
        printable = make_printable(path)
        if printable not in self._failed_paths:
            self._failed_paths.add(printable)
            self.result.failures.append(Failure(printable, reason))


def walk_sources(
    sources: Sequence[Path | str], skip: Sequence[Path] = (), patterns: PathPatterns | None = None
) -> WalkResult:
    """Return the files of all sources in one list, each once: sorted by path in a source, the sources in their order.

    For millions of files use `ImageSources.iterate_parts`. The arguments are those of ImageSources. Raises NoSuchPath.
    """
    image_sources = ImageSources(sources, skip, patterns)
    files: list[FileStat] = []
    for part in image_sources.iterate_parts():
        files += map(FileStat._make, part.files if part.root is None else sorted(part.files))
    result = image_sources.result
    return replace(result, files=files, failures=list(dict.fromkeys(result.failures)))


def check_sources(sources: Sequence[Path | str]) -> None:
    """Raise NoSuchPath for the first source that does not exist. The list on stdin and patterns are not checked.

    Raises ObjectsUnavailable for a source in a store that can't be reached.
    """
    for source in sources:
        path = _make_absolute(source)
        if is_s3_url(path):
            if not exists(path):
                raise NoSuchPath(path)
            continue
        is_present = is_stdin(source) or os.path.lexists(path) or is_pattern(source)
        if not is_present and not archives.is_regular_file(path):
            raise NoSuchPath(source)


def check_file(path: Path) -> None:
    """Raise NoSuchPath if there is no such file, in a folder or in an archive."""
    if not os.path.lexists(path) and not archives.is_regular_file(str(path)):
        raise NoSuchPath(path)


def get_source(path: str) -> str:
    """Return the source to index for a stored path: the archive of a member, or the file itself."""
    member = archives.split_member_path(path)
    return path if member is None else member[0]


def is_path_missing(path: str) -> bool:
    """Return whether the path does not exist. A path in a folder without permission may still exist: then False.

    So may an object while its store can't be reached, and an upload, which is there as long as the catalogue has it.
    """
    if is_remote(path):
        with suppress(ObjectsUnavailable):
            return is_s3_url(path) and find_object(path) is None
        return False
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:  # below a file, which can be an archive
        return archives.is_member_missing(path)
    except OSError:
        return False
    return False


def get_reading_order(files: Sequence[FileStat]) -> list[int]:
    """Return the indices of the files in the fastest order for reading: members of an archive by their offset."""
    first_index: dict[str, int] = {}  # of each archive

    def key(index: int) -> tuple[int, int]:
        member = archives.split_member_path(files[index].path)
        return (index, 0) if member is None else (first_index.setdefault(member[0], index), files[index].position)

    return sorted(range(len(files)), key=key)


def read_file_facts(path: str) -> FileStat | None:
    """Return size and time of one file, in a folder, an archive or a bucket; None for a folder.

    Raises OSError, ObjectsUnavailable.
    """
    if is_s3_url(path):
        found = find_object(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object")
        return FileStat(path, *found)
    try:
        facts = Path(path).stat()
    except NotADirectoryError:
        archive_and_name = archives.split_member_path(path)
        if archive_and_name is None:
            raise
        archive, name = archive_and_name
        member = archives.read_contents(archive).members.get(name)
        if member is None:
            raise
        return FileStat(path, member.size, Path(archive).stat().st_mtime_ns, member.offset)
    return None if stat.S_ISDIR(facts.st_mode) else FileStat(path, facts.st_size, facts.st_mtime_ns)


def read_path_list(file: BinaryIO) -> Iterator[str]:
    """Yield the absolute paths of a list: one per line, or separated by NUL bytes if the first block contains one."""
    rest, separator = b"", b""
    while block := file.read1(1 << 16) if hasattr(file, "read1") else file.read(1 << 16):
        separator = separator or (b"\0" if b"\0" in block else b"\n" if b"\n" in block else b"")
        *paths, rest = (rest + block).split(separator) if separator else [rest + block]
        yield from (_make_absolute(os.fsdecode(path.rstrip(b"\r"))) for path in paths if path.strip())
    if rest.strip():
        yield _make_absolute(os.fsdecode(rest.rstrip(b"\r")))


def _make_absolute(path: Path | str) -> str:
    """Return the absolute path without ".."; links are not resolved. A URL stays one."""
    url = restore_url(path)
    return url if is_s3_url(url) else os.path.abspath(path)  # Path.absolute() keeps "..", resolve() links  # noqa: PTH100


def _is_folder(path: str) -> bool:
    """Return whether it is a folder; False also for a name that is too long and for a link in a circle."""
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir() raises there


def _is_file(path: str) -> bool:
    """Return whether it is a regular file; never raises."""
    return os.path.isfile(path)  # noqa: PTH113


def _make_relative(path: str) -> str:
    """Return the path of a listed file for `PathPatterns`: from the current folder, or else from the root."""
    current = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  # called for every file
    return path[len(current) :] if path.startswith(current) else path.lstrip(os.sep)


def _split_pattern(pattern: str) -> tuple[str, re.Pattern[str]]:
    """Return the folder that contains all matches of a pattern, and a regular expression for absolute paths."""
    parts, current = Path(_make_absolute(pattern)).parts, () if os.path.isabs(pattern) else Path.cwd().parts  # noqa: PTH117
    # The current folder at the start of a relative pattern is literal, even if its name contains `*` or `[`.
    literal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, current, strict=False)))
    fixed = next((number for number in range(literal, len(parts)) if glob.has_magic(parts[number])), len(parts) - 1)
    folder = str(Path(*parts[:fixed]))
    regex = re.escape(os.path.join(folder, "")) + pattern_to_regex(os.sep.join(parts[fixed:]))  # noqa: PTH118
    return folder, re.compile(f"{regex}(?:/|$)", re.DOTALL)


def _drop_seen_files(part: SourcePart, seen_paths: set[str]) -> None:
    """Remove the files of earlier parts, and add the others to `seen_paths`."""
    new = []
    for index, (path, *_) in enumerate(part.files):
        if path not in seen_paths:
            seen_paths.add(path)
            new.append(index)
    if len(new) < len(part.files):
        part.files = [part.files[index] for index in new]
        part.metadata = None if part.metadata is None else [part.metadata[index] for index in new]


def _add_metadata(part: SourcePart, metadata: DatasetMetadata) -> None:
    """Add the metadata of a dataset to those of the manifest, which take precedence."""
    found = metadata.find(part.root, [path for path, *_ in part.files])
    if part.metadata is not None:
        found = [
            own if other is None else {**other, **(own or {})} for own, other in zip(part.metadata, found, strict=True)
        ]
    part.metadata = found if any(texts is not None for texts in found) else None
