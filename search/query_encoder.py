"""Decode and encode query images."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from simile.core.errors import NotFinite, SimileError
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.models.inference.encoder import TrainedEncoder
from simile.search.encoder_registry import EncoderCache
from simile.search.queries import EncodedQuery, EncodeOutcome, QueryImage, StageObserver


class QueryEncoder:
    """Decodes query images and encodes them in batches. Safe to share between threads."""

    def __init__(self, encoders: EncoderCache, limits: Limits, observe: StageObserver) -> None:
        """Create it.

        Args:
            encoders: Loads encoders by fingerprint.
            limits: Limits of decoding.
            observe: Called with "decode" and the seconds that each decoding took.
        """
        self._encoders, self._limits, self.observe = encoders, limits, observe

    def prepare(self, data: bytes, name: str, encoder: TrainedEncoder) -> QueryImage:
        """Decode an image for an encoder. Raises UnreadableImage."""
        started = time.perf_counter()
        prepared = prepare_image(data, name, encoder.preprocessing, self._limits)
        self.observe("decode", time.perf_counter() - started)
        return QueryImage(name, data, encoder.fingerprint, prepared)

    def prepare_for(self, query_image: QueryImage, encoder: TrainedEncoder) -> QueryImage:
        """Return the image decoded for this encoder; decode it again if it was decoded for another one."""
        if query_image.encoder == encoder.fingerprint:
            return query_image
        return self.prepare(query_image.data, query_image.name, encoder)

    def encode_many(
        self, query_images: Sequence[QueryImage], fingerprint: str, include_errors: Sequence[bool]
    ) -> list[EncodeOutcome]:
        """Encode images in one batch.

        Args:
            query_images: The images, decoded for any encoder.
            fingerprint: Of the encoder to use.
            include_errors: For each image, whether its reconstruction error is measured.

        Returns:
            For each image, in order, the encoded query or the error.
        """
        encoder = self._encoders.get(fingerprint)
        outcomes: list[EncodeOutcome | None] = []
        batch: list[tuple[QueryImage, bool]] = []
        for query_image, include_error in zip(query_images, include_errors, strict=True):
            try:
                batch.append((self.prepare_for(query_image, encoder), include_error))
                outcomes.append(None)
            except SimileError as error:
                outcomes.append(error)
        encoded = iter(_encode_batch_or_errors(batch, encoder))
        return [next(encoded) if outcome is None else outcome for outcome in outcomes]


def _encode_batch_or_errors(batch: list[tuple[QueryImage, bool]], encoder: TrainedEncoder) -> list[EncodeOutcome]:
    """Encode all images together or, if that fails, each one alone to find those that fail."""
    try:
        return list(encode_batch(batch, encoder))
    except NotFinite as error:
        if len(batch) == 1:
            return [error]
    return [outcome for item in batch for outcome in _encode_batch_or_errors([item], encoder)]


def encode_batch(batch: list[tuple[QueryImage, bool]], encoder: TrainedEncoder) -> list[EncodedQuery]:
    """Encode images that were decoded for this encoder; the flag says whether the error is measured.

    Raises NotFinite.
    """
    if not batch:
        return []
    inputs = np.stack([query_image.prepared_image.array for query_image, _ in batch])
    latent = encoder.encode(inputs)
    rows_with_error = [row for row, (_, include_error) in enumerate(batch) if include_error]
    errors = encoder.compute_errors(inputs[rows_with_error], latent.mu[rows_with_error]) if rows_with_error else None
    error_by_row = {} if errors is None else dict(zip(rows_with_error, errors.tolist(), strict=True))
    return [
        EncodedQuery(
            mu=latent.mu[row],
            sigma=None if latent.sigma is None else latent.sigma[row],
            name=query_image.name,
            width=query_image.prepared_image.width,
            height=query_image.prepared_image.height,
            format=query_image.prepared_image.format,
            reconstruction_error=error_by_row.get(row),
        )
        for row, (query_image, _) in enumerate(batch)
    ]
