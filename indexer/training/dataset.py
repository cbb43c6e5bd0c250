"""Read the training images: choose preprocessing and recipe, read the files, and number the labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Failure, FileStat
from simile.core.settings import Settings
from simile.images.decoding import DecodedImage
from simile.images.drawn.generator import draw_images
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import empty_images, read_arrays, sample_images
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.labels import LabelClasses, read_labels
from simile.images.sources.sources import get_reading_order
from simile.images.transforms import MAX_DEFAULT_SIZE, FitMode, Preprocessing, choose_preprocessing
from simile.models.recipes import Recipe
from simile.models.training.dataset import ClassNumbers
from simile.models.training.loop import MIN_TRAINING_IMAGES

if TYPE_CHECKING:
    from simile.indexer.training.starting_point import StartingPoint

log = logging.getLogger(__name__)

PREPROCESSING_SAMPLE_SIZE = 256  # images that determine size and colour
CROP_RESOLUTION_FACTOR = 2  # for augmentation with crops, images are stored at twice the network's size


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The images of a training.

    Attributes:
        images: (n, R, R, C) uint8; R is the network's size, or `CROP_RESOLUTION_FACTOR` times that.
        digests: SHA-256 of each file. Files are the first rows of `images`, and drawn images follow.
        preprocessing: Preprocessing at the network's size.
        failures: Files that could not be read.
        start: The encoder that the training starts from; None for new weights.
        labels: Class numbers (n,), for a classifier.
        paths: Of the files, as `digests`; empty with drawn images.
    """

    images: Pixels
    digests: list[str]
    preprocessing: Preprocessing
    failures: list[Failure]
    recipe: Recipe
    start: StartingPoint | None = None
    labels: ClassNumbers | None = None
    classes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The user's options for training.

    Attributes:
        recipe: Name of a recipe; None to choose it by the images.
        overrides: Settings of the recipe to replace; None keeps a setting.
        minutes: Time budget; None for no limit.
        image_size: Side of the network's input; None to choose it.
        fit: How images are fitted into a square; None to choose it.
        resume: As in `TrainingOptions`.
        labels: "folders" or a CSV file.
        decoder_only: Fingerprint or folder of an encoder, to train only a decoder for it.
        start_from: Fingerprint or folder of the encoder that the training starts from, or "none" for new weights;
            None for the shipped encoder if it suits the images and the other options.
        teacher: Fingerprint, name or folder of an encoder with neighbours that the new one learns.
        drawn: Number of drawn images (images/drawn/) to train on, in addition to the files.
    """

    recipe: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    image_size: int | None = None
    fit: FitMode | None = None
    seed: int = 0
    resume: bool | None = False
    labels: str | None = None
    decoder_only: str | None = None
    start_from: str | None = None
    teacher: str | None = None
    drawn: int = 0


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """How to read the training images.

    Attributes:
        photo_recipe: The recipe for photographs instead; None to always use `recipe`.
        roots: The source folders, for labels.
        preprocessing: That of an existing encoder; None to choose it.
        start: The encoder that the training may start from.
    """

    recipe: Recipe
    photo_recipe: Recipe | None = None
    request: TrainingRequest = field(default_factory=TrainingRequest)
    roots: tuple[Path, ...] = ()
    preprocessing: Preprocessing | None = None
    start: StartingPoint | None = None


def read_training_set(settings: Settings, files: Sequence[FileStat], spec: DatasetSpec) -> TrainingSet:
    """Read the training images.

    Raises:
        TooFewPictures: Too few images can be read.
        BadSetting: The recipe needs labels, and they are missing or can't be read.
        HomeNotWritable: There is no space for a file of images.
    """
    with WorkerPool(settings.workers, settings.decode_seconds, settings.max_pixels) as workers:
        return _read_with_workers(settings, files, spec, workers)


def _read_with_workers(
    settings: Settings, files: Sequence[FileStat], spec: DatasetSpec, workers: WorkerPool
) -> TrainingSet:
    limits = Limits.from_settings(settings)
    # The labelled paths in the order of reading.
    label_by_path = _read_path_labels([files[position].path for position in get_reading_order(files)], spec)
    paths = list(label_by_path)
    if spec.request.drawn:
        return _add_drawn_images(paths, settings, spec, workers)
    # A sample determines the preprocessing, which determines the recipe.
    sample = sample_images(paths, limits, workers, PREPROCESSING_SAMPLE_SIZE, spec.request.seed)
    if len(sample) < MIN_TRAINING_IMAGES:
        raise TooFewPictures(
            f"{len(sample)} readable images in {len(files)} files are too few for training: give at least "
            f"{MIN_TRAINING_IMAGES}, better hundreds, or an encoder trained elsewhere with --encoder."
        )
    preprocessing = spec.preprocessing or choose_preprocessing(
        sample, image_size=spec.request.image_size, fit=spec.request.fit, background=settings.background
    )
    recipe = spec.photo_recipe if spec.photo_recipe and is_photographic(preprocessing) else spec.recipe
    start = spec.start
    if start is not None and (start.is_requested or is_photographic(preprocessing)):
        preprocessing, recipe = start.encoder.preprocessing, start.recipe
    else:
        start = None
    # Read all files, possibly at a larger size.
    storage = _choose_storage_preprocessing(preprocessing, sample, recipe)
    arrays = read_arrays(paths, storage, limits, workers, _choose_image_file_folder(len(paths), storage, settings))
    training_set = TrainingSet(
        images=arrays.images,
        digests=arrays.digests,
        preprocessing=preprocessing,
        failures=arrays.failures,
        recipe=recipe,
        start=start,
        paths=tuple(arrays.paths),
    )
    if not recipe.classifier:
        return training_set
    labels = [label_by_path[path] for path in arrays.paths]
    classes = LabelClasses.from_labels(labels)
    return replace(training_set, labels=classes.to_numbers(labels), classes=classes.names)


def _add_drawn_images(paths: list[str], settings: Settings, spec: DatasetSpec, workers: WorkerPool) -> TrainingSet:
    """Read the files, and draw the other images, in colour and larger than the network's input."""
    request = spec.request
    if spec.recipe.classifier:
        raise BadSetting(f"recipe {spec.recipe.name} learns from labels, which drawn images lack. Leave out --drawn.")
    preprocessing = spec.preprocessing or Preprocessing(
        image_size=request.image_size or MAX_DEFAULT_SIZE, channels=3, background=settings.background
    )
    recipe = spec.photo_recipe or spec.recipe
    if spec.start is not None:
        preprocessing, recipe = spec.start.encoder.preprocessing, spec.start.recipe
    storage = replace(preprocessing, image_size=CROP_RESOLUTION_FACTOR * preprocessing.image_size)
    folder = _choose_image_file_folder(len(paths) + request.drawn, storage, settings)
    arrays = read_arrays(paths, storage, Limits.from_settings(settings), workers, folder)
    count, side = len(arrays.images), storage.image_size
    images = empty_images((count + request.drawn, side, side, storage.channels), folder)
    images[:count] = arrays.images
    log.info("drawing %d images of %d px", request.drawn, side)
    for row, image in enumerate(draw_images(request.drawn, side, request.seed, workers), count):
        images[row] = image
    return TrainingSet(
        images=images,
        digests=arrays.digests,
        preprocessing=preprocessing,
        failures=arrays.failures,
        recipe=recipe,
        start=spec.start,
    )


