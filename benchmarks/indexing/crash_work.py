"""The kinds of work that are killed in crashes.py, on a small home with pictures beside it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simile.core.settings import Settings, load_settings
from simile.images.encoding import encode_png
from simile.indexer.maintenance.rebuild import compact_index
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload, delete_image
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.models.checkpoints import checkpoint
from simile.models.demo_datasets import write_digits
from simile.search.encoder_registry import load_encoder, register_encoder
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

Say = Callable[..., None]
LONGEST = 60.0  # seconds after which a process hangs


@dataclass
class World:
    """The home, the pictures beside it, and where the dice lie."""

    settings: Settings
    photos: Path
    encoders: list[str]
    random: np.random.Generator
    many: int
    round: int = 0
    highest: int = 0  # id that was ever seen: none is used again

    def picture(self) -> bytes:
        """A PNG that is like no other."""
        blocks = self.random.integers(0, 256, (8, 8, 1), np.uint8).repeat(3, 2)
        return encode_png(blocks.repeat(4, 0).repeat(4, 1))

    def new_photos(self) -> list[Path]:
        folder = self.photos / f"{self.round:05d}"
        folder.mkdir()
        paths = [folder / f"{number:04d}.png" for number in range(self.many)]
        for path in paths:
            path.write_bytes(self.picture())
        return paths


@dataclass
class Work:
    """One kind of work. do: in the child. may_go: ids that may be gone afterwards. paths: what `done n` counts."""

    do: Callable[[Say], None]
    may_go: set[int] = field(default_factory=set)
    paths: list[Path] = field(default_factory=list)


def indexing(world: World) -> Work:
    paths = world.new_photos()

    def do(say: Say) -> None:
        request = IndexRequest(on_progress=lambda summary, _: say("done", summary.done), wait=LONGEST)
        index(world.settings, [paths[0].parent], request)

    return Work(do, paths=paths)


def pruning(world: World) -> Work:
    """Some known pictures are moved, some removed; a run over everything with --prune."""
    known = sorted(path for path in world.photos.rglob("*.png"))
    chosen = world.random.permutation(len(known))[: world.many]
    for place, number in enumerate(chosen):
        path = known[number]
        path.unlink() if place % 2 else path.rename(path.with_name(f"{path.stem}-{world.round}.png"))

    def do(say: Say) -> None:
        request = IndexRequest(prune=True, wait=LONGEST, on_progress=lambda summary, _: say("seen", summary.done))
        index(world.settings, [world.photos], request)

    return Work(do, gone_by_now(world))


def adding(world: World) -> Work:
    pictures = [world.picture() for _ in range(world.many)]

    def do(say: Say) -> None:
        with Searcher(world.settings) as searcher:
            for data in pictures:
                image_id, _ = add_upload(searcher, data, name="upload")
                say("stored", image_id, hashlib.sha256(data).hexdigest())

    return Work(do)


def deleting(world: World) -> Work:
    """Uploads, for a picture in a folder would be new again to the next run."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        known = catalogue.files.find_under([str(world.settings.home / "uploads")])
    ids = sorted(file.image_id for file in known.values())
    chosen = [int(n) for n in world.random.permutation(ids)[: world.many // 2]]

    def do(say: Say) -> None:
        with Searcher(world.settings) as searcher:
            for image_id in chosen:
                delete_image(searcher, image_id)
                say("deleted", image_id)

    return Work(do, set(chosen))


def compacting(world: World) -> Work:
    add = adding(world)

    def do(say: Say) -> None:
        add.do(say)
        compact_index(world.settings)
        say("compacted")

    return Work(do)


def switching(world: World) -> Work:
    """Everything is embedded by the other encoder, which is then put in use.

    A run to the end comes first: what is new to the home would get a vector by the other encoder alone.
    """
    index(world.settings, [world.photos], IndexRequest(prune=True))
    with Catalogue(Home(world.settings.home)) as catalogue:
        active = catalogue.encoders.find_active()
    assert active is not None
    other = next(one for one in world.encoders if one != active.fingerprint)

    def do(say: Say) -> None:
        seen = {"on_progress": lambda summary, _: say("seen", summary.done)}
        summary = index(world.settings, [world.photos], IndexRequest(encoder=other, prune=True, wait=LONGEST, **seen))
        if not summary.lacking:
            say("active", other)

    return Work(do)


def gone_by_now(world: World) -> set[int]:
    """Images whose bytes are in no file any more: a run with --prune may forget them."""
    there = {contents(path) for path in [*world.photos.rglob("*.png"), *(world.settings.home / "uploads").iterdir()]}
    return {image_id for image_id, sha256 in rows(world).items() if sha256 not in there}


def contents(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


KINDS: dict[str, Callable[[World], Work]] = {
    "index": indexing,
    "prune": pruning,
    "add": adding,
    "delete": deleting,
    "compact": compacting,
    "switch": switching,
}
PAIRS = (("index", "add"), ("compact", "add"), ("switch", "delete"), ("index", "index"))


def rows(world: World) -> dict[int, str]:
    """SHA-256 by id of every image."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        return {image.id: image.sha256 for image in catalogue.images.get_page(10**9)}


def make_world(folder: Path, home: Path, trained: Path | None, seed: int, many: int) -> World:
    """A home with two encoders and as many pictures as a round adds; the pictures lie in `folder`."""
    runs = {"workers": 1, "device": "cpu", "runtime": "torch", "batch_size": max(4, many // 8)}
    settings = load_settings(home=home, index="ivf", **runs)  # exact below 256 rows, inverted lists from there
    photos = folder / "photos"
    photos.mkdir(parents=True)
    if trained is not None:
        shutil.copytree(trained, settings.home)
    else:
        write_digits(folder / "digits")
        small = {"latent_dim": 16, "width": 8, "epochs": 2}
        train_on_sources(settings, [folder / "digits"], TrainingRequest(recipe="vae", overrides=small), lambda _: None)
    with Catalogue(Home(settings.home)) as catalogue:
        active = catalogue.encoders.find_active()
        assert active is not None
        second = another_encoder(settings.home / "encoders", active.fingerprint)
        register_encoder(catalogue, load_encoder(Home(settings.home), second, "cpu", "torch"))
    world = World(settings, photos, [active.fingerprint, second], np.random.default_rng(seed), many)
    world.new_photos()
    index(settings, [photos], IndexRequest())
    return world


def another_encoder(folder: Path, fingerprint: str) -> str:
    """The same network with other weights."""
    weights, description = checkpoint.load_checkpoint(folder / fingerprint)
    scaled = {name: 1.1 * tensor for name, tensor in weights.items()}
    made = checkpoint.save_checkpoint(folder / ".new", scaled, description)
    (folder / ".new").rename(folder / made)
    return made
