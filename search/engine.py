"""Answer many search queries together: one encoder batch, one index search, one read of the catalogue.

    SearchQuery --encode--> EncodedQuery --search--> ids, distances --read rows--> SearchResult

A query that fails becomes its error; the other queries are not affected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, NoVariance, SimileError
from simile.core.filter_parser import parse_metadata
from simile.core.records import Filter, FloatArray, Hit
from simile.search.attributes import shift_by_attributes
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.posterior import (
    compute_distance_spreads,
    compute_mean_sigma,
    filter_posteriors,
    find_nearest_posteriors,
    make_sigma_distances,
)
from simile.search.queries import (
    Confidence,
    EncodedQuery,
    EncodeOutcome,
    QueryImage,
    QueryTerm,
    SearchParams,
    SearchQuery,
    SearchResult,
    StageObserver,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageSummary
from simile.store.index.flat import Distances, Ids, Neighbours
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

# (images, fingerprint of the encoder, whether to measure each image's reconstruction error) -> one outcome for each
EncodeImages = Callable[[Sequence[QueryImage], str, Sequence[bool]], list[EncodeOutcome]]
OutcomesByTerm = dict[QueryImage | int, EncodeOutcome]
SearchGroupKey = tuple[Filter | None, float | None, int]  # filter, radius, count: the same for one index search

SPREAD_CHUNK_SIZE = 4096  # hits whose vectors are in memory at once


@dataclass(kw_only=True)
class _SearchState:
    """A query on its way through the stages."""

    query: SearchQuery
    encoded_query: EncodedQuery | None = None  # None until it is encoded, and after an error
    error: SimileError | None = None  # why there is no result
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # (n,) of the hits, like `distances`
    distances: Distances = field(default_factory=lambda: np.empty(0))
    nearest_distance: float | None = None  # distance of the nearest image, whether it is a hit or not; None if unknown

    @property
    def params(self) -> SearchParams:
        """The options of the query."""
        return self.query.params

    def fail(self, error: SimileError) -> None:
        """End this query with an error."""
        self.error, self.encoded_query = error, None


@dataclass(frozen=True, kw_only=True)
class SearchEngine:
    """Searches one collection."""

    catalogue: Catalogue
    index: Index
    encode_images: EncodeImages  # encodes query images in one batch
    # Returns the calibration of a snapshot at once; None if there is none yet.
    get_calibration: Callable[[Snapshot], ScoreCalibration | None]
    observe: StageObserver  # called with the name and the seconds of each stage: encode, search, rows

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """Return the result or the error of each query, in order."""
        states = [_SearchState(query=query) for query in search_queries]
        if not states:
            return []
        try:
            snapshot = self.index.get_snapshot()
            with self._time_stage("encode"):
                self._encode_queries(states, snapshot)
            with self._time_stage("search"):
                self._search_states(states, snapshot)
            with self._time_stage("rows"):
                return self._make_results(states, snapshot)
        except SimileError as error:  # an error of the home, not of one query
            return [state.error or error for state in states]

    def _encode_queries(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """Encode each query; an image or id in several queries is encoded once."""
        ids = {term for state in states for term in state.query.terms if isinstance(term, int)}
        outcomes = self._encode_query_images(states, snapshot) | self._load_indexed_queries(ids, snapshot)
        fingerprint = snapshot.encoder.fingerprint
        for state in states:
            try:
                encoded = _combine_terms(state.query, lambda term: _resolve_term(term, outcomes, snapshot))
                if state.query.attributes:
                    mu = shift_by_attributes(self.catalogue.home, fingerprint, encoded.mu, state.query.attributes)
                    # What was measured holds for the image itself, not for the shifted vector.
                    encoded = replace(encoded, mu=mu, sigma=None, image_id=None, reconstruction_error=None)
                state.encoded_query = encoded
            except SimileError as error:
                state.fail(error)

    def _encode_query_images(self, states: Sequence[_SearchState], snapshot: Snapshot) -> OutcomesByTerm:
        """Encode all query images in one batch."""
        include_errors: dict[QueryImage, bool] = {}
        for state in states:
            needs_error = state.params.include_error and state.query.is_single_term and not state.query.attributes
            for term in state.query.terms:
                if isinstance(term, QueryImage):
                    include_errors[term] = include_errors.get(term, False) or needs_error
        if not include_errors:
            return {}
        images = list(include_errors)
        outcomes = self.encode_images(images, snapshot.encoder.fingerprint, list(include_errors.values()))
        return dict(zip(images, outcomes, strict=True))

    def _load_indexed_queries(self, ids: set[int], snapshot: Snapshot) -> OutcomesByTerm:
        """Load indexed images as encoded queries; no encoder is needed."""
        if not ids:
            return {}
        fingerprint = snapshot.encoder.fingerprint
        records = self.catalogue.images.get_many(sorted(ids))
        embeddings = self.catalogue.embeddings.get_many(ids, fingerprint)
        outcomes: OutcomesByTerm = {}
        for image_id in ids:
            record, embedding = records.get(image_id), embeddings.get(image_id)
            if record is None:
                outcomes[image_id] = NoSuchImage(image_id)
            elif embedding is None:
                outcomes[image_id] = EncoderMismatch(
                    f"Image {image_id} has no vector by encoder {fingerprint}. Run `simile index` on it."
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

    def _search_states(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """Find the hits of each query; queries with the same filter, radius and count share an index search."""
        pending = [state for state in states if state.encoded_query is not None and not state.params.encode_only]
        groups: dict[SearchGroupKey, list[_SearchState]] = {}
        for state in pending:
            if state.params.use_posterior:
                self._search_by_posterior(state, snapshot)
            else:
                groups.setdefault(_get_group_key(state.query, len(snapshot)), []).append(state)
        for group_key, group in groups.items():
            try:
                neighbours = self._find_neighbours(group_key, _stack_query_vectors(group, snapshot), snapshot)
                for state, found in zip(group, neighbours, strict=True):
                    _select_hits(state, found)
            except SimileError as error:
                for state in group:
                    state.fail(error)
        self._find_nearest_distances(
            [state for state in pending if state.encoded_query is not None and state.nearest_distance is None], snapshot
        )

    def _find_neighbours(self, group_key: SearchGroupKey, vectors: FloatArray, snapshot: Snapshot) -> list[Neighbours]:
        filter_, radius, count = group_key
        matching_ids = self.index.find_matching_ids(filter_)
        if radius is None:
            return snapshot.search(vectors, count, matching_ids)
        if not 0 <= radius < np.inf:
            raise BadSetting(f"within can't be {radius}. Give a distance: a number from 0 on.")
        return snapshot.range(vectors, radius, matching_ids)

    def _search_by_posterior(self, state: _SearchState, snapshot: Snapshot) -> None:
        try:
            _select_hits(state, self._find_posterior_neighbours(state, snapshot))
            state.nearest_distance = None  # the calibration knows distances of means only
        except SimileError as error:
            state.fail(error)

    def _find_posterior_neighbours(self, state: _SearchState, snapshot: Snapshot) -> Neighbours:
        query, encoder = state.encoded_query, snapshot.encoder
        assert query is not None
        # Only an image has a posterior: a vector, a mean of several images and a shifted vector have none.
        if state.query.attributes:
            raise BadSetting("posterior can't be combined with plus and minus. Leave it out, or leave them out.")
        if not state.query.is_single_term or isinstance(state.query.positives[0], np.ndarray):
            raise BadSetting("posterior compares the σ of one image or indexed image. Leave it out for other queries.")
        if query.sigma is None:
            raise NoVariance(
                f"Encoder {encoder.fingerprint} has no variance, so only means can be compared. Leave `posterior` out, "
                "or train another recipe: `simile train PHOTOS --recipe vae`."
            )
        filter_, radius, count = _get_group_key(state.query, len(snapshot))
        sigma_distances = make_sigma_distances(query.mu, query.sigma, self.catalogue, encoder)
        vectors = _stack_query_vectors([state], snapshot)
        if radius is not None:
            (found,) = self._find_neighbours((filter_, radius, 0), vectors, snapshot)
            return filter_posteriors(*found, sigma_distances, radius)
        matching_ids = self.index.find_matching_ids(filter_)
        return find_nearest_posteriors(count, lambda k: snapshot.search(vectors, k, matching_ids)[0], sigma_distances)

    def _find_nearest_distances(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """Find the nearest image of all, for queries whose hits do not start with it."""
        states = [state for state in states if state.query.is_single_term]
        if states and self.get_calibration(snapshot) is not None:
            neighbours = snapshot.search(_stack_query_vectors(states, snapshot), 2)  # the query itself may be one
            for state, (ids, distances) in zip(states, neighbours, strict=True):
                others = distances[~np.isin(ids, list(state.query.excluded_ids))]
                state.nearest_distance = float(others[0]) if len(others) else None

    def _make_results(self, states: Sequence[_SearchState], snapshot: Snapshot) -> list[SearchResult | SimileError]:
        """Read the catalogue rows of all hits and make the results."""
        calibration = self.get_calibration(snapshot)
        summaries = self.catalogue.images.get_summaries(_collect_hit_ids(states))
        metadata = self._get_hit_metadata(states)
        results: list[SearchResult | SimileError] = []
        for state, spreads in zip(states, _compute_spreads(states, snapshot), strict=True):
            if state.encoded_query is None:
                assert state.error is not None
                results.append(state.error)
                continue
            hit_calibration = None if state.params.use_posterior else calibration
            hit_metadata = metadata if state.params.include_metadata else None
            results.append(
                SearchResult(
                    query=state.encoded_query,
                    hits=list(_make_hits(state, summaries, hit_metadata, spreads, hit_calibration)),
                    confidence=_compute_confidence(state, state.encoded_query, snapshot, calibration),
                    is_calibrated=hit_calibration is not None,
                    encoder=snapshot.encoder.fingerprint,
                )
            )
        return results

    def _get_hit_metadata(self, states: Sequence[_SearchState]) -> dict[int, dict[str, str]]:
        states = [state for state in states if state.params.include_metadata]
        return self.catalogue.metadata.get_for_images(_collect_hit_ids(states)) if states else {}

    @contextmanager
    def _time_stage(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:  # a stage that fails takes time too
            self.observe(stage, time.perf_counter() - started)


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


def _combine_terms(search_query: SearchQuery, resolve_term: Callable[[QueryTerm], EncodedQuery]) -> EncodedQuery:
    """Combine the terms of a query: the mean of the positives minus the mean of the negatives. Raises NotFinite."""
    positives = [resolve_term(term) for term in search_query.positives]
    negatives = [resolve_term(term) for term in search_query.negatives]
    if search_query.is_single_term:
        return positives[0]
    mu, variance = np.zeros_like(positives[0].mu), np.zeros_like(positives[0].mu)
    has_variance = True
    for side, sign in ((positives, 1), (negatives, -1)):
        for query in side:
            mu += sign * query.mu / len(side)
            has_variance &= query.sigma is not None
            variance += 0 if query.sigma is None else np.square(query.sigma / len(side))
    if not np.isfinite(mu).all():
        raise NotFinite("The mean of the vectors is beyond float32. Send smaller numbers.")
    sigma = np.sqrt(variance) if has_variance else None
    return EncodedQuery(mu=mu, sigma=sigma, positives=tuple(positives), negatives=tuple(negatives))


def _get_group_key(search_query: SearchQuery, image_count: int) -> SearchGroupKey:
    params = search_query.params
    if params.radius is not None:
        return params.filter, params.radius, 0
    if params.limit is None:
        return params.filter, None, image_count
    return params.filter, None, params.limit + params.offset + len(search_query.excluded_ids)


def _stack_query_vectors(states: Sequence[_SearchState], snapshot: Snapshot) -> FloatArray:
    mus = np.stack([state.encoded_query.mu for state in states if state.encoded_query is not None])
    return make_index_vectors(mus, snapshot.encoder.index_dims, snapshot.encoder.metric)


def _select_hits(state: _SearchState, neighbours: Neighbours) -> None:
    """Drop the query's own ids from the neighbours, then apply offset and limit."""
    ids, distances = neighbours
    if state.query.excluded_ids:
        is_other = ~np.isin(ids, list(state.query.excluded_ids))
        ids, distances = ids[is_other], distances[is_other]
    params = state.params
    if params.filter is None and len(ids):
        state.nearest_distance = float(distances[0])
    end = None if params.limit is None else params.offset + params.limit
    state.ids, state.distances = ids[params.offset : end], distances[params.offset : end]


