"""The aggregate posterior: what the encoder in use said of every picture of the home, together."""

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
    """ids (n,) ascending; mu, sigma (n, d) float32, sigma None for an encoder without a variance."""

    encoder: EncoderRecord
    ids: Ids
    mu: FloatArray
    sigma: FloatArray | None

    def __len__(self) -> int:
        return len(self.ids)

    def get_index_vectors(self) -> FloatArray:
        """What is compared in a search, (n, d')."""
        return make_index_vectors(self.mu, self.encoder.index_dims, self.encoder.metric)

    def get_sigma(self) -> FloatArray:
        """sigma (n, d). Raises NoVariance."""
        if self.sigma is None:
            raise make_no_variance_error(self.encoder.fingerprint)
        return self.sigma

    def sample(self, max_count: int, seed: int) -> AggregatePosterior:
        """At most so many of them, drawn with `seed`, by ascending id."""
        if len(self) <= max_count:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self), max_count, replace=False))
        return AggregatePosterior(
            self.encoder, self.ids[rows], self.mu[rows], None if self.sigma is None else self.sigma[rows]
        )


def load_aggregate_posterior(searcher: Searcher) -> AggregatePosterior:
    """Read from the rows; needs neither pictures nor a network. Raises NothingIndexed."""
    fingerprint = searcher.catalogue.get_state().active_encoder
    if fingerprint is None:
        raise NothingIndexed(f"{searcher.home.root} has no encoder yet. Run `simile index PHOTOS` first.")
    parts = list(searcher.catalogue.embeddings.iterate_chunks(fingerprint))
    if not parts:
        raise NothingIndexed(f"{searcher.home.root} holds no pictures yet. Run `simile index PHOTOS` first.")
    ids, mus, variances = zip(*parts, strict=True)
    sigma = None if any(one is None for one in variances) else np.exp(0.5 * np.concatenate(variances))
    return AggregatePosterior(
        searcher.catalogue.encoders.get(fingerprint), np.concatenate(ids), np.concatenate(mus), sigma
    )


def make_no_variance_error(fingerprint: str) -> NoVariance:
    """What to raise where σ is asked of an encoder that has none."""
    return NoVariance(
        f"Encoder {fingerprint} has no variance: it says where a picture lies, not how sure it is. Morphs, attributes "
        "and outliers work without one; for σ and samples train another recipe: `simile train PHOTOS --recipe vae`."
    )
