"""Training an encoder on files, and putting it into the home."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.errors import TooFewPictures
from core.records import Failure, FileFacts
from core.settings import Settings
from models import checkpoints
from models.collection import Prepared, prepare_files, sample_pictures
from models.encoder import TrainedEncoder
from models.images import Limits
from models.preprocessing import Fit, Pixels, Preprocessing, choose
from models.recipes import Recipe, load_recipe
from models.report import write_report
from models.training import FEWEST_PICTURES, Options, Progress, Trained, train
from models.training_state import require_state
from search.encoders import register
from store.catalogue import Catalogue
from store.home import Home, writing

log = logging.getLogger(__name__)

SAMPLED = 256  # pictures that decide on size and colour
READING_SHARE = 0.2  # of the time budget
MEMORY = 2_000_000_000  # bytes of prepared pictures to train on; of more, a seeded sample is taken


@dataclass(frozen=True)
class TrainingRequest:
    """What a person may say about training."""

    recipe: str = "vae"
    overrides: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    image_size: int | None = None
    fit: Fit | None = None
    seed: int = 0
    resume: bool | None = False  # as in models.training.Options


def train_encoder(
    home: Home,
    catalogue: Catalogue,
    settings: Settings,
    files: Sequence[FileFacts],
    request: TrainingRequest,
    on_progress: Callable[[Progress], None],
) -> TrainedEncoder:
    """Trains on `files`, saves the encoder with its report, registers it. The caller holds the home's lock.

    The time budget counts from here, but reading the pictures uses up a fifth of it at most: a large folder is
    trained on all the same.
    """
    started = time.monotonic()
    recipe = load_recipe(request.recipe, **request.overrides)
    state_folder = home.encoders / ".training"
    if request.resume:
        require_state(state_folder)
    pictures, preprocessing, failures = read_collection(settings, files, request)
    budget_from = budget_start(started, time.monotonic(), request.minutes)
    options = Options(request.seed, request.minutes, settings.device, request.resume, budget_from)
    log.info("training on %d pictures of %d px, recipe %s", len(pictures), preprocessing.image_size, recipe.name)
    with writing(home.encoders):
        trained = train(pictures, preprocessing, recipe, options, state_folder, on_progress)
        encoder = _save(home, trained, preprocessing, recipe, request, len(pictures), failures, settings)
    register(catalogue, encoder)
    shutil.rmtree(state_folder, ignore_errors=True)
    return encoder


def budget_start(started: float, now: float, minutes: float | None) -> float:
    """When the time budget began, in seconds: with the reading, unless that took more than its share."""
    return started if minutes is None else max(started, now - READING_SHARE * minutes * 60)


def read_collection(
    settings: Settings, files: Sequence[FileFacts], request: TrainingRequest
) -> tuple[Pixels, Preprocessing, list[Failure]]:
    """Pictures (n, S, S, C) uint8, how they were made, and the files set aside. Raises TooFewPictures."""
    limits = Limits(settings.max_pixels, settings.max_bytes)
    paths = [file.path for file in files]
    sample = sample_pictures(paths, limits, settings.workers, SAMPLED, request.seed)
    if len(sample) < FEWEST_PICTURES:
        raise TooFewPictures(
            f"{len(sample)} readable pictures among {len(files)} files are too few to train on: give at least "
            f"{FEWEST_PICTURES}, better hundreds, or an encoder trained elsewhere with --encoder."
        )
    preprocessing = choose(sample, image_size=request.image_size, fit=request.fit, background=settings.background)
    most = MEMORY // (preprocessing.image_size**2 * preprocessing.channels)
    if len(paths) > most:
        log.warning("training on a sample of %d of %d pictures, to stay within memory", most, len(paths))
        paths = [paths[index] for index in np.sort(np.random.default_rng(request.seed).permutation(len(paths))[:most])]
    pictures = np.empty(
        (len(paths), preprocessing.image_size, preprocessing.image_size, preprocessing.channels), np.uint8
    )
    failures, count = [], 0
    for result in prepare_files(paths, preprocessing, limits, settings.workers):
        if isinstance(result, Prepared):
            pictures[count] = result.array
            count += 1
        else:
            failures.append(result)
    return pictures[:count], preprocessing, failures


def _save(
    home: Home,
    trained: Trained,
    preprocessing: Preprocessing,
    recipe: Recipe,
    request: TrainingRequest,
    pictures: int,
    failures: list[Failure],
    settings: Settings,
) -> TrainedEncoder:
    """Writes weights, encoder.json and the report beside the encoders, then renames the folder into place."""
    description = {
        "architecture": trained.network.architecture.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "metric": recipe.metric,
        "index_dims": None,
        "recipe": recipe.to_dict(),
        "seed": request.seed,
        "data": {
            "pictures": pictures,
            "training": trained.train_count,
            "validation": len(trained.validation),
            "set_aside": len(failures),
        },
    }
    arriving = home.encoders / ".arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    fingerprint = checkpoints.save(arriving, trained.network.state_dict(), description)
    encoder = TrainedEncoder.load(arriving, settings.device)
    write_report(arriving, trained, encoder, request.seed)
    target = home.encoders / fingerprint
    shutil.rmtree(target, ignore_errors=True)  # the same weights, trained before
    arriving.rename(target)
    return encoder
