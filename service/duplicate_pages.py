"""The page on which copies are reviewed: what the address asks for, and plain data for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from dedup.curves import Curve, curve_of
from dedup.facts import Fact, facts_of, folders_of
from dedup.records import Calibration, PictureFile, Tier
from dedup.review import Case, Question, Review
from search.searcher import Searcher
from service import urls
from service.answers import shown
from service.reviews import COPIES, Reviews
from service.whereabouts import Where, listed, place_of, question_at

LARGE = 1024  # pixels of the longer side that pictures are shown at
STRIP = 40  # members of a group that are shown as small pictures at a time

Fate = Literal["kept", "removed", "stays"]

_TABS: tuple[tuple[str, tuple[Tier, ...]], ...] = (
    ("All copies", ()),
    ("Near copies", ("near",)),
    ("Same pixels", ("pixels",)),
    ("Same bytes", ("bytes",)),
    ("Similar", ("similar",)),
)


@dataclass(frozen=True)
class Tab:
    name: str
    url: str
    count: int | None
    current: bool


@dataclass(frozen=True)
class Panel:
    """One of the two pictures. title: its name, with the folder where both have the same. fate: what becomes of it."""

    file: PictureFile
    name: str
    title: str
    folder: str
    path: str
    facts: list[Fact]
    fate: Fate
    picture_url: str
    file_url: str
    page_url: str


@dataclass(frozen=True)
class Small:
    """A member of a group in its strip. state: kept, same, different, open."""

    name: str
    url: str
    thumbnail_url: str
    state: str
    current: bool


@dataclass(frozen=True)
class Shown:
    """One pair on the page."""

    case: Case
    question: Question
    panels: list[Panel]
    outcome: str
    members: list[Small]
    number: int
    action: str
    previous: str | None
    next: str | None
    difference_url: str | None
    overlay_url: str | None
    said: str
    ask_all: int


@dataclass(frozen=True)
class DuplicatesView:
    """All that the page shows. `beyond`: whether a threshold above the run's was asked for.

    `ahead`: addresses of pictures that will be wanted next.
    """

    total: int = 0
    where: Where | None = None
    tabs: Sequence[Tab] = ()
    states: Sequence[Tab] = ()
    shown: Shown | None = None
    cases: int = 0
    decided: int = 0
    waiting: int = 0
    run: bool = False
    found: bool = False
    threshold: float | None = None
    beyond: bool = False
    calibration: Calibration | None = None
    curve: Curve | None = None
    plan_url: str = ""
    whole_plan_url: str = ""
    undo_action: str = ""
    ahead: Sequence[str] = ()


def look(searcher: Searcher, reviews: Reviews, where: Where) -> DuplicatesView:
    """The page for an address."""
    review = reviews.review(searcher, where.chosen, afresh=not where.group)
    cases = listed(review, where)
    at = place_of(review, cases, where)
    findings, calibration = review.findings, review.findings.calibration
    decided, waiting = review.progress()
    threshold = findings.reach(where.threshold)
    plain = {"tier": [tier for tier in where.tier if tier != "similar"], "threshold": where.threshold}
    return DuplicatesView(
        total=searcher.count(),
        where=where,
        tabs=_tabs(searcher, reviews, where),
        states=_states(where),
        shown=None if at is None else _shown(review, cases, at, where),
        cases=len(cases),
        decided=decided,
        waiting=waiting,
        run=findings.run_id is not None,
        found=bool(review.cases),
        threshold=threshold,
        beyond=where.threshold is not None and threshold is not None and where.threshold > threshold,
        calibration=calibration,
        curve=curve_of(calibration, threshold) if calibration and threshold is not None else None,
        plan_url=urls.plan(**plain),
        whole_plan_url=urls.plan(**plain, all="true"),
        undo_action=_back(where),
        ahead=[] if at is None else _ahead(cases, at),
    )


def _back(where: Where) -> str:
    """Where the last answer was given."""
    group, _, pair = where.back.partition(".")
    return where.address(group=group, pair=pair)


def _tabs(searcher: Searcher, reviews: Reviews, where: Where) -> list[Tab]:
    """Counts are of all groups, decided or not, of when the list was opened."""
    count = reviews.counts(searcher, where.threshold, afresh=not where.group)
    return [
        Tab(
            name,
            urls.duplicates_page(tier=tiers, threshold=where.threshold),
            sum(count[tier] for tier in tiers or COPIES),
            tuple(where.tier) == tiers,
        )
        for name, tiers in _TABS
    ]


def _states(where: Where) -> list[Tab]:
    if where.tier == ["bytes"]:
        return []
    names = {"open": "To decide", "decided": "Decided", "all": "All"}
    tabs = []
    for state, name in names.items():
        url = where.address(show=None if state == "open" else state)
        tabs.append(Tab(name, url, None, where.show == state))
    return tabs


def _shown(review: Review, cases: Sequence[Case], at: int, where: Where) -> Shown:
    case = cases[at]
    question = question_at(review, case, where.pair)
    questions = review.questions(case)
    turn = questions.index(question)
    ids = question.kept.image_id, question.other.image_id
    distinct = bool(ids[0] and ids[1] and ids[0] != ids[1])
    return Shown(
        case=case,
        question=question,
        panels=_panels(question, questions),
        outcome=_outcome(question, experienced=review.progress()[0] > 0),
        members=_members(review, case, question, where) if len(case.members) > 2 else [],
        number=at + 1,
        action=where.address(group=case.id, pair=question.position),
        previous=_neighbour(review, cases, at, turn - 1, where),
        next=_neighbour(review, cases, at, turn + 1, where),
        difference_url=urls.difference(*ids) if distinct else None,  # type: ignore[arg-type]
        overlay_url=urls.difference(*ids, show="overlay") if distinct else None,  # type: ignore[arg-type]
        said=_said(question),
        ask_all=sum(one.open for one in questions),
    )


def _neighbour(review: Review, cases: Sequence[Case], at: int, turn: int, where: Where) -> str | None:
    """The address of the pair before or after: in the same group, or in the next one."""
    questions = review.questions(cases[at])
    if 0 <= turn < len(questions):
        return where.address(group=cases[at].id, pair=questions[turn].position)
    beside = at + (1 if turn > 0 else -1)
    if not 0 <= beside < len(cases):
        return None
    return where.address(group=cases[beside].id, pair=None if turn > 0 else len(cases[beside].members) - 1)


def _panels(question: Question, questions: Sequence[Question]) -> list[Panel]:
    """The two of a pair; what becomes of them may follow from other pairs of the group."""
    removed = {one.other.path for one in questions if one.removed}
    kept = {one.kept.path for one in questions if one.removed}

    def fate(file: PictureFile) -> Fate:
        return "removed" if file.path in removed else "kept" if file.path in kept else "stays"

    two = question.kept, question.other
    return [_panel(one, other, fate(one)) for one, other in (two, two[::-1])]


def _panel(file: PictureFile, beside: PictureFile, fate: Fate) -> Panel:
    image_id = file.image_id or 0
    path, other = shown(file.path), shown(beside.path)
    name, folder = PurePath(path).name, folders_of(path, other)
    return Panel(
        file=file,
        name=name,
        title=f"{folder}{name}" if name == PurePath(other).name else name,
        folder=folder,
        path=path,
        facts=facts_of(file, beside),
        fate=fate,
        picture_url=urls.thumbnail(image_id, LARGE),
        file_url=urls.file(image_id),
        page_url=urls.page_for(image_id),
    )


def _outcome(question: Question, *, experienced: bool) -> str:
    """What is to be said of the two beside their fates."""
    if question.note:
        return question.note
    if not question.matters:
        return "There is nothing to decide: the plan for the same bytes, and that for everything, take them along."
    if question.decision is None and question.tier == "similar":
        return "Only similar: both stay, unless you call them the same."
    if question.decision is None:
        return (
            ""
            if experienced
            else "Nothing goes into the plan before you decide, nothing is touched before you apply it."
        )
    if not question.decision.same:
        return "Neither goes because of the other, and this pair is not asked again."
    return ""


def _said(question: Question) -> str:
    if question.decision is None:
        return ""
    if not question.decision.same:
        return "different"
    return "same, keeper chosen" if question.decision.keep_sha256 else "same"


def _members(review: Review, case: Case, current: Question, where: Where) -> list[Small]:
    """Small pictures of the group, those around the current one if it is long."""
    by_place = {question.position: question for question in review.questions(case)}
    start = max(0, min(current.position - STRIP // 2, len(case.members) - STRIP))
    smalls = []
    for place, file in list(enumerate(case.files))[start : start + STRIP]:
        question = by_place.get(place)
        state = "kept" if question is None else (_said(question).partition(",")[0] or "open")
        url = where.address(group=case.id, pair=place or None)
        name = PurePath(shown(file.path)).name
        smalls.append(Small(name, url, urls.thumbnail(file.image_id or 0), state, question is current))
    return smalls


def _ahead(cases: Sequence[Case], at: int) -> list[str]:
    """Pictures of the next case, so that they are there when it is."""
    return [urls.thumbnail(file.image_id or 0, LARGE) for case in cases[at + 1 : at + 2] for file in case.files[:2]]
