"""Vectors of files, with nothing stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from core.errors import BadSetting, UnreadableImage
from core.records import Failure, FloatArray
from core.settings import Settings
from models.collection import Prepared, prepare_files
from models.encoder import TrainedEncoder
from models.images import Limits
from models.walk import walk
from store.distances import to_indexed
from store.home import Home


@dataclass(frozen=True)
class Embedded:
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


def check_output(output: Path) -> None:
    """Raises BadSetting before hours of work where `output` can't become a file."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        reason = "it is a folder" if output.is_dir() else "its folder does not exist"
        raise BadSetting(f"{output} can't be written: {reason}. Name another --output.")


def embed(settings: Settings, sources: Sequence[Path], encoder: TrainedEncoder) -> Embedded:
    """Encodes every picture in `sources`; sigma is NaN where the encoder has none.

    Raises NoSuchPath, and UnreadableImage where no picture can be read.
    """
    encoders = Home(settings.home, settings.database_url).encoders
    found = walk(sources, skip=[encoders])  # the home may lie among the pictures, and reports hold some too
    limits = Limits(settings.max_pixels, settings.max_bytes)
    results = prepare_files((file.path for file in found.files), encoder.preprocessing, limits, settings.workers)
    pairs = zip((file.path for file in found.files), results, strict=True)
    paths, failures = [], list(found.failures)
    mus, sigmas = [], []
    while batch := list(islice(pairs, settings.batch_size)):
        failures += [result for _, result in batch if isinstance(result, Failure)]
        good = [(path, result.array) for path, result in batch if isinstance(result, Prepared)]
        if good:
            latent = encoder.encode(np.stack([array for _, array in good]))
            paths += [path for path, _ in good]
            mus.append(latent.mu)
            sigmas.append(np.full_like(latent.mu, np.nan) if latent.sigma is None else latent.sigma)
    if not paths:
        first = failures[0] if failures else Failure(", ".join(map(str, sources)), "no pictures there")
        raise UnreadableImage(first.path, first.reason)
    mu = np.concatenate(mus)
    vector = to_indexed(mu, encoder.index_dims, encoder.metric)
    return Embedded(paths, mu, np.concatenate(sigmas), vector, failures)
