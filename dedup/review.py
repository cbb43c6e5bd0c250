"""The review of copies: groups as pairs to decide, in a list that stays the same while users decide.

A decision changes the groups: an image that was called different leaves, or another one is kept. Computing all groups
again after each decision would take seconds, and would move the list under the reader. So a review is a fixed list of
cases (groups of the moment when it began), and later decisions are applied to it: only the affected case is computed
again. `decided` of a case: nothing was open when the review began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import PurePath

from simile.dedup.grouping.findings import FilePair, Findings, find_decision
from simile.dedup.grouping.groups import SAME_BYTES_REASON, make_groups
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.grouping.matches import find_component_roots
from simile.dedup.records import Decision, DuplicateGroup, GroupMember, ImageFile, ImagePair, Tier, sort_pair

_NOT_COMPARED_NOTE = "{} stays: it was not found to be a copy of the file that is kept now."
_UNDECIDED_NOTE = "Both files stay until you decide. About {}: {}."
_SERIES_NOTE = "Best shot: {} ({}). The other one: {}. Both stay, except in a plan of simile dedup --series keep-best."
_PROTECTED_NOTE = "Both files stay: {} is in an archive or was uploaded, and no plan touches such files."

DecisionsByHashes = Mapping[tuple[str, str], Decision]  # by (first_sha256, second_sha256)


@dataclass(frozen=True, kw_only=True)
class ReviewQuestion:
    """One pair of a case."""

    kept_file: ImageFile
    other_file: ImageFile
    position: int  # of `other_file` among the case's members
    tier: Tier
    distance: float
    agreement: float | None
    reason: str
    keep_reason: str  # why `kept_file` is kept
    decision: Decision | None  # the users' decision on the two images, if there is one
    is_removed: bool  # whether a plan would remove `other_file` and keep `kept_file`; otherwise both stay
    note: str = ""  # why both stay although they are copies; empty if that needs no explanation
    needs_decision: bool = True  # False for equal bytes

    @property
    def is_open(self) -> bool:
        """Return whether the pair waits for a decision."""
        return self.needs_decision and self.decision is None


class DuplicateReview:
    """The cases of one moment and the decisions since then. Safe to share between threads."""

    def __init__(self, findings: Findings, cases: Sequence[DuplicateGroup], threshold: float | None) -> None:
        self.findings, self.cases, self.threshold = findings, tuple(cases), threshold
        self.positions = {case.id: position for position, case in enumerate(self.cases)}
        self._pairs_by_image: defaultdict[int, list[ImagePair]] = defaultdict(list)
        for pair in findings.pairs:
            self._pairs_by_image[pair.first].append(pair)
            self._pairs_by_image[pair.second].append(pair)
        # Equal pixels: a run stores them with one image of the class only.
        pixel_pairs = ((pair.first, pair.second) for pair in findings.pairs if pair.tier == "pixels")
        self._pixel_classes = find_component_roots(pixel_pairs)
        self._images_by_class: defaultdict[int, set[int]] = defaultdict(set)
        for image_id, root in self._pixel_classes.items():
            self._images_by_class[root].add(image_id)
        # The questions of each case, with the decisions that they depend on. Shared by the copies of this review.
        self._question_cache: dict[str, tuple[tuple[Decision, ...], tuple[ReviewQuestion, ...]]] = {}
        self._decisions_by_hashes: DecisionsByHashes
        self._decision_partners: defaultdict[str, set[str]]  # hash -> the other hash of each decision on it
        self._set_decisions(findings.decisions)

    def with_decisions(self, decisions: DecisionsByHashes) -> DuplicateReview:
        """Return a review of the same cases with these decisions instead of the earlier ones."""
        updated = copy(self)
        updated._set_decisions(decisions)
        return updated

    def _set_decisions(self, decisions: DecisionsByHashes) -> None:
        self._decisions_by_hashes, self._decision_partners = decisions, defaultdict(set)
        for first, second in decisions:
            self._decision_partners[first].add(second)
            self._decision_partners[second].add(first)

    def get_questions(self, case: DuplicateGroup) -> tuple[ReviewQuestion, ...]:
        """Return the pairs of a case with the current decisions, each with a kept file."""
        decisions = self._get_decisions(case)
        cached = self._question_cache.get(case.id)
        if cached is None or cached[0] != decisions:
            cached = self._question_cache[case.id] = decisions, self._make_questions(case)
        return cached[1]

    def is_open(self, case: DuplicateGroup) -> bool:
        """Return whether a pair of the case waits for a decision."""
        if case.tier == "bytes":
            return False
        return not self._get_decisions(case) or any(question.is_open for question in self.get_questions(case))

    def get_progress(self) -> tuple[int, int]:
        """Return the number of decided pairs in the whole home, and of open pairs in these cases."""
        open_count = 0
        for case in self.cases:
            if case.tier != "bytes":
                has_decisions = bool(self._get_decisions(case))  # without decisions every pair is open
                open_count += (
                    sum(question.is_open for question in self.get_questions(case))
                    if has_decisions
                    else len(case.members) - 1
                )
        return len(self._decisions_by_hashes), open_count

    def _get_decisions(self, case: DuplicateGroup) -> tuple[Decision, ...]:
        """Return the decisions on pairs of the case's files."""
        hashes = {file.sha256 for file in case.files}
        keys = {sort_pair(sha, other) for sha in hashes for other in self._decision_partners.get(sha, set()) & hashes}
        return tuple(self._decisions_by_hashes[key] for key in sorted(keys))

    def _make_questions(self, case: DuplicateGroup) -> tuple[ReviewQuestion, ...]:
        """Group the case's images again with the current decisions, and make a question of each pair."""
        if case.tier == "bytes":
            kept = case.members[0]
            return tuple(
                self._make_question(case, kept, member, position, is_removed=True)
                for position, member in enumerate(case.members[1:], 1)
            )
        positions = {file.sha256: position for position, file in enumerate(case.files)}
        questions: dict[int, ReviewQuestion] = {}
        kept_positions: set[int] = set()
        # Files that a group would remove.
        for group in self._regroup(case):
            members = [member for member in group.members if member.file.sha256 in positions]
            if len(members) < 2 or not members[0].is_kept:
                continue
            kept_positions.add(positions[members[0].file.sha256])
            for member in members[1:]:
                position = positions[member.file.sha256]
                questions[position] = self._make_question(case, members[0], member, position, is_removed=True)
        # Files that are in no group now: both files of the pair stay.
        for position, member in enumerate(case.members):
            if position not in questions and position not in kept_positions and (position > 0 or kept_positions):
                partner = self._find_partner(case, position, kept_positions)
                questions[position] = self._make_question(case, partner, member, position, is_removed=False)
        return tuple(questions[position] for position in sorted(questions))

    def _find_partner(self, case: DuplicateGroup, position: int, kept_positions: set[int]) -> GroupMember:
        """Choose the member that is shown beside a file without a group: a pair if possible, kept files first."""
        own = case.members[position].file
        preferred = [case.members[index] for index in (*sorted(kept_positions), 0) if index != position]
        candidates = preferred + [member for member in case.members if member.file is not own]
        return next((member for member in candidates if self._find_pair(member.file, own)), candidates[0])

    def _make_question(
        self,
        case: DuplicateGroup,
        kept_member: GroupMember,
        other_member: GroupMember,
        position: int,
        *,
        is_removed: bool,
    ) -> ReviewQuestion:
        """Make the question of two members.

        Args:
            is_removed: Whether the groups remove the other file; protected files stay anyway.
        """
        kept, other = kept_member.file, other_member.file
        needs_decision = case.tier != "bytes"
        decision = self._decisions_by_hashes.get(sort_pair(kept.sha256, other.sha256)) if needs_decision else None
        # What was measured of the pair stays true whatever users decide.
        pair = self._find_pair(kept, other) if needs_decision else None
        member = next((member for member in case.members if member.file.sha256 == other.sha256), other_member)
        note = ""
        if is_removed:
            protected = [file for file in (kept, other) if is_protected(file.path, self.findings.uploads_folder)]
            note = _PROTECTED_NOTE.format(PurePath(protected[0].path).name) if protected else ""
            if not note and case.tier == "series":
                best = PurePath(kept.path).name
                note = _SERIES_NOTE.format(best, kept_member.keep_reason, other_member.keep_reason)
            if not note and other_member.undecided and decision is None:
                note = _UNDECIDED_NOTE.format(PurePath(other.path).name, other_member.undecided)
        elif decision is not None and decision.same:
            note = _NOT_COMPARED_NOTE.format(PurePath(other.path).name)
        return ReviewQuestion(
            kept_file=kept,
            other_file=other,
            position=position,
            tier=case.tier,
            distance=pair.distance if pair else member.distance,
            agreement=(pair.agreement if pair else member.agreement) if needs_decision else None,
            reason=pair.reason if pair else member.reason or (SAME_BYTES_REASON if not needs_decision else ""),
            keep_reason=other_member.keep_reason or kept_member.keep_reason,
            decision=decision,
            is_removed=is_removed and not note,
            note=note,
            needs_decision=needs_decision,
        )

    def _find_pair(self, first_file: ImageFile, second_file: ImageFile) -> ImagePair | None:
        ids = {first_file.image_id, second_file.image_id}
        pairs = self._pairs_by_image.get(first_file.image_id or 0, ())
        return next((pair for pair in pairs if {pair.first, pair.second} == ids), None)

    def _regroup(self, case: DuplicateGroup) -> list[DuplicateGroup]:
        """Make the current groups of the case's images and images with the same pixels, without other images."""
        ids = {file.image_id for file in case.files if file.image_id is not None}
        ids |= {
            other for image_id in ids for other in self._images_by_class.get(self._pixel_classes.get(image_id, 0), ())
        }
        files = {image_id: self.findings.files[image_id] for image_id in ids if image_id in self.findings.files}
        files |= {file.image_id: (file,) for file in case.files if file.image_id and file.image_id not in files}
        hashes = {file.sha256 for image_files in files.values() for file in image_files}
        pairs = {
            pair
            for image_id in ids
            for pair in self._pairs_by_image.get(image_id, ())
            if {pair.first, pair.second} <= ids
        }
        # A similar pair that users decided to be the same counts as near.
        if case.tier == "similar" and any(decision.same for decision in self._get_decisions(case)):
            (first, second), other = sorted(file.image_id or 0 for file in case.files), case.members[1]
            pairs.add(ImagePair(first, second, "near", other.distance, other.agreement, other.reason))
        case_findings = replace(
            self.findings,
            pairs=tuple(sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))),
            files=files,
            decisions={key: decision for key, decision in self._decisions_by_hashes.items() if set(key) <= hashes},
        )
        tiers: tuple[Tier, ...] = (case.tier,) if case.tier in ("pixels", "series") else ("pixels", "near")
        groups = make_groups(case_findings, tiers=tiers, threshold=self.threshold)
        return [group for group in groups if case.tier != "near" or group.tier == "near"]