def is_photographic(preprocessing: Preprocessing) -> bool:
    """Return whether the images are photographs: their copies are often cropped, mirrored and written on.

    On photographs `invariant` finds copies far better than `perceptual`, and neighbours nearly as well. On digits and
    small images of clothes, where a mirror image shows something else, it finds neighbours worse (docs/recipes.md).
    """
    return preprocessing.image_size >= 64 and preprocessing.fit != "pad"


def _read_path_labels(paths: list[str], spec: DatasetSpec) -> dict[str, str | None]:
    """Return a label per path; for a classifier, only paths with a label."""
    if not spec.recipe.classifier:
        return dict.fromkeys(paths)
    if spec.request.labels is None:
        raise BadSetting(
            f"recipe {spec.recipe.name} learns from labels. Give --labels folders (the folders' names are the "
            "classes) or --labels FILE.csv (a path and a label in each line)."
        )
    labels = zip(paths, read_labels(spec.request.labels, paths, spec.roots), strict=True)
    labelled = {path: label for path, label in labels if label is not None}
    if unlabelled := len(paths) - len(labelled):
        log.warning("%d images without a label are left out", unlabelled)
    return dict(labelled)


def _choose_storage_preprocessing(
    preprocessing: Preprocessing, sample: Sequence[DecodedImage], recipe: Recipe
) -> Preprocessing:
    """Return the preprocessing for storage: augmentation needs larger images, or its crops would be blurred."""
    short_side = median(min(image.width, image.height) for image in sample)
    larger = CROP_RESOLUTION_FACTOR * preprocessing.image_size
    if not recipe.contrast_weight or preprocessing.fit == "pad" or short_side < larger:
        return preprocessing
    return replace(preprocessing, image_size=larger)


def _choose_image_file_folder(count: int, storage: Preprocessing, settings: Settings) -> Path | None:
    """Return the folder of a temporary file for images that do not fit into memory; None if they fit."""
    size = count * storage.image_size**2 * storage.channels
    if size <= settings.train_memory:
        return None
    folder = settings.home.absolute()
    log.info(
        "%d images are %.1f GB, more than SIMILE_TRAIN_MEMORY: all are used, from a temporary file in %s",
        *(count, size / 1e9, folder),
    )
    return folder
