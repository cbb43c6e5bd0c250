"""Groups of copies. Tiers are never mixed and nothing is chained: each member matches the kept one directly."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from simile.dedup.grouping.findings import DECIDED_REASON, Findings
from simile.dedup.grouping.keep_rules import KeepRanking
from simile.dedup.grouping.matches import MatchGraph, MatchStar, make_component_stars, make_greedy_stars
from simile.dedup.records import TIERS, DuplicateGroup, GroupMember, ImageFile, ImagePair, Tier

GROUP_TIERS: tuple[Tier, ...] = ("bytes", "pixels", "near")
SAME_BYTES_REASON = "the same bytes"


@dataclass(frozen=True)
class CopyMatches:
    """What is a copy of what, decisions applied.

    stands: the file that each picture stands with, the one that is kept of equal bytes. order: of the pictures, the one
    to keep first. alike: stars of equal pixels. stood_for: what these don't keep, by the one that they keep; near
    copies are sought among the others only.
    """

    keep_ranking: KeepRanking
    representative_files: Mapping[int, ImageFile]
    keep_order: Mapping[int, int]
    pixel_matches: MatchGraph
    pixel_stars: Sequence[MatchStar]
    replaced_by: Mapping[int, int]
    near_matches: MatchGraph


def match_copies(
    findings: Findings,
    rules: Sequence[str] | None = None,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
) -> CopyMatches:
    """What groups are made of; see make_groups."""
    ranking = KeepRanking(findings.keep_rules if rules is None else rules, findings.uploads_folder)
    stands = {i: ranking.choose_kept(findings.exclude_links(files)) for i, files in findings.files.items() if files}
    order = {
        i: place for place, i in enumerate(sorted(stands, key=lambda image_id: ranking.get_sort_key(stands[image_id])))
    }
    pixels = _match_pixels(findings, decided_only=decided_only)
    alike = make_component_stars(pixels, order)
    stood_for = {image_id: star.kept_id for star in alike for image_id in star.other_ids}
    near = _match_near(findings, stood_for, threshold, decided_only=decided_only)
    return CopyMatches(ranking, stands, order, pixels, alike, stood_for, near)


def make_groups(
    findings: Findings,
    rules: Sequence[str] | None = None,
    tiers: Collection[str] = GROUP_TIERS,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
) -> list[DuplicateGroup]:
    """Groups by tier, then the nearest first. threshold: of near pairs, the run's if it is None, or if it is lower.

    rules: what to keep, those of the run if it is None.

    A picture with several files stands in a group of pixels or near copies with the file that its bytes group keeps;
    one that a group of equal pixels does not keep is stood for by the one that is kept, its near pairs count for that.
    decided_only: of pixels and near pairs only those that people called the same; equal bytes are as they are.
    Raises BadSetting for a rule that is none.
    """
    return build_groups(findings, match_copies(findings, rules, threshold, decided_only=decided_only), tiers)


def build_groups(findings: Findings, copies: CopyMatches, tiers: Collection[str] = GROUP_TIERS) -> list[DuplicateGroup]:
    """As make_groups."""
    groups: list[DuplicateGroup] = []
    if "bytes" in tiers:
        own = map(findings.exclude_links, findings.files.values())
        groups += [_make_bytes_group(files, copies.keep_ranking) for files in own if len(files) > 1]
    if "pixels" in tiers:
        groups += [_make_group("pixels", star, copies, copies.pixel_matches) for star in copies.pixel_stars]
    if "near" in tiers:
        groups += [
            _make_group("near", star, copies, copies.near_matches)
            for star in make_greedy_stars(copies.near_matches, copies.keep_order)
        ]
    return sorted(groups, key=_get_group_sort_key)


def add_linked_names(findings: Findings, copies: CopyMatches, groups: Sequence[DuplicateGroup]) -> list[DuplicateGroup]:
    """The groups, those of equal bytes with all names of their files: nothing is gained by a link, but it has a label.

    What has several names and one file only is a group then too. A group that was one keeps its id.
    """
    ids = {group.kept_member.file.image_id: group.id for group in groups if group.tier == "bytes"}
    linked = {i: files for i, files in findings.files.items() if len(findings.exclude_links(files)) < len(files)}
    named = {i: _make_bytes_group(files, copies.keep_ranking) for i, files in linked.items()}
    others = [group for group in groups if group.tier != "bytes" or group.kept_member.file.image_id not in named]
    return sorted(
        [*others, *(replace(group, id=ids.get(i, group.id)) for i, group in named.items())], key=_get_group_sort_key
    )


def _get_group_sort_key(group: DuplicateGroup) -> tuple[int, float, str]:
    return TIERS.index(group.tier), max(member.distance for member in group.members), group.kept_member.file.path


def _match_pixels(findings: Findings, *, decided_only: bool) -> MatchGraph:
    """Equal pixels are a fact, whatever people say: it shows when stars are made of them."""
    matches = MatchGraph(_list_decisions_by_id(findings), {})
    for pair in findings.pairs:
        if pair.tier == "pixels" and (not decided_only or matches.is_decided_same(pair.first, pair.second)):
            matches.add_pair(pair, pair.first, pair.second)
    return matches


def _match_near(
    findings: Findings, replaced_by: Mapping[int, int], threshold: float | None, *, decided_only: bool
) -> MatchGraph:
    matches = MatchGraph(_list_decisions_by_id(findings), replaced_by)
    bound = findings.get_effective_threshold(threshold)
    for pair in findings.pairs:
        first, second = replaced_by.get(pair.first, pair.first), replaced_by.get(pair.second, pair.second)
        if pair.tier != "near" or first == second or matches.is_decided_different(first, second):
            continue
        near_enough = not decided_only and (bound is None or pair.distance <= bound)
        if near_enough or matches.is_decided_same(first, second):
            matches.add_pair(pair, first, second)
    return matches


def _list_decisions_by_id(findings: Findings) -> list[tuple[int, int, bool, int | None]]:
    """(image id, image id, same, the one to keep) of the decisions on pictures that are known."""
    ids = {files[0].sha256: image_id for image_id, files in findings.files.items() if files}
    return [
        (ids[one], ids[two], said.same, None if said.keep_sha256 is None else ids[said.keep_sha256])
        for (one, two), said in findings.decisions.items()
        if one in ids and two in ids
    ]


def _make_bytes_group(files: Sequence[ImageFile], ranking: KeepRanking) -> DuplicateGroup:
    kept, *others = ranking.sort(files)
    members = [GroupMember(kept, True, 0.0, None, "", ranking.explain(kept, others[0]))]
    members += [GroupMember(file, False, 0.0, 1.0, SAME_BYTES_REASON, ranking.explain(kept, file)) for file in others]
    possible = len(files) * (len(files) - 1) // 2
    return DuplicateGroup(
        _compute_group_id("bytes", members), "bytes", tuple(members), possible, possible, decided=True
    )


def _make_group(tier: Tier, star: MatchStar, copies: CopyMatches, matches: MatchGraph) -> DuplicateGroup:
    others = sorted(star.other_ids, key=copies.keep_order.__getitem__)
    why = _explain_kept(star.kept_id, others[0], copies, matches)
    members = [GroupMember(copies.representative_files[star.kept_id], True, 0.0, None, "", why)]
    members += [_make_other_member(star.kept_id, other, copies, matches) for other in others]
    possible = len(members) * (len(members) - 1) // 2
    matched = possible if tier == "pixels" else matches.count_matches(star)
    decided = all(matches.is_decided_same(star.kept_id, other) for other in others)
    return DuplicateGroup(_compute_group_id(tier, members), tier, tuple(members), matched, possible, decided)


def _make_other_member(kept_id: int, other_id: int, copies: CopyMatches, matches: MatchGraph) -> GroupMember:
    # Equal pixels were found through a third, where the two are no pair: what was measured there holds here too.
    pair: ImagePair = matches.neighbours[other_id].get(kept_id) or next(iter(matches.neighbours[other_id].values()))
    why = _explain_kept(kept_id, other_id, copies, matches)
    return GroupMember(copies.representative_files[other_id], False, pair.distance, pair.agreement, pair.reason, why)


def _explain_kept(kept_id: int, other_id: int, copies: CopyMatches, matches: MatchGraph) -> str:
    if matches.is_preferred(kept_id, other_id):
        return DECIDED_REASON
    return copies.keep_ranking.explain(copies.representative_files[kept_id], copies.representative_files[other_id])


def _compute_group_id(tier: Tier, members: Sequence[GroupMember]) -> str:
    """The same as long as the files are the same, whichever is kept."""
    paths = "\0".join(sorted(member.file.path for member in members))
    return hashlib.sha256(f"{tier}\0{paths}".encode(errors="surrogateescape")).hexdigest()[:16]
