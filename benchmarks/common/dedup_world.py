"""A small home with copies of all tiers: its plan, and checks that no content was lost."""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simile.core.records import FileStat
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.companions import add_companions
from simile.dedup.cleanup.journal import read_journals
from simile.dedup.cleanup.plan import write_plan
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.images.encoding import encode_png
from simile.images.metadata.sidecars import add_to_xmp
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord, NewImage
from simile.store.database import schema
from simile.store.home import Home

ENCODER = "d" * 64
FileState = tuple[str, str, int, int]  # kind, hash or target of a link, mtime_ns, mode


@dataclass(kw_only=True)
class World:
    """A home and the photos that it indexed."""

    settings: Settings
    folder: Path  # contains everything except `elsewhere`
    photos: Path  # the indexed folder
    elsewhere: Path  # on another disk if there is one
    plan: Path
    removals: list[Removal] = field(default_factory=list)
    matches: set[tuple[str, str]] = field(default_factory=set)  # hashes of images that are copies, in both orders

    @property
    def home(self) -> Home:
        """The home."""
        return Home(self.settings.home)

    @property
    def moved(self) -> Path:
        """Target folder of the action `move`."""
        return self.folder / "moved"

    @property
    def trash(self) -> Path:
        """The trash of the user; see XDG_DATA_HOME."""
        return self.folder / "data" / "Trash"

    def save(self, removals: Sequence[Removal], decisions: Sequence[Decision] = ()) -> Path:
        """Write the plan file."""
        write_plan(
            self.plan, CleanupPlan(tuple(removals), tuple(decisions), "2999-01-01T00:00:00+00:00", str(self.home.root))
        )
        return self.plan

    def make_removal(
        self, path: Path, keep: Path, tier: str = "bytes", sha256: str = "", keep_sha256: str = ""
    ) -> Removal:
        """Return a line of a plan, with the true hashes unless others are given."""
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
    """Make a home with groups of byte copies, pixel copies and near copies, each file with its own time and mode."""
    folder = Path(os.path.realpath(folder))
    settings = load_settings(home=folder / "home", device="cpu")
    world = World(
        settings=settings, folder=folder, photos=folder / "photos", elsewhere=elsewhere, plan=folder / "plan.json"
    )
    random = np.random.default_rng(5)
    schema.upgrade_schema(world.home)
    with Catalogue(world.home) as catalogue:
        catalogue.encoders.register(ENCODER, "toy", "vae", dimensions=2)
        catalogue.encoders.activate(ENCODER)
        pairs: list[tuple[str, str, str]] = []
        for number in range(groups):
            pairs += _add_group(world, catalogue, number, random)
        _store_pairs(catalogue, pairs)
        run = catalogue.runs.start("index", {"sources": [str(world.photos)]})
        catalogue.runs.finish(run, "finished", {})
        world.removals = list(add_companions(CleanupPlan(tuple(world.removals)), catalogue).removals)
    world.save(world.removals)
    return world


def _add_group(
    world: World, catalogue: Catalogue, number: int, random: np.random.Generator
) -> list[tuple[str, str, str]]:
    """Add a kept image with two byte copies, a pixel copy and a near copy, and an image without copies."""
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
    for position, path in enumerate([*paths.values(), *copies]):
        path.chmod((0o644, 0o600, 0o444, 0o664)[position % 4])
        os.utime(path, ns=(10**18 + position, 10**18 + number * 10**12 + position * 10**9 + 12345))
        index_file(catalogue, path)
    _add_companions(paths, copies, number)
    kept = paths["kept"]
    world.removals += [world.make_removal(copy, kept) for copy in copies]
    world.removals += [world.make_removal(paths[tier], kept, tier) for tier in ("pixels", "near")]
    pairs = [(sha256_of(kept), sha256_of(paths[tier]), tier) for tier in ("pixels", "near")]
    world.matches |= {pair for first, second, _ in pairs for pair in ((first, second), (second, first))}
    return pairs


