"""Training an encoder on files, and putting it into the home."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simile.core.atomic_write import replace_folder
from simile.core.records import FileStat
from simile.core.settings import Settings
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import check_sources, walk_sources
from simile.images.transforms import FitMode, Preprocessing
from simile.indexer.training.dataset import DatasetSpec, TrainingSet, read_training_set
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.checkpoints.training_set import TrainingDigests
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.perceptual import PerceptualDistance, make_perceptual_distance
from simile.models.recipes import DEFAULT_RECIPE, PHOTO_RECIPE, Recipe, load_recipe
from simile.models.training.loop import TrainingOptions, TrainingProgress, TrainingResult, split_train_validation, train
from simile.models.training.report import write_training_report
from simile.models.training.resume import require_training_state
from simile.models.training.setup import TrainingExtras
from simile.search.encoder_registry import find_encoder, register_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors

pass

log = logging.getLogger(__name__)

RECIPE_NEUTRAL_SETTINGS = {"epochs", "batch_size", "learning_rate", "patience_epochs"}  # settings that speak for none
READING_BUDGET_SHARE = 0.2  # of the time budget


@dataclass(frozen=True)
class TrainingRequest:
    """What a person may say about training. Where nothing speaks for a recipe, it is chosen by the pictures."""

    recipe: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    image_size: int | None = None
    fit: FitMode | None = None
    seed: int = 0
    resume: bool | None = False  # as in models.training.Options
    labels: str | None = None  # folders, or a CSV file
    decoder_only: str | None = None  # an encoder of the home, or a folder: a decoder is trained over it


def train_encoder(
    home: Home,
    catalogue: Catalogue,
    settings: Settings,
    files: Sequence[FileStat],
    request: TrainingRequest,
    on_progress: Callable[[TrainingProgress], None],
    roots: Sequence[Path] = (),
) -> TrainedEncoder:
    """Trains on `files`, saves the encoder with its report, registers it. The caller holds the home's lock.

    The time budget counts from here, but reading the pictures uses up a fifth of it at most: a large folder is
    trained on all the same. `roots`: the folders that `files` were found in, for labels.
    """
    started = time.monotonic()
    recipe = load_recipe(request.recipe or ("decoder" if request.decoder_only else DEFAULT_RECIPE), **request.overrides)
    said = {name for name, value in request.overrides.items() if value is not None}
    is_open = request.recipe is None and not request.decoder_only and said <= RECIPE_NEUTRAL_SETTINGS
    state_folder = home.encoders / ".training"
    if request.resume:
        require_training_state(state_folder)
    frozen = find_encoder(home, request.decoder_only, settings.device) if request.decoder_only else None
    wanted = DatasetSpec(
        recipe,
        load_recipe(PHOTO_RECIPE, **request.overrides) if is_open else None,
        request.seed,
        request.image_size,
        request.fit,
        request.labels,
        tuple(roots),
        frozen.preprocessing if frozen else None,
    )
    material = read_training_set(settings, files, wanted)
    recipe = material.recipe
    perception = _make_perceptual_distance(home, recipe, material.preprocessing)
    extras = TrainingExtras(material.labels, material.classes, perception, frozen.network if frozen else None)
    budget_from = get_budget_start(started, time.monotonic(), request.minutes)
    options = TrainingOptions(request.seed, request.minutes, settings.device, request.resume, budget_from)
    size = material.preprocessing.image_size
    log.info("training on %d pictures of %d px, recipe %s", len(material.images), size, recipe.name)
    with translate_write_errors(home.encoders):
        trained = train(
            material.images, material.preprocessing, recipe, options, state_folder, on_progress, extras=extras
        )
        encoder = _save_trained_encoder(home, settings, request, recipe, material, trained, frozen)
    register_encoder(catalogue, encoder)
    shutil.rmtree(state_folder, ignore_errors=True)
    return encoder


def get_budget_start(started_at: float, now: float, minutes: float | None) -> float:
    """When the time budget began, in seconds: with the reading, unless that took more than its share."""
    return started_at if minutes is None else max(started_at, now - READING_BUDGET_SHARE * minutes * 60)


def _make_perceptual_distance(home: Home, recipe: Recipe, preprocessing: Preprocessing) -> PerceptualDistance | None:
    """The features that the decoder must give back; those of an encoder of this home by its fingerprint."""
    if recipe.features == "none" or recipe.features_from == "latent":
        return None
    folder = home.encoders / recipe.features
    features = str(folder) if recipe.features.isalnum() and folder.is_dir() else recipe.features
    _, _, height, width = preprocessing.content_box()
    return make_perceptual_distance(features, preprocessing.channels, min(height, width))


def _save_trained_encoder(
    home: Home,
    settings: Settings,
    request: TrainingRequest,
    recipe: Recipe,
    training_set: TrainingSet,
    training_result: TrainingResult,
    base_encoder: TrainedEncoder | None,
) -> TrainedEncoder:
    """Writes weights, encoder.json and the report beside the encoders, then renames the folder into place."""
    description = EncoderDescription(
        architecture=training_result.network.architecture.to_dict(),
        preprocessing=training_set.preprocessing.to_dict(),
        metric=recipe.metric,
        index_dims=recipe.content_dim or None,
        recipe=recipe.to_dict(),
        classes=list(training_set.classes),
        seed=request.seed,
        data={
            "pictures": len(training_set.images),
            "training": training_result.train_count,
            "validation": len(training_result.validation_images),
            "set_aside": len(training_set.failures),
        },
    )
    if base_encoder is not None:  # vectors come from the base encoder: its metric, recipe and classes stay
        base = base_encoder.description
        description = replace(
            description,
            metric=base.metric,
            index_dims=base.index_dims,
            recipe=base.recipe,
            classes=base.classes or [],
            decoder={"over": base_encoder.fingerprint, "recipe": recipe.to_dict()},
        )
    arriving = home.encoders / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    fingerprint = checkpoint.save_checkpoint(arriving, training_result.network.state_dict(), description)
    trained_on = _make_training_record(training_set, request.seed, base_encoder)
    if trained_on is not None:
        trained_on.save(arriving)
    encoder = TrainedEncoder.load(arriving, settings.device, settings.runtime)
    write_training_report(arriving, training_result, encoder, request.seed)
    replace_folder(arriving, home.encoders / fingerprint)  # which is there where the same weights were trained before
    return encoder


def _make_training_record(
    training_set: TrainingSet, seed: int, base_encoder: TrainedEncoder | None
) -> TrainingDigests | None:
    """Of a decoder over an encoder of which nobody knows it, nobody knows it either."""
    known = TrainingDigests.from_rows(training_set.digests, *split_train_validation(len(training_set.images), seed))
    if base_encoder is None:
        return known
    return None if base_encoder.training_digests is None else known.merge(base_encoder.training_digests)


def train_on_sources(
    settings: Settings,
    sources: Sequence[Path],
    request: TrainingRequest,
    on_progress: Callable[[TrainingProgress], None],
    patterns: PathPatterns | None = None,
) -> dict[str, Any]:
    """Trains on the pictures in `sources`; gives the report's head, the folder, and whether it is in use now.

    A home that already holds vectors of another encoder keeps it in use: its vectors can't be compared with these.
    """
    home = Home(settings.home, settings.database_url)
    check_sources(sources)
    with home.lock("simile train"):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            files = walk_sources(sources, [home.encoders, home.segments, home.uploads], patterns).files
            encoder = train_encoder(home, catalogue, settings, files, request, on_progress, roots=sources)
            active = catalogue.encoders.find_active()
            if active is None or catalogue.embeddings.count(active.fingerprint) == 0:
                catalogue.encoders.activate(encoder.fingerprint)
            in_use = catalogue.encoders.find_active()
    folder = home.encoders / encoder.fingerprint
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    del report["epochs"]
    return {**report, "folder": str(folder), "active": in_use is not None and in_use.fingerprint == encoder.fingerprint}
