"""Select the hits of a search among the nearest images: the nearest, without copies, diverse, or in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simile.core.errors import BadSetting
from simile.search.queries import SearchParams
from simile.search.results.copy_groups import CopyGroups
from simile.search.results.diversity import select_diverse
from simile.search.results.grouping import FieldGroups
from simile.search.results.state import SearchState
from simile.store.facets.facet_index import FacetIndex
from simile.store.index.flat import Ids, Neighbours
from simile.store.index.snapshot import Snapshot

FindNeighbours = Callable[[int], Neighbours]  # the nearest images, fewer than the number if there are no more
MIN_POOL = 64  # neighbours that are read first
POOL_GROWTH = 4  # factor, if these are too few
DIVERSE_POOL = 500  # nearest images among which diverse hits are selected
MAX_GROUPED_HITS = 1000


@dataclass(frozen=True)
class HitSelector:
    """Selects hits, and reads more neighbours until there are enough."""

    get_copy_groups: Callable[[Snapshot], CopyGroups]
    facet_index: FacetIndex

    def select(
        self, state: SearchState, find: FindNeighbours, count: int, snapshot: Snapshot, allowed_ids: Ids | None
    ) -> None:
        """Set the hits of a query.

        Args:
            state: Gets the hits.
            find: Returns the nearest images.
            count: Number of neighbours that a search without further options needs.
            snapshot: The vectors that are searched.
            allowed_ids: The images that match the filter; None: all.

        Raises:
            BadSetting: Options that can't be combined, or an unknown field.
        """
        if not state.params.is_selective:
            select_nearest(state, find(count))
            return
        check_selection(state.params)
        selection = _Selection(self, state, snapshot, allowed_ids)
        pool = max(2 * count, 2 * DIVERSE_POOL if state.params.diversity else MIN_POOL)
        while True:
            neighbours = find(pool)
            if selection.select(neighbours) or len(neighbours[0]) < pool:
                return
            pool *= POOL_GROWTH


class _Selection:
    """The selection for one query."""

    def __init__(self, selector: HitSelector, state: SearchState, snapshot: Snapshot, allowed_ids: Ids | None) -> None:
        self._state, self._params, self._snapshot = state, state.params, snapshot
        self._allowed_ids, self._excluded_ids = allowed_ids, state.query.excluded_ids
        params = state.params
        self._end = None if params.limit is None else params.offset + params.limit
        self._copy_groups = selector.get_copy_groups(snapshot) if params.distinct else None
        self._field_groups = (
            None
            if params.group_by is None
            else FieldGroups.read(selector.facet_index, params.group_by, allowed_ids, self._excluded_ids)
        )

    def select(self, neighbours: Neighbours) -> bool:
        """Set the hits; return whether more neighbours would change nothing."""
        ids, distances = drop_query_ids(self._state, neighbours)
        positions, is_complete = self._drop_copies(ids)
        if self._field_groups is not None:
            positions, is_complete = self._group(self._field_groups, ids, positions)
        elif self._params.diversity and len(positions):
            positions = self._diversify(ids, distances, positions)
        if self._field_groups is None:
            positions = positions[self._params.offset : self._end]
        state = self._state
        if state.copy_counts is not None:
            state.copy_counts = state.copy_counts[positions]
        state.ids, state.distances = ids[positions], distances[positions]
        return is_complete

    def _drop_copies(self, ids: Ids) -> tuple[Ids, bool]:
        """Return the positions of the candidates, and whether they are enough."""
        needed = self._end
        if self._params.diversity and needed is not None:
            needed = max(needed, DIVERSE_POOL)
        if self._field_groups is not None:
            needed = None
        if self._copy_groups is None:
            positions = np.arange(len(ids))[:needed]
        else:
            positions, counts = self._copy_groups.collapse(ids, self._allowed_ids, self._excluded_ids, needed)
            self._state.copy_counts = np.zeros(len(ids), np.int64)
            self._state.copy_counts[positions] = counts
        return positions, len(positions) == needed

    def _group(self, groups: FieldGroups, ids: Ids, positions: Ids) -> tuple[Ids, bool]:
        grouped = groups.group(ids[positions], self._end, self._params.group_size)
        first = list(dict.fromkeys(grouped.codes.tolist()))[self._params.offset :]
        is_on_page = np.isin(grouped.codes, first)
        codes = grouped.codes[is_on_page].tolist()
        self._state.groups = [groups.values.texts[code] for code in codes]
        self._state.group_counts = {groups.values.texts[code]: int(groups.image_counts[code]) for code in first}
        return positions[grouped.positions[is_on_page]], grouped.is_complete

    def _diversify(self, ids: Ids, distances: np.ndarray, positions: Ids) -> Ids:
        candidates = ids[positions]
        found_ids, vectors = self._snapshot.get_vectors(np.sort(candidates))
        vectors = vectors[np.searchsorted(found_ids, candidates)]
        count = len(positions) if self._end is None else self._end
        return positions[select_diverse(distances[positions], vectors, count, self._params.diversity)]


def check_selection(params: SearchParams) -> None:
    """Check options that select hits. Raises BadSetting if they can't be combined."""
    if params.verify and (params.diversity or params.group_by):
        raise BadSetting(
            "verify orders the hits by a comparison of pixels. Leave out diversity and group_by, or verify."
        )
    if params.diversity and params.group_by:
        raise BadSetting("diversity and group_by order the hits in different ways. Leave one of them out.")
    if params.group_by is not None and (params.limit or 1) * params.group_size > MAX_GROUPED_HITS:
        raise BadSetting(
            f"limit groups of group_size hits can't be more than {MAX_GROUPED_HITS:,} hits. Choose smaller numbers."
        )


def select_nearest(state: SearchState, neighbours: Neighbours) -> None:
    """Drop the query's own ids from the neighbours, then apply offset and limit."""
    ids, distances = drop_query_ids(state, neighbours)
    params = state.params
    end = None if params.limit is None else params.offset + params.limit
    state.ids, state.distances = ids[params.offset : end], distances[params.offset : end]


def drop_query_ids(state: SearchState, neighbours: Neighbours) -> Neighbours:
    """Return the neighbours without the query's own ids, and note the distance of the nearest image."""
    ids, distances = neighbours
    if state.query.excluded_ids:
        is_other = ~np.isin(ids, list(state.query.excluded_ids))
        ids, distances = ids[is_other], distances[is_other]
    if state.params.filter is None and len(ids):
        state.nearest_distance = float(distances[0])
    return ids, distances
