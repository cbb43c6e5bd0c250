"""The aggregate posterior: the latent vectors of all indexed images by the active encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simile.core.errors import NothingIndexed, NoVariance
from simile.core.records import FloatArray
from simile.search.searcher import Searcher
from simile.store.catalogue.records import EncoderRecord
from simile.store.index.flat import Ids
from simile.store.index.metric import make_index_vectors


@dataclass(frozen=True)
class AggregatePosterior:
    """The latent vectors of n images."""

    encoder: EncoderRecord  # the active encoder
    ids: Ids  # image ids (n,), ascending
    mu: FloatArray  # means (n, d), float32
    sigma: FloatArray | None  # standard deviations (n, d), float32; None for an encoder without a variance

    def __len__(self) -> int:
        return len(self.ids)

    def get_index_vectors(self) -> FloatArray:
        """Return the vectors (n, d') that a search compares."""
        return make_index_vectors(self.mu, self.encoder.index_dims, self.encoder.metric)

    def sample(self, max_count: int, seed: int) -> AggregatePosterior:
        """Return at most `max_count` random images, ids ascending; the same images for the same seed."""
        if len(self) <= max_count:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self), max_count, replace=False))
        sigma = None if self.sigma is None else self.sigma[rows]
        return AggregatePosterior(self.encoder, self.ids[rows], self.mu[rows], sigma)


def load_aggregate_posterior(searcher: Searcher) -> AggregatePosterior:
    """Load all latent vectors from the catalogue, without image files or a network. Raises NothingIndexed."""
    fingerprint = searcher.catalogue.get_state().active_encoder
    if fingerprint is None:
        raise NothingIndexed(f"{searcher.home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    chunks = list(searcher.catalogue.embeddings.iterate_chunks(fingerprint))
    if not chunks:
        raise NothingIndexed(f"{searcher.home.root} contains no images yet. Run `simile index PHOTOS` first.")
    ids, mus, log_variances = zip(*chunks, strict=True)
    has_variance = all(chunk is not None for chunk in log_variances)
    sigma = np.exp(0.5 * np.concatenate(log_variances)) if has_variance else None
    encoder = searcher.catalogue.encoders.get(fingerprint)
    return AggregatePosterior(encoder, np.concatenate(ids), np.concatenate(mus), sigma)


def make_no_variance_error(fingerprint: str) -> NoVariance:
    """Make the error for a request that needs σ from an encoder without a variance."""
    return NoVariance(
        f"Encoder {fingerprint} has no variance: it gives a latent vector, but no uncertainty. Morphs, attributes and "
        "outliers work without a variance; for σ and samples train another recipe: `simile train PHOTOS --recipe vae`."
    )
