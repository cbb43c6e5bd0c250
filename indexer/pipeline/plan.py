"""Plan an indexing run: compare the files of the sources with those that the catalogue knows.

Both are sorted by path and merged as streams, so that a folder of millions of files needs no more memory than one of
thousands; tasks go to a spool file.
"""

from __future__ import annotations

import gc
import pickle
import shlex
import tempfile
import time
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from simile.core.errors import BadSetting
from simile.core.records import FileStat
from simile.images.sources.buckets import restore_url
from simile.images.sources.folders import WalkResult
from simile.images.sources.paths import is_utf8
from simile.images.sources.sources import ImageSources, SourcePart, is_path_missing, is_stdin
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.files import KnownFileRow, make_known_file
from simile.store.catalogue.records import KnownFile

FileMetadata = dict[str, str]  # metadata of a file from a manifest
T = TypeVar("T")

SPOOL_BLOCK_SIZE = 5000  # items that are kept in memory and written together: a megabyte of paths


class Spool(Generic[T]):
    """A list that may be longer than memory, in a temporary file.

    Items are appended until it is first read; it can be read any number of times, by one reader at a time.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the spool exists
        self._tail: list[T] = []
        self._count = self._blocks = 0
        self.extend(items)

    def extend(self, items: Iterable[T]) -> None:
        """Append items."""
        for item in items:
            self._tail.append(item)
            self._count += 1
            if len(self._tail) == SPOOL_BLOCK_SIZE:
                pickle.dump(self._tail, self._file, protocol=5)
                self._tail = []
                self._blocks += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        self._file.seek(0)
        for _ in range(self._blocks):
            block: list[T] = pickle.load(self._file)
            yield from block
        yield from self._tail

    def __del__(self) -> None:
        self._file.close()  # which deletes it


class IndexTask(NamedTuple):
    """A file to read."""

    file: FileStat
    known_file: KnownFile | None = None  # the catalogue's record of this path
    metadata: FileMetadata | None = None
    is_from_source: bool = True  # False for other images of the home that need a vector


@dataclass(kw_only=True)
class IndexPlan:
    """The work of a run.

    Attributes:
        scan: Counts and failures of the walk through the sources.
        metadata_updates: Paths of unchanged files with their metadata from manifests.
        file_count: Number of files in the sources.
        known_count: Number of files of the sources that the catalogue knows.
        missing_paths: Known paths of the sources that no longer exist.
        partner_paths: Known paths of raw files that now belong to an image.
        link_paths: Known paths that lead through links, with the path under which the sources have the same file.
        present_by_root: Number of existing files by folder or archive; "" for files that were listed.
        missing_by_root: Number of missing files in the same way.
    """

    scan: WalkResult
    tasks: Spool[IndexTask] = field(default_factory=Spool)
    metadata_updates: Spool[tuple[str, FileMetadata]] = field(default_factory=Spool)
    unchanged: int = 0
    file_count: int = 0
    known_count: int = 0
    missing_paths: set[str] = field(default_factory=set)
    partner_paths: list[str] = field(default_factory=list)
    link_paths: dict[str, str] = field(default_factory=dict)
    present_by_root: dict[str, int] = field(default_factory=dict)
    missing_by_root: dict[str, int] = field(default_factory=dict)


def make_index_plan(
    catalogue: Catalogue | None,
    sources: ImageSources,
    fingerprint: str | None,
    *,
    reread: bool = False,
    min_age: float = 0.0,
) -> IndexPlan:
    """Walk the sources and compare them with the catalogue.

    The catalogue is None for a home that does not exist yet. Files without a vector by the encoder with this
    fingerprint, files that could not be read the last time, and with `reread` all files, are read again, even if path,
    size and mtime are unchanged. Files that were modified less than `min_age` seconds ago are not read.
    """
    planner = _IndexPlanner(catalogue, sources, fingerprint, reread=reread, min_age=min_age)
    with _pause_garbage_collection():
        for root, parts in groupby(sources.iterate_parts(), key=lambda part: part.root):
            if root is None:
                planner.add_listed_files(parts)
            else:
                planner.add_tree(root, parts)
    return planner.plan


def check_prune(plan: IndexPlan) -> None:
    """Raise BadSetting if all known files of a folder are missing: the disk may not be mounted."""
    for root, missing in plan.missing_by_root.items():
        if not missing or plan.present_by_root.get(root):
            continue
        if not root:
            raise BadSetting(
                f"None of the listed files exists, but {missing:,} of them are known. If a disk is not "
                "mounted, mount it; to forget them, name their folder: `simile index FOLDER --prune`."
            )
        raise BadSetting(
            f"{root} holds no images now, but {missing:,} in it are known. If a disk is not mounted, mount it; "
            f"to forget them, run `simile index {shlex.quote(restore_url(Path(root).parent))} --prune`."
        )


class _IndexPlanner:
    """Compares parts of the sources with the catalogue and collects the plan."""

    def __init__(
        self,
        catalogue: Catalogue | None,
        sources: ImageSources,
        fingerprint: str | None,
        *,
        reread: bool,
        min_age: float,
    ) -> None:
        self.catalogue, self.sources, self.fingerprint, self.reread = catalogue, sources, fingerprint, reread
        self.plan = IndexPlan(scan=sources.result)
        now, age = time.time_ns(), int(min_age * 1e9)
        self._recent = range(now - age, now + age)  # a later time is that of a camera with a wrong clock

    def add_tree(self, root: str, parts: Iterable[SourcePart]) -> None:
        """Add a folder or archive: merge its files with the known ones, both sorted by path."""
        failures_before = len(self.plan.scan.failures)
        with closing(self._get_known_rows_under(root)) as blocks:
            reader = _KnownRowReader(blocks)
            for part in parts:
                known_rows = reader.read_up_to(max(part.files)[0]) if part.files else {}
                self._compare_files(part, known_rows, root)
                self._count_missing(known_rows, root)
            while block := reader.read_block():
                self.plan.known_count += len(block)
                self._count_missing((row[0] for row in block), root)
        self._count_present(root, len(self.plan.scan.failures) - failures_before)

    def add_listed_files(self, parts: Iterable[SourcePart]) -> None:
        """Add files that were listed individually or by a pattern."""
        for part in parts:
            known_rows: dict[str, KnownFileRow] = {}
            if self.catalogue:
                paths = [*(path for path, *_ in part.files), *part.missing]
                known_rows = {
                    path: (path, *known)
                    for path, known in self.catalogue.files.get_many(paths, self.fingerprint).items()
                }
            self._compare_files(part, known_rows, "")
            self._count_missing(known_rows, "")
            if part.pattern is not None:
                prefix, pattern = part.pattern
                with closing(self._get_known_rows_under(prefix)) as blocks:
                    for block in blocks:
                        matches = [path for path, *_ in block if pattern.match(path)]
                        self.plan.known_count += len(matches)
                        self._count_missing(matches, "")

    def _get_known_rows_under(self, root: str) -> Generator[list[KnownFileRow]]:
        # The catalogue has no files of a folder with a name that is not UTF-8: each of them is a failure.
        if self.catalogue and is_utf8(root):
            yield from self.catalogue.files.iterate_under(root, self.fingerprint)

    def _compare_files(self, part: SourcePart, known_rows: dict[str, KnownFileRow], root: str) -> None:
        """Remove the files of the part from `known_rows`; each is unchanged, or a task."""
        plan, unchanged, todo, updates, reread = self.plan, 0, [], [], self.reread
        plan.known_count += len(known_rows)
        for number, file in enumerate(part.files):  # up to millions of files: tuples and no attributes, for speed
            row = known_rows.pop(file[0], None)
            metadata = None if part.metadata is None else part.metadata[number]
            # Unchanged: it has a vector, was read without a failure, and size and mtime are equal.
            if row is not None and row[4] and not row[5] and row[2] == file[1] and row[3] == file[2] and not reread:
                unchanged += 1
                if metadata is not None:
                    updates.append((file[0], metadata))
            elif file[2] not in self._recent:
                todo.append(IndexTask(FileStat._make(file), None if row is None else make_known_file(row), metadata))
        if part.root is not None:  # an archive is read from front to back
            todo.sort(key=lambda task: (task.file.position, task.file.path))
        plan.tasks.extend(todo)
        plan.metadata_updates.extend(updates)
        plan.unchanged += unchanged
        self._count_present(root, len(part.files))

    def _count_present(self, root: str, file_count: int) -> None:
        self.plan.present_by_root[root] = self.plan.present_by_root.get(root, 0) + file_count
        self.plan.file_count += file_count

    def _count_missing(self, paths: Iterable[str], root: str) -> None:
        for path in paths:
            if path not in self.plan.missing_paths and is_path_missing(path):
                self.plan.missing_paths.add(path)
                self.plan.missing_by_root[root] = self.plan.missing_by_root.get(root, 0) + 1
            elif path in self.plan.scan.partners:
                self.plan.partner_paths.append(path)
            elif path not in self.plan.missing_paths and (real_name := self.sources.find_real_name(path)):
                self.plan.link_paths[path] = real_name


class _KnownRowReader:
    """Reads rows, which come in blocks sorted by path, up to a given path."""

    def __init__(self, blocks: Iterator[list[KnownFileRow]]) -> None:
        self._blocks, self._block = blocks, next(blocks, [])

    def read_up_to(self, path: str) -> dict[str, KnownFileRow]:
        """Return the next rows by path, up to and including this path."""
        rows: dict[str, KnownFileRow] = {}
        while self._block and self._block[-1][0] <= path:
            rows.update(zip(map(_get_row_path, self._block), self._block, strict=True))
            self._block = next(self._blocks, [])
        end = bisect_right(self._block, path, key=_get_row_path)
        rows.update((row[0], row) for row in self._block[:end])
        self._block = self._block[end:]
        return rows

    def read_block(self) -> list[KnownFileRow]:
        """Return the rest of the current block; empty if there is none."""
        block, self._block = self._block, next(self._blocks, [])
        return block


_get_row_path = itemgetter(0)


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector, which would repeatedly traverse millions of tuples that have no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def describe_sources(sources: Sequence[Path | str]) -> str:
    """Return the names of the sources for a message."""
    return ", ".join("the list on stdin" if is_stdin(source) else str(source) for source in sources)
