"""Small frozen results that cross the borders between rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

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


class FileStat(NamedTuple):
    """What `stat` says of one file: `path` absolute, `mtime_ns` in nanoseconds, `size` in bytes.

    A file in an archive has the archive's path before its own, and the archive's time; `position`: where it lies there.
    """

    path: str
    size: int
    mtime_ns: int
    position: int = 0


@dataclass(frozen=True)
class Failure:
    """One file that was set aside, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Hit:
    """One answer. `distance`: Euclidean between indexed vectors.

    expected: how many pictures of the collection lie as near to one of its pictures, on average; None: not measured.
    spread: the standard deviation of the distance, the query being as uncertain as its σ says; None without a σ.
    metadata: what is said of it, where that was asked for.
    """

    image_id: int
    distance: float
    path: str
    width: int
    height: int
    format: str
    paths: tuple[str, ...] = ()
    expected_matches: float | None = None
    spread: float | None = None
    metadata: Mapping[str, str | float] | None = None

    @property
    def score(self) -> float:
        """1 / (1 + expected): 1 for what chance never brings, 0.5 for a usual nearest neighbour; see `expected`.

        While nothing is measured, 1 / (1 + distance).
        """
        return 1.0 / (1.0 + (self.distance if self.expected_matches is None else self.expected_matches))


@dataclass
class IndexSummary:
    """What one run of the indexer did.

    new: paths that were not known; `copied` of them hold a picture that is known at another path, still there. moved:
    known pictures whose old path is gone. missing: known files that are gone, and `removed` those that were forgotten.
    duplicates: files, new or changed, that repeat a picture. done: files looked into so far. lacking: pictures without
    a vector by the encoder that was asked for, which is not in use therefore.
    """

    run_id: int
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    missing: int = 0
    duplicates: int = 0
    ignored: int = 0
    embedded: int = 0
    done: int = 0
    lacking: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        return round(self.embedded / self.seconds, 1) if self.seconds > 0 else 0.0


MetadataCondition = tuple[str, str, str]  # (name, one of = != < <= > >=, value)


@dataclass(frozen=True)
class Filter:
    """Which images a search may give. An image matches if it and one of its files satisfy everything that is set.

    where: on what a manifest says of the file; numbers compare as numbers, everything else as text, and `!=` takes
    files that lack the name too. under: the file, or a folder or archive that it lies in, absolute. since, until: when
    the file was last modified, both included, with a time zone. formats: lower case, as `Hit.format`. Bytes and
    pixels: both ends included.
    """

    where: tuple[MetadataCondition, ...] = ()
    under: str | None = None
    formats: tuple[str, ...] = ()
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    since: datetime | None = None
    until: datetime | None = None
