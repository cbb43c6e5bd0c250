"""Immutable records that the catalogue takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from simile.core.keys import Scope
from simile.core.records import FileStat, FloatArray, ImageQuality, PhotoMetadata

DuplicateTier = Literal["bytes", "pixels", "near", "series", "similar"]


class KnownFile(NamedTuple):  # a dataclass takes three times as long, and there may be half a million files
    """A file in the catalogue."""

    image_id: int
    size: int  # bytes
    mtime_ns: int
    embedded: bool  # whether the given encoder has a vector of the image
    failed: bool = False  # whether the file could not be read when it was read last


class KnownImage(NamedTuple):
    """An image in the catalogue, found by its content."""

    image_id: int
    embedded: bool  # whether the given encoder has a vector of the image


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """An image to store."""

    sha256: str
    size: int  # bytes
    format: str
    width: int
    height: int
    file: FileStat
    photo: PhotoMetadata | None = None  # of the file
    quality: ImageQuality | None = None
    mu: FloatArray  # (d,)
    log_variance: FloatArray | None = None  # (d,); None if the encoder has no variance
    reconstruction_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An image in the catalogue."""

    id: int
    sha256: str
    size: int  # bytes
    format: str
    width: int
    height: int
    created_at: datetime
    paths: tuple[str, ...]  # sorted
    reconstruction_error: float | None  # of the active encoder


class ImageSummary(NamedTuple):
    """The fields of an image that a search result needs. Every search reads them, so there are few."""

    width: int
    height: int
    format: str
    paths: tuple[str, ...]  # sorted


@dataclass(frozen=True)
class Embedding:
    """An encoder's latent vector of one image."""

    mu: FloatArray  # (d,)
    log_variance: FloatArray | None  # (d,)


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """An encoder in the catalogue."""

    fingerprint: str
    name: str
    recipe: str
    dimensions: int  # length of mu
    index_dims: int | list[int] | None  # compared dimensions: None for all, n for the first n, or a list of them
    metric: str
    created_at: datetime

    @property
    def indexed_dimensions(self) -> int:
        """Length of the vectors that are compared."""
        if self.index_dims is None:
            return self.dimensions
        return self.index_dims if isinstance(self.index_dims, int) else len(self.index_dims)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a long command."""

    id: int
    kind: str
    started_at: datetime
    finished_at: datetime | None
    status: str  # running, finished, failed or interrupted
    counts: dict[str, Any]
    settings: dict[str, Any]
    host: str | None  # where it ran; None for runs of older versions


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One indexing job that was started over HTTP."""

    id: int
    version: int  # grows with every change of the row
    root: str
    prune: bool
    status: str  # running, finished, failed, cancelled (by request) or interrupted (its server ended)
    cancelling: bool
    stage: str
    done: int  # files (in indexing) or steps (in training) processed, of `total`
    total: int | None
    per_second: float | None
    seconds_left: float | None
    failed: int  # number of files that were skipped
    message: str | None
    result: dict[str, Any] | None
    run: int | None  # id of its run; None before the run starts
    created_at: datetime
    finished_at: datetime | None
    host: str | None  # where it runs; None for jobs of older versions
    alive_at: datetime | None  # when its process was seen last; None before the first time

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status != "running"


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """A key of the service."""

    id: int
    name: str
    prefix: str
    sha256: str  # of the key; not secret
    scope: Scope
    rate: int | None  # requests a minute; None for the service's setting
    quota: int | None  # bytes of its uploads; None for the service's setting
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_usable(self, timestamp: datetime) -> bool:
        """Return whether the key is neither revoked nor expired at this time."""
        return self.revoked_at is None and (self.expires_at is None or timestamp < self.expires_at)


@dataclass(frozen=True)
class UploadAccount:
    """What an upload counts towards: a key, or None for all clients without one; at most `quota` bytes, 0: any."""

    key_id: int | None
    quota: int


@dataclass(frozen=True)
class RestoredKey:
    """A key that came with a backup. `is_usable`: it still opens the home."""

    name: str
    scope: Scope
    created_at: datetime
    is_usable: bool


@dataclass(frozen=True, kw_only=True)
class WrittenSegment:
    """A segment whose files are written and whose row is not."""

    kind: str
    file: str  # name of its index file in segments/
    rows: int
    sha256: str  # of `file`
    details: dict[str, Any]  # how it was built, and measurements


@dataclass(frozen=True, kw_only=True)
class SegmentRecord(WrittenSegment):
    """A published index."""

    id: int
    encoder: str
    change: int  # the last change that the segment covers
    created_at: datetime

    @property
    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of each of the segment's files, by file name."""
        hashes: dict[str, str] = self.details.get("files", {self.file: self.sha256})
        return hashes

    @property
    def first_tracked_deletion(self) -> int:
        """The change from which all deletions are stored. An older snapshot can't be extended."""
        # The first version deleted the record of everything that the segment covers.
        return int(self.details.get("deletions_since", self.change))


class CopyPair(NamedTuple):
    """Two images that are copies: a search with `distinct` shows the nearer. `is_equal`: by their pixels."""

    first: int
    second: int
    is_equal: bool


class Shot(NamedTuple):
    """When an image was taken, in the camera's local time, and by which camera, if known."""

    taken: datetime
    camera: str | None


class DuplicateRecord(NamedTuple):
    """Two images that are copies of each other, shots of a series, or similar; first < second.

    Attributes:
        distance: Euclidean distance between the indexed vectors.
        agreement: Share of the common area that is equal after alignment, 0 to 1; None if it was not measured (pixels).
        reason: A phrase without a full stop, for users.
    """

    first: int
    second: int
    tier: DuplicateTier
    distance: float
    agreement: float | None
    reason: str


@dataclass(frozen=True)
class NewDecision:
    """A user's decision on two images, identified by the SHA-256 of their bytes; first_sha256 < second_sha256."""

    first_sha256: str
    second_sha256: str
    same: bool
    keep_sha256: str | None = None  # the image to keep; None: the keep rules choose


@dataclass(frozen=True, kw_only=True)
class DecisionRecord(NewDecision):
    """A stored decision."""

    decided_at: datetime


class ImageLocation(NamedTuple):
    """One file of an image."""

    image_id: int
    sha256: str
    width: int
    height: int
    format: str
    path: str
    size: int  # bytes
    mtime_ns: int