def _add_companions(paths: dict[str, Path], copies: list[Path], number: int) -> None:
    """Write sidecars and partners: of the kept file, of two copies, one that two images share."""
    first, second = copies
    contents = {
        first.with_suffix(".xmp"): add_to_xmp(None, "", 4, [f"first {number}"]),
        first.with_suffix(".MOV"): f"film {number}".encode(),
        first.with_suffix(".CR3"): f"raw {number}".encode(),
        second.with_name(f"{second.name}.xmp"): add_to_xmp(None, "", None, [f"second {number}", "both"]),
        paths["near"].with_name(f"{paths['near'].name}.XMP"): b"no XMP",
        paths["alone"].with_suffix(".xmp"): add_to_xmp(None, "", 1, ["alone"]),
    }
    if number % 2 == 0:  # the other kept files get a new sidecar
        contents[paths["kept"].with_suffix(".xmp")] = add_to_xmp(None, "", None, ["kept", "both"])
    for position, (path, content) in enumerate(contents.items()):
        path.write_bytes(content)
        path.chmod((0o644, 0o600, 0o444)[position % 3])
        os.utime(path, ns=(10**18 + position, 10**18 + number * 10**12 + position * 10**9 + 777))


def index_file(catalogue: Catalogue, path: Path) -> None:
    """Store a file as `simile index` does, with a vector of zeros."""
    status = path.stat()
    file = FileStat(str(path), status.st_size, status.st_mtime_ns)
    mu = np.zeros(2, np.float32)
    image = NewImage(sha256=sha256_of(path), size=status.st_size, format="png", width=12, height=12, file=file, mu=mu)
    catalogue.images.add_batch([image], ENCODER, "eager")


def _store_pairs(catalogue: Catalogue, pairs: list[tuple[str, str, str]]) -> None:
    """Store pairs of hashes and tiers as the result of `simile dedup`."""
    ids = {
        sha: known.image_id
        for sha, known in catalogue.images.find_by_sha256({sha for pair in pairs for sha in pair[:2]}).items()
    }
    run = catalogue.runs.start("dedup", {})
    rows = [
        DuplicateRecord(*sorted((ids[first], ids[second])), tier, 0.1, 0.9, "planted") for first, second, tier in pairs
    ]
    catalogue.duplicates.replace(run, rows)
    catalogue.runs.finish(run, "finished", {})


def sha256_of(path: Path) -> str:
    """Return the hash of a regular file; zeros for anything else, which must not be read."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64


def read_tree(folder: Path) -> dict[str, FileState]:
    """Return the state of everything below a folder, except folders."""
    found: dict[str, FileState] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            found[str(path)] = ("link", str(path.readlink()), status.st_mtime_ns, 0)
        elif stat.S_ISREG(status.st_mode):
            found[str(path)] = ("file", sha256_of(path), status.st_mtime_ns, stat.S_IMODE(status.st_mode))
        elif not stat.S_ISDIR(status.st_mode):
            found[str(path)] = ("other", "", status.st_mtime_ns, 0)
    return found


def get_hashes(*folders: Path) -> set[str]:
    """Return the hashes of all regular files."""
    return {state[1] for folder in folders for state in read_tree(folder).values() if state[0] == "file"}


def _get_journal_hashes(world: World) -> set[str]:
    """Return the hashes of sidecars before they were written, which journals contain."""
    operations = [entry.operation for journal in read_journals(world.home) for entry in journal.entries.values()]
    contents = (base64.b64decode(operation.content) for operation in operations if operation.content is not None)
    return {hashlib.sha256(content).hexdigest() for content in contents}


def find_lost(world: World, before: dict[str, FileState], *, more_photos: Sequence[Path] = ()) -> Iterator[str]:
    """Yield contents that no longer exist, and images without a copy among the photos (or in `more_photos`)."""
    everywhere = get_hashes(world.photos, world.elsewhere, world.trash, world.moved) | _get_journal_hashes(world)
    among_photos = get_hashes(world.photos, *more_photos)
    for path, (kind, sha256, *_) in before.items():
        if kind != "file":
            continue
        if sha256 not in everywhere:
            yield f"the content of {path} no longer exists"
        if not path.endswith(".png"):  # no image: a sidecar or a partner goes along with its image
            continue
        copies = {second for first, second in world.matches if first == sha256}
        if sha256 not in among_photos and not copies & among_photos:
            yield f"the photos no longer contain a copy of {path}"


def find_differences(before: dict[str, FileState], after: dict[str, FileState]) -> Iterator[str]:
    """Yield the files whose state changed."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield f"{path}: {before.get(path)} became {after.get(path)}"


def add_elsewhere_option(parser: argparse.ArgumentParser) -> None:
    """Add --elsewhere, for `open_folders`."""
    parser.add_argument("--elsewhere", type=Path, help="folder on another disk, a target of moves [default: /dev/shm]")


@contextmanager
def open_folders(elsewhere: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield two temporary folders, the second one on another disk if possible."""
    other_disk = elsewhere or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(dir=other_disk) as second:
        yield Path(first), Path(second)
