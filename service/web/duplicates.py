"""The page at `/duplicates`: one pair at a time, plain forms that work without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simile.core.errors import NothingIndexed, SimileError
from simile.dedup.review import Case, Question, Review
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ThePool, TheReviews, searcher_of
from simile.service.requests.search import form_of
from simile.service.serializers.duplicates import store_decisions
from simile.service.web import duplicates as pages

pass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from simile.dedup.detection.threshold import Curve, curve_of
from simile.dedup.records import Calibration, PictureFile, Tier
from simile.dedup.reporting.cards import Fact, facts_of, folders_of
from simile.service.errors import problem_of
from simile.service.schemas.duplicates import DecisionIn
from simile.service.serializers.search import shown
from simile.service.state.review_cache import COPIES, Reviews
from simile.service.web.duplicates_state import Where, listed, parse_undo, place_of, question_at, undo_of
from simile.service.web.rendering import render_page

router = APIRouter(include_in_schema=False)

_SHOWN = (SimileError, HTTPException, RequestValidationError)
_TEMPLATE = "duplicates.html"


@router.get(urls.DUPLICATES_PAGE)
async def show_duplicates(request: Request, pool: ThePool, reviews: TheReviews) -> Response:
    """The pair that the address names, or the first that waits for an answer."""
    try:
        where = _where(request)
        searcher = await searcher_of(request)
        view = await pool.run(lambda: pages.look(searcher, reviews, where))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, DuplicatesView())
    except _SHOWN as error:
        return render_page(request, _TEMPLATE, DuplicatesView(), problem_of(error))


@router.post(urls.DUPLICATES_PAGE)
async def answer_duplicates(request: Request, pool: ThePool, reviews: TheReviews) -> Response:
    """Takes an answer, and leads to the next pair."""
    try:
        where = _where(request)
        searcher = await searcher_of(request)
        async with form_of(request) as form:
            given = {name: value for name, value in form.items() if isinstance(value, str)}
            address = await pool.run(lambda: _answer(searcher, reviews, where, given))
        return RedirectResponse(address, 303)
    except _SHOWN as error:
        return render_page(request, _TEMPLATE, DuplicatesView(), problem_of(error))


def _answer(searcher: Searcher, reviews: Reviews, where: Where, given: dict[str, str]) -> str:
    """Stores it; gives the address of what is to be seen next."""
    answer = given.get("answer", "")
    if answer == "undo":
        before = parse_undo(given.get("undo", ""))
        store_decisions(searcher, [_said(first, second, same, keep) for first, second, same, keep in before])
        return where.address(group=where.group, pair=where.pair)
    review = reviews.review(searcher, where.chosen, afresh=False)
    case = next((one for one in review.cases if one.id == where.group), None)
    if case is None:
        raise HTTPException(404, "This group is not in the list any more. Open the page again.")
    questions = [question for question in review.questions(case) if question.matters]
    asked = _asked(questions, given, everyone=answer.endswith("-all"))
    undo = undo_of(asked)
    store_decisions(searcher, [_decision(question, answer.removesuffix("-all")) for question in asked])
    return _onwards(reviews.review(searcher, where.chosen, afresh=False), where, answer, undo, asked)


def _asked(questions: list[Question], given: dict[str, str], *, everyone: bool) -> list[Question]:
    if everyone:
        return [question for question in questions if question.open]
    ids = {given.get("first", ""), given.get("second", "")}
    asked = [one for one in questions if {str(one.kept.image_id), str(one.other.image_id)} == ids]
    if not asked:
        raise HTTPException(409, "These two do not stand beside each other any more. Open the page again.")
    return asked


def _decision(question: Question, answer: str) -> DecisionIn:
    kept, other = question.kept.image_id, question.other.image_id
    if answer == "swap":
        return _said(kept, other, True, other)
    if answer == "same":
        chosen = question.decision.keep_sha256 if question.decision else None
        return _said(kept, other, True, kept if chosen == question.kept.sha256 else None)
    if answer == "different":
        return _said(kept, other, False, None)
    if answer == "open":
        return _said(kept, other, None, None)
    raise HTTPException(422, "answer: one of same, different, swap, open, same-all, different-all, undo.")


def _onwards(review: Review, where: Where, answer: str, undo: str, asked: list[Question]) -> str:
    """The next pair that waits for an answer: in this group, behind it, or before it; at last the page that says so."""
    cases = listed(review, where)
    at = next((at for at, case in enumerate(cases) if case.id == where.group), 0)
    back = {"undo": undo, "back": f"{where.group}.{asked[0].position}" if asked else None}
    if answer in ("swap", "open"):
        turned = asked[0].position if answer == "open" else _turned(review, cases[at], asked[0])
        return where.address(group=where.group, pair=turned, **back)
    if where.state != "open" and not any(question.open for question in asked):  # an answer was changed: look at it
        return where.address(group=where.group, pair=where.pair, **back)
    for case in (*cases[at:], *cases[:at]):
        if review.is_open(case):
            position = next(one.position for one in review.questions(case) if one.open)
            return where.address(group=case.id, pair=position, **back)
    return where.address(**back)


def _turned(review: Review, case: Case, asked: Question) -> int:
    """Where the pair stands now that the other one of it is kept."""
    ids = {asked.kept.image_id, asked.other.image_id}
    found = (one.position for one in review.questions(case) if {one.kept.image_id, one.other.image_id} == ids)
    return next(found, asked.position)


def _said(first: int | None, second: int | None, same: bool | None, keep: int | None) -> DecisionIn:
    try:
        return DecisionIn(first=first or 0, second=second or 0, same=same, keep=keep)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _where(request: Request) -> Where:
    query = request.query_params
    given: dict[str, object] = {name: value for name, value in query.items() if value != ""}
    try:
        return Where.model_validate(given | {"tier": query.getlist("tier")})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


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
