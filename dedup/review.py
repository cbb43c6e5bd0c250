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

from simile.dedup.grouping.findings import Findings, FoundPair, find_decision
from simile.dedup.grouping.groups import SAME_BYTES, make_groups
from simile.dedup.grouping.keep_rules import is_fixed
from simile.dedup.records import Decision, Group, Member, Pair, PictureFile, Tier

_NOT_COMPARED = "{} stays: it was not found to be a copy of the one that is kept now."
_FIXED = "Both stay: {} lies in an archive or was uploaded, and no plan touches such files."

Decisions = Mapping[tuple[str, str], Decision]  # by (first_sha256, second_sha256)


@dataclass(frozen=True)
class Case:
    """Pictures that hang together, the kept one of that moment first. `decided`: nothing was to ask then."""

    id: str
    tier: Tier
    members: tuple[Member, ...]
    decided: bool

    @property
    def files(self) -> tuple[PictureFile, ...]:
        return tuple(member.file for member in self.members)


@dataclass(frozen=True)
class Question:
    """One pair. position: of `other` among the case's members. `decision`: what was said of the two, if anything.

    removed: whether `other` would go, because `kept` stays; if not, both stay. keep_reason: why that one is kept.
    note: why both stay although they are copies, "" where that needs no word.
    matters: whether it can be decided; same bytes need no opinion.
    """

    kept: PictureFile
    other: PictureFile
    position: int
    tier: Tier
    distance: float
    agreement: float | None
    reason: str
    keep_reason: str
    decision: Decision | None
    removed: bool
    note: str = ""
    matters: bool = True

    @property
    def open(self) -> bool:
        """Whether it waits for an answer."""
        return self.matters and self.decision is None


class Review:
    """The cases of one moment, and what was decided since. Safe to share between threads."""

    def __init__(self, findings: Findings, cases: Sequence[Case], threshold: float | None) -> None:
        self.findings, self.cases, self.threshold = findings, tuple(cases), threshold
        self.places = {case.id: at for at, case in enumerate(self.cases)}
        self._pairs: defaultdict[int, list[Pair]] = defaultdict(list)
        for pair in findings.pairs:
            self._pairs[pair.first].append(pair)
            self._pairs[pair.second].append(pair)
        # Answers of `questions` by case, each with the decisions that it rests on: shared with the copies of this.
        self._known: dict[str, tuple[tuple[Decision, ...], tuple[Question, ...]]] = {}
        self._decisions: Decisions
        self._spoken: defaultdict[str, set[str]]  # sha256 -> those of which something was said together with it
        self._lay(findings.decisions)

    def with_decisions(self, decisions: Decisions) -> Review:
        """The same cases with these decisions laid over them, in place of those before."""
        later = copy(self)
        later._lay(decisions)
        return later

    def _lay(self, decisions: Decisions) -> None:
        self._decisions, self._spoken = decisions, defaultdict(set)
        for first, second in decisions:
            self._spoken[first].add(second)
            self._spoken[second].add(first)

    def questions(self, case: Case) -> tuple[Question, ...]:
        """The pairs of a case as they stand now, each with one that is kept."""
        said = self._said(case)
        known = self._known.get(case.id)
        if known is None or known[0] != said:
            known = self._known[case.id] = said, self._ask(case)
        return known[1]

    def is_open(self, case: Case) -> bool:
        """Whether a pair of it waits for an answer."""
        if case.tier == "bytes":
            return False
        return not self._said(case) or any(question.open for question in self.questions(case))

    def progress(self) -> tuple[int, int]:
        """How many pairs were decided so far, in the whole home, and how many of these cases wait for an answer."""
        waiting = 0
        for case in self.cases:
            if case.tier != "bytes":
                touched = self._said(case)
                waiting += sum(one.open for one in self.questions(case)) if touched else len(case.members) - 1
        return len(self._decisions), waiting

    def _said(self, case: Case) -> tuple[Decision, ...]:
        shas = {file.sha256 for file in case.files}
        keys = {(min(one, two), max(one, two)) for one in shas for two in self._spoken.get(one, ()) if two in shas}
        return tuple(self._decisions[key] for key in sorted(keys))

    def _ask(self, case: Case) -> tuple[Question, ...]:
        if case.tier == "bytes":
            return tuple(self._of_bytes(case, at) for at in range(1, len(case.members)))
        places = {file.sha256: at for at, file in enumerate(case.files)}
        found: dict[int, Question] = {}
        keepers: set[int] = set()
        for group in self._regroup(case):
            inside = [member for member in group.members if member.file.sha256 in places]
            if len(inside) < 2 or not inside[0].keep:
                continue
            keepers.add(places[inside[0].file.sha256])
            for member in inside[1:]:
                at = places[member.file.sha256]
                found[at] = self._question(case, inside[0], member, at, removed=True)
        for at, member in enumerate(case.members):
            if at not in found and at not in keepers and (at > 0 or keepers):
                beside = self._beside(case, at, keepers)
                found[at] = self._question(case, beside, member, at, removed=False)
        return tuple(found[at] for at in sorted(found))

    def _beside(self, case: Case, at: int, keepers: set[int]) -> Member:
        """Who a picture that is in no group now is shown with: one that it was found alike with, best a kept one."""
        own = case.members[at].file
        first = [case.members[place] for place in (*sorted(keepers), 0) if place != at]
        others = first + [member for member in case.members if member.file is not own]
        return next((member for member in others if self._pair(member.file, own)), others[0])

    def _of_bytes(self, case: Case, at: int) -> Question:
        kept, other = case.members[0], case.members[at]
        why, note = other.keep_reason or kept.keep_reason, self._note(kept.file, other.file)
        reason = other.reason or SAME_BYTES
        return Question(
            kept.file, other.file, at, "bytes", 0.0, None, reason, why, None, removed=not note, note=note, matters=False
        )

    def _question(self, case: Case, kept: Member, other: Member, at: int, *, removed: bool) -> Question:
        key = min(kept.file.sha256, other.file.sha256), max(kept.file.sha256, other.file.sha256)
        decision = self._decisions.get(key)
        # Called the same or not, what was found of the two stays true.
        pair = self._pair(kept.file, other.file)
        note = self._note(kept.file, other.file) if removed else ""
        if not removed and decision is not None and decision.same:
            note = _NOT_COMPARED.format(PurePath(other.file.path).name)
        told = next((one for one in case.members if one.file.sha256 == other.file.sha256), other)
        return Question(
            kept=kept.file,
            other=other.file,
            position=at,
            tier=case.tier,
            distance=pair.distance if pair else told.distance,
            agreement=pair.agreement if pair else told.agreement,
            reason=pair.reason if pair else told.reason,
            keep_reason=other.keep_reason or kept.keep_reason,
            decision=decision,
            removed=removed and not note,
            note=note,
        )

    def _note(self, *files: PictureFile) -> str:
        fixed = [file for file in files if is_fixed(file.path, self.findings.uploads)]
        return _FIXED.format(PurePath(fixed[0].path).name) if fixed else ""

    def _pair(self, one: PictureFile, two: PictureFile) -> Pair | None:
        ids = {one.image_id, two.image_id}
        among = self._pairs.get(one.image_id or 0, ())
        return next((pair for pair in among if {pair.first, pair.second} == ids), None)

    def _with_the_pixels_of(self, ids: set[int]) -> set[int]:
        """Those that have the pixels of these: a run notes equal pixels with one of their number only."""
        found, new = set(ids), set(ids)
        while new:
            pairs = [pair for image_id in new for pair in self._pairs.get(image_id, ()) if pair.tier == "pixels"]
            new = {mate for pair in pairs for mate in (pair.first, pair.second)} - found
            found |= new
        return found

    def _regroup(self, case: Case) -> list[Group]:
        """The groups that these pictures make now, alone among themselves and those with the same pixels."""
        ids = {file.image_id for file in case.files if file.image_id is not None}
        ids |= self._with_the_pixels_of(ids)
        files = {image_id: self.findings.files[image_id] for image_id in ids if image_id in self.findings.files}
        files |= {file.image_id: (file,) for file in case.files if file.image_id not in files and file.image_id}
        shas = {file.sha256 for found in files.values() for file in found}
        within = {
            pair for image_id in ids for pair in self._pairs.get(image_id, ()) if {pair.first, pair.second} <= ids
        }
        within |= _called_the_same(case, self._said(case))
        local = replace(
            self.findings,
            pairs=tuple(sorted(within, key=lambda pair: (pair.distance, pair.first, pair.second))),
            files=files,
            decisions={key: said for key, said in self._decisions.items() if set(key) <= shas},
        )
        tiers: tuple[Tier, ...] = ("pixels",) if case.tier == "pixels" else ("pixels", "near")
        groups = make_groups(local, tiers=tiers, threshold=self.threshold)
        return [group for group in groups if case.tier != "near" or group.tier == "near"]


