"""Train an encoder on image files and save it in the home."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simile.core.atomic_write import replace_folder
from simile.core.records import FileStat
from simile.core.settings import Settings
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import check_sources, walk_sources
from simile.images.transforms import Preprocessing
from simile.indexer.training.dataset import DatasetSpec, TrainingRequest, TrainingSet, read_training_set
from simile.indexer.training.decoder import DecoderTraining, check_decoder_recipe
from simile.indexer.training.starting_point import CHANGEABLE_SETTINGS, find_starting_point
from simile.indexer.training.teacher import add_view, check_teacher_request, encode_with_teacher
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription, resolve_name
from simile.models.checkpoints.training_set import TrainingDigests
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.perceptual import PerceptualDistance, make_perceptual_distance
from simile.models.pretrained import SHIPPED
from simile.models.recipes import DEFAULT_RECIPE, PHOTO_RECIPE, Recipe, load_recipe
from simile.models.training.loop import TrainingOptions, TrainingProgress, TrainingResult, split_train_validation, train
from simile.models.training.report import write_training_report
from simile.models.training.resume import require_training_state
from simile.models.training.setup import Teacher, TrainingExtras
from simile.search.encoder_registry import find_encoder, import_encoder, register_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors

log = logging.getLogger(__name__)

DEFAULT_TRAINING_MINUTES = 10.0  # used if neither minutes nor epochs are given
DEFAULT_ADAPTATION_MINUTES = 3.0  # the same, for a training that starts from an encoder
READING_BUDGET_SHARE = 0.2  # of the time budget, at most, is used up by reading images


@dataclass(frozen=True)
class TrainedResult:
    """The encoder of a training; if `is_new` is False, the one that the training started from and did not improve."""

    encoder: TrainedEncoder
    is_new: bool


def train_encoder(
    home: Home,
    catalogue: Catalogue,
    settings: Settings,
    files: Sequence[FileStat],
    request: TrainingRequest,
    on_progress: Callable[[TrainingProgress], None],
    roots: Sequence[Path] = (),
) -> TrainedResult:
    """Train an encoder, save it with its report and register it. The caller holds the home's lock.

    A training that starts from another encoder, and is not better on the held-out images, keeps that encoder.

    The time budget includes the reading of the images and the work of the teacher, but these use up at most a fifth of
    it, so that there is time to train on a large folder. `roots` are the folders that contain the files, for labels.
    """
    start_time = time.monotonic()
    # The recipe, unless the images determine it.
    recipe = load_recipe(request.recipe or ("decoder" if request.decoder_only else DEFAULT_RECIPE), **request.overrides)
    overridden = {name for name, value in request.overrides.items() if value is not None}
    is_chosen_by_images = request.recipe is None and not request.decoder_only and overridden <= CHANGEABLE_SETTINGS
    check_teacher_request(request, recipe)
    state_folder = home.encoders / ".training"
    if request.resume:
        require_training_state(state_folder)
    base_encoder = find_encoder(home, request.decoder_only, settings.device) if request.decoder_only else None
    teaching = find_encoder(home, request.teacher, settings.device, settings.runtime) if request.teacher else None
    start = find_starting_point(home, request, settings)
    # Read the images.
    spec = DatasetSpec(
        recipe=recipe,
        photo_recipe=load_recipe(PHOTO_RECIPE, **request.overrides) if is_chosen_by_images else None,
        request=request,
        roots=tuple(roots),
        preprocessing=base_encoder.preprocessing if base_encoder else None,
        start=start,
    )
    if base_encoder is not None:
        check_decoder_recipe(recipe)
    training_set = read_training_set(settings, files, spec)
    recipe, preprocessing, images = training_set.recipe, training_set.preprocessing, training_set.images
    decoder = None
    if base_encoder is not None:
        decoder = DecoderTraining.from_training_set(base_encoder, training_set, request, home.encoders)
        preprocessing, images = decoder.preprocessing, decoder.images
    if teaching is not None and training_set.start is None:
        recipe = add_view(recipe)
    teacher = None if teaching is None else encode_with_teacher(teaching, training_set, settings)
    # Train.
    extras = TrainingExtras(
        labels=training_set.labels,
        classes=training_set.classes,
        perceptual_distance=_make_perceptual_distance(home, recipe, preprocessing),
        frozen_encoder=decoder.frozen_encoder if decoder else None,
        initial_network=training_set.start.encoder.network if training_set.start else None,
        teacher=teacher,
    )
    minutes = request.minutes
    if minutes is None and "epochs" not in overridden and not request.resume:  # a resumed run keeps its budget
        minutes = DEFAULT_TRAINING_MINUTES if training_set.start is None else DEFAULT_ADAPTATION_MINUTES
    options = TrainingOptions(
        seed=request.seed,
        minutes=minutes,
        device=settings.device,
        resume=request.resume,
        start_time=get_budget_start(start_time, time.monotonic(), minutes),
    )
    first = f", from encoder {training_set.start.encoder.fingerprint}" if training_set.start else ""
    log.info("training on %d images of %d px, recipe %s%s", len(images), preprocessing.image_size, recipe.name, first)
    with translate_write_errors(home.encoders):
        result = train(images, preprocessing, recipe, options, state_folder, on_progress, extras=extras)
        if training_set.start is not None and not result.is_better:
            return _keep_initial_encoder(home, catalogue, training_set.start.encoder, request, state_folder)
        if decoder is not None:
            result = decoder.combine(result, training_set.images, request.seed)
        # Save the encoder; the state of the training is no longer needed.
        encoder = _save_trained_encoder(home, settings, request, recipe, training_set, result, base_encoder, teacher)
    register_encoder(catalogue, encoder)
    shutil.rmtree(state_folder, ignore_errors=True)
    return TrainedResult(encoder, is_new=True)


def _keep_initial_encoder(
    home: Home, catalogue: Catalogue, encoder: TrainedEncoder, request: TrainingRequest, state_folder: Path
) -> TrainedResult:
    log.warning(
        "the training did not improve encoder %s on the held-out images, so that one is kept. Give more images, or "
        "more --minutes.",
        encoder.fingerprint,
    )
    import_encoder(home, catalogue, encoder, request.start_from or SHIPPED)
    shutil.rmtree(state_folder, ignore_errors=True)
    return TrainedResult(encoder, is_new=False)


def get_budget_start(started_at: float, now: float, minutes: float | None) -> float:
    """Return the start of the time budget: that of the reading, or later if reading took more than its share."""
    return started_at if minutes is None else max(started_at, now - READING_BUDGET_SHARE * minutes * 60)


def _make_perceptual_distance(home: Home, recipe: Recipe, preprocessing: Preprocessing) -> PerceptualDistance | None:
    """Return the distance of the features that the recipe names, which may be an encoder of this home."""
    if recipe.features == "none" or recipe.features_from == "latent":
        return None
    folder = home.encoders / resolve_name(home.encoders, recipe.features)
    features = str(folder) if folder.name.isalnum() and folder.is_dir() else recipe.features
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
    teacher: Teacher | None,
) -> TrainedEncoder:
    """Write weights, encoder.json and the report into a temporary folder, then rename it to the fingerprint."""
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
        teacher=None if teacher is None else teacher.describe(),
    )
    if base_encoder is not None:  # vectors come from the base encoder: its metric, recipe and classes stay
        base = base_encoder.description
        description = replace(
            description,
            metric=base.metric,
            index_dims=base.index_dims,
            recipe=base.recipe,
            classes=base.classes or [],
            teacher=base.teacher,
            name=base.name and _choose_name(home, f"{base.name}-decoder"),
            source=base.source,
            text=base.text,
            decoder={"over": base_encoder.fingerprint, "recipe": recipe.to_dict()},
        )
    arriving = home.encoders / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    fingerprint = checkpoint.save_checkpoint(arriving, training_result.network.state_dict(), description)
    if base_encoder is not None:
        base_encoder.copy_text_tower(arriving)
    digests = _make_training_digests(training_set, request.seed, base_encoder)
    if digests is not None:
        digests.save(arriving)
    encoder = TrainedEncoder.load(arriving, settings.device, settings.runtime)
    write_training_report(arriving, training_result, encoder, request.seed)
    replace_folder(arriving, home.encoders / fingerprint)  # it exists if the same weights were trained before
    return encoder


def _choose_name(home: Home, name: str) -> str:
    """Return the name, with a number if an encoder of the home has it."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(free for free in names if resolve_name(home.encoders, free) == free)


