"""What was found of copies, as it goes over the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable

from simile.core.errors import NoSuchImage
from simile.dedup.detection.lookup import Match
from simile.dedup.grouping.findings import FoundPair, calibration_json
from simile.dedup.records import Calibration, Decision, Group, Member, PictureFile
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.schemas.duplicates import CalibrationOut, CopyOut, DecisionIn, GroupOut, PairOut
from simile.service.schemas.search import MatchOut
from simile.service.serializers.search import shown


def group_out(group: Group) -> GroupOut:
    """A group, with addresses of its pictures."""
    kept = group.keep
    return GroupOut.model_validate(
        {
            "id": group.id,
            "tier": group.tier,
            "keep": shown(kept.file.path),
            "keep_reason": kept.keep_reason,
            "members": [_member_out(member, kept) for member in group.members],
            "matched": group.matched,
            "possible": group.possible,
            "decided": group.decided,
        }
    )


def pair_out(found: FoundPair) -> PairOut:
    """Two similar pictures."""
    pair = found.pair
    sides = [_copy_out(file, reason="", distance=0.0) for file in (found.first, found.second)]
    return PairOut(
        first=sides[0],
        second=sides[1].model_copy(update={"difference_url": urls.difference(pair.first, pair.second)}),
        distance=pair.distance,
        agreement=pair.agreement,
        reason=pair.reason,
    )


def calibration_out(calibration: Calibration | None) -> CalibrationOut | None:
    """How the threshold was found."""
    return None if calibration is None else CalibrationOut.model_validate(calibration_json(calibration))


def match_out(match: Match) -> MatchOut:
    """A picture of the collection that is a copy of an upload."""
    return MatchOut(
        image_id=match.image_id,
        path=shown(match.path),
        tier=match.tier,
        distance=match.distance,
        agreement=match.agreement,
        reason=match.reason,
        file_url=urls.file(match.image_id),
        thumbnail_url=urls.thumbnail(match.image_id),
    )


def store_decisions(searcher: Searcher, said: Iterable[DecisionIn]) -> tuple[int, int]:
    """Stores what was said, and takes back what has no answer any more; gives how many of each. Raises NoSuchImage."""
    answers = list(said)
    shas = _sha256_of(searcher, {image_id for one in answers for image_id in (one.first, one.second)})
    last = {_pair(shas[one.first], shas[one.second]): one for one in answers}  # of one pair the last one counts
    kept = [
        Decision(*pair, one.same, None if one.keep is None else shas[one.keep])
        for pair, one in last.items()
        if one.same is not None
    ]
    taken_back = [pair for pair, one in last.items() if one.same is None]
    if kept:
        searcher.catalogue.decide(kept)
    if taken_back:
        searcher.catalogue.undecide(taken_back)
    return len(kept), len(taken_back)


def _pair(one: str, other: str) -> tuple[str, str]:
    return min(one, other), max(one, other)


def _sha256_of(searcher: Searcher, image_ids: set[int]) -> dict[int, str]:
    found = searcher.catalogue.images(sorted(image_ids))
    for image_id in sorted(image_ids - found.keys()):
        raise NoSuchImage(image_id)
    return {image_id: record.sha256 for image_id, record in found.items()}


def _member_out(member: Member, kept: Member) -> CopyOut:
    made = _copy_out(member.file, reason=member.reason, distance=member.distance)
    one, other = kept.file.image_id, member.file.image_id
    difference = urls.difference(one, other) if one and other and one != other else None
    own = {"keep": member.keep, "keep_reason": member.keep_reason, "agreement": member.agreement}
    return made.model_copy(update={**own, "difference_url": difference})


def _copy_out(file: PictureFile, *, reason: str, distance: float) -> CopyOut:
    return CopyOut(
        image_id=file.image_id,
        path=shown(file.path),
        keep=False,
        keep_reason="",
        distance=None if math.isnan(distance) else distance,
        agreement=None,
        reason=reason,
        sha256=file.sha256,
        size=file.size,
        width=file.width,
        height=file.height,
        format=file.format,
        mtime=file.modified,
        labels=dict(file.labels),
        file_url=None if file.image_id is None else urls.file(file.image_id),
        thumbnail_url=None if file.image_id is None else urls.thumbnail(file.image_id),
        difference_url=None,
    )
