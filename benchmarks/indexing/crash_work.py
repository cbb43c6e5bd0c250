"""The kinds of work that the benchmark `crashes` kills, on a small home."""

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

Acknowledge = Callable[..., None]
LONGEST = 60.0  # seconds; a process that takes longer hangs


@dataclass(kw_only=True)
class World:
    """A home and its photos."""

    settings: Settings
    photos: Path  # the indexed folder
    encoders: list[str]  # fingerprints of two encoders
    random: np.random.Generator
    batch: int  # number of images that one round adds
    round: int = 0
    highest: int = 0  # highest image id so far: no id may be used again

    def make_image(self) -> bytes:
        """Return a PNG of random blocks."""
        blocks = self.random.integers(0, 256, (8, 8, 1), np.uint8).repeat(3, 2)
        return encode_png(blocks.repeat(4, 0).repeat(4, 1))

    def add_photos(self) -> list[Path]:
        """Write new images into a new folder."""
        folder = self.photos / f"{self.round:05d}"
        folder.mkdir()
        paths = [folder / f"{number:04d}.png" for number in range(self.batch)]
        for path in paths:
            path.write_bytes(self.make_image())
        return paths


@dataclass
class Work:
    """One kind of work."""

    run: Callable[[Acknowledge], None]  # called in the child process
    removable: set[int] = field(default_factory=set)  # ids of images that may be missing afterwards
    paths: list[Path] = field(default_factory=list)  # files in the order that `done n` counts


def index_photos(world: World) -> Work:
    """Index a new folder."""
    paths = world.add_photos()

    def run(acknowledge: Acknowledge) -> None:
        request = IndexRequest(on_progress=lambda summary, _: acknowledge("done", summary.done), wait=LONGEST)
        index(world.settings, [paths[0].parent], request)

    return Work(run, paths=paths)


def prune(world: World) -> Work:
    """Move some images, remove others, and index everything with --prune."""
    known = sorted(path for path in world.photos.rglob("*.png"))
    rows = world.random.permutation(len(known))[: world.batch]
    for position, row in enumerate(rows):
        path = known[row]
        path.unlink() if position % 2 else path.rename(path.with_name(f"{path.stem}-{world.round}.png"))

    def run(acknowledge: Acknowledge) -> None:
        request = IndexRequest(
            prune=True, wait=LONGEST, on_progress=lambda summary, _: acknowledge("seen", summary.done)
        )
        index(world.settings, [world.photos], request)

    return Work(run, find_images_without_files(world))


def add(world: World) -> Work:
    """Upload images."""
    images = [world.make_image() for _ in range(world.batch)]

    def run(acknowledge: Acknowledge) -> None:
        with Searcher(world.settings) as searcher:
            for data in images:
                image_id, _ = add_upload(searcher, data, name="upload")
                acknowledge("stored", image_id, hashlib.sha256(data).hexdigest())

    return Work(run)


def delete(world: World) -> Work:
    """Delete uploads; an image in a folder would be indexed again by the next run."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        known = catalogue.files.find_under([str(world.settings.home / "uploads")])
    ids = sorted(file.image_id for file in known.values())
    deleted = [int(n) for n in world.random.permutation(ids)[: world.batch // 2]]

    def run(acknowledge: Acknowledge) -> None:
        with Searcher(world.settings) as searcher:
            for image_id in deleted:
                delete_image(searcher, image_id)
                acknowledge("deleted", image_id)

    return Work(run, set(deleted))


def compact(world: World) -> Work:
    """Upload images, then compact the index."""
    upload = add(world)

    def run(acknowledge: Acknowledge) -> None:
        upload.run(acknowledge)
        compact_index(world.settings)
        acknowledge("compacted")

    return Work(run)


def switch(world: World) -> Work:
    """Embed everything with the other encoder, and activate it.

    Everything is indexed before, because new images would get a vector of the other encoder only.
    """
    index(world.settings, [world.photos], IndexRequest(prune=True))
    with Catalogue(Home(world.settings.home)) as catalogue:
        active = catalogue.encoders.find_active()
    assert active is not None
    other = next(fingerprint for fingerprint in world.encoders if fingerprint != active.fingerprint)

    def run(acknowledge: Acknowledge) -> None:
        request = IndexRequest(
            encoder=other, prune=True, wait=LONGEST, on_progress=lambda summary, _: acknowledge("seen", summary.done)
        )
        summary = index(world.settings, [world.photos], request)
        if not summary.lacking:
            acknowledge("active", other)

    return Work(run)


def find_images_without_files(world: World) -> set[int]:
    """Return images whose bytes are in no file: a run with --prune may remove them."""
    existing = {
        hash_file(path) for path in [*world.photos.rglob("*.png"), *(world.settings.home / "uploads").iterdir()]
    }
    return {image_id for image_id, sha256 in read_images(world).items() if sha256 not in existing}


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


KINDS: dict[str, Callable[[World], Work]] = {
    "index": index_photos,
    "prune": prune,
    "add": add,
    "delete": delete,
    "compact": compact,
    "switch": switch,
}
PAIRS = (("index", "add"), ("compact", "add"), ("switch", "delete"), ("index", "index"))


def read_images(world: World) -> dict[int, str]:
    """Return the SHA-256 of each image, by id."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        return {image.id: image.sha256 for image in catalogue.images.get_page(10**9)}


def make_world(folder: Path, home: Path, trained: Path | None, seed: int, batch: int) -> World:
    """Make a home with two encoders and the images of one round, which are in `folder`."""
    runs = {"workers": 1, "device": "cpu", "runtime": "torch", "batch_size": max(4, batch // 8)}
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
        second = add_second_encoder(settings.home / "encoders", active.fingerprint)
        register_encoder(catalogue, load_encoder(Home(settings.home), second, "cpu", "torch"))
    world = World(
        settings=settings,
        photos=photos,
        encoders=[active.fingerprint, second],
        random=np.random.default_rng(seed),
        batch=batch,
    )
    world.add_photos()
    index(settings, [photos], IndexRequest())
    return world


def add_second_encoder(folder: Path, fingerprint: str) -> str:
    """Store the same network with scaled weights; return its fingerprint."""
    weights, description = checkpoint.load_checkpoint(folder / fingerprint)
    scaled = {name: 1.1 * tensor for name, tensor in weights.items()}
    new_fingerprint = checkpoint.save_checkpoint(folder / ".new", scaled, description)
    (folder / ".new").rename(folder / new_fingerprint)
    return new_fingerprint
