"""What there is to do: the files that are there, held against what the catalogue knows of them.

Both come sorted by path and are merged as they come, so that a folder of millions needs no more memory than one of
thousands; what is to be done goes to a spool.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from simile.core.errors import BadSetting
from simile.core.records import FileStat
from simile.images.sources.folders import WalkResult
from simile.images.sources.paths import is_utf8
from simile.images.sources.sources import ImageSources, SourcePart, is_path_missing, is_stdin
from simile.indexer.pipeline.spool import Spool
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.files import KnownFileRow, make_known_file
from simile.store.catalogue.records import KnownFile

FileMetadata = dict[str, str]  # what a manifest says of a file


class IndexTask(NamedTuple):
    """One file to look into. `known`: what the catalogue knows of its path; `named`: it is one of the sources'."""

    file: FileStat
    known_file: KnownFile | None = None
    metadata: FileMetadata | None = None
    is_from_source: bool = True


@dataclass
class IndexPlan:
    """What there is to do. `vanished`: known paths of the sources that are no longer there.

    said: unchanged files in manifests. files, known: how many there are. met, gone: files that are there, and that have
    vanished, by the folder or archive that was named; "" for those that were listed.
    """

    scan: WalkResult
    tasks: Spool[IndexTask] = field(default_factory=Spool)
    metadata_updates: Spool[tuple[str, FileMetadata]] = field(default_factory=Spool)
    unchanged: int = 0
    file_count: int = 0
    known_count: int = 0
    missing_paths: set[str] = field(default_factory=set)
    present_by_root: dict[str, int] = field(default_factory=dict)
    missing_by_root: dict[str, int] = field(default_factory=dict)


def make_index_plan(catalogue: Catalogue | None, sources: ImageSources, fingerprint: str | None) -> IndexPlan:
    """Walks the sources and holds them against the catalogue: same path, size and mtime means unchanged.

    A file without a vector by the encoder with this fingerprint has to be looked into, too.
    """
    comparison = _IndexPlanner(catalogue, fingerprint, IndexPlan(sources.result))
    with _pause_garbage_collection():
        for tree, parts in groupby(sources.iterate_parts(), key=lambda part: part.root):
            if tree is None:
                comparison.add_listed_files(parts)
            else:
                comparison.add_tree(tree, parts)
    return comparison.plan


def check_prune(plan: IndexPlan) -> None:
    """Raises BadSetting where a folder holds nothing of what is known in it: so looks a disk that is not mounted."""
    for root, gone in plan.missing_by_root.items():
        if not gone or plan.present_by_root.get(root):
            continue
        if not root:
            raise BadSetting(
                f"None of the files that were listed is there, but {gone:,} of them are known. If a disk is not "
                "mounted, mount it; to forget them, name their folder: `simile index FOLDER --prune`."
            )
        raise BadSetting(
            f"{root} holds no pictures now, but {gone:,} in it are known. If a disk is not mounted, mount it; "
            f"to forget them, run `simile index {Path(root).parent} --prune`."
        )


class _IndexPlanner:
    def __init__(self, catalogue: Catalogue | None, fingerprint: str | None, plan: IndexPlan) -> None:
        self.catalogue, self.fingerprint, self.plan = catalogue, fingerprint, plan

    def add_tree(self, root: str, parts: Iterable[SourcePart]) -> None:
        """One folder or archive: its files and the known ones go side by side, both by path."""
        before = len(self.plan.scan.failures)
        with closing(self._get_known_rows_under(root)) as blocks:
            known = _KnownRowReader(blocks)
            for part in parts:
                there = known.read_up_to(max(part.files)[0]) if part.files else {}
                self._compare_files(part, there, root)
                self._count_missing(there, root)
            while rest := known.read_block():
                self.plan.known_count += len(rest)
                self._count_missing((row[0] for row in rest), root)
        self._count_present(root, len(self.plan.scan.failures) - before)

    def add_listed_files(self, parts: Iterable[SourcePart]) -> None:
        """Files that were listed one by one."""
        for part in parts:
            there: dict[str, KnownFileRow] = {}
            if self.catalogue:
                paths = [*(path for path, *_ in part.files), *part.missing]
                there = {
                    path: (path, *known)
                    for path, known in self.catalogue.files.get_many(paths, self.fingerprint).items()
                }
            self._compare_files(part, there, "")
            self._count_missing(there, "")
            if part.pattern is not None:
                prefix, pattern = part.pattern
                with closing(self._get_known_rows_under(prefix)) as blocks:
                    for block in blocks:
                        meant = [path for path, *_ in block if pattern.match(path)]
                        self.plan.known_count += len(meant)
                        self._count_missing(meant, "")

    def _get_known_rows_under(self, root: str) -> Generator[list[KnownFileRow]]:
        # Nothing is known of what lies in a folder whose name is not UTF-8: each of its files is a failure.
        if self.catalogue and is_utf8(root):
            yield from self.catalogue.files.iterate_under(root, self.fingerprint)

    def _compare_files(self, part: SourcePart, known_rows: dict[str, KnownFileRow], root: str) -> None:
        """Takes the files of the part out of `there`; each is unchanged or to be looked into."""
        plan, unchanged, todo = self.plan, 0, []
        plan.known_count += len(known_rows)
        for number, file in enumerate(part.files):  # half a million times: as little as can be
            row = known_rows.pop(file[0], None)
            said = None if part.metadata is None else part.metadata[number]
            if row is not None and row[4] and row[2] == file[1] and row[3] == file[2]:
                unchanged += 1
                if said is not None:
                    plan.metadata_updates.append((file[0], said))
            else:
                todo.append(IndexTask(FileStat._make(file), None if row is None else make_known_file(row), said))
        if part.root is not None:  # an archive is read from front to back
            todo.sort(key=lambda task: (task.file.position, task.file.path))
        plan.tasks.extend(todo)
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


class _KnownRowReader:
    """Rows that come in blocks sorted by path, handed out as far as is asked for."""

    def __init__(self, blocks: Iterator[list[KnownFileRow]]) -> None:
        self._blocks, self._block = blocks, next(blocks, [])

    def read_up_to(self, path: str) -> dict[str, KnownFileRow]:
        """The next rows, to this path and with it, by path."""
        taken: dict[str, KnownFileRow] = {}
        while self._block and self._block[-1][0] <= path:
            taken.update(zip(map(_get_row_path, self._block), self._block, strict=True))
            self._block = next(self._blocks, [])
        end = bisect_right(self._block, path, key=_get_row_path)
        taken.update((row[0], row) for row in self._block[:end])
        self._block = self._block[end:]
        return taken

    def read_block(self) -> list[KnownFileRow]:
        """Some of what is left; empty when nothing is."""
        block, self._block = self._block, next(self._blocks, [])
        return block


_get_row_path = itemgetter(0)


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Half a million tuples and no cycle among them: the garbage collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def describe_sources(sources: Sequence[Path | str]) -> str:
    return ", ".join("the list on stdin" if is_stdin(source) else str(source) for source in sources)