def iterate_different_cases(findings: Findings, tiers: Collection[Tier]) -> Iterator[DuplicateGroup]:
    """Yield the pairs that users decided to be different: they are in no group, but can be decided again."""
    for pair in findings.pairs:
        if pair.tier in tiers and {pair.first, pair.second} <= findings.files.keys():
            first, second = (findings.files[image_id][0] for image_id in (pair.first, pair.second))
            decision = find_decision(findings, first.sha256, second.sha256)
            if decision is not None and not decision.same:
                yield _make_pair_case("different", pair.tier, pair, (first, second), decided=True)


def make_similar_case(file_pair: FilePair) -> DuplicateGroup:
    """Make a case of two similar images: nothing is removed unless a user decides that they are the same."""
    files, decided = (file_pair.first, file_pair.second), file_pair.decision is not None
    return _make_pair_case("similar", "similar", file_pair.pair, files, decided=decided)


def _make_pair_case(
    prefix: str, tier: Tier, pair: ImagePair, files: tuple[ImageFile, ImageFile], *, decided: bool
) -> DuplicateGroup:
    """Make a case of one pair; the first file is the kept one."""
    members = (
        GroupMember(file=files[0], is_kept=True),
        GroupMember(file=files[1], distance=pair.distance, agreement=pair.agreement, reason=pair.reason),
    )
    case_id = f"{prefix}-{pair.first}-{pair.second}"
    return DuplicateGroup(id=case_id, tier=tier, members=members, matched=0, possible=1, decided=decided)
