"""Many questions answered together: one pass through the network, one call of the index, one look into the rows.

questions --see--> queries (mu) --search--> ids, distances --complete--> answers

A question that can't be answered becomes its error, and costs the others nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, NoVariance, SimileError
from simile.core.filter_parser import parse_metadata
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
    QueryImage,
    QueryTerm,
    SearchParams,
    SearchQuery,
    SearchResult,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import ImageSummary
from simile.store.index.flat import Distances, Ids, Neighbours
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors
from simile.store.index.snapshot import Snapshot

StageObserver = Callable[[str, float], None]  # (stage, seconds)
EncodeOutcome = EncodedQuery | SimileError
# Pictures, as the encoder with this fingerprint sees them; of which of them the reconstruction error is wanted.
EncodeImages = Callable[[Sequence[QueryImage], str, Sequence[bool]], list[EncodeOutcome]]
SearchGroupKey = tuple[Filter | None, float | None, int]  # questions of one shape are one call of the index

SPREAD_CHUNK_SIZE = 4096  # hits whose vectors are in memory together


@dataclass
class _SearchState:
    """A question on its way. `error`: what it ended with. ids, distances: (n,) of its hits."""

    search_query: SearchQuery
    encoded_query: EncodedQuery | None = None
    error: SimileError | None = None
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    distances: Distances = field(default_factory=lambda: np.empty(0))
    nearest_distance: float | None = None  # distance of the nearest image, be it a hit or not

    @property
    def params(self) -> SearchParams:
        return self.search_query.params


@dataclass(frozen=True)
class SearchEngine:
    """What answering needs. `gauge`: what is known to be usual in these vectors, at once, or None."""

    catalogue: Catalogue
    index: Index
    encode_images: EncodeImages
    get_calibration: Callable[[Snapshot], ScoreCalibration | None]
    observe: StageObserver

    def search_many(self, search_queries: Sequence[SearchQuery]) -> list[SearchResult | SimileError]:
        """One answer for each question, in order, or why there is none."""
        cases = [_SearchState(question) for question in search_queries]
        if not cases:
            return []
        try:
            snapshot = self.index.get_snapshot()
            with self._time_stage("encode"):
                self._encode_queries(cases, snapshot)
            with self._time_stage("search"):
                self._search_states(cases, snapshot)
            with self._time_stage("rows"):
                return self._make_results(cases, snapshot)
        except SimileError as error:  # of the home, not of a question
            return [case.error or error for case in cases]

    def _encode_queries(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """Gives each case its query. Pictures and ids that several ask with are looked at once."""
        parts = list(chain.from_iterable(case.search_query.terms for case in states))
        seen = self._encode_query_images(states, snapshot)
        known = self._load_indexed_queries({part for part in parts if isinstance(part, int)}, snapshot)
        for case in states:
            try:
                case.encoded_query = _combine_terms(
                    case.search_query, lambda part: _resolve_term(part, seen, known, snapshot)
                )
            except SimileError as error:
                case.error = error

    def _encode_query_images(self, states: Sequence[_SearchState], snapshot: Snapshot) -> dict[int, EncodeOutcome]:
        """Pictures as queries, by their `id`."""
        pictures: dict[int, QueryImage] = {}
        errors: dict[int, bool] = {}
        for case in states:
            for part in case.search_query.terms:
                if isinstance(part, QueryImage):
                    pictures[id(part)] = part
                    errors[id(part)] = errors.get(id(part), False) or (
                        case.params.include_error and case.search_query.is_single_image
                    )
        if not pictures:
            return {}
        looked = self.encode_images(list(pictures.values()), snapshot.encoder.fingerprint, list(errors.values()))
        return dict(zip(pictures, looked, strict=True))

    def _load_indexed_queries(self, ids: set[int], snapshot: Snapshot) -> dict[int, EncodeOutcome]:
        """Indexed images as queries. Needs no network."""
        if not ids:
            return {}
        fingerprint = snapshot.encoder.fingerprint
        records, embeddings = (
            self.catalogue.images.get_many(sorted(ids)),
            self.catalogue.embeddings.get_many(ids, fingerprint),
        )
        found: dict[int, EncodeOutcome] = {}
        for image_id in ids:
            record, embedding = records.get(image_id), embeddings.get(image_id)
            if record is None:
                found[image_id] = NoSuchImage(image_id)
            elif embedding is None:
                found[image_id] = EncoderMismatch(
                    f"Image {image_id} has no vector by encoder {fingerprint}. Run `simile index` on it."
                )
            else:
                found[image_id] = EncodedQuery(
                    mu=embedding.mu,
                    sigma=None if embedding.log_variance is None else np.exp(0.5 * embedding.log_variance),
                    name=Path(record.paths[0]).name if record.paths else None,
                    image_id=image_id,
                    width=record.width,
                    height=record.height,
                    format=record.format,
                    reconstruction_error=record.reconstruction_error,
                )
        return found

    def _search_states(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        shapes: dict[SearchGroupKey, list[_SearchState]] = {}
        wanted = [case for case in states if case.encoded_query is not None and case.params.limit != 0]
        for case in wanted:
            if case.params.use_posterior:
                self._search_by_posterior(case, snapshot)
            else:
                shapes.setdefault(_get_group_key(case.search_query, len(snapshot)), []).append(case)
        for shape, alike in shapes.items():
            try:
                found = self._find_neighbours(shape, _stack_query_vectors(alike, snapshot), snapshot)
                for case, neighbours in zip(alike, found, strict=True):
                    _select_hits(case, neighbours)
            except SimileError as error:
                for case in alike:
                    case.error, case.encoded_query = error, None
        self._find_nearest_distances(
            [case for case in wanted if case.encoded_query is not None and case.nearest_distance is None], snapshot
        )

    def _find_neighbours(self, group_key: SearchGroupKey, vectors: FloatArray, snapshot: Snapshot) -> list[Neighbours]:
        only, within, count = group_key
        among = self.index.find_matching_ids(only)
        if within is None:
            return snapshot.search(vectors, count, among)
        if not 0 <= within < np.inf:
            raise BadSetting(f"within can't be {within}. Give a distance: a number from 0 on.")
        return snapshot.range(vectors, within, among)

    def _search_by_posterior(self, state: _SearchState, snapshot: Snapshot) -> None:
        try:
            _select_hits(state, self._find_posterior_neighbours(state, snapshot))
            state.nearest_distance = None  # what is usual is known of the means' distances alone
        except SimileError as error:
            state.error, state.encoded_query = error, None

    def _find_posterior_neighbours(self, state: _SearchState, snapshot: Snapshot) -> Neighbours:
        query, encoder = state.encoded_query, snapshot.encoder
        assert query is not None
        if not state.search_query.is_single_image or isinstance(state.search_query.positives[0], np.ndarray):
            raise BadSetting("Only one picture or indexed image has a σ to compare: leave `posterior` out for others.")
        if query.sigma is None:
            raise NoVariance(
                f"Encoder {encoder.fingerprint} has no variance, so only means can be compared. Leave `posterior` out, "
                "or train another recipe: `simile train PHOTOS --recipe vae`."
            )
        only, within, count = _get_group_key(state.search_query, len(snapshot))
        apart, vectors = (
            make_sigma_distances(query.mu, query.sigma, self.catalogue, encoder),
            _stack_query_vectors([state], snapshot),
        )
        if within is not None:
            (found,) = self._find_neighbours((only, within, 0), vectors, snapshot)
            return filter_posteriors(*found, apart, within)
        among = self.index.find_matching_ids(only)
        return find_nearest_posteriors(count, lambda k: snapshot.search(vectors, k, among)[0], apart)

    def _find_nearest_distances(self, states: Sequence[_SearchState], snapshot: Snapshot) -> None:
        """The nearest of all images, for those whose hits don't begin with it."""
        lacking = [case for case in states if case.search_query.is_single_image]
        if lacking and self.get_calibration(snapshot) is not None:
            found = snapshot.search(_stack_query_vectors(lacking, snapshot), 2)
            for case, (ids, distances) in zip(lacking, found, strict=True):
                others = distances[~np.isin(ids, list(case.search_query.excluded_ids))]
                case.nearest_distance = float(others[0]) if len(others) else None

    def _make_results(self, states: Sequence[_SearchState], snapshot: Snapshot) -> list[SearchResult | SimileError]:
        gauge = self.get_calibration(snapshot)
        facts = self.catalogue.images.get_summaries(_collect_hit_ids(states))
        described = [case for case in states if case.params.include_metadata]
        metadata = self.catalogue.metadata.get_for_images(_collect_hit_ids(described)) if described else {}
        answers: list[SearchResult | SimileError] = []
        for case, spread in zip(states, _compute_spreads(states, snapshot), strict=True):
            if case.encoded_query is None:
                assert case.error is not None
                answers.append(case.error)
                continue
            said = metadata if case.params.include_metadata else None
            of_hits = None if case.params.use_posterior else gauge
            hits = list(_make_hits(case, facts, said, spread, of_hits))
            certainty = _compute_confidence(
                case.search_query, case.encoded_query, case.nearest_distance, snapshot, gauge
            )
            answers.append(
                SearchResult(case.encoded_query, hits, certainty, of_hits is not None, snapshot.encoder.fingerprint)
            )
        return answers

    @contextmanager
    def _time_stage(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:  # failures take time too
            self.observe(stage, time.perf_counter() - started)


def _resolve_term(
    term: QueryTerm,
    encoded_images: dict[int, EncodeOutcome],
    indexed_queries: dict[int, EncodeOutcome],
    snapshot: Snapshot,
) -> EncodedQuery:
    if isinstance(term, QueryImage | int):
        found = indexed_queries[term] if isinstance(term, int) else encoded_images[id(term)]
        if isinstance(found, SimileError):
            raise found
        return found
    active, mu = snapshot.encoder, np.asarray(term, dtype=np.float32)
    if mu.shape != (active.dimensions,):
        raise EncoderMismatch(
            f"A vector of {mu.size} numbers can't be compared: encoder {active.fingerprint} has {active.dimensions}."
        )
    if not np.isfinite(mu).all():
        raise NotFinite("The vector holds NaN or infinity, or a number beyond float32. Send finite numbers.")
    return EncodedQuery(mu)


def _combine_terms(search_query: SearchQuery, resolve_term: Callable[[QueryTerm], EncodedQuery]) -> EncodedQuery:
    """One query of all parts of a question: the mean of the positives less that of the negatives."""
    positives, negatives = [
        [resolve_term(part) for part in side] for side in (search_query.positives, search_query.negatives)
    ]
    if search_query.is_single_image:
        return positives[0]
    mu, variance = np.zeros_like(positives[0].mu), np.zeros_like(positives[0].mu)
    is_uncertain = True
    for side, sign in ((positives, 1), (negatives, -1)):
        for query in side:
            mu += sign * query.mu / len(side)
            is_uncertain &= query.sigma is not None
            variance += 0 if query.sigma is None else np.square(query.sigma / len(side))
    if not np.isfinite(mu).all():
        raise NotFinite("The mean of the vectors is beyond float32. Send smaller numbers.")
    sigma = np.sqrt(variance) if is_uncertain else None
    return EncodedQuery(mu, sigma, positives=tuple(positives), negatives=tuple(negatives))


def _get_group_key(search_query: SearchQuery, image_count: int) -> SearchGroupKey:
    asked = search_query.params
    if asked.radius is not None:
        return asked.filter, asked.radius, 0
    count = image_count if asked.limit is None else asked.limit + asked.offset + len(search_query.excluded_ids)
    return asked.filter, None, count


def _stack_query_vectors(states: Sequence[_SearchState], snapshot: Snapshot) -> FloatArray:
    mus = np.stack([case.encoded_query.mu for case in states if case.encoded_query is not None])
    return make_index_vectors(mus, snapshot.encoder.index_dims, snapshot.encoder.metric)


def _select_hits(state: _SearchState, neighbours: Neighbours) -> None:
    """Of what was found, what was asked for."""
    ids, distances = neighbours
    if state.search_query.excluded_ids:
        others = ~np.isin(ids, list(state.search_query.excluded_ids))
        ids, distances = ids[others], distances[others]
    asked = state.params
    if asked.filter is None and len(ids):
        state.nearest_distance = float(distances[0])
    end = None if asked.limit is None else asked.offset + asked.limit
    state.ids, state.distances = ids[asked.offset : end], distances[asked.offset : end]


def _collect_hit_ids(states: Iterable[_SearchState]) -> list[int]:
    """The ids of all their hits, ascending, each once."""
    found: list[int] = np.unique(np.concatenate([np.empty(0, np.int64), *(case.ids for case in states)])).tolist()
    return found


def _compute_spreads(states: Sequence[_SearchState], snapshot: Snapshot) -> list[list[float] | None]:
    """For each case how uncertain the distance of each hit is, in the order of the hits; None without a σ."""
    found: list[list[float] | None] = [None] * len(states)
    known = [
        (at, case.encoded_query.mu, case.encoded_query.sigma)
        for at, case in enumerate(states)
        if case.encoded_query is not None and case.encoded_query.sigma is not None and not case.params.use_posterior
    ]
    if not known:
        return found
    places, mu, sigma = (list(column) for column in zip(*known, strict=True))
    counts = [len(states[at].ids) for at in places]
    ids, rows = np.concatenate([states[at].ids for at in places]), np.repeat(np.arange(len(places)), counts)
    mus, sigmas = np.stack(mu), np.stack(sigma)  # (cases, d)
    spread = np.empty(len(ids))
    for start in range(0, len(ids), SPREAD_CHUNK_SIZE):
        part = slice(start, start + SPREAD_CHUNK_SIZE)
        here, vectors = snapshot.get_vectors(np.unique(ids[part]))
        nearest = vectors[np.searchsorted(here, ids[part])]
        spread[part] = compute_distance_spreads(mus[rows[part]], sigmas[rows[part]], nearest, snapshot.encoder)
    for at, values in zip(places, np.split(spread, np.cumsum(counts)[:-1]), strict=True):
        found[at] = values.tolist()
    return found


def _make_hits(
    state: _SearchState,
    facts: dict[int, ImageSummary],
    metadata: dict[int, dict[str, str]] | None,
    spreads_of_hits: list[float] | None,
    calibration: ScoreCalibration | None,
) -> Iterator[Hit]:
    """The hits whose rows are still there. `path`: the first file, of those in the folder that was asked for."""
    only, distances = state.params.filter, state.distances.tolist()
    under = f"{only.under.rstrip('/')}/" if only is not None and only.under else None
    expected = None if calibration is None else calibration.compute_expected_counts(state.distances).tolist()
    for at, image_id in enumerate(state.ids.tolist()):
        known = facts.get(image_id)
        if known is None:
            continue
        path = known.paths[0] if known.paths else ""
        if under is not None:
            path = next((one for one in known.paths if f"{one}/".startswith(under)), path)
        yield Hit(
            image_id=image_id,
            distance=distances[at],
            path=path,
            width=known.width,
            height=known.height,
            format=known.format,
            paths=known.paths,
            expected_matches=None if expected is None else expected[at],
            spread=None if spreads_of_hits is None else spreads_of_hits[at],
            metadata=None if metadata is None else parse_metadata(metadata.get(image_id, {})),
        )


def _compute_confidence(
    search_query: SearchQuery,
    encoded_query: EncodedQuery,
    nearest_distance: float | None,
    snapshot: Snapshot,
    calibration: ScoreCalibration | None,
) -> Confidence:
    sigma = compute_mean_sigma(encoded_query.sigma, snapshot.encoder)
    if calibration is None or not search_query.is_single_image:  # what lies between several pictures is no picture
        return Confidence(sigma)
    return calibration.compute_confidence(encoded_query.reconstruction_error, nearest_distance, sigma)
