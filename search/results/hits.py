"""Make the hits of a search from ids, distances and the rows of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simile.core.filters.parser import parse_metadata
from simile.core.records import Hit
from simile.search.calibration.calibration import ScoreCalibration
from simile.search.posterior import compute_distance_spreads, compute_mean_sigma
from simile.search.queries import Confidence, EncodedQuery, HitGroup
from simile.search.results.state import SearchState
from simile.store.catalogue.records import ImageSummary
from simile.store.index.snapshot import Snapshot

MAX_TEXT_DISTANCE = 700.0  # its exponential is still a float64
SPREAD_CHUNK_SIZE = 4096  # hits whose vectors are in memory at once


def compute_spreads(states: Sequence[SearchState], snapshot: Snapshot) -> list[list[float] | None]:
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


def compute_expected_counts(state: SearchState, calibration: ScoreCalibration | None) -> list[float] | None:
    """Compute Hit.expected_matches of all hits; None without a calibration."""
    if state.text_terms:  # so that 1 / (1 + expected) is exp(-distance)
        return np.expm1(np.minimum(state.distances, MAX_TEXT_DISTANCE)).tolist()  # type: ignore[no-any-return]
    return None if calibration is None else calibration.compute_expected_counts(state.distances).tolist()


def make_hits(
    state: SearchState,
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
            group=None if state.groups is None else state.groups[rank],
            copy_count=None if state.copy_counts is None else int(state.copy_counts[rank]),
        )
        if hit.score >= min_score:
            yield hit


def make_groups(state: SearchState, hits: Sequence[Hit]) -> list[HitGroup] | None:
    """Make the groups of the hits, in their order; None if they are not grouped."""
    if state.groups is None:
        return None
    ids_by_group: dict[str, list[int]] = {}
    for hit in hits:
        assert hit.group is not None
        ids_by_group.setdefault(hit.group, []).append(hit.image_id)
    return [HitGroup(value, state.group_counts[value], ids) for value, ids in ids_by_group.items()]


def compute_confidence(
    state: SearchState, encoded_query: EncodedQuery, snapshot: Snapshot, calibration: ScoreCalibration | None
) -> Confidence:
    """Compute how far the result of a query can be trusted."""
    sigma = compute_mean_sigma(encoded_query.sigma, snapshot.encoder)
    if calibration is None or not state.query.is_single_term:  # a mean of several images is not an image
        return Confidence(sigma=sigma)
    return calibration.compute_confidence(encoded_query.reconstruction_error, state.nearest_distance, sigma)
