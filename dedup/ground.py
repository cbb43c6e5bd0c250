"""Where files may be touched: by what the home knows and the command line names, never by what a plan says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dedup.records import Plan
from dedup.sighting import SetAside
from models.archives import split
from store.catalogue import Catalogue

RUNS_LOOKED_AT = 10_000  # of the latest: their sources are folders that were named by hand


@dataclass
class Ground:
    """home: its folder, without links. indexed: the known files among those asked for. sources, roots: folders."""

    home: str
    indexed: Collection[str]
    sources: tuple[str, ...]
    roots: tuple[str, ...]
    _folders: dict[str, str] = field(default_factory=dict)

    def resolve(self, path: str) -> Path:
        """The file's place without links on the way (the file itself may be one). Raises SetAside if it leads out."""
        if split(path) is not None:
            raise SetAside("it lies in an archive, which is never changed")
        real = self.real(path)
        if lies_in(real, self.home):
            raise SetAside("it lies in simile's own home")
        root = next((root for root in self.roots if lies_in(path, root)), None)
        if root is None and path not in self.indexed:
            raise SetAside("it is not indexed, and in no --root")
        if real != path and not self._stays_in(path, real):
            raise SetAside(f"a symbolic link leads to it in {Path(real).parent}; name that with --root, if it may go")
        return Path(real)

    def real(self, path: str) -> str:
        """The path with every link on the way to its folder resolved."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return str(Path(self._folders[folder]) / name)

    def layout(self, path: str) -> Path:
        """The path relative to the outermost folder that was named with it in it, else to the root of all."""
        named = [folder for folder in (*self.roots, *self.sources) if lies_in(path, folder) and path != folder]
        return Path(path).relative_to(min(named, key=len, default=os.sep))

    def _stays_in(self, path: str, real: str) -> bool:
        """Whether the links on the way are those of a folder that was named by hand, or lead back into it."""
        named = (folder for folder in (*self.roots, *self.sources) if lies_in(path, folder))
        return any(lies_in(real, os.path.realpath(folder)) for folder in named) or any(
            lies_in(real, os.path.realpath(root)) for root in self.roots
        )


def lies_in(path: str, folder: str) -> bool:
    """Whether the path is in the folder, by their names alone."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def make_ground(catalogue: Catalogue, plan: Plan, roots: Iterable[Path]) -> Ground:
    """The ground for a plan's files."""
    asked = {path for removal in plan.removals for path in (removal.path, removal.keep_path)}
    runs = catalogue.runs(RUNS_LOOKED_AT)
    sources = {source for run in runs if run.kind == "index" for source in run.settings.get("sources", ())}
    return Ground(
        os.path.realpath(catalogue.home.root),
        catalogue.known_at(asked).keys(),
        tuple(sorted(source for source in sources if source.startswith(os.sep))),
        tuple(os.path.abspath(root) for root in roots),  # noqa: PTH100  # Path.absolute() leaves `..` in
    )


def refusals(plan: Plan, ground: Ground, done: Collection[int] = ()) -> dict[int, str]:
    """Lines that contradict the plan as a whole, by their number: judged before anything is touched.

    `done`: lines that were carried out before, when their files became links to the kept ones.
    """
    lines = {number: removal for number, removal in enumerate(plan.removals) if number not in done}
    places = {number: (_place(ground, one.path), _place(ground, one.keep_path)) for number, one in lines.items()}
    reasons = {
        number: "it is the file that is to be kept, under this name or another"
        for number, (place, keep) in places.items()
        if place.is_same(keep)
    }
    removed = {name for number, (place, _) in places.items() for name in place.names(bare=number in reasons)}
    kept = {name for _, keep in places.values() for name in keep.names()}
    seen: set[object] = set()
    for number, (place, keep) in places.items():
        if number not in reasons and keep.names() & removed:
            reasons[number] = "the file that is to be kept for it is to be removed by the same plan"
        elif number not in reasons and place.names() & kept:
            reasons[number] = "the same plan keeps it for another file"
        elif number not in reasons and place.names(bare=True) & seen:
            reasons[number] = "the plan names it twice"
        seen |= place.names(bare=True)
    return reasons


@dataclass(frozen=True)
class _Place:
    """path: as in the plan; real: without links on the way; identity: device and inode, None where nothing is."""

    path: str
    real: str
    identity: tuple[int, int] | None

    def names(self, *, bare: bool = False) -> set[object]:
        """What tells it apart. `bare`: by name alone, for a file that shares its bytes with another name."""
        return {self.path, self.real} | (set() if bare or self.identity is None else {self.identity})

    def is_same(self, other: _Place) -> bool:
        return bool(self.names() & other.names())


def _place(ground: Ground, path: str) -> _Place:
    real = ground.real(path)
    try:
        facts = os.lstat(real)
    except OSError:
        return _Place(path, real, None)
    return _Place(path, real, (facts.st_dev, facts.st_ino))
