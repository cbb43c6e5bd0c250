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
from simile.core.records import FileFacts
from simile.images.paths import is_utf8
from simile.images.sources.folders import Found
from simile.images.sources.sources import Part, Sources, is_gone, is_stdin
from simile.indexer.pipeline.spool import Spool
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.files import KnownRow, known_file
from simile.store.catalogue.records import KnownFile

Said = dict[str, str]  # what a manifest says of a file


class Task(NamedTuple):
    """One file to look into. `known`: what the catalogue knows of its path; `named`: it is one of the sources'."""

    file: FileFacts
    known: KnownFile | None = None
    said: Said | None = None
    named: bool = True


@dataclass
class Plan:
    """What there is to do. `vanished`: known paths of the sources that are no longer there.

    said: unchanged files in manifests. files, known: how many there are. met, gone: files that are there, and that have
    vanished, by the folder or archive that was named; "" for those that were listed.
    """

    found: Found
    todo: Spool[Task] = field(default_factory=Spool)
    said: Spool[tuple[str, Said]] = field(default_factory=Spool)
    unchanged: int = 0
    files: int = 0
    known: int = 0
    vanished: set[str] = field(default_factory=set)
    met: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)


def make_plan(catalogue: Catalogue | None, sources: Sources, fingerprint: str | None) -> Plan:
    """Walks the sources and holds them against the catalogue: same path, size and mtime means unchanged.

    A file without a vector by the encoder with this fingerprint has to be looked into, too.
    """
    comparison = _Comparison(catalogue, fingerprint, Plan(sources.found))
    with _without_collector():
        for tree, parts in groupby(sources.parts(), key=lambda part: part.tree):
            if tree is None:
                comparison.listed(parts)
            else:
                comparison.tree(tree, parts)
    return comparison.plan


def check_prune(plan: Plan) -> None:
    """Raises BadSetting where a folder holds nothing of what is known in it: so looks a disk that is not mounted."""
    for root, gone in plan.gone.items():
        if not gone or plan.met.get(root):
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


class _Comparison:
    def __init__(self, catalogue: Catalogue | None, fingerprint: str | None, plan: Plan) -> None:
        self.catalogue, self.fingerprint, self.plan = catalogue, fingerprint, plan

    def tree(self, root: str, parts: Iterable[Part]) -> None:
        """One folder or archive: its files and the known ones go side by side, both by path."""
        before = len(self.plan.found.failures)
        with closing(self._known_under(root)) as blocks:
            known = _InOrder(blocks)
            for part in parts:
                there = known.up_to(max(part.files)[0]) if part.files else {}
                self._compare(part, there, root)
                self._count_gone(there, root)
            while rest := known.next_block():
                self.plan.known += len(rest)
                self._count_gone((row[0] for row in rest), root)
        self._meet(root, len(self.plan.found.failures) - before)

    def listed(self, parts: Iterable[Part]) -> None:
        """Files that were listed one by one."""
        for part in parts:
            there: dict[str, KnownRow] = {}
            if self.catalogue:
                paths = [*(path for path, *_ in part.files), *part.missing]
                there = {
                    path: (path, *known) for path, known in self.catalogue.known_at(paths, self.fingerprint).items()
                }
            self._compare(part, there, "")
            self._count_gone(there, "")
            if part.pattern is not None:
                prefix, pattern = part.pattern
                with closing(self._known_under(prefix)) as blocks:
                    for block in blocks:
                        meant = [path for path, *_ in block if pattern.match(path)]
                        self.plan.known += len(meant)
                        self._count_gone(meant, "")

    def _known_under(self, root: str) -> Generator[list[KnownRow]]:
        # Nothing is known of what lies in a folder whose name is not UTF-8: each of its files is a failure.
        if self.catalogue and is_utf8(root):
            yield from self.catalogue.known_under(root, self.fingerprint)

    def _compare(self, part: Part, there: dict[str, KnownRow], root: str) -> None:
        """Takes the files of the part out of `there`; each is unchanged or to be looked into."""
        plan, unchanged, todo = self.plan, 0, []
        plan.known += len(there)
        for number, file in enumerate(part.files):  # half a million times: as little as can be
            row = there.pop(file[0], None)
            said = None if part.metadata is None else part.metadata[number]
            if row is not None and row[4] and row[2] == file[1] and row[3] == file[2]:
                unchanged += 1
                if said is not None:
                    plan.said.append((file[0], said))
            else:
                todo.append(Task(FileFacts._make(file), None if row is None else known_file(row), said))
        if part.tree is not None:  # an archive is read from front to back
            todo.sort(key=lambda task: (task.file.position, task.file.path))
        plan.todo.extend(todo)
        plan.unchanged += unchanged
        self._meet(root, len(part.files))

    def _meet(self, root: str, files: int) -> None:
        self.plan.met[root] = self.plan.met.get(root, 0) + files
        self.plan.files += files

    def _count_gone(self, paths: Iterable[str], root: str) -> None:
        for path in paths:
            if path not in self.plan.vanished and is_gone(path):
                self.plan.vanished.add(path)
                self.plan.gone[root] = self.plan.gone.get(root, 0) + 1


class _InOrder:
    """Rows that come in blocks sorted by path, handed out as far as is asked for."""

    def __init__(self, blocks: Iterator[list[KnownRow]]) -> None:
        self._blocks, self._block = blocks, next(blocks, [])

    def up_to(self, path: str) -> dict[str, KnownRow]:
        """The next rows, to this path and with it, by path."""
        taken: dict[str, KnownRow] = {}
        while self._block and self._block[-1][0] <= path:
            taken.update(zip(map(_PATH, self._block), self._block, strict=True))
            self._block = next(self._blocks, [])
        end = bisect_right(self._block, path, key=_PATH)
        taken.update((row[0], row) for row in self._block[:end])
        self._block = self._block[end:]
        return taken

    def next_block(self) -> list[KnownRow]:
        """Some of what is left; empty when nothing is."""
        block, self._block = self._block, next(self._blocks, [])
        return block


_PATH = itemgetter(0)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Half a million tuples and no cycle among them: the garbage collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def describe(sources: Sequence[Path | str]) -> str:
    return ", ".join("the list on stdin" if is_stdin(source) else str(source) for source in sources)
