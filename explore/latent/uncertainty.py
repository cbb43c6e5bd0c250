"""How sure the encoder is of one picture: not a bare place in the latent space, but how far it may be off.

σ               of each dimension, beside the spread of the collection there
spread          of what the decoder makes of draws z from q(z|x): where in the picture the model can't decide
log p(x)        importance-weighted (models/likelihood.py), in nats and in bits for each value
error           of the reconstruction, and where it stands among those of the collection
stability       of the neighbours: how often draws from q(z|x) find the same ones
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from simile.core.errors import BadSetting
from simile.core.records import FloatArray
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior, make_no_variance_error
from simile.explore.latent.inputs import check_decoder, decode_latents
from simile.explore.latent.measurements import OnProgress, compute_reconstruction_error, crop_padding, measure_images
from simile.images.formats import Pixels
from simile.images.rendering.sheets import SheetTile, draw_tile_grid
from simile.images.transforms import scale_to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.likelihood import Density, bits_per_dimension, importance_weighted_log_likelihood
from simile.search.queries import QueryImage
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids, Neighbours
from simile.store.index.metric import make_index_vectors

MAX_POSTERIOR_SAMPLES = 1000  # samples
ERROR_SAMPLE_SIZE = 512  # pictures of the collection whose errors a picture's is compared with
STABILITY_NEIGHBOURS = 10
MIN_IMPORTANCE_SAMPLES = 64  # samples of log p(x), at least


@dataclass(frozen=True, eq=False)
class EncodingUncertainty:
    """What is known of one picture.

    mu, sigma, spread_of_all: (d,), the last the standard deviation of mu over the collection. seen: the reconstruction,
    deviation: the standard deviation of it over draws, (h, w, 3) uint8, 255 for `largest`. log_likelihood: nats.
    error_percentile: 0 to 100. same_nearest: the share of draws whose nearest picture is that of mu; overlap: the share
    of mu's ten nearest that a draw finds, on average; both None in a home of fewer than two pictures.
    """

    name: str
    mu: FloatArray
    sigma: FloatArray
    spread_of_all: FloatArray
    samples: int
    seen: Pixels
    deviation: Pixels
    mean_deviation: float
    largest: float
    log_likelihood: float | None
    bits_per_value: float | None
    error: float
    error_percentile: float | None
    same_nearest: float | None
    overlap: float | None


def measure_uncertainty(
    searcher: Searcher,
    latent_input: Path | int,
    *,
    samples: int = 32,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> EncodingUncertainty:
    """Of a file or an indexed image. The same for the same seed.

    Raises NoVariance, NoDecoder, BadSetting, UnreadableImage, NoSuchImage (also where an indexed image's file is gone).
    """
    path = searcher.get_file(latent_input)[0] if isinstance(latent_input, int) else latent_input
    picture = searcher.prepare_query_image(path, path.name)
    return measure_image_uncertainty(
        searcher,
        picture,
        latent_input if isinstance(latent_input, int) else None,
        samples=samples,
        seed=seed,
        on_progress=on_progress,
    )


def measure_image_uncertainty(
    searcher: Searcher,
    image: QueryImage,
    image_id: int | None = None,
    *,
    samples: int = 32,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> EncodingUncertainty:
    """The same of a picture that was prepared; `image_id`: of an indexed one. Neither is a neighbour of itself."""
    if not 2 <= samples <= MAX_POSTERIOR_SAMPLES:
        raise BadSetting(f"samples can't be {samples}. Draw 2 to {MAX_POSTERIOR_SAMPLES}.")
    encoder = searcher.get_encoder()
    check_decoder(searcher, "how sure it is of a picture can't be shown")
    batch, prepared = image.prepared_image.array[None], image.prepared_image
    latent = encoder.encode(batch)
    if latent.sigma is None:
        raise make_no_variance_error(encoder.fingerprint)
    mu, sigma = latent.mu[0], latent.sigma[0]
    noise = np.random.default_rng(seed).standard_normal((samples, len(mu))).astype(np.float32)
    draws = mu + sigma * noise
    deviation = encoder.decode(draws).std(axis=0)  # (C, S, S)
    top, left, height, width = encoder.preprocessing.content_box()
    of_picture = deviation[:, top : top + height, left : left + width]  # without padding
    largest = float(of_picture.max())
    scaled = np.minimum(deviation / max(largest, 1e-12), 1)
    shown = encoder.preprocessing.to_pixels(scaled, prepared.width, prepared.height)
    nats = _compute_log_likelihood(encoder, batch, max(samples, MIN_IMPORTANCE_SAMPLES), seed)
    error = float(compute_reconstruction_error(encoder, batch)[0])
    indexed = searcher.catalogue.images.find_by_sha256([prepared.sha256]).get(prepared.sha256)
    known = image_id if indexed is None else indexed.image_id
    same, overlap = _compute_neighbour_stability(searcher, mu, draws, known)
    return EncodingUncertainty(
        name=image.name,
        mu=mu,
        sigma=sigma,
        spread_of_all=load_aggregate_posterior(searcher).sample(10_000, seed).mu.std(axis=0),
        samples=samples,
        seen=decode_latents(searcher, mu[None], prepared.width, prepared.height)[0],
        deviation=shown,
        mean_deviation=float(of_picture.mean()),
        largest=largest,
        log_likelihood=nats,
        bits_per_value=None
        if nats is None
        else bits_per_dimension(nats, _count_values(encoder, batch), _get_likelihood_name(encoder)),
        error=error,
        error_percentile=_compute_error_percentile(searcher, error, seed, on_progress),
        same_nearest=same,
        overlap=overlap,
    )


def draw_uncertainty(encoding_uncertainty: EncodingUncertainty, image: Pixels) -> bytes:
    """PNG: the picture (h, w, 3), what the model sees, and where it can't decide."""
    percentile = (
        ""
        if encoding_uncertainty.error_percentile is None
        else f"\nworse than {encoding_uncertainty.error_percentile:.0f} % here"
    )
    return draw_tile_grid(
        [
            [
                SheetTile(image, encoding_uncertainty.name),
                SheetTile(
                    encoding_uncertainty.seen,
                    f"what the model sees\nerror {encoding_uncertainty.error:.4f}{percentile}",
                ),
                SheetTile(
                    encoding_uncertainty.deviation,
                    f"spread of {encoding_uncertainty.samples} draws\nwhite: ±{encoding_uncertainty.largest:.3f}",
                ),
            ]
        ]
    )


def _compute_log_likelihood(encoder: TrainedEncoder, batch: Pixels, samples: int, seed: int) -> float | None:
    """None where the decoder was trained with a loss that is no density."""
    if _get_likelihood_name(encoder) not in ("gaussian", "bernoulli"):
        return None
    found = importance_weighted_log_likelihood(
        encoder.network,
        torch.from_numpy(scale_to_unit(batch)),
        likelihood=_get_likelihood_name(encoder),
        samples=samples,
        generator=torch.Generator().manual_seed(seed),
        content_box=encoder.preprocessing.content_box(),
    )
    return float(found[0])


def _get_likelihood_name(encoder: TrainedEncoder) -> Density:
    return cast(Density, encoder.description.likelihood)


def _count_values(encoder: TrainedEncoder, batch: Pixels) -> int:
    """How many numbers a picture is, without padding."""
    return int(np.prod(crop_padding(encoder, batch).shape[1:]))


def _compute_error_percentile(
    searcher: Searcher, error: float, seed: int, on_progress: OnProgress | None
) -> float | None:
    ids = load_aggregate_posterior(searcher).sample(ERROR_SAMPLE_SIZE, seed).ids
    others = measure_images(searcher, ids, on_progress or (lambda *_: None)).error
    others = others[np.isfinite(others)]
    return None if not len(others) else float(100 * (others < error).mean())


def _compute_neighbour_stability(
    searcher: Searcher, mu: FloatArray, draws: FloatArray, image_id: int | None
) -> tuple[float | None, float | None]:
    """(share of draws with the same nearest, mean share of the ten nearest that they have in common with mu)."""
    snapshot = searcher.index.get_snapshot()
    asked = make_index_vectors(np.concatenate([mu[None], draws]), snapshot.encoder.index_dims, snapshot.encoder.metric)
    found = [_exclude_image(one, image_id) for one in snapshot.search(asked, STABILITY_NEIGHBOURS + 1)]
    usual, drawn = found[0], found[1:]
    if len(usual) < 1:
        return None, None
    same = float(np.mean([one[0] == usual[0] for one in drawn]))
    return same, float(np.mean([len(np.intersect1d(one, usual)) / len(usual) for one in drawn]))


def _exclude_image(neighbours: Neighbours, image_id: int | None) -> Ids:
    ids = neighbours[0]
    return ids[ids != image_id][:STABILITY_NEIGHBOURS] if image_id is not None else ids[:STABILITY_NEIGHBOURS]
