"""Vectors of files, with nothing stored."""

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


@dataclass(frozen=True)
class EmbeddingResult:
    """paths: absolute, sorted within each argument. mu, sigma: (n, d). vector: (n, d') as it would be indexed."""

    paths: list[str]
    mu: FloatArray
    sigma: FloatArray
    vector: FloatArray
    failures: list[Failure]

    def save(self, output: Path) -> None:
        """Writes an .npz that loads without pickle. Raises BadSetting where it can't be written."""
        try:
            with output.open("wb") as file:
                np.savez(file, paths=np.array(self.paths), mu=self.mu, sigma=self.sigma, vector=self.vector)
        except OSError as error:
            raise BadSetting(f"{output} can't be written: {error.strerror}. Name another --output.") from error


def check_output_path(output: Path) -> None:
    """Raises BadSetting before hours of work where `output` can't become a file."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        reason = "it is a folder" if output.is_dir() else "its folder does not exist"
        raise BadSetting(f"{output} can't be written: {reason}. Name another --output.")


def embed(
    settings: Settings, sources: Sequence[Path | str], encoder: TrainedEncoder, patterns: PathPatterns | None = None
) -> EmbeddingResult:
    """Encodes every picture in `sources`; sigma is NaN where the encoder has none.

    Raises NoSuchPath, and UnreadableImage where no picture can be read.
    """
    encoders = Home(settings.home, settings.database_url).encoders
    found = walk_sources(
        sources, [encoders], patterns
    )  # the home may lie among the pictures, and reports hold some too
    limits = Limits.from_settings(settings)
    places = get_reading_order(found.files)
    results = prepare_files((found.files[n].path for n in places), encoder.preprocessing, limits, settings.workers)
    pairs = zip(places, results, strict=True)
    kept: list[int] = []
    failed: dict[int, Failure] = {}
    mus, sigmas = [], []
    while batch := list(islice(pairs, settings.batch_size)):
        failed |= {place: result for place, result in batch if isinstance(result, Failure)}
        good = [(place, result.array) for place, result in batch if isinstance(result, PreparedImage)]
        if good:
            latent = encoder.encode(np.stack([array for _, array in good]))
            kept += [place for place, _ in good]
            mus.append(latent.mu)
            sigmas.append(np.full_like(latent.mu, np.nan) if latent.sigma is None else latent.sigma)
    failures = [*found.failures, *(failed[place] for place in sorted(failed))]
    if not kept:
        first = failures[0] if failures else Failure(", ".join(map(str, sources)), "no pictures there")
        raise UnreadableImage(first.path, first.reason)
    order = np.argsort(kept)  # an archive was read in an order of its own
    mu, sigma = np.concatenate(mus)[order], np.concatenate(sigmas)[order]
    vector = make_index_vectors(mu, encoder.index_dims, encoder.metric)
    return EmbeddingResult([found.files[place].path for place in sorted(kept)], mu, sigma, vector, failures)
