"""A glance at many pairs of tiny pictures at once: which of them are worth a comparison?

Among 28 x 28 pixels nearly everything has near relations. To hold two squares against each other in eight ways takes
a thousandth of a comparison's time, and copies pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from core.records import Failure
from dedup.candidates import Pairs
from models.comparing import square_of
from models.homographies import ways
from models.images import Limits
from models.nursery import Lost
from models.portraits import SQUARE, TINY, Floats
from models.workers import Workers

SIDE = SQUARE // 2  # pixels: 512 bytes a picture
ALIKE = 0.95  # correlation: of 20,000 garments and digits each has a hundred others above 0.9, a dozen above this
TOGETHER = 20_000  # pairs
WAYS = [way.astype(np.int64).ravel() for way in ways(np.arange(SIDE**2, dtype=np.float32).reshape(SIDE, SIDE))]


def worth_comparing(
    pairs: Pairs,
    sides: dict[int, int],
    files: dict[int, str],
    workers: Workers,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> Pairs:
    """All pairs but those of two tiny pictures that are not alike. sides: the longer side of each picture."""
    ends = [np.array([sides[image] < TINY for image in pairs[end].tolist()], bool) for end in ("first", "second")]
    tiny = ends[0] & ends[1]
    if not tiny.any():
        return pairs
    ids = np.unique(np.concatenate([pairs["first"][tiny], pairs["second"][tiny]]))
    squares = _squares(ids, files, workers, limits, on_progress)
    kept, places = ~tiny, np.flatnonzero(tiny)
    for start in range(0, len(places), TOGETHER):
        rows = places[start : start + TOGETHER]
        first, second = (squares[np.searchsorted(ids, pairs[end][rows])] for end in ("first", "second"))
        kept[rows] = _likeness(first.astype(np.float32), second.astype(np.float32)) >= ALIKE
    return np.asarray(pairs[kept])


def _squares(
    ids: NDArray[np.int64],
    files: dict[int, str],
    workers: Workers,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """(n, SIDE²), each of mean 0 and length 1; zeros for what can't be read."""
    squares = np.zeros((len(ids), SIDE * SIDE), np.float16)
    task = partial(square_of, limits=limits)
    for at, square in enumerate(workers.map(task, [files[image] for image in ids.tolist()])):
        if not isinstance(square, Failure | Lost):
            small = square.reshape(SIDE, 2, SIDE, 2).mean((1, 3)).ravel()
            squares[at] = small / max(float(np.linalg.norm(small)), 1e-6)
        on_progress(at + 1, len(ids))
    return squares


def _likeness(first: Floats, second: Floats) -> Floats:
    """The highest correlation (n,) of squares (n, SIDE²) in the eight ways."""
    found: Floats = np.max([np.einsum("nd,nd->n", first, second[:, way]) for way in WAYS], axis=0)
    return found
