"""Figures of two-dimensional latent spaces: the effect of each loss term, and the decoded latent plane."""

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
from simile.core.records import FloatArray, OnProgress
from simile.core.settings import Settings
from simile.evaluation.dataset import ImageReader, read_dataset, sample_paths
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

LOSS_FIGURE_MINUTES = 1.0  # maximum training time of each VAE
LOSS_FIGURE_EPOCHS = 150
# Changes to the recipe vae, where both terms have weight 1.
LOSS_VARIANTS: dict[str, dict[str, float]] = {
    "Only reconstruction": {"beta": 0.0},
    "Only KL": {"pixel_weight": 0.0},
    "Both": {},
}
# Small and fast, as for the figures of arXiv 1312.6114.
SMALL_VAE_SETTINGS: dict[str, object] = {"architecture": "dense", "latent_dim": 2, "kl_warmup_steps": 50}
PRIOR_RINGS = (1.0, 2.0)  # standard deviations of the prior
MANIFOLD_SIDE = 20  # images per side, as in arXiv 1312.6114
MANIFOLD_PIXELS = 1200  # approximate side of the figure; the grid is enlarged by a whole factor


def draw_losses(
    settings: Settings,
    photos: Sequence[Path],
    request: EvaluationRequest,
    on_progress: OnProgress,
    epochs: int = LOSS_FIGURE_EPOCHS,
) -> bytes:
    """Train three 2-D VAEs on the images and plot μ, and below it one sample z of q(z|x), as a PNG.

    Each training takes at most LOSS_FIGURE_MINUTES; the home is not changed. Points are coloured by label.
    """
    files = find_image_files(photos, Home.from_settings(settings))[0]
    common = choose_common_preprocessing(files, settings, request.seed)
    reader = ImageReader(Limits.from_settings(settings), settings.workers, (common,))
    dataset = read_dataset(sample_paths(files, request.limit, request.seed), reader, on_progress)
    images = dataset.arrays[common]
    labels = [None] * len(dataset) if request.labels is None else read_labels(request.labels, dataset.paths, photos)
    rows: tuple[list[ScatterPanel], list[ScatterPanel]] = ([], [])
    for title, overrides in LOSS_VARIANTS.items():
        recipe = load_recipe("vae", epochs=epochs, **SMALL_VAE_SETTINGS, **overrides)
        encoder = _train_small_encoder(images, common, recipe, settings, request.seed, title, on_progress)
        latent = encoder.encode(images)
        assert latent.sigma is not None
        noise = np.random.default_rng(request.seed).standard_normal(latent.mu.shape).astype(np.float32)
        rows[0].append(ScatterPanel(title, "μ of each image", latent.mu, PRIOR_RINGS))
        rows[1].append(ScatterPanel(title, "z, sampled from q(z|x)", latent.mu + noise * latent.sigma, PRIOR_RINGS))
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
    options = TrainingOptions(
        seed=seed, minutes=LOSS_FIGURE_MINUTES, device=settings.device, resume=False, start_time=time.monotonic()
    )

    def report(progress: TrainingProgress) -> None:
        if progress.total_steps is not None:
            on_progress(title.lower(), progress.step, progress.total_steps)

    with tempfile.TemporaryDirectory() as folder, _silence_logger("simile.models.training.loop"):
        trained = train(images, preprocessing, recipe, options, Path(folder), report)
    description = EncoderDescription(
        fingerprint=title,
        architecture=trained.network.architecture.to_dict(),
        preprocessing=preprocessing.to_dict(),
        metric="l2",
        index_dims=None,
        recipe=recipe.to_dict(),
    )
    return TrainedEncoder(trained.network, preprocessing, description, settings.device)


@contextmanager
def _silence_logger(name: str) -> Iterator[None]:
    """Silence warnings of a logger: the figure shows on purpose that KL alone makes the posterior collapse."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def draw_home_manifold(settings: Settings, references: Sequence[str]) -> bytes:
    """Draw the latent plane of the first encoder with two dimensions and a decoder; see `draw_manifold`.

    Raises NoSuchEncoder if there is none.
    """
    encoders, _ = load_encoders(Home.from_settings(settings), references, settings)
    planar = [encoder for encoder in encoders if encoder.latent_dim == 2 and encoder.has_decoder]
    if not planar:
        raise NoSuchEncoder(
            "No encoder here has two dimensions and a decoder. "
            "Train one with `simile train PHOTOS --latent-dim 2`, and name it with --encoder."
        )
    return draw_manifold(planar[0])


def draw_manifold(encoder: TrainedEncoder) -> bytes:
    """Decode the latent plane at even quantiles of the prior, as a PNG: z₁ to the right, z₂ upwards.

    See arXiv 1312.6114, figure 4. Raises BadSetting for an encoder without exactly two dimensions.
    """
    if encoder.latent_dim != 2:
        raise BadSetting(f"Encoder {encoder.fingerprint} has {encoder.latent_dim} dimensions; the figure needs two.")
    _, _, height, width = encoder.preprocessing.content_box()
    tiles = [encoder.preprocessing.to_pixels(image, width, height) for image in encoder.decode(make_prior_grid())]
    tiled = np.stack(tiles).reshape(MANIFOLD_SIDE, MANIFOLD_SIDE, *tiles[0].shape).transpose(0, 2, 1, 3, 4)
    sheet = tiled.reshape(MANIFOLD_SIDE * tiles[0].shape[0], MANIFOLD_SIDE * tiles[0].shape[1], 3)
    factor = max(1, round(MANIFOLD_PIXELS / max(sheet.shape[:2])))
    return encode_png(sheet.repeat(factor, axis=0).repeat(factor, axis=1))


def make_prior_grid(side: int = MANIFOLD_SIDE) -> FloatArray:
    """Make z (side², 2) at the centres of `side` equally likely parts of the prior per axis, by rows from the top."""
    quantiles = np.array([NormalDist().inv_cdf((number + 0.5) / side) for number in range(side)])
    return np.stack([np.tile(quantiles, side), np.repeat(quantiles[::-1], side)], axis=1).astype(np.float32)
