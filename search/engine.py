"""Answer many search queries together: one encoder batch, one index search, one read of the catalogue.

    SearchQuery --encode--> EncodedQuery --search--> ids, distances --read rows--> SearchResult

A query that fails becomes its error; the other queries are not affected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from simile.core.errors import BadSetting, NoVariance, SimileError
from simile.core.filters.parser import parse_metadata
from simile.core.records import Filter, FloatArray, Hit
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
    SearchParams,
    SearchQuery,
    SearchResult,
    StageObserver,
)
from simile.search.words.rank import rank_by_words
from simile.search.words.text import TextTerm, parse_text
from simile.search.words.vocabulary import Vocabulary
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageSummary
from simile.store.index.flat import Distances, Ids, Neighbours
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

SearchGroupKey = tuple[Filter | None, float | None, int]  # filter, radius, count: the same for one index search

MAX_TEXT_DISTANCE = 700.0  # its exponential is still a float64
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
    text_terms: tuple[TextTerm, ...] = ()  # the words of the query's text; the distances are then -ln(score)

    @property
    def params(self) -> SearchParams:
        """The options of the query."""
        return self.query.params

    @property
    def needs_words(self) -> bool:
        """Whether there is a text that the encoder has not read: it has no text tower."""
        return self.query.text is not None and self.encoded_query is not None and not self.encoded_query.has_text

    def fail(self, error: SimileError) -> None:
        """End this query with an error."""
        self.error, self.encoded_query = error, None


@dataclass(frozen=True, kw_only=True)
class SearchEngine:
    """Searches one collection."""

    catalogue: Catalogue
    index: Index
    encode_queries: Callable[[Sequence[SearchQuery], Snapshot], list[EncodeOutcome]]
    # Returns the calibration of a snapshot at once; None if there is none yet.
    get_calibration: Callable[[Snapshot], ScoreCalibration | None]
    get_vocabulary: Callable[[Snapshot], Vocabulary]
    observe: StageObserver  # called with the name and the seconds of each stage: encode, search, rows

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """Return the result or the error of each query, in order."""
        states = [_SearchState(query=query) for query in search_queries]
        if not states:
            return []
        try:
            snapshot = self.index.get_snapshot()
            with self._time_stage("encode"):
                for state, outcome in zip(states, self.encode_queries(search_queries, snapshot), strict=True):
                    if isinstance(outcome, SimileError):
                        state.fail(outcome)
                    else:
                        state.encoded_query = outcome
            with self._time_stage("search"):
                self._search_states(states, snapshot)
            with self._time_stage("rows"):
                return self._make_results(states, snapshot)
        except SimileError as error:  # an error of the home, not of one query
            return [state.error or error for state in states]

    def _search_states(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """Find the hits of each query; queries with the same filter, radius and count share an index search."""
        pending = [state for state in states if state.encoded_query is not None and not state.params.encode_only]
        groups: dict[SearchGroupKey, list[_SearchState]] = {}
        for state in pending:
            if state.needs_words:
                self._search_by_words(state, snapshot)
            elif state.params.use_posterior:
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

    def _search_by_words(self, state: _SearchState, snapshot: Snapshot) -> None:
        """Find the images that have the words of a text and, if there are query images, are near to them."""
        query, params = state.query, state.params
        assert query.text is not None
        try:
            if params.use_posterior or params.radius is not None:
                raise BadSetting(
                    "posterior and within compare an image with an image. Leave them out with a text; min_score bounds "
                    "the score."
                )
            vocabulary = self.get_vocabulary(snapshot)
            state.text_terms = tuple(parse_text(query.text, vocabulary))
            calibration = self.get_calibration(snapshot)
            neighbours = rank_by_words(
                snapshot,
                vocabulary,
                state.text_terms,
                allowed_ids=self.index.find_matching_ids(params.filter),
                query_vector=_stack_query_vectors([state], snapshot)[0] if query.positives else None,
                compute_expected=None if calibration is None else calibration.compute_expected_counts,
            )
            _select_hits(state, neighbours)
            state.nearest_distance = None  # it is no distance
        except SimileError as error:
            state.fail(error)

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
            # The calibration knows distances between images.
            is_image = not (state.params.use_posterior or state.encoded_query.has_text)
            hit_calibration = calibration if is_image else None
            expected = _compute_expected_counts(state, hit_calibration)
            hit_metadata = metadata if state.params.include_metadata else None
            results.append(
                SearchResult(
                    query=state.encoded_query,
                    hits=list(_make_hits(state, summaries, hit_metadata, spreads, expected)),
                    confidence=_compute_confidence(state, state.encoded_query, snapshot, calibration),
                    # Words have probabilities; only a query image needs the calibration of distances.
                    is_calibrated=hit_calibration is not None or (state.needs_words and not state.query.positives),
                    encoder=snapshot.encoder.fingerprint,
                    text=state.query.text,
                    terms=state.text_terms,
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
        if state.encoded_query is not None
        and state.encoded_query.sigma is not None
        and not (state.params.use_posterior or state.text_terms)
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


def _compute_expected_counts(state: _SearchState, calibration: ScoreCalibration | None) -> list[float] | None:
    """Compute Hit.expected_matches of all hits; None without a calibration."""
    if state.text_terms:  # so that 1 / (1 + expected) is exp(-distance)
        return np.expm1(np.minimum(state.distances, MAX_TEXT_DISTANCE)).tolist()  # type: ignore[no-any-return]
    return None if calibration is None else calibration.compute_expected_counts(state.distances).tolist()


def _make_hits(
    state: _SearchState,
    summaries: dict[int, ImageSummary],
    metadata: dict[int, dict[str, str]] | None,
    spreads: list[float] | None,
    expected: list[float] | None,
) -> Iterator[Hit]:
    """Make the hits of a query; images that were deleted meanwhile, or have too low a score, are skipped.

    A hit's path is its first file or, with a filter by folder, its first file in that folder.
    """
    filter_, distances = state.params.filter, state.distances.tolist()
    names = () if filter_ is None or filter_.under is None else (filter_.under, *filter_.under_names)
    folders = tuple(f"{name.rstrip('/')}/" for name in names)
    min_score = state.params.min_score or 0.0
    for rank, image_id in enumerate(state.ids.tolist()):
        summary = summaries.get(image_id)
        if summary is None:
            continue
        path = summary.paths[0] if summary.paths else ""
        if folders:
            path = next((candidate for candidate in summary.paths if f"{candidate}/".startswith(folders)), path)
        hit = Hit(
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
        if hit.score >= min_score:
            yield hit


def _compute_confidence(
    state: _SearchState, encoded_query: EncodedQuery, snapshot: Snapshot, calibration: ScoreCalibration | None
) -> Confidence:
    sigma = compute_mean_sigma(encoded_query.sigma, snapshot.encoder)
    if calibration is None or not state.query.is_single_term:  # a mean of several images is not an image
        return Confidence(sigma=sigma)
    return calibration.compute_confidence(encoded_query.reconstruction_error, state.nearest_distance, sigma)
