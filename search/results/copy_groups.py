"""Collapse the copies among neighbours: the nearest image of a group of copies is the hit, and counts the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simile.store.catalogue.records import CopyPair
from simile.store.index.flat import Ids

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class CopyGroups:
    """Which images are copies of each other.

    Equal pixels are transitive. Near copies and series are not chained, as in `simile dedup`: each collapsed image is a
    copy of the hit itself.

    Attributes:
        nodes: The lowest id with the same pixels, by image id; images without such copies are left out.
        members: The image ids by node, if there are several.
        neighbours: The nodes of near copies, by node.
    """

    nodes: Mapping[int, int] = field(default_factory=dict)
    members: Mapping[int, list[int]] = field(default_factory=dict)
    neighbours: Mapping[int, AbstractSet[int]] = field(default_factory=dict)

    @classmethod
    def from_pairs(cls, pairs: Iterable[CopyPair]) -> CopyGroups:
        """Make the groups of pairs, first those of equal pixels."""
        pairs = list(pairs)
        nodes = _find_components((pair.first, pair.second) for pair in pairs if pair.is_equal)
        members: dict[int, list[int]] = {}
        for image_id, node in nodes.items():
            members.setdefault(node, []).append(image_id)
        neighbours: dict[int, set[int]] = {}
        for pair in pairs:
            first, second = nodes.get(pair.first, pair.first), nodes.get(pair.second, pair.second)
            if first != second:
                neighbours.setdefault(first, set()).add(second)
                neighbours.setdefault(second, set()).add(first)
        return cls(nodes, members, neighbours)

    def collapse(
        self,
        ids: Ids,
        allowed_ids: Ids | None = None,
        excluded_ids: AbstractSet[int] = frozenset(),
        limit: int | None = None,
    ) -> tuple[Positions, Positions]:
        """Leave out the copies of nearer neighbours.

        Args:
            ids: Ids (n,) of the neighbours, the nearest first.
            allowed_ids: Ids of all images that may be hits; None: all.
            excluded_ids: Ids of images that are no hits, such as the query.
            limit: The largest m.

        Returns:
            The positions (m,) in `ids` of those that stay, and how many allowed images are copies of each (m,).
        """
        positions: list[int] = []
        counts: list[int] = []
        covered: set[int] = set()  # nodes
        for position, image_id in enumerate(ids.tolist()):
            if len(positions) == limit:
                break
            node = self.nodes.get(image_id, image_id)
            if node in covered:
                continue
            group = {node, *self.neighbours.get(node, ())} - covered
            covered |= group
            positions.append(position)
            counts.append(self._count(group, allowed_ids, excluded_ids) - 1)
        return np.array(positions, np.int64), np.array(counts, np.int64)

    def _count(self, nodes: Iterable[int], allowed_ids: Ids | None, excluded_ids: AbstractSet[int]) -> int:
        """Count the images of these nodes that may be hits."""
        members = (image_id for node in nodes for image_id in self.members.get(node, (node,)))
        image_ids = [image_id for image_id in members if image_id not in excluded_ids]
        if allowed_ids is None or len(image_ids) == 1:
            return len(image_ids)
        return int(np.isin(image_ids, allowed_ids, assume_unique=True).sum())


def _find_components(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the lowest id of the connected component of each id (union-find with path halving)."""
    parents: dict[int, int] = {}

    def find_root(image_id: int) -> int:
        parent = parents.setdefault(image_id, image_id)
        while parent != image_id:
            parents[image_id] = image_id = parents[parent]
            parent = parents[image_id]
        return image_id

    for first, second in pairs:
        low, high = sorted((find_root(first), find_root(second)))
        parents[high] = low
    return {image_id: find_root(image_id) for image_id in parents}
