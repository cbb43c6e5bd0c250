"""Embed files without storing anything in a home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, UnreadableImage
from simile.core.records import Failure, FloatArray
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.loader import PreparedImage, prepare_files
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import get_reading_order, walk_sources
from simile.models.inference.encoder import TrainedEncoder
from simile.store.home import Home
from simile.store.index.metric import make_index_vectors


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult:
    """Embeddings of files.

    Attributes:
        paths: Absolute paths (n), sorted within each source.
        mu: (n, d).
        sigma: (n, d); NaN if the encoder has no variance.
        vector: (n, d') as it would be indexed.
        failures: Files that could not be used.
    """

    paths: list[str]
    mu: FloatArray
    sigma: FloatArray
    vector: FloatArray
    failures: list[Failure]

    def save(self, output: Path) -> None:
        """Write an .npz file that loads without pickle. Raises BadSetting if it can't be written."""
        try:
            with output.open("wb") as file:
                np.savez(file, paths=np.array(self.paths), mu=self.mu, sigma=self.sigma, vector=self.vector)
        except OSError as error:
            raise BadSetting(f"{output} can't be written: {error.strerror}. Name another --output.") from error


def embed(
    settings: Settings, sources: Sequence[Path | str], encoder: TrainedEncoder, patterns: PathPatterns | None = None
) -> EmbeddingResult:
    """Encode every image in the sources. Raises NoSuchPath for a source, UnreadableImage if no image can be read."""
    # The home may be inside a source, and training reports contain images.
    home = Home.from_settings(settings)
    scan = walk_sources(sources, [folder for folder in home.own_folders if folder != home.uploads], patterns)
    limits = Limits.from_settings(settings)
    # Positions in scan.files, in the order of reading: an archive is read from front to back.
    order = get_reading_order(scan.files)
    results = prepare_files((scan.files[n].path for n in order), encoder.preprocessing, limits, settings.workers)
    pairs = zip(order, results, strict=True)
    positions: list[int] = []
    failed: dict[int, Failure] = {}
    mus, sigmas = [], []
    while batch := list(islice(pairs, settings.batch_size)):
        failed |= {position: result for position, result in batch if isinstance(result, Failure)}
        prepared = [(position, result.array) for position, result in batch if isinstance(result, PreparedImage)]
        if prepared:
            latent = encoder.encode(np.stack([array for _, array in prepared]))
            positions += [position for position, _ in prepared]
            mus.append(latent.mu)
            sigmas.append(np.full_like(latent.mu, np.nan) if latent.sigma is None else latent.sigma)
    failures = [*scan.failures, *(failed[position] for position in sorted(failed))]
    if not positions:
        first = failures[0] if failures else Failure(", ".join(map(str, sources)), "it holds no images")
        raise UnreadableImage(first.path, first.reason)
    by_source = np.argsort(positions)
    mu = np.concatenate(mus)[by_source]
    return EmbeddingResult(
        paths=[scan.files[position].path for position in sorted(positions)],
        mu=mu,
        sigma=np.concatenate(sigmas)[by_source],
        vector=make_index_vectors(mu, encoder.index_dims, encoder.metric),
        failures=failures,
    )
