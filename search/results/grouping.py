"""Groups of hits that share the value of a field."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simile.store.facets.facet_index import FacetIndex
from simile.store.facets.file_values import FileTable, FileValues
from simile.store.index.flat import Ids


@dataclass(frozen=True)
class GroupedPositions:
    """Positions (m,) of neighbours, group by group, and the code of the group of each (m,).

    `is_complete`: whether more neighbours would change nothing.
    """

    positions: NDArray[np.int64]
    codes: NDArray[np.int64]
    is_complete: bool


@dataclass(frozen=True, kw_only=True)
class FieldGroups:
    """Images by the value of one field.

    Attributes:
        files: All files.
        values: The values of the field.
        image_counts: Number of images with each value that may be hits, (v,).
    """

    files: FileTable
    values: FileValues
    image_counts: NDArray[np.int64]

    @classmethod
    def read(
        cls, facet_index: FacetIndex, name: str, allowed_ids: Ids | None, excluded_ids: Collection[int]
    ) -> FieldGroups:
        """Read the values of a field. Raises BadSetting if no file can have it.

        Args:
            facet_index: Has the values.
            name: Metadata or a field.
            allowed_ids: The images that match the filter; None: all.
            excluded_ids: Images of the query, which are no hits.
        """
        files, values_by_name = facet_index.read([name])
        mask = None if allowed_ids is None else files.find_files(allowed_ids)
        if excluded_ids:
            is_other = ~files.find_files(np.array(list(excluded_ids), np.int64))
            mask = is_other if mask is None else mask & is_other
        values = values_by_name[name]
        return cls(files=files, values=values, image_counts=values.count_images(mask))

    def group(self, ids: Ids, limit: int | None, size: int) -> GroupedPositions:
        """Return the nearest images of the nearest groups.

        Args:
            ids: Ids (n,) of the neighbours, the nearest first.
            limit: The largest number of groups.
            size: The largest number of images of a group.
        """
        codes_by_id = self.values.get_codes(self.files, ids)
        groups: dict[int, list[int]] = {}
        for position, image_id in enumerate(ids.tolist()):
            for code in codes_by_id.get(image_id, ()):
                if code not in groups and len(groups) == limit:
                    continue
                members = groups.setdefault(code, [])
                if len(members) < size:
                    members.append(position)
        available = int(np.count_nonzero(self.image_counts))
        is_full = all(len(members) == min(size, self.image_counts[code]) for code, members in groups.items())
        return GroupedPositions(
            np.array([position for members in groups.values() for position in members], np.int64),
            np.array([code for code, members in groups.items() for _ in members], np.int64),
            is_complete=is_full and len(groups) == (available if limit is None else min(limit, available)),
        )
