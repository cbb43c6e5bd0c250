"""What a network is trained on: pictures as arrays, how they were made, and class numbers where a recipe wants them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Failure, FileStat
from simile.core.settings import Settings
from simile.images.decoding import DecodedImage
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import read_arrays, sample_images
from simile.images.loading.worker_pool import WorkerPool
from simile.images.sources.labels import LabelClasses, read_labels
from simile.images.sources.sources import get_reading_order
from simile.images.transforms import FitMode, Preprocessing, choose_preprocessing
from simile.models.recipes import Recipe
from simile.models.training.dataset import ClassNumbers
from simile.models.training.loop import MIN_TRAINING_IMAGES

log = logging.getLogger(__name__)

PREPROCESSING_SAMPLE_SIZE = 256  # pictures that decide on size and colour
CROP_RESOLUTION_FACTOR = 2  # pictures are kept at so many times the network's size where copies are cropped from them


@dataclass(frozen=True)
class TrainingSet:
    """pictures: (n, R, R, C) uint8, R the network's size or CRISP times it. labels: (n,) numbers of `classes`.

    digests: the SHA-256 of each. recipe: what they are to be trained by.
    """

    images: Pixels
    digests: list[str]
    preprocessing: Preprocessing
    failures: list[Failure]
    recipe: Recipe
    labels: ClassNumbers | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetSpec:
    """How pictures are to be read. `preprocessing`: given where an encoder's own must be kept; else it is chosen.

    for_photos: the recipe that is taken instead where they turn out to be photographs.
    """

    recipe: Recipe
    photo_recipe: Recipe | None = None
    seed: int = 0
    image_size: int | None = None
    fit: FitMode | None = None
    labels: str | None = None
    roots: tuple[Path, ...] = ()
    preprocessing: Preprocessing | None = None


def read_training_set(settings: Settings, files: Sequence[FileStat], spec: DatasetSpec) -> TrainingSet:
    """Reads what to train on. Raises TooFewPictures, BadSetting (labels) and HomeNotWritable."""
    limits = Limits.from_settings(settings)
    with WorkerPool(settings.workers, settings.decode_seconds, settings.max_pixels) as workers:
        return _read_with_workers(settings, files, spec, limits, workers)


def _read_with_workers(
    settings: Settings, files: Sequence[FileStat], spec: DatasetSpec, limits: Limits, workers: WorkerPool
) -> TrainingSet:
    names = _read_path_labels([files[place].path for place in get_reading_order(files)], spec)
    paths = list(names)
    sample = sample_images(paths, limits, workers, PREPROCESSING_SAMPLE_SIZE, spec.seed)
    if len(sample) < MIN_TRAINING_IMAGES:
        raise TooFewPictures(
            f"{len(sample)} readable pictures among {len(files)} files are too few to train on: give at least "
            f"{MIN_TRAINING_IMAGES}, better hundreds, or an encoder trained elsewhere with --encoder."
        )
    preprocessing = spec.preprocessing or choose_preprocessing(
        sample, image_size=spec.image_size, fit=spec.fit, background=settings.background
    )
    recipe = spec.photo_recipe if spec.photo_recipe and is_photographic(preprocessing) else spec.recipe
    kept_at = _choose_storage_preprocessing(preprocessing, sample, recipe)
    read = read_arrays(paths, kept_at, limits, workers, _folder_for(len(paths), kept_at, settings))
    if not recipe.classifier:
        return TrainingSet(read.images, read.digests, preprocessing, read.failures, recipe)
    classes = LabelClasses.from_labels(names[path] for path in read.paths)
    numbers = classes.to_numbers([names[path] for path in read.paths])
    return TrainingSet(read.images, read.digests, preprocessing, read.failures, recipe, numbers, classes.names)


def is_photographic(preprocessing: Preprocessing) -> bool:
    """Whether copies of such pictures are cropped, mirrored and written on: not of rows of tiny ones of one size.

    On photographs `invariant` finds copies far better than `perceptual`, and neighbours nearly as well; on digits and
    small garments, where a mirror image is another thing, it finds neighbours worse (docs/recipes.md).
    """
    return preprocessing.image_size >= 64 and preprocessing.fit != "pad"


def _read_path_labels(paths: list[str], spec: DatasetSpec) -> dict[str, str | None]:
    """Each path with its label; a classifier is trained on the labelled ones alone."""
    if not spec.recipe.classifier:
        return dict.fromkeys(paths)
    if spec.labels is None:
        raise BadSetting(
            f"recipe {spec.recipe.name} learns from labels. Give --labels folders (the folders' names are the "
            "classes) or --labels FILE.csv (a path and a label in each line)."
        )
    labelled = zip(paths, read_labels(spec.labels, paths, spec.roots), strict=True)
    names = {path: label for path, label in labelled if label is not None}
    if left := len(paths) - len(names):
        log.warning("%d pictures without a label are left out", left)
    return dict(names)


def _choose_storage_preprocessing(
    preprocessing: Preprocessing, sample: Sequence[DecodedImage], recipe: Recipe
) -> Preprocessing:
    """Crops of pictures at the network's own size would be blurred, unlike crops of the files themselves."""
    short_side = median(min(picture.width, picture.height) for picture in sample)
    larger = CROP_RESOLUTION_FACTOR * preprocessing.image_size
    if not recipe.contrast_weight or preprocessing.fit == "pad" or short_side < larger:
        return preprocessing
    return replace(preprocessing, image_size=larger)


def _folder_for(count: int, kept_at: Preprocessing, settings: Settings) -> Path | None:
    """Return where images that are too many for memory are kept in a file; None if they fit."""
    size = count * kept_at.image_size**2 * kept_at.channels
    if size <= settings.train_memory:
        return None
    folder = settings.home.absolute()
    log.info(
        "%d images are %.1f GB, more than SIMILE_TRAIN_MEMORY: all are used, from a temporary file in %s",
        *(count, size / 1e9, folder),
    )
    return folder
