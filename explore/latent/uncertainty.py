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
from simile.explore.latent.aggregate_posterior import aggregate_of, no_variance
from simile.explore.latent.inputs import check_decoder, decoded
from simile.explore.latent.measurements import OnProgress, content, error_of, measures_of
from simile.images.rendering.sheets import Tile, tile_grid
from simile.images.transforms import Pixels, to_unit
from simile.models.inference.encoder import TrainedEncoder
from simile.models.losses.likelihood import Density, bits_per_dimension, importance_weighted_log_likelihood
from simile.search.queries import AskedPicture
from simile.search.searcher import Searcher
from simile.store.index.flat import Ids, Neighbours
from simile.store.index.metric import to_indexed

MOST = 1000  # samples
COMPARED = 512  # pictures of the collection whose errors a picture's is compared with
NEIGHBOURS = 10
IMPORTANCE = 64  # samples of log p(x), at least


@dataclass(frozen=True, eq=False)
class Uncertainty:
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


def uncertainty(
    searcher: Searcher, part: Path | int, *, samples: int = 32, seed: int = 0, on_progress: OnProgress | None = None
) -> Uncertainty:
    """Of a file or an indexed image. The same for the same seed.

    Raises NoVariance, NoDecoder, BadSetting, UnreadableImage, NoSuchImage (also where an indexed image's file is gone).
    """
    path = searcher.file(part)[0] if isinstance(part, int) else part
    picture = searcher.prepare(path, path.name)
    return uncertainty_of(
        searcher, picture, part if isinstance(part, int) else None, samples=samples, seed=seed, on_progress=on_progress
    )


def uncertainty_of(
    searcher: Searcher,
    picture: AskedPicture,
    image_id: int | None = None,
    *,
    samples: int = 32,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Uncertainty:
    """The same of a picture that was prepared; `image_id`: of an indexed one. Neither is a neighbour of itself."""
    if not 2 <= samples <= MOST:
        raise BadSetting(f"samples can't be {samples}. Draw 2 to {MOST}.")
    encoder = searcher.encoder()
    check_decoder(searcher, "how sure it is of a picture can't be shown")
    batch, prepared = picture.prepared.array[None], picture.prepared
    latent = encoder.encode(batch)
    if latent.sigma is None:
        raise no_variance(encoder.fingerprint)
    mu, sigma = latent.mu[0], latent.sigma[0]
    noise = np.random.default_rng(seed).standard_normal((samples, len(mu))).astype(np.float32)
    draws = mu + sigma * noise
    deviation = encoder.decode(draws).std(axis=0)  # (C, S, S)
    top, left, height, width = encoder.preprocessing.content_box()
    of_picture = deviation[:, top : top + height, left : left + width]  # without padding
    largest = float(of_picture.max())
    scaled = np.minimum(deviation / max(largest, 1e-12), 1)
    shown = encoder.preprocessing.to_pixels(scaled, prepared.width, prepared.height)
    nats = _log_likelihood(encoder, batch, max(samples, IMPORTANCE), seed)
    error = float(error_of(encoder, batch)[0])
    indexed = searcher.catalogue.images_by_sha([prepared.sha256]).get(prepared.sha256)
    known = image_id if indexed is None else indexed.image_id
    same, overlap = _stability(searcher, mu, draws, known)
    return Uncertainty(
        name=picture.name,
        mu=mu,
        sigma=sigma,
        spread_of_all=aggregate_of(searcher).chosen(10_000, seed).mu.std(axis=0),
        samples=samples,
        seen=decoded(searcher, mu[None], prepared.width, prepared.height)[0],
        deviation=shown,
        mean_deviation=float(of_picture.mean()),
        largest=largest,
        log_likelihood=nats,
        bits_per_value=None if nats is None else bits_per_dimension(nats, _values(encoder, batch), _density(encoder)),
        error=error,
        error_percentile=_percentile(searcher, error, seed, on_progress),
        same_nearest=same,
        overlap=overlap,
    )


def draw_uncertainty(found: Uncertainty, picture: Pixels) -> bytes:
    """PNG: the picture (h, w, 3), what the model sees, and where it can't decide."""
    percentile = "" if found.error_percentile is None else f"\nworse than {found.error_percentile:.0f} % here"
    return tile_grid(
        [
            [
                Tile(picture, found.name),
                Tile(found.seen, f"what the model sees\nerror {found.error:.4f}{percentile}"),
                Tile(found.deviation, f"spread of {found.samples} draws\nwhite: ±{found.largest:.3f}"),
            ]
        ]
    )


def _log_likelihood(encoder: TrainedEncoder, batch: Pixels, samples: int, seed: int) -> float | None:
    """None where the decoder was trained with a loss that is no density."""
    if _density(encoder) not in ("gaussian", "bernoulli"):
        return None
    found = importance_weighted_log_likelihood(
        encoder.network,
        torch.from_numpy(to_unit(batch)),
        likelihood=_density(encoder),
        samples=samples,
        generator=torch.Generator().manual_seed(seed),
        content_box=encoder.preprocessing.content_box(),
    )
    return float(found[0])


def _density(encoder: TrainedEncoder) -> Density:
    return cast(Density, encoder.description["recipe"]["likelihood"])


def _values(encoder: TrainedEncoder, batch: Pixels) -> int:
    """How many numbers a picture is, without padding."""
    return int(np.prod(content(encoder, batch).shape[1:]))


def _percentile(searcher: Searcher, error: float, seed: int, on_progress: OnProgress | None) -> float | None:
    ids = aggregate_of(searcher).chosen(COMPARED, seed).ids
    others = measures_of(searcher, ids, on_progress or (lambda *_: None)).error
    others = others[np.isfinite(others)]
    return None if not len(others) else float(100 * (others < error).mean())


def _stability(
    searcher: Searcher, mu: FloatArray, draws: FloatArray, image_id: int | None
) -> tuple[float | None, float | None]:
    """(share of draws with the same nearest, mean share of the ten nearest that they have in common with mu)."""
    snapshot = searcher.index.current()
    asked = to_indexed(np.concatenate([mu[None], draws]), snapshot.encoder.index_dims, snapshot.encoder.metric)
    found = [_others(one, image_id) for one in snapshot.search(asked, NEIGHBOURS + 1)]
    usual, drawn = found[0], found[1:]
    if len(usual) < 1:
        return None, None
    same = float(np.mean([one[0] == usual[0] for one in drawn]))
    return same, float(np.mean([len(np.intersect1d(one, usual)) / len(usual) for one in drawn]))


def _others(neighbours: Neighbours, image_id: int | None) -> Ids:
    ids = neighbours[0]
    return ids[ids != image_id][:NEIGHBOURS] if image_id is not None else ids[:NEIGHBOURS]