def cases_of(groups: Iterable[Group]) -> list[Case]:
    """Groups as cases."""
    return [Case(group.id, group.tier, group.members, group.decided) for group in groups]


def parted_cases(findings: Findings, tiers: Collection[Tier]) -> Iterator[Case]:
    """Pairs that were found, but that people called different: no group has them, and somebody may think again."""
    for pair in findings.pairs:
        if pair.tier not in tiers or not {pair.first, pair.second} <= findings.files.keys():
            continue
        first, second = (findings.files[image_id][0] for image_id in (pair.first, pair.second))
        said = find_decision(findings, first.sha256, second.sha256)
        if said is not None and not said.same:
            members = Member(first, True, 0.0, None, "", ""), _other(second, pair)
            yield Case(f"different-{pair.first}-{pair.second}", pair.tier, members, decided=True)


def similar_case(found: FoundPair) -> Case:
    """Two pictures that are only similar: nothing is removed unless somebody calls them the same."""
    members = Member(found.first, True, 0.0, None, "", ""), _other(found.second, found.pair)
    name = f"similar-{found.pair.first}-{found.pair.second}"
    return Case(name, "similar", members, found.decision is not None)


def _other(file: PictureFile, pair: Pair) -> Member:
    return Member(file, False, pair.distance, pair.agreement, pair.reason, "")


def _called_the_same(case: Case, said: Sequence[Decision]) -> set[Pair]:
    """The pair of a similar case that somebody called the same: it counts as near from then on."""
    if case.tier != "similar" or not any(decision.same for decision in said):
        return set()
    (first, second), other = sorted(file.image_id or 0 for file in case.files), case.members[1]
    return {Pair(first, second, "near", other.distance, other.agreement, other.reason)}
