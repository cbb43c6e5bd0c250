"""The teacher of a training: an encoder of the home, and its vectors of the training images."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.core.settings import Settings
from simile.images.formats import Limits, Pixels
from simile.images.loading.loader import PreparedImage, empty_images, is_in_file, prepare_files
from simile.indexer.training.dataset import TrainingRequest, TrainingSet
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.distillation import measure_spread
from simile.models.recipes import Recipe
from simile.models.training.setup import Teacher
from simile.store.index.metric import make_index_vectors

log = logging.getLogger(__name__)

ENCODING_PIXELS = 1 << 22  # of the images that are in memory for one call of the teacher
MAX_BATCH_SIZE = 256
VIEW_DIM = 32  # as in the recipe invariant
SPREAD_SAMPLE_SIZE = 2000  # images for the spread of the similarities
MIN_KNOWN_SHARE = 0.5  # of the images, with a vector
MIN_SPREAD = 1e-6  # of the similarities, relative to the mean squared length: float32 has no more digits


def check_teacher_request(request: TrainingRequest, recipe: Recipe) -> None:
    """Raise BadSetting if another option contradicts the teacher, or needs one."""
    if request.teacher is None:
        if request.overrides.get("teacher_weight") is not None:
            raise BadSetting(
                "teacher_weight has no effect without a teacher. Name one with --teacher, or leave it out."
            )
        return
    if request.decoder_only:
        raise BadSetting("--decoder-only keeps the encoder, which can't learn from --teacher. Leave one of them out.")
    if request.drawn:
        raise BadSetting("--teacher says what is near in your own images, not in drawn ones. Leave out --drawn.")
    if recipe.classifier:
        raise BadSetting(f"recipe {recipe.name} learns from labels, not from --teacher. Leave one of them out.")


def add_view(recipe: Recipe) -> Recipe:
    """Return the recipe with a latent in two parts: a content of the length that it had, and a view.

    A vector that follows a teacher which ignores colours can't contain them: the decoder takes them from the view,
    which is free. A recipe with a view stays as it is, and so does a feature map, which has no such parts.
    """
    if recipe.content_dim or recipe.bottleneck != "dense":
        return recipe
    return replace(recipe, content_dim=recipe.latent_dim, latent_dim=recipe.latent_dim + VIEW_DIM)


def encode_with_teacher(encoder: TrainedEncoder, training_set: TrainingSet, settings: Settings) -> Teacher:
    """Read the files again, with the teacher's preprocessing, and return its vectors of the unaltered images.

    They are in memory if they fit into SIMILE_TRAIN_MEMORY with the training images, else in a file in the home.

    Raises:
        BadSetting: The vectors have no neighbours to learn.
        NotFinite: The teacher gave NaN or infinity.
        HomeNotWritable: There is no space for the file.
    """
    paths = training_set.paths
    log.info("encoding %d images with teacher %s", len(paths), encoder.description.name or encoder.fingerprint)
    vectors = _make_vectors(len(paths), encoder.index_dims or encoder.latent_dim, training_set.images, settings)
    preprocessing = encoder.preprocessing
    batch_size = max(1, min(MAX_BATCH_SIZE, ENCODING_PIXELS // preprocessing.image_size**2))
    arrays: list[Pixels] = []
    rows: list[int] = []

    def encode() -> None:
        if rows:
            mu = encoder.encode(np.stack(arrays)).mu
            vectors[rows] = _make_comparable(mu, encoder)
        arrays.clear()
        rows.clear()

    for row, result in enumerate(prepare_files(paths, preprocessing, Limits.from_settings(settings), settings.workers)):
        if isinstance(result, PreparedImage):
            arrays.append(result.array)
            rows.append(row)
        if len(rows) == batch_size:
            encode()
    encode()
    return Teacher(
        fingerprint=encoder.fingerprint,
        name=encoder.description.name,
        vectors=vectors,
        spread=_measure_spread(encoder, vectors),
    )


def _make_vectors(count: int, dimensions: int, images: Pixels, settings: Settings) -> FloatArray:
    """Return vectors (count, dimensions) of NaN."""
    size = count * dimensions * np.dtype(np.float32).itemsize
    in_memory = 0 if is_in_file(images) else images.nbytes
    folder = settings.home.absolute() if in_memory + size > settings.train_memory else None
    vectors = empty_images((count, size // count), folder).view(np.float32)
    vectors[:] = np.nan
    return vectors


def _make_comparable(mu: FloatArray, encoder: TrainedEncoder) -> FloatArray:
    """Return vectors as they are indexed; NaN for a vector of zeros where directions are compared."""
    vectors = make_index_vectors(mu, encoder.index_dims, encoder.metric)
    if encoder.metric == "cosine":
        vectors[~vectors.any(1)] = np.nan
    return vectors


def _measure_spread(encoder: TrainedEncoder, vectors: FloatArray) -> float:
    """Return the spread of the similarities of a sample. Raises BadSetting if there is nothing to learn."""
    known = np.flatnonzero(np.isfinite(vectors[:, 0]))
    name = encoder.description.name or encoder.fingerprint
    if len(known) < MIN_KNOWN_SHARE * len(vectors):
        raise BadSetting(
            f"Teacher {name} gives vectors for {len(known):,} of {len(vectors):,} images. Use another teacher."
        )
    if len(known) < len(vectors):
        log.warning("teacher %s has no vectors for %d images", name, len(vectors) - len(known))
    chosen = np.linspace(0, len(known) - 1, min(SPREAD_SAMPLE_SIZE, len(known))).astype(np.int64)
    sample = vectors[known[chosen]]
    spread = measure_spread(sample)
    if not spread > MIN_SPREAD * np.square(sample).sum(1).mean():
        raise BadSetting(
            f"Teacher {name} gives equal vectors for all images, so they have no neighbours to learn. Check its "
            "preprocessing, or use another teacher."
        )
    return spread