def _collect_hit_ids(states: Iterable[_SearchState]) -> list[int]:
    """Return the ids of all hits, ascending, each once."""
    ids: list[int] = np.unique(np.concatenate([np.empty(0, np.int64), *(state.ids for state in states)])).tolist()
    return ids


def _compute_spreads(states: Sequence[_SearchState], snapshot: Snapshot) -> list[list[float] | None]:
    """Compute the standard deviation of each hit's distance, for each query; None without a σ."""
    spreads_by_state: list[list[float] | None] = [None] * len(states)
    encoded = [
        (position, state.ids, state.encoded_query.mu, state.encoded_query.sigma)
        for position, state in enumerate(states)
        if state.encoded_query is not None and state.encoded_query.sigma is not None and not state.params.use_posterior
    ]
    if not encoded:
        return spreads_by_state
    positions, hit_ids, mus, sigmas = (list(column) for column in zip(*encoded, strict=True))
    mu, sigma = np.stack(mus), np.stack(sigmas)  # (queries, d)
    # All hits in one array, `rows` says which query each belongs to.
    counts = [len(ids) for ids in hit_ids]
    ids, rows = np.concatenate(hit_ids), np.repeat(np.arange(len(positions)), counts)
    spreads = np.empty(len(ids))
    for chunk in (slice(start, start + SPREAD_CHUNK_SIZE) for start in range(0, len(ids), SPREAD_CHUNK_SIZE)):
        vector_ids, vectors = snapshot.get_vectors(np.unique(ids[chunk]))
        hit_vectors = vectors[np.searchsorted(vector_ids, ids[chunk])]
        spreads[chunk] = compute_distance_spreads(mu[rows[chunk]], sigma[rows[chunk]], hit_vectors, snapshot.encoder)
    for position, values in zip(positions, np.split(spreads, np.cumsum(counts)[:-1]), strict=True):
        spreads_by_state[position] = values.tolist()
    return spreads_by_state


