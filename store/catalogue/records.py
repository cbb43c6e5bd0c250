"""What the catalogue gives and takes: small frozen records, no database objects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from simile.core.records import FileStat, FloatArray


class KnownFile(NamedTuple):  # a dataclass takes three times as long, and there are half a million of them
    """A file that was seen before. `size` in bytes; `embedded`: the asked encoder's vector is in the catalogue."""

    image_id: int
    size: int
    mtime_ns: int
    embedded: bool


class KnownImage(NamedTuple):
    """A picture that was seen before, found by its content."""

    image_id: int
    embedded: bool


class CatalogueState(NamedTuple):
    """Where the catalogue stands: the change counter, the encoder in use, the current segment."""

    changes: int
    active_encoder: str | None
    segment_id: int | None


@dataclass(frozen=True)
class NewImage:
    """One picture to store. mu: (d,) float32; log_variance: (d,) float32, or None without a variance."""

    sha256: str
    size: int
    format: str
    width: int
    height: int
    file: FileStat
    mu: FloatArray
    log_variance: FloatArray | None = None
    reconstruction_error: float | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One picture in the catalogue. `size` in bytes; `reconstruction_error` by the active encoder."""

    id: int
    sha256: str
    size: int
    format: str
    width: int
    height: int
    created_at: datetime
    paths: tuple[str, ...]
    reconstruction_error: float | None


class ImageSummary(NamedTuple):
    """What an answer says of an image: no more, because every search reads it. `paths`: sorted."""

    width: int
    height: int
    format: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Embedding:
    """What an encoder said of one picture. mu, log_variance: (d,) float32."""

    mu: FloatArray
    log_variance: FloatArray | None


@dataclass(frozen=True)
class EncoderRecord:
    """One encoder. `dimensions`: length of mu. `index_dims`: None for all, n for the first n, or a tuple of them."""

    fingerprint: str
    name: str
    recipe: str
    dimensions: int
    index_dims: int | tuple[int, ...] | None
    metric: str
    created_at: datetime

    @property
    def indexed_dimensions(self) -> int:
        """Length of the vectors that are compared."""
        if self.index_dims is None:
            return self.dimensions
        return self.index_dims if isinstance(self.index_dims, int) else len(self.index_dims)


@dataclass(frozen=True)
class RunRecord:
    """One run of a long command. `status`: running, finished, failed or interrupted."""

    id: int
    kind: str
    started_at: datetime
    finished_at: datetime | None
    status: str
    counts: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class JobRecord:
    """One indexing job that was started over HTTP.

    status: running, finished, failed, cancelled (somebody asked) or interrupted (its server ended). `version` grows
    with every change of the row. done, total: files in indexing, steps in training. failed: files set aside. run: the
    id of its run, once it has one.
    """

    id: int
    version: int
    root: str
    prune: bool
    status: str
    cancelling: bool
    stage: str
    done: int
    total: int | None
    per_second: float | None
    seconds_left: float | None
    failed: int
    message: str | None
    result: dict[str, Any] | None
    run: int | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        return self.status != "running"


@dataclass(frozen=True)
class SegmentRecord:
    """One published index. `change`: every commit up to it is in it; `details`: how it was made, and measured."""

    id: int
    encoder: str
    file: str
    kind: str
    rows: int
    change: int
    sha256: str
    created_at: datetime
    details: dict[str, Any]


class DuplicateRecord(NamedTuple):
    """Two pictures that were found to be copies, or similar; first < second. `tier`: pixels, near or similar."""

    first: int
    second: int
    tier: str
    distance: float
    agreement: float | None
    reason: str


@dataclass(frozen=True)
class DecisionRecord:
    """What a person said of two pictures, by the hashes of their bytes; first_sha256 < second_sha256."""

    first_sha256: str
    second_sha256: str
    same: bool
    keep_sha256: str | None
    decided_at: datetime


class ImageLocation(NamedTuple):
    """One file of a picture. `size` in bytes, `mtime_ns` since 1970, both of the file."""

    image_id: int
    sha256: str
    width: int
    height: int
    format: str
    path: str
    size: int
    mtime_ns: int
