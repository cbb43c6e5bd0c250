"""Groups of copies. Tiers are never mixed and nothing is chained: each member matches the kept one directly."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from simile.dedup.grouping.findings import SAID, Findings
from simile.dedup.grouping.keep_rules import Ranking
from simile.dedup.grouping.matches import Matches, Star, stars, whole_stars
from simile.dedup.records import TIERS, Group, Member, Pair, PictureFile, Tier

GROUPED: tuple[Tier, ...] = ("bytes", "pixels", "near")
SAME_BYTES = "the same bytes"


@dataclass(frozen=True)
class Copies:
    """What is a copy of what, decisions applied.

    stands: the file that each picture stands with, the one that is kept of equal bytes. order: of the pictures, the one
    to keep first. alike: stars of equal pixels. stood_for: what these don't keep, by the one that they keep; near
    copies are sought among the others only.
    """

    ranking: Ranking
    stands: Mapping[int, PictureFile]
    order: Mapping[int, int]
    pixels: Matches
    alike: Sequence[Star]
    stood_for: Mapping[int, int]
    near: Matches


def sort_copies(
    findings: Findings,
    rules: Sequence[str] | None = None,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
) -> Copies:
    """What groups are made of; see make_groups."""
    ranking = Ranking(findings.keep if rules is None else rules, findings.uploads)
    stands = {i: ranking.best(findings.independent(files)) for i, files in findings.files.items() if files}
    order = {i: place for place, i in enumerate(sorted(stands, key=lambda image_id: ranking.key(stands[image_id])))}
    pixels = _pixels(findings, decided_only=decided_only)
    alike = whole_stars(pixels, order)
    stood_for = {image_id: star.kept for star in alike for image_id in star.others}
    near = _near(findings, stood_for, threshold, decided_only=decided_only)
    return Copies(ranking, stands, order, pixels, alike, stood_for, near)


def make_groups(
    findings: Findings,
    rules: Sequence[str] | None = None,
    tiers: Collection[str] = GROUPED,
    threshold: float | None = None,
    *,
    decided_only: bool = False,
) -> list[Group]:
    """Groups by tier, then the nearest first. threshold: of near pairs, the run's if it is None, or if it is lower.

    rules: what to keep, those of the run if it is None.

    A picture with several files stands in a group of pixels or near copies with the file that its bytes group keeps;
    one that a group of equal pixels does not keep is stood for by the one that is kept, its near pairs count for that.
    decided_only: of pixels and near pairs only those that people called the same; equal bytes are as they are.
    Raises BadSetting for a rule that is none.
    """
    return groups_of(findings, sort_copies(findings, rules, threshold, decided_only=decided_only), tiers)


def groups_of(findings: Findings, copies: Copies, tiers: Collection[str] = GROUPED) -> list[Group]:
    """As make_groups."""
    groups: list[Group] = []
    if "bytes" in tiers:
        own = map(findings.independent, findings.files.values())
        groups += [_bytes_group(files, copies.ranking) for files in own if len(files) > 1]
    if "pixels" in tiers:
        groups += [_group("pixels", star, copies, copies.pixels) for star in copies.alike]
    if "near" in tiers:
        groups += [_group("near", star, copies, copies.near) for star in stars(copies.near, copies.order)]
    return sorted(groups, key=_place)


def with_every_name(findings: Findings, copies: Copies, groups: Sequence[Group]) -> list[Group]:
    """The groups, those of equal bytes with all names of their files: nothing is gained by a link, but it has a label.

    What has several names and one file only is a group then too. A group that was one keeps its id.
    """
    ids = {group.keep.file.image_id: group.id for group in groups if group.tier == "bytes"}
    linked = {i: files for i, files in findings.files.items() if len(findings.independent(files)) < len(files)}
    named = {i: _bytes_group(files, copies.ranking) for i, files in linked.items()}
    others = [group for group in groups if group.tier != "bytes" or group.keep.file.image_id not in named]
    return sorted([*others, *(replace(group, id=ids.get(i, group.id)) for i, group in named.items())], key=_place)


def _place(group: Group) -> tuple[int, float, str]:
    return TIERS.index(group.tier), max(member.distance for member in group.members), group.keep.file.path


def _pixels(findings: Findings, *, decided_only: bool) -> Matches:
    """Equal pixels are a fact, whatever people say: it shows when stars are made of them."""
    matches = Matches(_decisions_by_id(findings), {})
    for pair in findings.pairs:
        if pair.tier == "pixels" and (not decided_only or matches.is_same(pair.first, pair.second)):
            matches.add(pair, pair.first, pair.second)
    return matches


def _near(findings: Findings, stood_for: Mapping[int, int], threshold: float | None, *, decided_only: bool) -> Matches:
    matches = Matches(_decisions_by_id(findings), stood_for)
    bound = findings.reach(threshold)
    for pair in findings.pairs:
        first, second = stood_for.get(pair.first, pair.first), stood_for.get(pair.second, pair.second)
        if pair.tier != "near" or first == second or matches.is_different(first, second):
            continue
        near_enough = not decided_only and (bound is None or pair.distance <= bound)
        if near_enough or matches.is_same(first, second):
            matches.add(pair, first, second)
    return matches


def _decisions_by_id(findings: Findings) -> list[tuple[int, int, bool, int | None]]:
    """(image id, image id, same, the one to keep) of the decisions on pictures that are known."""
    ids = {files[0].sha256: image_id for image_id, files in findings.files.items() if files}
    return [
        (ids[one], ids[two], said.same, None if said.keep_sha256 is None else ids[said.keep_sha256])
        for (one, two), said in findings.decisions.items()
        if one in ids and two in ids
    ]


def _bytes_group(files: Sequence[PictureFile], ranking: Ranking) -> Group:
    kept, *others = ranking.sorted(files)
    members = [Member(kept, True, 0.0, None, "", ranking.why(kept, others[0]))]
    members += [Member(file, False, 0.0, 1.0, SAME_BYTES, ranking.why(kept, file)) for file in others]
    possible = len(files) * (len(files) - 1) // 2
    return Group(_id("bytes", members), "bytes", tuple(members), possible, possible, decided=True)


def _group(tier: Tier, star: Star, copies: Copies, matches: Matches) -> Group:
    others = sorted(star.others, key=copies.order.__getitem__)
    why = _why(star.kept, others[0], copies, matches)
    members = [Member(copies.stands[star.kept], True, 0.0, None, "", why)]
    members += [_other(star.kept, other, copies, matches) for other in others]
    possible = len(members) * (len(members) - 1) // 2
    matched = possible if tier == "pixels" else matches.among(star)
    decided = all(matches.is_same(star.kept, other) for other in others)
    return Group(_id(tier, members), tier, tuple(members), matched, possible, decided)


def _other(kept: int, other: int, copies: Copies, matches: Matches) -> Member:
    # Equal pixels were found through a third, where the two are no pair: what was measured there holds here too.
    pair: Pair = matches.of[other].get(kept) or next(iter(matches.of[other].values()))
    why = _why(kept, other, copies, matches)
    return Member(copies.stands[other], False, pair.distance, pair.agreement, pair.reason, why)


def _why(kept: int, other: int, copies: Copies, matches: Matches) -> str:
    if matches.prefers(kept, other):
        return SAID
    return copies.ranking.why(copies.stands[kept], copies.stands[other])


def _id(tier: Tier, members: Sequence[Member]) -> str:
    """The same as long as the files are the same, whichever is kept."""
    paths = "\0".join(sorted(member.file.path for member in members))
    return hashlib.sha256(f"{tier}\0{paths}".encode(errors="surrogateescape")).hexdigest()[:16]
