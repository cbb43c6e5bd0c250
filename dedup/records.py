"""What deduplication speaks of: files, pairs, groups, plans. Frozen results that cross between its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

Tier = Literal["bytes", "pixels", "near", "similar"]

TIERS: tuple[Tier, ...] = ("bytes", "pixels", "near", "similar")  # the surest first; never mixed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ImageFile:
    """One file of a picture. image_id is None for a file that is not indexed; size in bytes, mtime_ns since 1970.

    labels: what is known of it by name, from a manifest's columns.
    """

    path: str
    image_id: int | None
    sha256: str
    size: int
    mtime_ns: int
    width: int
    height: int
    format: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def modified_at(self) -> datetime:
        """mtime_ns as a moment, UTC. Before the year 1 or after 9999 it is the first or the last that there is."""
        try:
            return _EPOCH + timedelta(microseconds=self.mtime_ns // 1000)
        except OverflowError:  # file systems know more years than calendars do
            return (datetime.max if self.mtime_ns > 0 else datetime.min).replace(tzinfo=UTC)


@dataclass(frozen=True)
class ImagePair:
    """Two indexed pictures that are copies, or are similar. first < second: image ids.

    distance: Euclidean between their indexed vectors. agreement: 0 to 1, how much of what both show is the same once
    they lie on each other; None where that was not asked (pixels). reason: for people, ends without a full stop.
    """

    first: int
    second: int
    tier: Tier
    distance: float
    agreement: float | None
    reason: str


@dataclass(frozen=True)
class CurvePoint:
    """Pairs of at most this distance, of planted copies and their neighbours: precision and recall, 0 to 1."""

    distance: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ThresholdCalibration:
    """How the threshold was found. `precision`: that was asked for, None where the threshold was given.

    reached_precision, reached_recall: at the threshold, of planted copies. copies, decisions: how many were measured.
    """

    threshold: float
    precision: float | None
    reached_precision: float | None
    reached_recall: float | None
    copies: int
    decisions: int
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Decision:
    """What a person said of two pictures, by the hashes of their bytes: first_sha256 < second_sha256.

    keep_sha256: which of them is to be kept, None where that was left to the rules.
    """

    first_sha256: str
    second_sha256: str
    same: bool
    keep_sha256: str | None = None


@dataclass(frozen=True)
class GroupMember:
    """A file of a group. distance, agreement, reason: how it goes with the one that is kept (itself: 0, None, "").

    keep_reason: why it is kept, or why the kept one was preferred to it.
    """

    file: ImageFile
    is_kept: bool
    distance: float
    agreement: float | None
    reason: str
    keep_reason: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Copies of one tier: the kept one first. Each matches the kept one directly; `matched` of `possible` pairs do.

    id: the same as long as its members are the same. decided: whether people have spoken of every pair with the kept
    one.
    """

    id: str
    tier: Tier
    members: tuple[GroupMember, ...]
    matched: int
    possible: int
    decided: bool = False

    @property
    def kept_member(self) -> GroupMember:
        return self.members[0]


@dataclass(frozen=True)
class Removal:
    """One line of a plan: a file that may go, because another one that is kept is a copy of it."""

    path: str
    sha256: str
    keep_path: str
    keep_sha256: str
    tier: Tier
    group: str
    reason: str


@dataclass(frozen=True)
class CleanupPlan:
    """What would be done: nothing is, before it is applied. created_at: ISO 8601. home: where it was made."""

    removals: tuple[Removal, ...]
    decisions: tuple[Decision, ...] = ()
    created_at: str = ""
    home: str = ""
