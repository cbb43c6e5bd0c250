"""What was found of copies, as it goes over the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable

from simile.core.errors import NoSuchImage
from simile.dedup.detection.lookup import ImageMatch
from simile.dedup.grouping.findings import FilePair, calibration_to_json
from simile.dedup.records import Decision, DuplicateGroup, GroupMember, ImageFile, ThresholdCalibration
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.schemas.duplicates import (
    DecisionRequest,
    DuplicateFileResponse,
    DuplicateGroupResponse,
    SimilarPairResponse,
    ThresholdCalibrationResponse,
)
from simile.service.schemas.search import DuplicateMatchResponse
from simile.service.serializers.search import replace_surrogates


def make_group_response(group: DuplicateGroup) -> DuplicateGroupResponse:
    """A group, with addresses of its pictures."""
    kept = group.kept_member
    return DuplicateGroupResponse.model_validate(
        {
            "id": group.id,
            "tier": group.tier,
            "keep": replace_surrogates(kept.file.path),
            "keep_reason": kept.keep_reason,
            "members": [_make_member_response(member, kept) for member in group.members],
            "matched": group.matched,
            "possible": group.possible,
            "decided": group.decided,
        }
    )


def make_pair_response(found_pair: FilePair) -> SimilarPairResponse:
    """Two similar pictures."""
    pair = found_pair.pair
    sides = [_make_file_response(file, reason="", distance=0.0) for file in (found_pair.first, found_pair.second)]
    return SimilarPairResponse(
        first=sides[0],
        second=sides[1].model_copy(update={"difference_url": urls.difference(pair.first, pair.second)}),
        distance=pair.distance,
        agreement=pair.agreement,
        reason=pair.reason,
    )


def make_calibration_response(calibration: ThresholdCalibration | None) -> ThresholdCalibrationResponse | None:
    """How the threshold was found."""
    return (
        None if calibration is None else ThresholdCalibrationResponse.model_validate(calibration_to_json(calibration))
    )


def make_match_response(match: ImageMatch) -> DuplicateMatchResponse:
    """A picture of the collection that is a copy of an upload."""
    return DuplicateMatchResponse(
        image_id=match.image_id,
        path=replace_surrogates(match.path),
        tier=match.tier,
        distance=match.distance,
        agreement=match.agreement,
        reason=match.reason,
        file_url=urls.file(match.image_id),
        thumbnail_url=urls.thumbnail(match.image_id),
    )


def store_decisions(searcher: Searcher, decisions: Iterable[DecisionRequest]) -> tuple[int, int]:
    """Stores what was said, and takes back what has no answer any more; gives how many of each. Raises NoSuchImage."""
    answers = list(decisions)
    shas = _get_hashes(searcher, {image_id for one in answers for image_id in (one.first, one.second)})
    last = {_sort_pair(shas[one.first], shas[one.second]): one for one in answers}  # of one pair the last one counts
    kept = [
        Decision(*pair, one.same, None if one.keep is None else shas[one.keep])
        for pair, one in last.items()
        if one.same is not None
    ]
    taken_back = [pair for pair, one in last.items() if one.same is None]
    if kept:
        searcher.catalogue.duplicates.save_decisions(kept)
    if taken_back:
        searcher.catalogue.duplicates.delete_decisions(taken_back)
    return len(kept), len(taken_back)


def _sort_pair(first: str, second: str) -> tuple[str, str]:
    return min(first, second), max(first, second)


def _get_hashes(searcher: Searcher, image_ids: set[int]) -> dict[int, str]:
    found = searcher.catalogue.images.get_many(sorted(image_ids))
    for image_id in sorted(image_ids - found.keys()):
        raise NoSuchImage(image_id)
    return {image_id: record.sha256 for image_id, record in found.items()}


def _make_member_response(member: GroupMember, keeper: GroupMember) -> DuplicateFileResponse:
    made = _make_file_response(member.file, reason=member.reason, distance=member.distance)
    one, other = keeper.file.image_id, member.file.image_id
    difference = urls.difference(one, other) if one and other and one != other else None
    own = {"keep": member.is_kept, "keep_reason": member.keep_reason, "agreement": member.agreement}
    return made.model_copy(update={**own, "difference_url": difference})


def _make_file_response(file: ImageFile, *, reason: str, distance: float) -> DuplicateFileResponse:
    return DuplicateFileResponse(
        image_id=file.image_id,
        path=replace_surrogates(file.path),
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
        mtime=file.modified_at,
        labels=dict(file.labels),
        file_url=None if file.image_id is None else urls.file(file.image_id),
        thumbnail_url=None if file.image_id is None else urls.thumbnail(file.image_id),
        difference_url=None,
    )
