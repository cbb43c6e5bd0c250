"""What people are asked: groups as pairs, in a list that stays as it is while they decide.

A decision changes the groups: what was called different leaves, another one is kept. Making all groups anew after each
would take seconds, and would move the list under the reader. So a review is of one moment, and the decisions made
since are laid over it: only the case that they concern is put together anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import PurePath

from simile.dedup.grouping.findings import FilePair, Findings, find_decision
from simile.dedup.grouping.groups import SAME_BYTES_REASON, make_groups
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.records import Decision, DuplicateGroup, GroupMember, ImageFile, ImagePair, Tier

_NOT_COMPARED_NOTE = "{} stays: it was not found to be a copy of the one that is kept now."
_PROTECTED_NOTE = "Both stay: {} lies in an archive or was uploaded, and no plan touches such files."

DecisionsByHashes = Mapping[tuple[str, str], Decision]  # by (first_sha256, second_sha256)


@dataclass(frozen=True)
class ReviewCase:
    """Pictures that hang together, the kept one of that moment first. `decided`: nothing was to ask then."""

    id: str
    tier: Tier
    members: tuple[GroupMember, ...]
    decided: bool

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return tuple(member.file for member in self.members)


@dataclass(frozen=True)
class ReviewQuestion:
    """One pair. position: of `other` among the case's members. `decision`: what was said of the two, if anything.

    removed: whether `other` would go, because `kept` stays; if not, both stay. keep_reason: why that one is kept.
    note: why both stay although they are copies, "" where that needs no word.
    matters: whether it can be decided; same bytes need no opinion.
    """

    kept_file: ImageFile
    other_file: ImageFile
    position: int
    tier: Tier
    distance: float
    agreement: float | None
    reason: str
    keep_reason: str
    decision: Decision | None
    is_removed: bool
    note: str = ""
    needs_decision: bool = True

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return self.needs_decision and self.decision is None


class DuplicateReview:
    """The cases of one moment, and what was decided since. Safe to share between threads."""

    def __init__(self, findings: Findings, cases: Sequence[ReviewCase], threshold: float | None) -> None:
        self.findings, self.cases, self.threshold = findings, tuple(cases), threshold
        self.positions = {case.id: at for at, case in enumerate(self.cases)}
        self._pairs_by_image: defaultdict[int, list[ImagePair]] = defaultdict(list)
        for pair in findings.pairs:
            self._pairs_by_image[pair.first].append(pair)
            self._pairs_by_image[pair.second].append(pair)
        # Answers of `questions` by case, each with the decisions that it rests on: shared with the copies of this.
        self._question_cache: dict[str, tuple[tuple[Decision, ...], tuple[ReviewQuestion, ...]]] = {}
        self._decisions_by_hashes: DecisionsByHashes
        self._decision_partners: defaultdict[
            str, set[str]
        ]  # sha256 -> those of which something was said together with it
        self._set_decisions(findings.decisions)

    def with_decisions(self, decisions: DecisionsByHashes) -> DuplicateReview:
        """The same cases with these decisions laid over them, in place of those before."""
        later = copy(self)
        later._set_decisions(decisions)
        return later

    def _set_decisions(self, decisions: DecisionsByHashes) -> None:
        self._decisions_by_hashes, self._decision_partners = decisions, defaultdict(set)
        for first, second in decisions:
            self._decision_partners[first].add(second)
            self._decision_partners[second].add(first)

    def get_questions(self, case: ReviewCase) -> tuple[ReviewQuestion, ...]:
        """The pairs of a case as they stand now, each with one that is kept."""
        said = self._get_decisions(case)
        known = self._question_cache.get(case.id)
        if known is None or known[0] != said:
            known = self._question_cache[case.id] = said, self._make_questions(case)
        return known[1]

    def is_open(self, case: ReviewCase) -> bool:
        """Whether a pair of it waits for an answer."""
        if case.tier == "bytes":
            return False
        return not self._get_decisions(case) or any(question.is_open for question in self.get_questions(case))

    def get_progress(self) -> tuple[int, int]:
        """How many pairs were decided so far, in the whole home, and how many of these cases wait for an answer."""
        waiting = 0
        for case in self.cases:
            if case.tier != "bytes":
                touched = self._get_decisions(case)
                waiting += sum(one.is_open for one in self.get_questions(case)) if touched else len(case.members) - 1
        return len(self._decisions_by_hashes), waiting

    def _get_decisions(self, case: ReviewCase) -> tuple[Decision, ...]:
        shas = {file.sha256 for file in case.files}
        keys = {
            (min(one, two), max(one, two))
            for one in shas
            for two in self._decision_partners.get(one, ())
            if two in shas
        }
        return tuple(self._decisions_by_hashes[key] for key in sorted(keys))

    def _make_questions(self, case: ReviewCase) -> tuple[ReviewQuestion, ...]:
        if case.tier == "bytes":
            return tuple(self._make_bytes_question(case, at) for at in range(1, len(case.members)))
        places = {file.sha256: at for at, file in enumerate(case.files)}
        found: dict[int, ReviewQuestion] = {}
        keepers: set[int] = set()
        for group in self._regroup(case):
            inside = [member for member in group.members if member.file.sha256 in places]
            if len(inside) < 2 or not inside[0].is_kept:
                continue
            keepers.add(places[inside[0].file.sha256])
            for member in inside[1:]:
                at = places[member.file.sha256]
                found[at] = self._make_question(case, inside[0], member, at, is_removed=True)
        for at, member in enumerate(case.members):
            if at not in found and at not in keepers and (at > 0 or keepers):
                beside = self._find_partner(case, at, keepers)
                found[at] = self._make_question(case, beside, member, at, is_removed=False)
        return tuple(found[at] for at in sorted(found))

    def _find_partner(self, case: ReviewCase, position: int, kept_positions: set[int]) -> GroupMember:
        """Who a picture that is in no group now is shown with: one that it was found alike with, best a kept one."""
        own = case.members[position].file
        first = [case.members[place] for place in (*sorted(kept_positions), 0) if place != position]
        others = first + [member for member in case.members if member.file is not own]
        return next((member for member in others if self._find_pair(member.file, own)), others[0])

    def _make_bytes_question(self, case: ReviewCase, position: int) -> ReviewQuestion:
        kept, other = case.members[0], case.members[position]
        why, note = other.keep_reason or kept.keep_reason, self._make_protected_note(kept.file, other.file)
        reason = other.reason or SAME_BYTES_REASON
        return ReviewQuestion(
            kept.file,
            other.file,
            position,
            "bytes",
            0.0,
            None,
            reason,
            why,
            None,
            is_removed=not note,
            note=note,
            needs_decision=False,
        )

    def _make_question(
        self, case: ReviewCase, kept_member: GroupMember, other_member: GroupMember, position: int, *, is_removed: bool
    ) -> ReviewQuestion:
        key = (
            min(kept_member.file.sha256, other_member.file.sha256),
            max(kept_member.file.sha256, other_member.file.sha256),
        )
        decision = self._decisions_by_hashes.get(key)
        # Called the same or not, what was found of the two stays true.
        pair = self._find_pair(kept_member.file, other_member.file)
        note = self._make_protected_note(kept_member.file, other_member.file) if is_removed else ""
        if not is_removed and decision is not None and decision.same:
            note = _NOT_COMPARED_NOTE.format(PurePath(other_member.file.path).name)
        told = next((one for one in case.members if one.file.sha256 == other_member.file.sha256), other_member)
        return ReviewQuestion(
            kept_file=kept_member.file,
            other_file=other_member.file,
            position=position,
            tier=case.tier,
            distance=pair.distance if pair else told.distance,
            agreement=pair.agreement if pair else told.agreement,
            reason=pair.reason if pair else told.reason,
            keep_reason=other_member.keep_reason or kept_member.keep_reason,
            decision=decision,
            is_removed=is_removed and not note,
            note=note,
        )

    def _make_protected_note(self, *files: ImageFile) -> str:
        fixed = [file for file in files if is_protected(file.path, self.findings.uploads_folder)]
        return _PROTECTED_NOTE.format(PurePath(fixed[0].path).name) if fixed else ""

    def _find_pair(self, first_file: ImageFile, second_file: ImageFile) -> ImagePair | None:
        ids = {first_file.image_id, second_file.image_id}
        among = self._pairs_by_image.get(first_file.image_id or 0, ())
        return next((pair for pair in among if {pair.first, pair.second} == ids), None)

    def _add_pixel_copies(self, ids: set[int]) -> set[int]:
        """Those that have the pixels of these: a run notes equal pixels with one of their number only."""
        found, new = set(ids), set(ids)
        while new:
            pairs = [
                pair for image_id in new for pair in self._pairs_by_image.get(image_id, ()) if pair.tier == "pixels"
            ]
            new = {mate for pair in pairs for mate in (pair.first, pair.second)} - found
            found |= new
        return found

    def _regroup(self, case: ReviewCase) -> list[DuplicateGroup]:
        """The groups that these pictures make now, alone among themselves and those with the same pixels."""
        ids = {file.image_id for file in case.files if file.image_id is not None}
        ids |= self._add_pixel_copies(ids)
        files = {image_id: self.findings.files[image_id] for image_id in ids if image_id in self.findings.files}
        files |= {file.image_id: (file,) for file in case.files if file.image_id not in files and file.image_id}
        shas = {file.sha256 for found in files.values() for file in found}
        within = {
            pair
            for image_id in ids
            for pair in self._pairs_by_image.get(image_id, ())
            if {pair.first, pair.second} <= ids
        }
        within |= _make_decided_pairs(case, self._get_decisions(case))
        local = replace(
            self.findings,
            pairs=tuple(sorted(within, key=lambda pair: (pair.distance, pair.first, pair.second))),
            files=files,
            decisions={key: said for key, said in self._decisions_by_hashes.items() if set(key) <= shas},
        )
        tiers: tuple[Tier, ...] = ("pixels",) if case.tier == "pixels" else ("pixels", "near")
        groups = make_groups(local, tiers=tiers, threshold=self.threshold)
        return [group for group in groups if case.tier != "near" or group.tier == "near"]


def make_cases(groups: Iterable[DuplicateGroup]) -> list[ReviewCase]:
    """Groups as cases."""
    return [ReviewCase(group.id, group.tier, group.members, group.decided) for group in groups]


def iterate_different_cases(findings: Findings, tiers: Collection[Tier]) -> Iterator[ReviewCase]:
    """Pairs that were found, but that people called different: no group has them, and somebody may think again."""
    for pair in findings.pairs:
        if pair.tier not in tiers or not {pair.first, pair.second} <= findings.files.keys():
            continue
        first, second = (findings.files[image_id][0] for image_id in (pair.first, pair.second))
        said = find_decision(findings, first.sha256, second.sha256)
        if said is not None and not said.same:
            members = GroupMember(first, True, 0.0, None, "", ""), _make_compared_member(second, pair)
            yield ReviewCase(f"different-{pair.first}-{pair.second}", pair.tier, members, decided=True)


def make_similar_case(file_pair: FilePair) -> ReviewCase:
    """Two pictures that are only similar: nothing is removed unless somebody calls them the same."""
    members = (
        GroupMember(file_pair.first, True, 0.0, None, "", ""),
        _make_compared_member(file_pair.second, file_pair.pair),
    )
    name = f"similar-{file_pair.pair.first}-{file_pair.pair.second}"
    return ReviewCase(name, "similar", members, file_pair.decision is not None)


def _make_compared_member(file: ImageFile, pair: ImagePair) -> GroupMember:
    return GroupMember(file, False, pair.distance, pair.agreement, pair.reason, "")


def _make_decided_pairs(case: ReviewCase, decisions: Sequence[Decision]) -> set[ImagePair]:
    """The pair of a similar case that somebody called the same: it counts as near from then on."""
    if case.tier != "similar" or not any(decision.same for decision in decisions):
        return set()
    (first, second), other = sorted(file.image_id or 0 for file in case.files), case.members[1]
    return {ImagePair(first, second, "near", other.distance, other.agreement, other.reason)}
