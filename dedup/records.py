"""The records of deduplication: files, pairs, groups, decisions and plans. All are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from simile.images.matching.changes import NO_CHANGES, ImageChanges
from simile.images.measurement import ImageMeasurement
from simile.store.catalogue.records import DuplicateRecord, DuplicateTier, NewDecision

Tier = DuplicateTier
ImagePair = DuplicateRecord
Decision = NewDecision

# The most certain first; never mixed in a group.
TIERS: tuple[Tier, ...] = ("bytes", "pixels", "near", "series", "similar")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Key = TypeVar("_Key", int, str)


def sort_pair(first: _Key, second: _Key) -> tuple[_Key, _Key]:
    """Return two image ids or hashes in ascending order, the key of an unordered pair."""
    return (first, second) if first < second else (second, first)


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One file of an image."""

    path: str
    image_id: int | None  # None: the file is not indexed
    sha256: str
    size: int  # bytes
    mtime_ns: int  # since 1970
    width: int
    height: int
    format: str
    labels: Mapping[str, str] = field(default_factory=dict)  # the file's manifest columns
    measurement: ImageMeasurement | None = None  # what the image holds; None: not measured

    @property
    def modified_at(self) -> datetime:
        """Return mtime_ns as a UTC time, limited to the years 1 to 9999."""
        try:
            return _EPOCH + timedelta(microseconds=self.mtime_ns // 1000)
        except OverflowError:  # file systems allow more years than datetime
            return (datetime.max if self.mtime_ns > 0 else datetime.min).replace(tzinfo=UTC)


@dataclass(frozen=True)
class CurvePoint:
    """Precision and recall (0 to 1) of a threshold at this distance."""

    distance: float
    precision: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class ThresholdCalibration:
    """How the threshold was found."""

    threshold: float
    precision: float | None = None  # the requested precision; None if the threshold was given by the user
    reached_precision: float | None = None  # the measured precision at the threshold
    reached_recall: float | None = None  # the measured recall at the threshold
    copies: int = 0  # the number of planted copies and decided pairs of copies
    decisions: int = 0  # the number of decisions that were used
    curve: tuple[CurvePoint, ...] = ()
    left_out: tuple[int, ...] = ()  # ids of images that are not compared: they match others that are no copies


@dataclass(frozen=True, kw_only=True)
class GroupMember:
    """A file of a group. The defaults are those of the kept file."""

    file: ImageFile
    is_kept: bool = False
    distance: float = 0.0  # to the kept file; `agreement` and `reason` also describe the pair with the kept file
    agreement: float | None = None
    reason: str = ""
    keep_reason: str = ""  # why this file is kept, or why the kept file was preferred
    changes: ImageChanges = NO_CHANGES  # what the kept file has and this one lacks, and the reverse
    undecided: str = ""  # what would be lost with this file: no plan removes it before a user decides


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Copies of one tier, the kept file first. Each member matches the kept file directly.

    In a series, each member matches another member; the kept file is the best shot.

    In a review it can also be a pair of similar or different images.
    """

    id: str  # the same as long as the members are the same
    tier: Tier
    members: tuple[GroupMember, ...]
    matched: int  # how many of the `possible` pairs of members match directly
    possible: int
    decided: bool = False  # whether a user decided every pair with the kept file

    @property
    def kept_member(self) -> GroupMember:
        """Return the member whose file is kept."""
        return self.members[0]

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """Return the files of all members."""
        return tuple(member.file for member in self.members)


@dataclass(frozen=True)
class Companion:
    """A file that goes along with a removed image: a sidecar, or a raw file or film of the same shot."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One line of a plan: a file that can be removed because it is a copy of a kept file."""

    path: str
    sha256: str
    keep_path: str
    keep_sha256: str
    tier: Tier
    group: str  # id of the group
    reason: str
    companions: tuple[Companion, ...] = ()
    rating: int | None = None  # this and the keywords are added to the kept file's sidecar
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class CleanupPlan:
    """The files that a cleanup would remove. Nothing happens before the plan is applied."""

    removals: tuple[Removal, ...]
    decisions: tuple[Decision, ...] = ()
    created_at: str = ""  # ISO 8601
    home: str = ""  # where the plan was made
