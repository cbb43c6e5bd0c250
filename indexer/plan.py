"""What there is to do: the files that are there, held against what the catalogue knows of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import BadSetting
from core.records import FileFacts
from models.walk import Found, is_gone, is_utf8, walk
from store.catalogue import Catalogue
from store.home import Home
from store.records import KnownFile


@dataclass(frozen=True)
class Plan:
    """What there is to do. `vanished`: known paths below the sources that are no longer there."""

    found: Found
    todo: list[FileFacts]
    unchanged: int
    known: dict[str, KnownFile] = field(default_factory=dict)
    vanished: set[str] = field(default_factory=set)


def make_plan(home: Home, catalogue: Catalogue | None, sources: Sequence[Path], fingerprint: str | None) -> Plan:
    """Walks the sources and holds them against the catalogue: same path, size and mtime means unchanged."""
    found = walk(sources, skip=[home.encoders, home.segments, home.uploads])
    roots = [os.path.abspath(source) for source in sources]  # noqa: PTH100  # as in walk()
    # Nothing is known of what lies in a folder whose name is not UTF-8: each of its files is a failure.
    known = catalogue.known_locations([*filter(is_utf8, roots)], fingerprint) if catalogue else {}
    todo = [file for file in found.files if not _is_unchanged(file, known.get(file.path))]
    present = {file.path for file in found.files}
    vanished = {path for path in known.keys() - present if is_gone(path)}
    unchanged = len(found.files) - len(todo)
    if catalogue and fingerprint:  # another encoder is coming into use: nobody can name uploads as a source
        uploads = catalogue.known_locations([str(home.uploads)], fingerprint)
        lacking = {path: file for path, file in uploads.items() if not file.embedded}
        todo += [FileFacts(path, file.size, file.mtime_ns) for path, file in lacking.items()]
        known |= lacking
    return Plan(found, todo, unchanged, known, vanished)


def check_prune(plan: Plan, sources: Sequence[Path]) -> None:
    """Raises BadSetting where a folder holds nothing of what is known in it: so looks a disk that is not mounted."""
    there = [file.path for file in plan.found.files] + [failure.path for failure in plan.found.failures]
    for source in filter(Path.is_dir, sources):
        root = os.path.abspath(source)  # noqa: PTH100  # as in walk()
        below = os.path.join(root, "")  # noqa: PTH118  # ends with the separator
        gone = sum(path.startswith(below) for path in plan.vanished)
        if gone and not any(path.startswith(below) for path in there):
            raise BadSetting(
                f"{source} holds no pictures now, but {gone:,} in it are known. If a disk is not mounted, mount it; "
                f"to forget them, run `simile index {Path(root).parent} --prune`."
            )


def _is_unchanged(file: FileFacts, known: KnownFile | None) -> bool:
    return known is not None and known.embedded and (known.size, known.mtime_ns) == (file.size, file.mtime_ns)
