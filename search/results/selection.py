"""Select the hits of a search among the nearest images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simile.search.results.copy_groups import CopyGroups
from simile.search.results.state import SearchState
from simile.store.index.flat import Ids, Neighbours
from simile.store.index.snapshot import Snapshot

FindNeighbours = Callable[[int], Neighbours]  # the nearest images, fewer than the number if there are no more
MIN_POOL = 64  # neighbours that are read first
POOL_GROWTH = 4  # factor, if these are too few


@dataclass(frozen=True)
class HitSelector:
    """Selects hits, and reads more neighbours until there are enough."""

    get_copy_groups: Callable[[Snapshot], CopyGroups]

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
        """
        if not state.params.distinct:
            select_nearest(state, find(count))
            return
        pool = max(2 * count, MIN_POOL)
        while True:
            neighbours = find(pool)
            select_nearest(state, neighbours, self.get_copy_groups(snapshot), allowed_ids)
            if len(state.ids) == state.params.limit or len(neighbours[0]) < pool:
                return
            pool *= POOL_GROWTH


def select_nearest(
    state: SearchState, neighbours: Neighbours, copy_groups: CopyGroups | None = None, allowed_ids: Ids | None = None
) -> None:
    """Drop the query's own ids from the neighbours, and copies, then apply offset and limit.

    Args:
        state: Gets the hits.
        neighbours: Ids and distances, the nearest first.
        copy_groups: Which of them are copies; None: copies are hits as well.
        allowed_ids: The images that match the filter, to count copies; None: all.
    """
    ids, distances = neighbours
    excluded_ids, params = state.query.excluded_ids, state.params
    if excluded_ids:
        is_other = ~np.isin(ids, list(excluded_ids))
        ids, distances = ids[is_other], distances[is_other]
    if params.filter is None and len(ids):
        state.nearest_distance = float(distances[0])
    end = None if params.limit is None else params.offset + params.limit
    if copy_groups is not None:
        positions, counts = copy_groups.collapse(ids, allowed_ids, excluded_ids, limit=end)
        ids, distances, state.copy_counts = ids[positions], distances[positions], counts[params.offset :]
    state.ids, state.distances = ids[params.offset : end], distances[params.offset : end]
