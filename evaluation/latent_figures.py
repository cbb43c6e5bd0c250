"""Pictures of two-dimensional latents: what each term of the loss does to them, and what lies where in the plane."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist

import numpy as np

from simile.core.errors import BadSetting, NoSuchEncoder
from simile.core.records import FloatArray
from simile.core.settings import Settings
from simile.evaluation.dataset import ImageReader, OnProgress, read_dataset, sample_paths
from simile.evaluation.job import EvaluationRequest, choose_common_preprocessing, find_image_files, load_encoders
from simile.images.encoding import encode_png
from simile.images.formats import Limits, Pixels
from simile.images.rendering.scatter import ScatterPanel, draw_scatter
from simile.images.sources.labels import read_labels
from simile.images.transforms import Preprocessing
from simile.models.checkpoints.description import EncoderDescription
from simile.models.inference.encoder import TrainedEncoder
from simile.models.recipes import Recipe, load_recipe
from simile.models.training.loop import TrainingOptions, TrainingProgress, train
from simile.store.home import Home

LOSS_FIGURE_MINUTES = 1.0  # of training for each of the three
LOSS_FIGURE_EPOCHS = 150
# What differs from the VAE's recipe: both terms are weighted 1 where nothing is said.
LOSS_VARIANTS: dict[str, dict[str, float]] = {
    "Only reconstruction": {"beta": 0.0},
    "Only KL": {"pixel_weight": 0.0},
    "Both": {},
}
# Small and fast, as in arXiv 1312.6114's own pictures of a plane.
SMALL_VAE_SETTINGS: dict[str, object] = {"architecture": "dense", "latent_dim": 2, "kl_warmup_steps": 50}
PRIOR_RINGS = (1.0, 2.0)  # standard deviations of the prior
MANIFOLD_SIDE = 20  # pictures each way, as in arXiv 1312.6114
MANIFOLD_PIXELS = 1200  # the grid is enlarged by a whole factor to about this side


def draw_losses(
    settings: Settings,
    photos: Sequence[Path],
    request: EvaluationRequest,
    on_progress: OnProgress,
    epochs: int = LOSS_FIGURE_EPOCHS,
) -> bytes:
    """PNG of μ, and beneath it of one z from q(z|x), of three 2-D VAEs trained on the pictures: the lecture's picture.

    A minute each at most, without the home. Coloured by label where there are labels.
    """
    files = find_image_files(photos, Home(settings.home, settings.database_url))[0]
    common = choose_common_preprocessing(files, settings, request.seed)
    reading = ImageReader(Limits.from_settings(settings), settings.workers, (common,))
    collection = read_dataset(sample_paths(files, request.limit, request.seed), reading, on_progress)
    pictures, count = collection.arrays[common], len(collection)
    labels = [None] * count if request.labels is None else read_labels(request.labels, collection.paths, photos)
    rows: tuple[list[ScatterPanel], list[ScatterPanel]] = ([], [])
    for title, overrides in LOSS_VARIANTS.items():
        recipe = load_recipe("vae", epochs=epochs, **SMALL_VAE_SETTINGS, **overrides)
        encoder = _train_small_encoder(pictures, common, recipe, settings, request.seed, title, on_progress)
        latent = encoder.encode(pictures)
        assert latent.sigma is not None
        noise = np.random.default_rng(request.seed).standard_normal(latent.mu.shape).astype(np.float32)
        rows[0].append(ScatterPanel(title, "μ of each picture", latent.mu, PRIOR_RINGS))
        rows[1].append(ScatterPanel(title, "z, drawn from q(z|x)", latent.mu + noise * latent.sigma, PRIOR_RINGS))
    return draw_scatter([*rows[0], *rows[1]], labels, columns=len(LOSS_VARIANTS))


def _train_small_encoder(
    images: Pixels,
    preprocessing: Preprocessing,
    recipe: Recipe,
    settings: Settings,
    seed: int,
    title: str,
    on_progress: OnProgress,
) -> TrainedEncoder:
    options = TrainingOptions(seed, LOSS_FIGURE_MINUTES, settings.device, False, time.monotonic())

    def trained(progress: TrainingProgress) -> None:
        if progress.total_steps is not None:
            on_progress(title.lower(), progress.step, progress.total_steps)

    with tempfile.TemporaryDirectory() as scratch, _silence_logger("simile.models.training.loop"):
        found = train(images, preprocessing, recipe, options, Path(scratch), trained)
    description = EncoderDescription(
        fingerprint=title,
        architecture=found.network.architecture.to_dict(),
        preprocessing=preprocessing.to_dict(),
        metric="l2",
        index_dims=None,
        recipe=recipe.to_dict(),
    )
    return TrainedEncoder(found.network, preprocessing, description, settings.device)


@contextmanager
def _silence_logger(name: str) -> Iterator[None]:
    """Only errors of a logger: that the KL alone makes the posterior collapse is what the picture shows."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def draw_home_manifold(settings: Settings, references: Sequence[str]) -> bytes:
    """PNG of what a 2-D encoder decodes over its latent plane, at even quantiles of the prior.

    arXiv 1312.6114, figure 4. Takes the first of the encoders that has two dimensions and a decoder; raises
    NoSuchEncoder where none has.
    """
    encoders, _ = load_encoders(Home(settings.home, settings.database_url), references, settings)
    flat = [encoder for encoder in encoders if encoder.latent_dim == 2 and encoder.has_decoder]
    if not flat:
        raise NoSuchEncoder(
            "No encoder here has two dimensions and a decoder. "
            "Train one with `simile train PHOTOS --latent-dim 2`, and name it with --encoder."
        )
    return draw_manifold(flat[0])


def draw_manifold(encoder: TrainedEncoder) -> bytes:
    """The grid of one encoder: z₁ grows to the right, z₂ upwards. Raises BadSetting for other than two dimensions."""
    if encoder.latent_dim != 2:
        raise BadSetting(f"Encoder {encoder.fingerprint} has {encoder.latent_dim} dimensions, and a plane has two.")
    _, _, height, width = encoder.preprocessing.content_box()
    tiles = [encoder.preprocessing.to_pixels(picture, width, height) for picture in encoder.decode(make_prior_grid())]
    tiled = np.stack(tiles).reshape(MANIFOLD_SIDE, MANIFOLD_SIDE, *tiles[0].shape).transpose(0, 2, 1, 3, 4)
    sheet = tiled.reshape(MANIFOLD_SIDE * tiles[0].shape[0], MANIFOLD_SIDE * tiles[0].shape[1], 3)
    factor = max(1, round(MANIFOLD_PIXELS / max(sheet.shape[:2])))
    return encode_png(sheet.repeat(factor, axis=0).repeat(factor, axis=1))


def make_prior_grid(side: int = MANIFOLD_SIDE) -> FloatArray:
    """z (side², 2) at the middles of `side` equally likely parts of the prior each way, row by row from the top."""
    places = np.array([NormalDist().inv_cdf((number + 0.5) / side) for number in range(side)])
    return np.stack([np.tile(places, side), np.repeat(places[::-1], side)], axis=1).astype(np.float32)