def _make_training_digests(
    training_set: TrainingSet, seed: int, base_encoder: TrainedEncoder | None
) -> TrainingDigests | None:
    """Return the hashes of the training images; None if those of the base encoder are not known."""
    count = len(training_set.digests)  # drawn images, which follow the files, have none
    fitted, held_out = (rows[rows < count] for rows in split_train_validation(len(training_set.images), seed))
    digests = TrainingDigests.from_rows(training_set.digests, fitted, held_out)
    if base_encoder is None:
        return digests
    return None if base_encoder.training_digests is None else digests.merge(base_encoder.training_digests)


def train_on_sources(
    settings: Settings,
    sources: Sequence[Path],
    request: TrainingRequest,
    on_progress: Callable[[TrainingProgress], None],
    patterns: PathPatterns | None = None,
) -> dict[str, Any]:
    """Train an encoder on the images in the sources.

    The new encoder becomes active only if the home has no vectors: vectors of different encoders are not comparable.

    Returns:
        The report without its epochs, the encoder's "folder", whether it is "active", and whether it is "improved":
        otherwise it is the encoder that the training started from, and there is no report.
    """
    home = Home.from_settings(settings)
    check_sources(sources)
    with home.lock("simile train"):
        schema.upgrade_schema(home)
        with Catalogue(home) as catalogue:
            files = walk_sources(sources, home.own_folders, patterns).files
            result = train_encoder(home, catalogue, settings, files, request, on_progress, roots=sources)
            encoder = result.encoder
            active = catalogue.encoders.find_active()
            if active is None or catalogue.embeddings.count(active.fingerprint) == 0:
                catalogue.encoders.activate(encoder.fingerprint)
            active = catalogue.encoders.find_active()
    folder = home.encoders / encoder.fingerprint
    report = {"fingerprint": encoder.fingerprint}
    if result.is_new:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        del report["epochs"]
    is_active = active is not None and active.fingerprint == encoder.fingerprint
    return {**report, "folder": str(folder), "active": is_active, "improved": result.is_new}
