"""Encode search queries: decode and encode their images in one batch, read indexed images, combine the terms."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, SimileError
from simile.core.records import Box
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.images.loading.sandbox import Decode, decode_here
from simile.models.inference.encoder import TrainedEncoder
from simile.search.attributes import shift_by_attributes
from simile.search.encoder_registry import EncoderCache
from simile.search.queries import EncodedQuery, EncodeOutcome, QueryImage, QueryTerm, SearchQuery, StageObserver
from simile.search.words.text import split_signs
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

OutcomesByTerm = Mapping[QueryImage | int, EncodeOutcome]


class QueryEncoder:
    """Decodes query images and encodes queries in batches. Safe to share between threads.

    Args:
        observe: Called with "decode" and the seconds that each decoding took.
        decode: Calls a function with the bytes of an image and its name.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: EncoderCache,
        limits: Limits,
        observe: StageObserver,
        decode: Decode = decode_here,
    ) -> None:
        self._decode = decode
        self._catalogue, self._encoders, self._limits, self.observe = catalogue, encoders, limits, observe

    def prepare(self, data: bytes, name: str, encoder: TrainedEncoder, box: Box | None = None) -> QueryImage:
        """Decode an image, or a part of it, for an encoder. Raises UnreadableImage."""
        started = time.perf_counter()
        prepare = partial(prepare_image, preprocessing=encoder.preprocessing, limits=self._limits, box=box)
        prepared = self._decode(prepare, data, name)
        self.observe("decode", time.perf_counter() - started)
        return QueryImage(name=name, data=data, encoder=encoder.fingerprint, prepared_image=prepared, box=box)

    def prepare_for(self, query_image: QueryImage, encoder: TrainedEncoder) -> QueryImage:
        """Return the image decoded for this encoder; decode it again if it was decoded for another one."""
        if query_image.encoder == encoder.fingerprint:
            return query_image
        prepared = self.prepare(query_image.data, query_image.name, encoder, query_image.box)
        return replace(prepared, image_id=query_image.image_id)

    def encode_queries(self, search_queries: Sequence[SearchQuery], snapshot: Snapshot) -> list[EncodeOutcome]:
        """Return the encoded query or the error of each query; an image or id in several queries is encoded once."""
        terms = [(query, term) for query in search_queries for term in query.terms]
        # For each query image, whether its reconstruction error is measured.
        include_errors: dict[QueryImage, bool] = {}
        for query, term in terms:
            if isinstance(term, QueryImage):
                needs_error = query.params.include_error and query.is_single_term and not query.attributes
                include_errors[term] = include_errors.get(term, False) or needs_error
        ids = {term for _, term in terms if isinstance(term, int)}
        fingerprint = snapshot.encoder.fingerprint
        outcomes: dict[QueryImage | int, EncodeOutcome] = {}
        if include_errors:
            outcomes |= self._encode_images(include_errors, fingerprint)
        if ids:
            outcomes |= self._load_indexed_images(ids, fingerprint)
        encoded_queries: list[EncodeOutcome] = []
        for query in search_queries:
            try:
                encoded = self._encode_with_text(query, outcomes, snapshot)
                if query.attributes:
                    mu = shift_by_attributes(self._catalogue.home, fingerprint, encoded.mu, query.attributes)
                    # What was measured holds for the image itself, not for the shifted vector.
                    encoded = replace(encoded, mu=mu, sigma=None, image_id=None, reconstruction_error=None)
                encoded_queries.append(encoded)
            except SimileError as error:
                encoded_queries.append(error)
        return encoded_queries

    def _encode_with_text(self, query: SearchQuery, outcomes: OutcomesByTerm, snapshot: Snapshot) -> EncodedQuery:
        """Combine the terms of a query and, if the encoder has a text tower, its text.

        Raises BadSetting, and as `_combine_terms`.
        """
        fingerprint = snapshot.encoder.fingerprint
        if query.text is None or not (encoder := self._encoders.get(fingerprint)).has_text_tower:
            return _combine_terms(query, outcomes, snapshot)
        present, absent = split_signs(query.text)
        if not present and not query.positives:
            raise BadSetting(f"text can't be {query.text!r}: nothing in it is without a minus. Write what to find.")
        vectors = list(encoder.encode_texts([*([present] if present else ()), *absent]))
        like = (*query.positives, *([vectors.pop(0)] if present else ()))
        combined = _combine_terms(
            replace(query, positives=like, negatives=(*query.negatives, *vectors)), outcomes, snapshot
        )
        # The terms that are named in a result are images.
        images, avoided = combined.positives[: len(query.positives)], combined.negatives[: len(query.negatives)]
        return replace(combined, has_text=True, sigma=None, positives=images, negatives=avoided)

    def _encode_images(self, include_errors: Mapping[QueryImage, bool], fingerprint: str) -> OutcomesByTerm:
        encoder = self._encoders.get(fingerprint)
        outcomes: dict[QueryImage | int, EncodeOutcome] = {}
        batch: list[tuple[QueryImage, bool]] = []
        for query_image, include_error in include_errors.items():
            try:
                batch.append((self.prepare_for(query_image, encoder), include_error))
            except SimileError as error:
                outcomes[query_image] = error
        prepared = [query_image for query_image in include_errors if query_image not in outcomes]
        return outcomes | dict(zip(prepared, _encode_batch_or_errors(batch, encoder), strict=True))

    def _load_indexed_images(self, ids: set[int], fingerprint: str) -> OutcomesByTerm:
        """Load indexed images as encoded queries; no encoder is needed."""
        # Embeddings first: of an image that is deleted meanwhile the record is missing, not only the vector.
        embeddings = self._catalogue.embeddings.get_many(ids, fingerprint)
        records = self._catalogue.images.get_many(sorted(ids))
        outcomes: dict[QueryImage | int, EncodeOutcome] = {}
        for image_id in ids:
            record, embedding = records.get(image_id), embeddings.get(image_id)
            if record is None:
                outcomes[image_id] = NoSuchImage(image_id)
            elif embedding is None:
                outcomes[image_id] = EncoderMismatch(
                    f"Image {image_id} has no vector by encoder {fingerprint}. Run `simile index FILE`."
                )
            else:
                outcomes[image_id] = EncodedQuery(
                    mu=embedding.mu,
                    sigma=None if embedding.log_variance is None else np.exp(0.5 * embedding.log_variance),
                    name=Path(record.paths[0]).name if record.paths else None,
                    image_id=image_id,
                    width=record.width,
                    height=record.height,
                    format=record.format,
                    reconstruction_error=record.reconstruction_error,
                )
        return outcomes