def _make_hits(
    state: _SearchState,
    summaries: dict[int, ImageSummary],
    metadata: dict[int, dict[str, str]] | None,
    spreads: list[float] | None,
    calibration: ScoreCalibration | None,
) -> Iterator[Hit]:
    """Make the hits of a query; an image that was deleted meanwhile is skipped.

    A hit's path is its first file or, with a filter by folder, its first file in that folder.
    """
    filter_, distances = state.params.filter, state.distances.tolist()
    folder = f"{filter_.under.rstrip('/')}/" if filter_ is not None and filter_.under else None
    expected = None if calibration is None else calibration.compute_expected_counts(state.distances).tolist()
    for rank, image_id in enumerate(state.ids.tolist()):
        summary = summaries.get(image_id)
        if summary is None:
            continue
        path = summary.paths[0] if summary.paths else ""
        if folder is not None:
            path = next((candidate for candidate in summary.paths if f"{candidate}/".startswith(folder)), path)
        yield Hit(
            image_id=image_id,
            distance=distances[rank],
            path=path,
            width=summary.width,
            height=summary.height,
            format=summary.format,
            paths=summary.paths,
            expected_matches=None if expected is None else expected[rank],
            spread=None if spreads is None else spreads[rank],
            metadata=None if metadata is None else parse_metadata(metadata.get(image_id, {})),
        )


def _compute_confidence(
    state: _SearchState, encoded_query: EncodedQuery, snapshot: Snapshot, calibration: ScoreCalibration | None
) -> Confidence:
    sigma = compute_mean_sigma(encoded_query.sigma, snapshot.encoder)
    if calibration is None or not state.query.is_single_term:  # a mean of several images is not an image
        return Confidence(sigma=sigma)
    return calibration.compute_confidence(encoded_query.reconstruction_error, state.nearest_distance, sigma)
