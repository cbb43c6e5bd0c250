"""Uncertainty of the encoder for one image: not only the latent vector, but how far it may be off.

σ               of each dimension, to compare with the spread of the collection
spread          of images decoded from draws z of q(z|x): where in the image the model is uncertain
log p(x)        importance-weighted (models/losses/likelihood.py), in nats, and in bits for each value
error           of the reconstruction, with its percentile among the errors of the collection
stability       of the neighbours: how often draws of q(z|x) find the same ones
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.explore.arrays import OnProgress, ignore_progress
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior, make_no_variance_error
from simile.explore.latent.inputs import check_decoder, decode_latents
from simile.explore.latent.measurements import compute_reconstruction_error, measure_images
from simile.explore.latent.traversal import RANGE_SAMPLE_SIZE
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.likelihood import Density, bits_per_dimension, importance_weighted_log_likelihood
from simile.search.queries import QueryImage
from simile.search.searcher import Searcher
from simile.store.index.metric import make_index_vectors

MAX_POSTERIOR_SAMPLES = 1000  # all decoded draws are in memory together
ERROR_SAMPLE_SIZE = 512  # images of the collection whose errors are compared: enough for a percentile, read in seconds
STABILITY_NEIGHBOURS = 10
MIN_IMPORTANCE_SAMPLES = 64  # with fewer draws the estimate of log p(x) is too low


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodingUncertainty:
    """Uncertainty of one image."""

    name: str
    mu: FloatArray  # mean (d,) of the posterior q(z|x)
    sigma: FloatArray  # standard deviation (d,) of the posterior
    spread_of_all: FloatArray  # standard deviation (d,) of mu over the collection
    samples: int  # number of draws from the posterior
    reconstruction: Pixels  # decoded mu, (h, w, 3)
    deviation: Pixels  # standard deviation over the decoded draws, (h, w, 3); 255 stands for `largest`
    mean_deviation: float  # mean of the deviation, for values in [0, 1]
    largest: float  # largest deviation, for values in [0, 1]
    log_likelihood: float | None  # log p(x) in nats; None if the decoder was trained with a loss that is no density
    bits_per_value: float | None  # the same in bits for each value of the image
    error: float  # mean squared error of the reconstruction, for values in [0, 1]
    error_percentile: float | None  # percentage of the collection with a smaller error; None if no image could be read
    same_nearest: float | None  # fraction of draws with the same nearest image as mu; None with fewer than two images
    overlap: float | None  # mean fraction of mu's ten nearest images that a draw finds; None with fewer than two images


def measure_uncertainty(
    searcher: Searcher,
    latent_input: Path | int,
    *,
    samples: int = 32,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> EncodingUncertainty:
    """Measure the uncertainty of a file or an indexed image; see `measure_image_uncertainty`.

    Raises UnreadableImage, and NoSuchImage also if the file of an indexed image is gone.
    """
    if isinstance(latent_input, Path):
        image_id, image = None, searcher.prepare_query_image(latent_input, latent_input.name)
    else:
        data, record = searcher.read_file(latent_input)
        image_id, image = latent_input, searcher.prepare_query_image(data, Path(record.paths[0]).name)
    return measure_image_uncertainty(searcher, image, image_id, samples=samples, seed=seed, on_progress=on_progress)


def measure_image_uncertainty(
    searcher: Searcher,
    image: QueryImage,
    image_id: int | None = None,
    *,
    samples: int = 32,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> EncodingUncertainty:
    """Measure the uncertainty of a prepared image, with so many draws from its posterior; the same for the same seed.

    `image_id` is that of an indexed image, which is no neighbour of itself. Raises NoVariance, NoDecoder, BadSetting.
    """
    if not 2 <= samples <= MAX_POSTERIOR_SAMPLES:
        raise BadSetting(f"samples can't be {samples}. Draw 2 to {MAX_POSTERIOR_SAMPLES}.")
    encoder = searcher.get_encoder()
    check_decoder(searcher, "its uncertainty for an image can't be shown")
    prepared = image.prepared_image
    batch = prepared.array[None]  # (1, S, S, C)

    # Encode the image, and draw from its posterior.
    latent = encoder.encode(batch)
    if latent.sigma is None:
        raise make_no_variance_error(encoder.fingerprint)
    mu, sigma = latent.mu[0], latent.sigma[0]
    noise = np.random.default_rng(seed).standard_normal((samples, len(mu))).astype(np.float32)
    draws = mu + sigma * noise

    # Decode the draws: their deviation, and the same as an image, relative to the largest value.
    deviation = encoder.decode(draws).std(axis=0)  # (C, S, S)
    content_deviation = deviation[:, *encoder.preprocessing.content_slices]
    largest = float(content_deviation.max())
    relative_deviation = np.minimum(deviation / max(largest, 1e-12), 1)

    # Likelihood of the image, and error of its reconstruction.
    log_likelihood, bits_per_value = _compute_log_likelihood(encoder, batch, max(samples, MIN_IMPORTANCE_SAMPLES), seed)
    error = float(compute_reconstruction_error(encoder, batch)[0])

    # Neighbours, without the image itself or an indexed copy of it.
    indexed_copy = searcher.catalogue.images.find_by_sha256([prepared.sha256]).get(prepared.sha256)
    hidden_id = image_id if indexed_copy is None else indexed_copy.image_id
    same_nearest, overlap = _compute_neighbour_stability(searcher, mu, draws, hidden_id)

    return EncodingUncertainty(
        name=image.name,
        mu=mu,
        sigma=sigma,
        spread_of_all=load_aggregate_posterior(searcher).sample(RANGE_SAMPLE_SIZE, seed).mu.std(axis=0),
        samples=samples,
        reconstruction=decode_latents(searcher, mu[None], prepared.width, prepared.height)[0],
        deviation=encoder.preprocessing.to_pixels(relative_deviation, prepared.width, prepared.height),
        mean_deviation=float(content_deviation.mean()),
        largest=largest,
        log_likelihood=log_likelihood,
        bits_per_value=bits_per_value,
        error=error,
        error_percentile=_compute_error_percentile(searcher, error, seed, on_progress),
        same_nearest=same_nearest,
        overlap=overlap,
    )


def draw_uncertainty(uncertainty: EncodingUncertainty, image: Pixels) -> bytes:
    """Draw a PNG: the image (h, w, 3), its reconstruction, and the deviation over the draws."""
    percentile = uncertainty.error_percentile
    comparison = "" if percentile is None else f"\nworse than {percentile:.0f} % here"
    reconstruction_caption = f"reconstruction\nerror {uncertainty.error:.4f}{comparison}"
    deviation_caption = f"spread of {uncertainty.samples} draws\nwhite: ±{uncertainty.largest:.3f}"
    tiles = [
        SheetTile(image, uncertainty.name),
        SheetTile(uncertainty.reconstruction, reconstruction_caption),
        SheetTile(uncertainty.deviation, deviation_caption),
    ]
    return draw_tile_grid([tiles])


def _compute_log_likelihood(
    encoder: TrainedEncoder, batch: Pixels, samples: int, seed: int
) -> tuple[float | None, float | None]:
    """Return log p(x) of an image (1, S, S, C) in nats, and in bits for each value without padding.

    (None, None) if the decoder was trained with a loss that is no density.
    """
    likelihood = cast(Density, encoder.description.likelihood)
    if likelihood not in ("gaussian", "bernoulli"):
        return None, None
    estimate = importance_weighted_log_likelihood(
        encoder.network,
        torch.from_numpy(scale_to_unit(batch)),
        likelihood=likelihood,
        samples=samples,
        generator=torch.Generator().manual_seed(seed),
        content_box=encoder.preprocessing.content_box(),
    )
    nats = float(estimate[0])
    return nats, bits_per_dimension(nats, batch[0, *encoder.preprocessing.content_slices].size, likelihood)


def _compute_error_percentile(searcher: Searcher, error: float, seed: int, on_progress: OnProgress) -> float | None:
    """Return the percentage of sampled images with a smaller error; None if no image could be read."""
    ids = load_aggregate_posterior(searcher).sample(ERROR_SAMPLE_SIZE, seed).ids
    errors = measure_images(searcher, ids, on_progress).error
    errors = errors[np.isfinite(errors)]
    return float(100 * (errors < error).mean()) if len(errors) else None


def _compute_neighbour_stability(
    searcher: Searcher, mu: FloatArray, draws: FloatArray, hidden_id: int | None
) -> tuple[float | None, float | None]:
    """Compare the neighbours of draws (n, d) with the neighbours of mu (d,), without the image `hidden_id`.

    Returns:
        The fraction of draws with the same nearest image, and the mean fraction of shared neighbours.
    """
    snapshot = searcher.index.get_snapshot()
    latents = np.concatenate([mu[None], draws])
    vectors = make_index_vectors(latents, snapshot.encoder.index_dims, snapshot.encoder.metric)
    # Search for one more, as the hidden image may be among the neighbours.
    neighbours = [
        ids[ids != hidden_id][:STABILITY_NEIGHBOURS] for ids, _ in snapshot.search(vectors, STABILITY_NEIGHBOURS + 1)
    ]
    expected, drawn = neighbours[0], neighbours[1:]
    if not len(expected):
        return None, None
    same_nearest = np.mean([ids[0] == expected[0] for ids in drawn])
    overlap = np.mean([len(np.intersect1d(ids, expected)) / len(expected) for ids in drawn])
    return float(same_nearest), float(overlap)