def _resolve_term(term: QueryTerm, outcomes: OutcomesByTerm, snapshot: Snapshot) -> EncodedQuery:
    """Return the encoded term. Raises its error, EncoderMismatch or NotFinite for a bad vector."""
    if isinstance(term, QueryImage | int):
        outcome = outcomes[term]
        if isinstance(outcome, SimileError):
            raise outcome
        return outcome
    encoder, mu = snapshot.encoder, np.asarray(term, dtype=np.float32)
    if mu.shape != (encoder.dimensions,):
        raise EncoderMismatch(
            f"A vector of {mu.size} numbers can't be compared: encoder {encoder.fingerprint} has {encoder.dimensions}."
        )
    if not np.isfinite(mu).all():
        raise NotFinite("The vector holds NaN or infinity, or a number beyond float32. Send finite numbers.")
    return EncodedQuery(mu=mu)


def _combine_terms(search_query: SearchQuery, outcomes: OutcomesByTerm, snapshot: Snapshot) -> EncodedQuery:
    """Combine the terms of a query: the mean of the positives minus the mean of the negatives.

    Raises NotFinite, and BadSetting if a query without positives has something that needs one.
    """
    if not search_query.positives:
        if search_query.text is None or search_query.negatives or search_query.attributes:
            raise BadSetting("negative images, plus and minus change what an image is searched by. Give an image, too.")
        return EncodedQuery(mu=np.empty(0, np.float32))
    if search_query.is_by_best and (search_query.text is not None or search_query.attributes):
        raise BadSetting("combine=best compares images with images. Leave it out with a text, plus and minus.")
    positives, negatives = (
        [_resolve_term(term, outcomes, snapshot) for term in side]
        for side in (search_query.positives, search_query.negatives)
    )
    if search_query.is_single_term:
        return positives[0]
    if search_query.text is not None and snapshot.encoder.metric == "cosine":
        # The vectors of texts and of images may have different lengths, which mean nothing to this metric.
        positives, negatives = (
            [replace(term, mu=make_index_vectors(term.mu[None], None, "cosine")[0]) for term in side]
            for side in (positives, negatives)
        )
    mu, variance = np.zeros_like(positives[0].mu), np.zeros_like(positives[0].mu)
    has_variance = True
    for side, sign in ((positives, 1), (negatives, -1)):
        for query in side:
            mu += sign * query.mu / len(side)
            has_variance &= query.sigma is not None
            variance += 0 if query.sigma is None else np.square(query.sigma / len(side))
    if not np.isfinite(mu).all():
        raise NotFinite("The mean of the vectors is beyond float32. Send smaller numbers.")
    # Distances from each of several images have no common spread.
    sigma = np.sqrt(variance) if has_variance and not search_query.is_by_best else None
    return EncodedQuery(mu=mu, sigma=sigma, positives=tuple(positives), negatives=tuple(negatives))


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
