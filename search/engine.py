"""Answer many search queries together: one encoder batch, one index search, one read of the catalogue.

    SearchQuery --encode--> EncodedQuery --search--> ids, distances --read rows--> SearchResult

A query that fails becomes its error; the other queries are not affected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simile.core.errors import BadSetting, NoVariance, SimileError
from simile.core.records import Filter, FloatArray
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.posterior import (
    filter_posteriors,
    find_nearest_posteriors,
    make_sigma_distances,
)
from simile.search.queries import (
    EncodeOutcome,
    SearchQuery,
    SearchResult,
    StageObserver,
)
from simile.search.results.best_match import find_best_matches
from simile.search.results.copy_groups import CopyGroups
from simile.search.results.hits import (
    compute_confidence,
    compute_expected_counts,
    compute_spreads,
    make_groups,
    make_hits,
)
from simile.search.results.selection import FindNeighbours, HitSelector, select_nearest
from simile.search.results.state import SearchState
from simile.search.words.rank import rank_by_words
from simile.search.words.text import parse_text
from simile.search.words.vocabulary import Vocabulary
from simile.store.catalogue.catalogue import Catalogue
from simile.store.facets.facet_index import FacetIndex
from simile.store.index.flat import Neighbours
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

SearchGroupKey = tuple[Filter | None, float | None, int]  # filter, radius, count: the same for one index search


@dataclass(frozen=True, kw_only=True)
class SearchEngine:
    """Searches one collection."""

    catalogue: Catalogue
    index: Index
    encode_queries: Callable[[Sequence[SearchQuery], Snapshot], list[EncodeOutcome]]
    # Returns the calibration of a snapshot at once; None if there is none yet.
    get_calibration: Callable[[Snapshot], ScoreCalibration | None]
    get_vocabulary: Callable[[Snapshot], Vocabulary]
    get_copy_groups: Callable[[Snapshot], CopyGroups]
    facet_index: FacetIndex
    observe: StageObserver  # called with the name and the seconds of each stage: encode, search, rows

    @cached_property
    def _selector(self) -> HitSelector:
        return HitSelector(self.get_copy_groups, self.facet_index)

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """Return the result or the error of each query, in order."""
        states = [SearchState(query=query) for query in search_queries]
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

    def _search_states(self, states: Sequence[SearchState], snapshot: Snapshot) -> None:
        """Find the hits of each query; queries with the same filter, radius and count share an index search."""
        pending = [state for state in states if state.encoded_query is not None and not state.params.encode_only]
        groups: dict[SearchGroupKey, list[SearchState]] = {}
        for state in pending:
            if state.needs_words:
                self._search_by_words(state, snapshot)
            elif state.params.use_posterior:
                self._search_by_posterior(state, snapshot)
            elif state.params.is_selective or state.query.is_by_best:
                self._search_alone(state, snapshot)
            else:
                groups.setdefault(_get_group_key(state.query, len(snapshot)), []).append(state)
        for group_key, group in groups.items():
            try:
                neighbours = self._find_neighbours(group_key, _stack_query_vectors(group, snapshot), snapshot)
                for state, found in zip(group, neighbours, strict=True):
                    select_nearest(state, found)
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

    def _search_by_words(self, state: SearchState, snapshot: Snapshot) -> None:
        """Find the images that have the words of a text and, if there are query images, are near to them."""
        query, params = state.query, state.params
        assert query.text is not None
        try:
            if params.use_posterior or params.radius is not None:
                raise BadSetting(
                    "posterior and within compare an image with an image. Leave them out with a text; min_score bounds "
                    "the score."
                )
            vocabulary, allowed_ids = self.get_vocabulary(snapshot), self.index.find_matching_ids(params.filter)
            state.text_terms = tuple(parse_text(query.text, vocabulary))
            calibration = self.get_calibration(snapshot)
            neighbours = rank_by_words(
                snapshot,
                vocabulary,
                state.text_terms,
                allowed_ids=allowed_ids,
                query_vector=_stack_query_vectors([state], snapshot)[0] if query.positives else None,
                compute_expected=None if calibration is None else calibration.compute_expected_counts,
            )
            self._selector.select(state, lambda _: neighbours, 0, snapshot, allowed_ids)
            state.nearest_distance = None  # it is no distance
        except SimileError as error:
            state.fail(error)

    def _search_alone(self, state: SearchState, snapshot: Snapshot) -> None:
        """Search for a query with hits that are selected among more neighbours."""
        try:
            filter_, radius, count = _get_group_key(state.query, len(snapshot))
            allowed_ids = self.index.find_matching_ids(filter_)
            vectors, negatives = _make_search_vectors(state, snapshot)

            def search(pool: int) -> list[Neighbours]:
                return self._find_neighbours((filter_, radius, pool), vectors, snapshot)

            def find(pool: int) -> Neighbours:
                if not state.query.is_by_best:
                    return search(pool)[0]
                return find_best_matches(search, len(snapshot) if radius is not None else pool, negatives, snapshot)

            self._selector.select(state, find, count, snapshot, allowed_ids)
        except SimileError as error:
            state.fail(error)

    def _search_by_posterior(self, state: SearchState, snapshot: Snapshot) -> None:
        try:
            find, count = self._make_posterior_search(state, snapshot)
            self._selector.select(state, find, count, snapshot, self.index.find_matching_ids(state.params.filter))
            state.nearest_distance = None  # the calibration knows distances of means only
        except SimileError as error:
            state.fail(error)

    def _make_posterior_search(self, state: SearchState, snapshot: Snapshot) -> tuple[FindNeighbours, int]:
        """Return a function that finds the nearest posteriors, and how many of them the query needs."""
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
            within = filter_posteriors(*found, sigma_distances, radius)
            return lambda _: within, count
        matching_ids = self.index.find_matching_ids(filter_)

        def find(pool: int) -> Neighbours:
            return find_nearest_posteriors(
                pool, lambda k: snapshot.search(vectors, k, matching_ids)[0], sigma_distances
            )

        return find, count

    def _find_nearest_distances(self, states: Sequence[SearchState], snapshot: Snapshot) -> None:
        """Find the nearest image of all, for queries whose hits do not start with it."""
        states = [state for state in states if state.query.is_single_term]
        if states and self.get_calibration(snapshot) is not None:
            neighbours = snapshot.search(_stack_query_vectors(states, snapshot), 2)  # the query itself may be one
            for state, (ids, distances) in zip(states, neighbours, strict=True):
                others = distances[~np.isin(ids, list(state.query.excluded_ids))]
                state.nearest_distance = float(others[0]) if len(others) else None

    def _make_results(self, states: Sequence[SearchState], snapshot: Snapshot) -> list[SearchResult | SimileError]:
        """Read the catalogue rows of all hits and make the results."""
        calibration = self.get_calibration(snapshot)
        summaries = self.catalogue.images.get_summaries(_collect_hit_ids(states))
        metadata = self._get_hit_metadata(states)
        results: list[SearchResult | SimileError] = []
        for state, spreads in zip(states, compute_spreads(states, snapshot), strict=True):
            if state.encoded_query is None:
                assert state.error is not None
                results.append(state.error)
                continue
            # The calibration knows distances between images.
            is_image = not (state.params.use_posterior or state.encoded_query.has_text)
            hit_calibration = calibration if is_image else None
            expected = compute_expected_counts(state, hit_calibration)
            hit_metadata = metadata if state.params.include_metadata else None
            hits = list(make_hits(state, summaries, hit_metadata, spreads, expected))
            results.append(
                SearchResult(
                    query=state.encoded_query,
                    hits=hits,
                    groups=make_groups(state, hits),
                    confidence=compute_confidence(state, state.encoded_query, snapshot, calibration),
                    # Words have probabilities; only a query image needs the calibration of distances.
                    is_calibrated=hit_calibration is not None or (state.needs_words and not state.query.positives),
                    encoder=snapshot.encoder.fingerprint,
                    text=state.query.text,
                    terms=state.text_terms,
                )
            )
        return results

    def _get_hit_metadata(self, states: Sequence[SearchState]) -> dict[int, dict[str, str]]:
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


def _stack_query_vectors(states: Sequence[SearchState], snapshot: Snapshot) -> FloatArray:
    mus = np.stack([state.encoded_query.mu for state in states if state.encoded_query is not None])
    return make_index_vectors(mus, snapshot.encoder.index_dims, snapshot.encoder.metric)


def _make_search_vectors(state: SearchState, snapshot: Snapshot) -> tuple[FloatArray, FloatArray]:
    """Return the index vectors to search by (n, d'), and those of the negatives for a search by the best match."""
    encoder, query = snapshot.encoder, state.encoded_query
    if query is None or not state.query.is_by_best:
        return _stack_query_vectors([state], snapshot), np.empty((0, encoder.indexed_dimensions), np.float32)
    positives, negatives = (
        np.array([term.mu for term in side], np.float32).reshape(-1, encoder.dimensions)
        for side in (query.positives, query.negatives)
    )
    return (
        make_index_vectors(positives, encoder.index_dims, encoder.metric),
        make_index_vectors(negatives, encoder.index_dims, encoder.metric),
    )


def _collect_hit_ids(states: Iterable[SearchState]) -> list[int]:
    """Return the ids of all hits, ascending, each once."""
    ids: list[int] = np.unique(np.concatenate([np.empty(0, np.int64), *(state.ids for state in states)])).tolist()
    return ids
