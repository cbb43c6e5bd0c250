"""Training an encoder on files, and putting it into the home."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simile.core.atomic_write import replace_folder
from simile.core.records import FileFacts
from simile.core.settings import Settings
from simile.images.transforms import Fit, Preprocessing
from simile.indexer.training.dataset import Material, Wanted, read_material
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.training_set import TrainedOn
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.perceptual import Perception, make_perception
from simile.models.recipes import DEFAULT_RECIPE, PHOTO_RECIPE, Recipe, load_recipe
from simile.models.training.loop import Options, Progress, Trained, split, train
from simile.models.training.report import write_report
from simile.models.training.resume import require_state
from simile.models.training.setup import Extras
from simile.search.encoder_registry import find_encoder, register
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home, writing

pass
from simile.images.sources.gitignore import Patterns
from simile.images.sources.sources import check_sources, walk
from simile.models.training.loop import Progress
from simile.store.database import schema
from simile.store.home import Home

log = logging.getLogger(__name__)

OF_ANY_RECIPE = {"epochs", "batch_size", "learning_rate", "patience_epochs"}  # settings that speak for none
READING_SHARE = 0.2  # of the time budget


@dataclass(frozen=True)
class TrainingRequest:
    """What a person may say about training. Where nothing speaks for a recipe, it is chosen by the pictures."""

    recipe: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    image_size: int | None = None
    fit: Fit | None = None
    seed: int = 0
    resume: bool | None = False  # as in models.training.Options
    labels: str | None = None  # folders, or a CSV file
    decoder_only: str | None = None  # an encoder of the home, or a folder: a decoder is trained over it


def train_encoder(
    home: Home,
    catalogue: Catalogue,
    settings: Settings,
    files: Sequence[FileFacts],
    request: TrainingRequest,
    on_progress: Callable[[Progress], None],
    roots: Sequence[Path] = (),
) -> TrainedEncoder:
    """Trains on `files`, saves the encoder with its report, registers it. The caller holds the home's lock.

    The time budget counts from here, but reading the pictures uses up a fifth of it at most: a large folder is
    trained on all the same. `roots`: the folders that `files` were found in, for labels.
    """
    started = time.monotonic()
    recipe = load_recipe(request.recipe or ("decoder" if request.decoder_only else DEFAULT_RECIPE), **request.overrides)
    said = {name for name, value in request.overrides.items() if value is not None}
    is_open = request.recipe is None and not request.decoder_only and said <= OF_ANY_RECIPE
    state_folder = home.encoders / ".training"
    if request.resume:
        require_state(state_folder)
    frozen = find_encoder(home, request.decoder_only, settings.device) if request.decoder_only else None
    wanted = Wanted(
        recipe,
        load_recipe(PHOTO_RECIPE, **request.overrides) if is_open else None,
        request.seed,
        request.image_size,
        request.fit,
        request.labels,
        tuple(roots),
        frozen.preprocessing if frozen else None,
    )
    material = read_material(settings, files, wanted)
    recipe = material.recipe
    perception = _perception(home, recipe, material.preprocessing)
    extras = Extras(material.labels, material.classes, perception, frozen.network if frozen else None)
    budget_from = budget_start(started, time.monotonic(), request.minutes)
    options = Options(request.seed, request.minutes, settings.device, request.resume, budget_from)
    size = material.preprocessing.image_size
    log.info("training on %d pictures of %d px, recipe %s", len(material.pictures), size, recipe.name)
    with writing(home.encoders):
        trained = train(
            material.pictures, material.preprocessing, recipe, options, state_folder, on_progress, extras=extras
        )
        encoder = _save(home, settings, request, recipe, material, trained, frozen)
    register(catalogue, encoder)
    shutil.rmtree(state_folder, ignore_errors=True)
    return encoder


def budget_start(started: float, now: float, minutes: float | None) -> float:
    """When the time budget began, in seconds: with the reading, unless that took more than its share."""
    return started if minutes is None else max(started, now - READING_SHARE * minutes * 60)


def _perception(home: Home, recipe: Recipe, preprocessing: Preprocessing) -> Perception | None:
    """The features that the decoder must give back; those of an encoder of this home by its fingerprint."""
    if recipe.features == "none" or recipe.features_from == "latent":
        return None
    folder = home.encoders / recipe.features
    features = str(folder) if recipe.features.isalnum() and folder.is_dir() else recipe.features
    _, _, height, width = preprocessing.content_box()
    return make_perception(features, preprocessing.channels, min(height, width))


def _save(
    home: Home,
    settings: Settings,
    request: TrainingRequest,
    recipe: Recipe,
    material: Material,
    trained: Trained,
    frozen: TrainedEncoder | None,
) -> TrainedEncoder:
    """Writes weights, encoder.json and the report beside the encoders, then renames the folder into place."""
    description: dict[str, Any] = {
        "architecture": trained.network.architecture.to_dict(),
        "preprocessing": material.preprocessing.to_dict(),
        "metric": recipe.metric,
        "index_dims": recipe.content_dim or None,
        "recipe": recipe.to_dict(),
        "classes": list(material.classes),
        "seed": request.seed,
        "data": {
            "pictures": len(material.pictures),
            "training": trained.train_count,
            "validation": len(trained.validation),
            "set_aside": len(material.failures),
        },
    }
    if frozen is not None:  # what is searched by is the encoder that the decoder was trained over
        kept = {name: frozen.description[name] for name in ("metric", "index_dims", "recipe")}
        kept["classes"] = frozen.description.get("classes", [])
        description |= kept | {"decoder": {"over": frozen.fingerprint, "recipe": recipe.to_dict()}}
    arriving = home.encoders / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    fingerprint = checkpoint.save(arriving, trained.network.state_dict(), description)
    trained_on = _trained_on(material, request.seed, frozen)
    if trained_on is not None:
        trained_on.save(arriving)
    encoder = TrainedEncoder.load(arriving, settings.device, settings.runtime)
    write_report(arriving, trained, encoder, request.seed)
    replace_folder(arriving, home.encoders / fingerprint)  # which is there where the same weights were trained before
    return encoder


def _trained_on(material: Material, seed: int, frozen: TrainedEncoder | None) -> TrainedOn | None:
    """Of a decoder over an encoder of which nobody knows it, nobody knows it either."""
    known = TrainedOn.of(material.digests, *split(len(material.pictures), seed))
    if frozen is None:
        return known
    return None if frozen.trained_on is None else known.joined(frozen.trained_on)


def train_on(
    settings: Settings,
    sources: Sequence[Path],
    request: TrainingRequest,
    on_progress: Callable[[Progress], None],
    patterns: Patterns | None = None,
) -> dict[str, Any]:
    """Trains on the pictures in `sources`; gives the report's head, the folder, and whether it is in use now.

    A home that already holds vectors of another encoder keeps it in use: its vectors can't be compared with these.
    """
    home = Home(settings.home, settings.database_url)
    check_sources(sources)
    with home.lock("simile train"):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            files = walk(sources, [home.encoders, home.segments, home.uploads], patterns).files
            encoder = train_encoder(home, catalogue, settings, files, request, on_progress, roots=sources)
            active = catalogue.active_encoder()
            if active is None or catalogue.count_embeddings(active.fingerprint) == 0:
                catalogue.activate(encoder.fingerprint)
            in_use = catalogue.active_encoder()
    folder = home.encoders / encoder.fingerprint
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    del report["epochs"]
    return {**report, "folder": str(folder), "active": in_use is not None and in_use.fingerprint == encoder.fingerprint}
