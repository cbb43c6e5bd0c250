"""What a network is trained on: pictures as arrays, how they were made, and class numbers where a recipe wants them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from simile.core.errors import BadSetting, TooFewPictures
from simile.core.records import Failure, FileFacts
from simile.core.settings import Settings
from simile.images.decoding import Picture
from simile.images.formats import Limits
from simile.images.loading.loader import read_arrays, sample_pictures
from simile.images.loading.worker_pool import Workers
from simile.images.sources.labels import Classes, read_labels
from simile.images.sources.sources import reading_order
from simile.images.transforms import Fit, Pixels, Preprocessing, choose
from simile.models.recipes import Recipe
from simile.models.training.loop import FEWEST_PICTURES
from simile.models.training.objective import ClassNumbers

log = logging.getLogger(__name__)

SAMPLED = 256  # pictures that decide on size and colour
CRISP = 2  # pictures are kept at so many times the network's size where copies are cropped from them


@dataclass(frozen=True)
class Material:
    """pictures: (n, R, R, C) uint8, R the network's size or CRISP times it. labels: (n,) numbers of `classes`.

    digests: the SHA-256 of each. recipe: what they are to be trained by.
    """

    pictures: Pixels
    digests: list[str]
    preprocessing: Preprocessing
    failures: list[Failure]
    recipe: Recipe
    labels: ClassNumbers | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """How pictures are to be read. `preprocessing`: given where an encoder's own must be kept; else it is chosen.

    for_photos: the recipe that is taken instead where they turn out to be photographs.
    """

    recipe: Recipe
    for_photos: Recipe | None = None
    seed: int = 0
    image_size: int | None = None
    fit: Fit | None = None
    labels: str | None = None
    roots: tuple[Path, ...] = ()
    preprocessing: Preprocessing | None = None


def read_material(settings: Settings, files: Sequence[FileFacts], wanted: Wanted) -> Material:
    """Reads what to train on. Raises TooFewPictures, BadSetting (labels) and HomeNotWritable."""
    limits = Limits.from_settings(settings)
    with Workers(settings.workers, settings.decode_seconds, settings.max_pixels) as workers:
        return _read(settings, files, wanted, limits, workers)


def _read(settings: Settings, files: Sequence[FileFacts], wanted: Wanted, limits: Limits, workers: Workers) -> Material:
    names = _labels([files[place].path for place in reading_order(files)], wanted)
    paths = list(names)
    sample = sample_pictures(paths, limits, workers, SAMPLED, wanted.seed)
    if len(sample) < FEWEST_PICTURES:
        raise TooFewPictures(
            f"{len(sample)} readable pictures among {len(files)} files are too few to train on: give at least "
            f"{FEWEST_PICTURES}, better hundreds, or an encoder trained elsewhere with --encoder."
        )
    preprocessing = wanted.preprocessing or choose(
        sample, image_size=wanted.image_size, fit=wanted.fit, background=settings.background
    )
    recipe = wanted.for_photos if wanted.for_photos and is_photographic(preprocessing) else wanted.recipe
    kept_at = _kept_at(preprocessing, sample, recipe)
    read = read_arrays(paths, kept_at, limits, workers, _folder_for(len(paths), kept_at, settings))
    if not recipe.classifier:
        return Material(read.pictures, read.digests, preprocessing, read.failures, recipe)
    classes = Classes.of(names[path] for path in read.paths)
    numbers = classes.numbers([names[path] for path in read.paths])
    return Material(read.pictures, read.digests, preprocessing, read.failures, recipe, numbers, classes.names)


def is_photographic(preprocessing: Preprocessing) -> bool:
    """Whether copies of such pictures are cropped, mirrored and written on: not of rows of tiny ones of one size.

    On photographs `invariant` finds copies far better than `perceptual`, and neighbours nearly as well; on digits and
    small garments, where a mirror image is another thing, it finds neighbours worse (docs/recipes.md).
    """
    return preprocessing.image_size >= 64 and preprocessing.fit != "pad"


def _labels(paths: list[str], wanted: Wanted) -> dict[str, str | None]:
    """Each path with its label; a classifier is trained on the labelled ones alone."""
    if not wanted.recipe.classifier:
        return dict.fromkeys(paths)
    if wanted.labels is None:
        raise BadSetting(
            f"recipe {wanted.recipe.name} learns from labels. Give --labels folders (the folders' names are the "
            "classes) or --labels FILE.csv (a path and a label in each line)."
        )
    labelled = zip(paths, read_labels(wanted.labels, paths, wanted.roots), strict=True)
    names = {path: label for path, label in labelled if label is not None}
    if left := len(paths) - len(names):
        log.warning("%d pictures without a label are left out", left)
    return dict(names)


def _kept_at(preprocessing: Preprocessing, sample: Sequence[Picture], recipe: Recipe) -> Preprocessing:
    """Crops of pictures at the network's own size would be blurred, unlike crops of the files themselves."""
    short_side = median(min(picture.width, picture.height) for picture in sample)
    larger = CRISP * preprocessing.image_size
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
