"""A small home with copies of all tiers, for dedup_kills.py: what there is, what may go for what, and what is lost."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simile.core.records import FileStat
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.plan import write_plan
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.images.encoding import encode_png
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, NewImage
from simile.store.database import schema
from simile.store.home import Home

ENCODER = "d" * 64
Facts = tuple[str, str, int, int]  # kind, hash or where a link leads, mtime_ns, mode


@dataclass
class World:
    """folder: all of it. photos: what is indexed. elsewhere: a folder on another disk if there is one, else here."""

    settings: Settings
    folder: Path
    photos: Path
    elsewhere: Path
    plan: Path
    removals: list[Removal] = field(default_factory=list)
    matches: set[tuple[str, str]] = field(default_factory=set)  # hashes of pictures that are copies, both ways

    @property
    def home(self) -> Home:
        return Home(self.settings.home)

    @property
    def moved(self) -> Path:
        return self.folder / "moved"

    @property
    def trash(self) -> Path:
        return self.folder / "data" / "Trash"

    def save(self, removals: Sequence[Removal], decisions: Sequence[Decision] = ()) -> Path:
        write_plan(
            self.plan, CleanupPlan(tuple(removals), tuple(decisions), "2999-01-01T00:00:00+00:00", str(self.home.root))
        )
        return self.plan

    def line(self, path: Path, keep: Path, tier: str = "bytes", sha256: str = "", keep_sha256: str = "") -> Removal:
        """A line of a plan; hashes are the true ones unless given."""
        hashes = (sha256 or sha256_of(path), keep_sha256 or sha256_of(keep))
        return Removal(
            path=str(path),
            sha256=hashes[0],
            keep_path=str(keep),
            keep_sha256=hashes[1],
            tier=tier,  # type: ignore[arg-type]
            group="g",
            reason="",
        )


def make_world(folder: Path, elsewhere: Path, groups: int = 4) -> World:
    """So many groups of byte copies, of same pixels, and of near ones; in folders, each with a time and mode."""
    folder = Path(os.path.realpath(folder))
    settings = load_settings(home=folder / "home", device="cpu")
    world = World(settings, folder, folder / "photos", elsewhere, folder / "plan.json")
    random = np.random.default_rng(5)
    schema.upgrade_schema(world.home)
    with Catalogue(world.home) as catalogue:
        catalogue.encoders.register(ENCODER, "toy", "vae", dimensions=2)
        catalogue.encoders.activate(ENCODER)
        pairs: list[tuple[str, str, str]] = []
        for number in range(groups):
            pairs += _group(world, catalogue, number, random)
        _find(catalogue, pairs)
        run = catalogue.runs.start("index", {"sources": [str(world.photos)]})
        catalogue.runs.finish(run, "finished", {})
    world.save(world.removals)
    return world


def _group(world: World, catalogue: Catalogue, number: int, random: np.random.Generator) -> list[tuple[str, str, str]]:
    """One kept picture with two copies of the same bytes, one of the same pixels, one near copy; and one of its own."""
    folder = world.photos / f"{number}" / "deep"
    folder.mkdir(parents=True)
    names = ("kept", "pixels", "near", "alone")
    data = {name: encode_png(random.integers(0, 256, (12, 12, 3), np.uint8)) for name in names}
    paths = {name: folder / f"{name} {number}.png" for name in names}
    for name, path in paths.items():
        path.write_bytes(data[name])
    copies = [world.photos / f"copy {number}.png", folder / "ümläut copy.png"]
    for copy in copies:
        copy.write_bytes(data["kept"])
    for place, path in enumerate([*paths.values(), *copies]):
        path.chmod((0o644, 0o600, 0o444, 0o664)[place % 4])
        os.utime(path, ns=(10**18 + place, 10**18 + number * 10**12 + place * 10**9 + 12345))
        index(catalogue, path)
    kept = paths["kept"]
    world.removals += [world.line(copy, kept) for copy in copies]
    world.removals += [world.line(paths[tier], kept, tier) for tier in ("pixels", "near")]
    found = [(sha256_of(kept), sha256_of(paths[tier]), tier) for tier in ("pixels", "near")]
    world.matches |= {pair for one, other, _ in found for pair in ((one, other), (other, one))}
    return found


def index(catalogue: Catalogue, path: Path) -> None:
    """Stores a file as `simile index` would, with a vector that nobody looks at."""
    facts = path.stat()
    file = FileStat(str(path), facts.st_size, facts.st_mtime_ns)
    mu = np.zeros(2, np.float32)
    picture = NewImage(sha256=sha256_of(path), size=facts.st_size, format="png", width=12, height=12, file=file, mu=mu)
    catalogue.images.add_batch([picture], ENCODER, "eager")


def _find(catalogue: Catalogue, pairs: list[tuple[str, str, str]]) -> None:
    ids = {
        sha: known.image_id
        for sha, known in catalogue.images.find_by_sha256({sha for one in pairs for sha in one[:2]}).items()
    }
    run = catalogue.runs.start("dedup", {})
    rows = [
        DuplicateRecord(*sorted((ids[one], ids[other])), tier, 0.1, 0.9, "planted") for one, other, tier in pairs
    ]  # fmt: skip
    catalogue.duplicates.replace(run, rows)
    catalogue.runs.finish(run, "finished", {})


def sha256_of(path: Path) -> str:
    """Of a regular file; zeros for anything else, which must not be read."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64


def tree(folder: Path) -> dict[str, Facts]:
    """Everything but folders below a folder: what it is, what it holds, its time and mode."""
    found: dict[str, Facts] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            found[str(path)] = ("link", str(path.readlink()), facts.st_mtime_ns, 0)
        elif stat.S_ISREG(facts.st_mode):
            found[str(path)] = ("file", sha256_of(path), facts.st_mtime_ns, stat.S_IMODE(facts.st_mode))
        elif not stat.S_ISDIR(facts.st_mode):
            found[str(path)] = ("other", "", facts.st_mtime_ns, 0)
    return found


def contents(*folders: Path) -> set[str]:
    """The hashes of all regular files."""
    return {facts[1] for folder in folders for facts in tree(folder).values() if facts[0] == "file"}


def lost(world: World, before: dict[str, Facts], *, stays: Sequence[Path] = ()) -> Iterator[str]:
    """Contents that are nowhere any more, and pictures of which no copy is among the photos (or what stays)."""
    everywhere = contents(world.photos, world.elsewhere, world.trash, world.moved)
    among_photos = contents(world.photos, *stays)
    for path, (kind, sha256, *_) in before.items():
        if kind != "file":
            continue
        if sha256 not in everywhere:
            yield f"what {path} held is nowhere any more"
        copies = {other for one, other in world.matches if one == sha256}
        if sha256 not in among_photos and not copies & among_photos:
            yield f"no copy of {path} is among the photos any more"


def differences(before: dict[str, Facts], after: dict[str, Facts]) -> Iterator[str]:
    """What is not as it was."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield f"{path}: {before.get(path)} became {after.get(path)}"
