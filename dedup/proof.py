"""Whether two pictures really are copies: by what the home found and people decided. A plan's own word is no proof."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from core.errors import UnreadableImage
from core.settings import Settings
from dedup.records import Decision, Plan
from dedup.sighting import SetAside, Sighting
from models.images import Limits
from store.catalogue import Catalogue

Pair = tuple[int, int]


@dataclass
class Proof:
    """What is known of the pictures in a plan. `ids`: of those that the home knows, by hash; `said`, `decided_at`: what
    people decided and when, by two hashes in order; `classes`: pictures of the same pixels have one; `near`: classes
    that match.
    """

    settings: Settings
    ids: dict[str, int]
    said: dict[tuple[str, str], bool]
    decided_at: dict[tuple[str, str], datetime]
    classes: _Classes
    near: set[Pair] = field(default_factory=set)

    def check(self, file: Sighting, keep: Sighting) -> None:
        """Raises SetAside unless the two files hold copies of one picture."""
        if file.sha256 == keep.sha256 or (said := self._said(file.sha256, keep.sha256)):
            return
        if said is False:
            raise SetAside("it was decided that the two are different pictures")
        if file.sha256 not in self.ids or keep.sha256 not in self.ids:
            self._confirm(file.path, keep.path)
        elif not self.are_copies(file.sha256, keep.sha256):
            raise SetAside(
                "the home does not know the two as copies; run `simile dedup` again, or decide on them at /duplicates"
            )

    def are_copies(self, one: str, other: str) -> bool:
        """Whether the home knows the pictures with these hashes as copies: same bytes or pixels, near, or decided."""
        if one == other:
            return True
        said = self._said(one, other)
        if said is not None or one not in self.ids or other not in self.ids:
            return bool(said)
        first, second = self.classes.of(self.ids[one]), self.classes.of(self.ids[other])
        return first == second or _pair(first, second) in self.near

    def may_record(self, decision: Decision) -> bool:
        """Whether a plan's decision may be stored: one that would prove a removal must be proven without it.

        Otherwise a plan that anybody wrote would be its own proof when it is applied a second time.
        """
        return not decision.same or self.are_copies(decision.first_sha256, decision.second_sha256)

    def is_outdated(self, decision: Decision, created_at: str) -> bool:
        """Whether people spoke of the pair in the home after the plan was made (or nobody can tell when that was)."""
        decided_at = self.decided_at.get((decision.first_sha256, decision.second_sha256))
        try:
            return decided_at is not None and datetime.fromisoformat(created_at) <= decided_at
        except (ValueError, TypeError):  # no moment, or one without a zone
            return True

    def _said(self, one: str, other: str) -> bool | None:
        return self.said.get((min(one, other), max(one, other)))

    def _confirm(self, path: Path, keep_path: Path) -> None:
        from dedup.lookup import confirmed  # noqa: PLC0415  # only for files that the home does not know

        try:
            same = confirmed(path, keep_path, Limits.from_settings(self.settings))
        except UnreadableImage as error:
            raise SetAside(f"it can't be compared with the file to keep: {error.name}: {error.reason}") from None
        if not same:
            raise SetAside("the two pictures do not match, laid on each other")


def make_proof(catalogue: Catalogue, settings: Settings, plan: Plan) -> Proof:
    """Reads what the home knows, before anything that the plan says is stored."""
    # A plan may say at any time that two are different: that only ever saves a file.
    decisions = {(one.first_sha256, one.second_sha256): one for one in catalogue.decisions()}
    said = {pair: one.same for pair, one in decisions.items()}
    said |= {(one.first_sha256, one.second_sha256): False for one in plan.decisions if not one.same}
    hashes = {sha for removal in plan.removals for sha in (removal.sha256, removal.keep_sha256)}
    hashes |= {sha for pair in said for sha in pair}
    hashes |= {sha for one in plan.decisions for sha in (one.first_sha256, one.second_sha256)}
    ids = {sha: known.image_id for sha, known in catalogue.images_by_sha(hashes).items()}
    decided_at = {pair: one.decided_at for pair, one in decisions.items()}
    proof = Proof(settings, ids, said, decided_at, _Classes())
    _read_pairs(catalogue, proof)
    return proof


def _read_pairs(catalogue: Catalogue, proof: Proof) -> None:
    """Pixels first: a near pair holds between whole classes of pictures with the same pixels."""
    decided: dict[bool, set[Pair]] = {True: set(), False: set()}
    for (first, second), same in proof.said.items():
        if first in proof.ids and second in proof.ids:
            decided[same].add(_pair(proof.ids[first], proof.ids[second]))
    for pair in catalogue.duplicates(("pixels",)):
        if (pair.first, pair.second) not in decided[False]:
            proof.classes.join(pair.first, pair.second)
    found = {(pair.first, pair.second) for pair in catalogue.duplicates(("near",))} - decided[False]
    proof.near = {_pair(proof.classes.of(one), proof.classes.of(other)) for one, other in found | decided[True]}


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)


class _Classes:
    """Which pictures have the same pixels: that, unlike nearness, goes from one to the next."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def of(self, image_id: int) -> int:
        """The class: the id of one of its pictures."""
        top = image_id
        while (above := self._above.get(top, top)) != top:
            top = above
        self._above[image_id] = top  # the next question takes one step
        return top

    def join(self, one: int, other: int) -> None:
        first, second = self.of(one), self.of(other)
        self._above[max(first, second)] = min(first, second)
