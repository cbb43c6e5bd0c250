"""Small frozen results that cross the borders between rooms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Latent:
    """What an encoder says of n pictures: q(z|x) = N(mu, diag(sigma²)).

    mu: (n, d) float32. sigma: (n, d) float32, or None for an encoder without a variance.
    """

    mu: FloatArray
    sigma: FloatArray | None

    def __len__(self) -> int:
        return len(self.mu)


@dataclass(frozen=True)
class FileFacts:
    """What `stat` says of one file: `path` absolute, `mtime_ns` in nanoseconds, `size` in bytes."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Failure:
    """One file that was set aside, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Hit:
    """One answer. `distance`: Euclidean between indexed vectors; `score` = 1 / (1 + distance)."""

    image_id: int
    distance: float
    path: str
    width: int
    height: int
    format: str
    paths: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        return 1.0 / (1.0 + self.distance)


@dataclass
class IndexSummary:
    """What one run of the indexer did."""

    run_id: int
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    missing: int = 0
    duplicates: int = 0
    ignored: int = 0
    embedded: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        return round(self.embedded / self.seconds, 1) if self.seconds > 0 else 0.0
