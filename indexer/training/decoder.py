"""A decoder for an encoder that stays as it is: what it is trained on, and how both become one network."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.images.formats import Pixels
from simile.images.transforms import MAX_DEFAULT_SIZE, MIN_IMAGE_SIZE, Preprocessing
from simile.indexer.training.dataset import TrainingRequest, TrainingSet
from simile.models.inference.encoder import TrainedEncoder
from simile.models.recipes import Recipe
from simile.models.training.dataset import resize_to_input
from simile.models.training.decoder import join_decoder, measure_scale
from simile.models.training.loop import TrainingResult, split_train_validation
from simile.models.training.setup import FrozenEncoder

log = logging.getLogger(__name__)

ENCODING_BATCH_SIZE = 256


def check_decoder_recipe(recipe: Recipe) -> None:
    """Raise BadSetting for a recipe that trains the encoder, too."""
    if recipe.corrupt != "none" or recipe.contrast_weight or recipe.classifier or recipe.features_from == "latent":
        raise BadSetting(
            f"recipe {recipe.name} trains an encoder, and with --decoder-only it stays as it is. Leave out --recipe "
            "and --corrupt."
        )


@dataclass(frozen=True, kw_only=True)
class DecoderTraining:
    """The images and vectors that a decoder is trained on.

    Attributes:
        base: The encoder.
        preprocessing: At the size of the decoded images.
        images: (n, D, D, C) uint8.
        mean, deviation: Of the base encoder's vectors, (d,); the decoder is trained on vectors that are scaled by them.
    """

    base: TrainedEncoder
    preprocessing: Preprocessing
    images: Pixels
    frozen_encoder: FrozenEncoder
    mean: FloatArray
    deviation: FloatArray

    @classmethod
    def from_training_set(
        cls, base: TrainedEncoder, training_set: TrainingSet, request: TrainingRequest, folder: Path
    ) -> Self:
        """Encode the images and resize them for the decoder. `folder` is for images that are in a file.

        Raises BadSetting for a size that the decoder can't have.
        """
        architecture = replace(base.network.architecture, decoder_size=_choose_decoder_size(base, request))
        log.info("encoding %d images with encoder %s", len(training_set.images), base.fingerprint)
        latents = encode_images(base, training_set.images)
        mean, deviation = measure_scale(architecture, latents)
        size = architecture.decoder_size or architecture.image_size
        return cls(
            base=base,
            preprocessing=replace(training_set.preprocessing, image_size=size),
            images=resize_to_input(training_set.images, size, folder),
            frozen_encoder=FrozenEncoder(
                fingerprint=base.fingerprint, architecture=architecture, latents=(latents - mean) / deviation
            ),
            mean=mean,
            deviation=deviation,
        )

    def combine(self, result: TrainingResult, images: Pixels, seed: int) -> TrainingResult:
        """Return the result with a network of the base encoder and the trained decoder.

        Args:
            images: The training images at the encoder's size.
        """
        architecture = self.frozen_encoder.architecture
        network = join_decoder(self.base.network, result.network, architecture, self.mean, self.deviation)
        validation_rows = split_train_validation(len(images), seed)[1]
        return replace(result, network=network, validation_images=images[validation_rows])


def encode_images(encoder: TrainedEncoder, images: Pixels) -> FloatArray:
    """Return mu (n, d) of images (n, S, S, C), which may be in a file."""
    starts = range(0, len(images), ENCODING_BATCH_SIZE)
    return np.concatenate([encoder.encode(np.asarray(images[at : at + ENCODING_BATCH_SIZE])).mu for at in starts])


def _choose_decoder_size(base: TrainedEncoder, request: TrainingRequest) -> int:
    """Return the side of the decoded images, 0 for that of the input.

    An external encoder has a large input, and a decoder of that size would take hours to train on a CPU.
    """
    size = base.preprocessing.image_size
    side = request.image_size or (min(size, MAX_DEFAULT_SIZE) if base.description.name is not None else size)
    if not MIN_IMAGE_SIZE <= side <= size or (base.preprocessing.fit == "pad" and side != size):
        raise BadSetting(
            f"image_size can't be {side} for a decoder of encoder {base.fingerprint}: its images have {size} pixels."
        )
    return 0 if side == size else side
