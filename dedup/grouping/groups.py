"""Groups of copies, and series of shots. Tiers are never mixed.

Matches of copies are never chained: each member matches the kept file directly. Shots of a series follow each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from simile.dedup.grouping.findings import DECIDED_REASON, Findings
from simile.dedup.grouping.keep_rules import KeepRanking
from simile.dedup.grouping.matches import MatchGraph, MatchStar, make_component_stars, make_greedy_stars
from simile.dedup.grouping.pair_changes import PairChanges, find_objection
from simile.dedup.grouping.scope import ImageParts, Scope, is_in_scope, split_images
from simile.dedup.grouping.series import compute_shot_score, explain_shot, match_shots
from simile.dedup.records import TIERS, DuplicateGroup, GroupMember, ImageFile, ImagePair, Tier
from simile.images.matching.changes import NO_CHANGES

GROUP_TIERS: tuple[Tier, ...] = ("bytes", "pixels", "near")
SAME_BYTES_REASON = "the same bytes"


@dataclass(frozen=True, kw_only=True)
class CopyMatches:
    """The matches of all tiers, with decisions applied.

    With a scope, the ids are those of parts of images: see scope.py.

    Attributes:
        equal_files: The files of each image, without links, by image id.
        representative_files: For each image the file that is kept of its equal files, by image id.
        replaced_by: For images that a pixel group does not keep, the image that it keeps. Near copies are searched
            only among the other images.
    """

    keep_ranking: KeepRanking
    equal_files: Mapping[int, Sequence[ImageFile]]
    representative_files: Mapping[int, ImageFile]
    keep_order: Mapping[int, int]  # the rank of each image by the keep rules; the lowest rank is kept
    pixel_matches: MatchGraph
    pixel_stars: Sequence[MatchStar]  # groups of equal pixels
    replaced_by: Mapping[int, int]
    near_matches: MatchGraph
    shot_matches: MatchGraph  # of series
    changes: PairChanges


def match_copies(
    findings: Findings,
    rules: Sequence[str] | None = None,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
    scope: Scope | None = None,
) -> CopyMatches:
    """Apply decisions, keep rules and threshold to the findings; see make_groups for the arguments."""
    ranking = KeepRanking(findings.keep_rules if rules is None else rules, findings.uploads_folder)
    parts = split_images(findings, ranking, scope)
    representatives = {part_id: ranking.choose_kept(files) for part_id, files in parts.files.items()}
    ordered = sorted(representatives, key=lambda image_id: ranking.get_sort_key(representatives[image_id]))
    keep_order = {image_id: rank for rank, image_id in enumerate(ordered)}

    def can_match(first: int, second: int) -> bool:
        return is_in_scope(representatives[first], representatives[second], scope)

    pixel_matches = _match_pixels(findings, parts, decided_only=decided_only)
    pixel_stars = make_component_stars(pixel_matches, keep_order, can_match)
    replaced_by = {image_id: star.kept_id for star in pixel_stars for image_id in star.other_ids}
    near_matches = _match_near(findings, parts, replaced_by, threshold, can_match, decided_only=decided_only)
    return CopyMatches(
        keep_ranking=ranking,
        equal_files=parts.files,
        representative_files=representatives,
        keep_order=keep_order,
        pixel_matches=pixel_matches,
        pixel_stars=pixel_stars,
        replaced_by=replaced_by,
        near_matches=near_matches,
        shot_matches=match_shots(
            parts.pairs, _list_decisions_by_id(findings, parts), replaced_by, near_matches, keep_order
        ),
        changes=findings.changes,
    )


def make_groups(
    findings: Findings,
    rules: Sequence[str] | None = None,
    tiers: Collection[str] = GROUP_TIERS,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
    scope: Scope | None = None,
) -> list[DuplicateGroup]:
    """Make all groups, sorted by tier, then by distance. Raises BadSetting for an unknown rule.

    In pixel and near groups an image with several files is represented by the file that its bytes group keeps. In near
    groups, images with equal pixels are represented by the image that their pixel group keeps.

    Args:
        rules: The keep rules; None: those of the run.
        threshold: Of near pairs; None: the run's threshold, which is also the maximum.
        decided_only: Use only pixel and near pairs that users decided to be the same; bytes groups are not affected.
        scope: Make groups of files in different folders, or in one folder; None: of all files.
    """
    return build_groups(match_copies(findings, rules, threshold, decided_only=decided_only, scope=scope), tiers)


def build_groups(copies: CopyMatches, tiers: Collection[str] = GROUP_TIERS) -> list[DuplicateGroup]:
    """Make the groups of matches; see make_groups."""
    groups: list[DuplicateGroup] = []
    if "bytes" in tiers:
        file_sets = (files for files in copies.equal_files.values() if len(files) > 1)
        groups += [_make_bytes_group(files, copies.keep_ranking) for files in file_sets]
    if "pixels" in tiers:
        groups += [_make_group("pixels", star, copies, copies.pixel_matches) for star in copies.pixel_stars]
    if "near" in tiers:
        stars = make_greedy_stars(copies.near_matches, copies.keep_order)
        groups += [_make_group("near", star, copies, copies.near_matches) for star in stars]
    if "series" in tiers:
        groups += _make_series(copies)
    return sorted(groups, key=_get_group_sort_key)


def add_linked_names(findings: Findings, copies: CopyMatches, groups: Sequence[DuplicateGroup]) -> list[DuplicateGroup]:
    """Add hard and symbolic links to the bytes groups, for label checks: a link frees no space but has a label.

    One file with several names becomes a group too. Existing groups keep their ids.
    """
    ids = {group.kept_member.file.image_id: group.id for group in groups if group.tier == "bytes"}
    linked_groups = {}
    for image_id, files in findings.files.items():
        if len(findings.exclude_links(files)) < len(files):
            group = _make_bytes_group(files, copies.keep_ranking)
            linked_groups[image_id] = replace(group, id=ids.get(image_id, group.id))
    others = [
        group for group in groups if group.tier != "bytes" or group.kept_member.file.image_id not in linked_groups
    ]
    return sorted([*others, *linked_groups.values()], key=_get_group_sort_key)


def _get_group_sort_key(group: DuplicateGroup) -> tuple[int, float, str]:
    return TIERS.index(group.tier), max(member.distance for member in group.members), group.kept_member.file.path


def _match_pixels(findings: Findings, parts: ImageParts, *, decided_only: bool) -> MatchGraph:
    """Collect the pixel pairs. They are facts, so decisions are applied only when stars are made of them."""
    matches = MatchGraph(_list_decisions_by_id(findings, parts), {})
    for pair in parts.pairs:
        if pair.tier == "pixels" and (not decided_only or matches.is_decided_same(pair.first, pair.second)):
            matches.add_pair(pair, pair.first, pair.second)
    return matches


def _match_near(
    findings: Findings,
    parts: ImageParts,
    replaced_by: Mapping[int, int],
    threshold: float | None,
    can_match: Callable[[int, int], bool],
    *,
    decided_only: bool,
) -> MatchGraph:
    """Collect the near pairs within the threshold, and those that users decided to be the same.

    Shots of a series are never copies of one image.
    """
    matches = MatchGraph(_list_decisions_by_id(findings, parts), replaced_by)
    bound = findings.get_effective_threshold(threshold)
    for pair in parts.pairs:
        first, second = replaced_by.get(pair.first, pair.first), replaced_by.get(pair.second, pair.second)
        if pair.tier == "series" and first != second:
            matches.separate(first, second)
        if pair.tier != "near" or first == second or matches.is_decided_different(first, second):
            continue
        is_near = not decided_only and (bound is None or pair.distance <= bound)
        if (is_near or matches.is_decided_same(first, second)) and can_match(first, second):
            matches.add_pair(pair, first, second)
    return matches


def _list_decisions_by_id(findings: Findings, parts: ImageParts) -> list[tuple[int, int, bool, int | None]]:
    """Return (part id, part id, same, part id to keep) of the decisions on known images."""
    ids = {files[0].sha256: parts.part_ids[image_id] for image_id, files in findings.files.items() if files}
    return [
        (first, second, decision.same, {None: None, first_sha256: first, second_sha256: second}[decision.keep_sha256])
        for (first_sha256, second_sha256), decision in findings.decisions.items()
        for first, second in product(ids.get(first_sha256, ()), ids.get(second_sha256, ()))
    ]


def _make_bytes_group(files: Sequence[ImageFile], ranking: KeepRanking) -> DuplicateGroup:
    kept, *others = ranking.sort(files)
    members = [GroupMember(file=kept, is_kept=True, keep_reason=ranking.explain(kept, others[0]))]
    members += [
        GroupMember(file=file, agreement=1.0, reason=SAME_BYTES_REASON, keep_reason=ranking.explain(kept, file))
        for file in others
    ]
    return _assemble_group("bytes", members, None, decided=True)


def _make_group(tier: Tier, star: MatchStar, copies: CopyMatches, matches: MatchGraph) -> DuplicateGroup:
    """Make a pixel or near group of a star."""
    others = sorted(star.other_ids, key=copies.keep_order.__getitem__)
    files = copies.representative_files

    def explain(other_id: int) -> str:
        if matches.is_preferred(star.kept_id, other_id):
            return DECIDED_REASON
        return copies.keep_ranking.explain(files[star.kept_id], files[other_id])

    def explain_undecided(other_id: int) -> str:
        if matches.is_decided_same(star.kept_id, other_id):
            return ""
        return find_objection(tier, copies.changes, files[star.kept_id], files[other_id])

    members = [GroupMember(file=files[star.kept_id], is_kept=True, keep_reason=explain(others[0]))]
    for other_id in others:
        # Equal pixels may be known through a third image only: then its measurements hold for this pair too.
        direct = matches.neighbours[other_id]
        pair: ImagePair = direct.get(star.kept_id) or next(iter(direct.values()))
        members.append(
            GroupMember(
                file=files[other_id],
                distance=pair.distance,
                agreement=pair.agreement,
                reason=pair.reason,
                keep_reason=explain(other_id),
                undecided=explain_undecided(other_id),
                changes=copies.changes.get(files[star.kept_id], files[other_id]) or NO_CHANGES,
            )
        )
    matched = None if tier == "pixels" else matches.count_matches(star)
    decided = all(matches.is_decided_same(star.kept_id, other_id) for other_id in others)
    return _assemble_group(tier, members, matched, decided=decided)


def _make_series(copies: CopyMatches) -> list[DuplicateGroup]:
    """Make the series. Copies of a shot are represented by the file that is kept of them."""
    matches, files = copies.shot_matches, copies.representative_files
    by_score = sorted(
        matches.neighbours, key=lambda image_id: (-compute_shot_score(files[image_id]), copies.keep_order[image_id])
    )
    order = {image_id: rank for rank, image_id in enumerate(by_score)}
    stars = make_component_stars(matches, order, lambda *_: True)  # a scope is about copies
    return [_make_series_group(star, copies, matches) for star in stars]


def _make_series_group(star: MatchStar, copies: CopyMatches, matches: MatchGraph) -> DuplicateGroup:
    """Make the group of a series, the best shot first."""
    files = [copies.representative_files[image_id] for image_id in (star.kept_id, *star.other_ids)]
    is_chosen = any(matches.is_preferred(star.kept_id, other_id) for other_id in star.other_ids)
    members = [
        GroupMember(
            file=files[0], is_kept=True, keep_reason=DECIDED_REASON if is_chosen else explain_shot(files[0], files)
        )
    ]
    for other_id, file in zip(star.other_ids, files[1:], strict=True):
        direct = matches.neighbours[other_id]
        pair = direct.get(star.kept_id) or next(iter(direct.values()))
        members.append(
            GroupMember(file=file, distance=pair.distance, reason=pair.reason, keep_reason=explain_shot(file, files))
        )
    decided = all(matches.is_decided_same(star.kept_id, other_id) for other_id in star.other_ids)
    return _assemble_group("series", members, matches.count_matches(star), decided=decided)


def _assemble_group(tier: Tier, members: list[GroupMember], matched: int | None, *, decided: bool) -> DuplicateGroup:
    """Add id and pair counts; matched None: all pairs match. The id depends on the paths, not on the kept file."""
    paths = "\0".join(sorted(member.file.path for member in members))
    group_id = hashlib.sha256(f"{tier}\0{paths}".encode(errors="surrogateescape")).hexdigest()[:16]
    possible = len(members) * (len(members) - 1) // 2
    return DuplicateGroup(
        id=group_id,
        tier=tier,
        members=tuple(members),
        matched=possible if matched is None else matched,
        possible=possible,
        decided=decided,
    )
