"""All images by the time at which they were taken, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simile.store.index.flat import Ids

NO_TIME = -(2**62)  # of images without a time, which come last


@dataclass(frozen=True)
class TakenOrder:
    """Ids (n,) of the images and their times (n,) in microseconds since 1970 by the clock of the camera."""

    ids: Ids
    times: NDArray[np.int64]

    @classmethod
    def from_times(cls, ids: Ids, taken: Mapping[int, str]) -> TakenOrder:
        """Sort images (n,) by their times in ISO 8601, by id; of equal times, the newest image comes first."""
        times = np.full(len(ids), NO_TIME)
        texts = [taken.get(image_id, "NaT") for image_id in ids.tolist()]
        values = np.array(texts, "datetime64[us]")
        has_time = ~np.isnat(values)
        times[has_time] = values[has_time].astype(np.int64)
        order = np.lexsort((-ids, -times))
        return cls(ids[order], times[order])

    def restrict_to(self, ids: Ids) -> TakenOrder:
        """Return the order of these images."""
        is_listed = np.isin(self.ids, ids)
        return TakenOrder(self.ids[is_listed], self.times[is_listed])

    def find_position_after(self, time: int, image_id: int) -> int:
        """Return the position behind this image, which may have been deleted."""
        is_before = (self.times > time) | ((self.times == time) & (self.ids >= image_id))
        return int(np.count_nonzero(is_before))
