"""Serialise duplicates to response models, and store decisions about them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from simile.core.errors import NoSuchImage
from simile.dedup.detection.lookup import ImageMatch
from simile.dedup.grouping.findings import FilePair
from simile.dedup.records import Decision, DuplicateGroup, GroupMember, ImageFile
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.schemas.duplicates import (
    DecisionRequest,
    DuplicateFileResponse,
    DuplicateGroupResponse,
    SimilarPairResponse,
)
from simile.service.schemas.search import DuplicateMatchResponse


def make_group_response(group: DuplicateGroup) -> DuplicateGroupResponse:
    """Return a group with the URLs of its images."""
    kept = group.kept_member
    members = [_make_member_response(member, kept) for member in group.members]
    return DuplicateGroupResponse.model_validate(
        vars(group) | {"keep": kept.file.path, "keep_reason": kept.keep_reason, "members": members}
    )


def make_pair_response(file_pair: FilePair) -> SimilarPairResponse:
    """Return two similar images."""
    pair = file_pair.pair
    first = _make_file_response(file_pair.first, distance=0.0)
    second = _make_file_response(
        file_pair.second, distance=0.0, difference_url=urls.difference(pair.first, pair.second)
    )
    return SimilarPairResponse(
        first=first, second=second, distance=pair.distance, agreement=pair.agreement, reason=pair.reason
    )


def make_match_response(match: ImageMatch) -> DuplicateMatchResponse:
    """Return an image of the collection of which an upload is a copy."""
    return DuplicateMatchResponse.model_validate(vars(match) | urls.image_urls(match.image_id))


def store_decisions(searcher: Searcher, decisions: Iterable[DecisionRequest]) -> tuple[int, int]:
    """Store decisions, and delete those with `same` None; the last decision about a pair wins.

    Returns:
        The number of stored and of deleted decisions.

    Raises:
        NoSuchImage: An image of a decision is unknown; nothing is stored.
    """
    decisions = list(decisions)
    hashes = _get_hashes(
        searcher, {image_id for decision in decisions for image_id in (decision.first, decision.second)}
    )
    latest = {tuple(sorted((hashes[decision.first], hashes[decision.second]))): decision for decision in decisions}
    stored = [
        Decision(first, second, decision.same, None if decision.keep is None else hashes[decision.keep])
        for (first, second), decision in latest.items()
        if decision.same is not None
    ]
    removed = [(first, second) for (first, second), decision in latest.items() if decision.same is None]
    if stored:
        searcher.catalogue.duplicates.save_decisions(stored)
    if removed:
        searcher.catalogue.duplicates.delete_decisions(removed)
    return len(stored), len(removed)


def _get_hashes(searcher: Searcher, image_ids: set[int]) -> dict[int, str]:
    records = searcher.catalogue.images.get_many(sorted(image_ids))
    for image_id in sorted(image_ids - records.keys()):
        raise NoSuchImage(image_id)
    return {image_id: record.sha256 for image_id, record in records.items()}


def _make_member_response(member: GroupMember, kept: GroupMember) -> DuplicateFileResponse:
    first, second = kept.file.image_id, member.file.image_id
    return _make_file_response(
        member.file,
        keep=member.is_kept,
        keep_reason=member.keep_reason,
        distance=member.distance,
        agreement=member.agreement,
        reason=member.reason,
        difference_url=urls.difference(first, second) if first and second and first != second else None,
    )


def _make_file_response(file: ImageFile, *, distance: float, **relation: Any) -> DuplicateFileResponse:
    """Return a file; `relation` holds the fields that compare it with the kept file."""
    links = {} if file.image_id is None else urls.image_urls(file.image_id)
    named = {"mtime": file.modified_at, "distance": None if math.isnan(distance) else distance}
    return DuplicateFileResponse.model_validate(vars(file) | named | links | relation)
