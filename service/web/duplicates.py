"""The review page at `/duplicates`: one pair at a time, with plain forms that work without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simile.core.errors import NothingIndexed, SimileError
from simile.dedup.detection.threshold import PrecisionRecallCurve, make_curve
from simile.dedup.records import DuplicateGroup, ImageFile, ThresholdCalibration, Tier
from simile.dedup.reporting.cards import FileProperty, compare_file_properties, shorten_folder
from simile.dedup.review import DuplicateReview, ReviewQuestion
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, ReviewCacheDep, get_searcher
from simile.service.errors import make_problem
from simile.service.requests.search import open_form
from simile.service.schemas.duplicates import DecisionRequest
from simile.service.schemas.search import replace_surrogates
from simile.service.serializers.duplicates import store_decisions
from simile.service.state.review_cache import COPY_TIERS, ReviewCache
from simile.service.web import duplicates as pages
from simile.service.web.duplicates_state import (
    ReviewPageParams,
    filter_cases,
    find_case_index,
    find_question,
    format_undo,
    parse_undo,
)
from simile.service.web.rendering import render_page

pass

router = APIRouter(include_in_schema=False)

_DUPLICATES_PAGE_ERRORS = (SimileError, HTTPException, RequestValidationError)
_TEMPLATE = "duplicates.html"


@router.get(urls.DUPLICATES_PAGE)
async def show_duplicates(request: Request, pool: EncodingPoolDep, review_cache: ReviewCacheDep) -> Response:
    """Show the pair of the URL, or the first undecided pair."""
    try:
        where = _parse_page_params(request)
        searcher = await get_searcher(request)
        view = await pool.run(lambda: pages.make_duplicates_view(searcher, review_cache, where))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, DuplicatesView())
    except _DUPLICATES_PAGE_ERRORS as error:
        return render_page(request, _TEMPLATE, DuplicatesView(), make_problem(error))


@router.post(urls.DUPLICATES_PAGE)
async def submit_decision(request: Request, pool: EncodingPoolDep, review_cache: ReviewCacheDep) -> Response:
    """Store a decision and redirect to the next pair."""
    try:
        where = _parse_page_params(request)
        searcher = await get_searcher(request)
        async with open_form(request) as form:
            given = {name: value for name, value in form.items() if isinstance(value, str)}
            address = await pool.run(lambda: _apply_answer(searcher, review_cache, where, given))
        return RedirectResponse(address, 303)
    except _DUPLICATES_PAGE_ERRORS as error:
        return render_page(request, _TEMPLATE, DuplicatesView(), make_problem(error))


def _apply_answer(
    searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams, fields: dict[str, str]
) -> str:
    """Store the decision; return the URL of the next page."""
    answer = fields.get("answer", "")
    if answer == "undo":
        before = parse_undo(fields.get("undo", ""))
        store_decisions(
            searcher, [_make_decision_request(first, second, same, keep) for first, second, same, keep in before]
        )
        return params.make_url(group=params.group, pair=params.pair)
    review = review_cache.get_review(searcher, params.selection, refresh=False)
    case = next((item for item in review.cases if item.id == params.group), None)
    if case is None:
        raise HTTPException(404, "This group is not in the list any more. Open the page again.")
    questions = [question for question in review.get_questions(case) if question.needs_decision]
    selected = _select_questions(questions, fields, all_open=answer.endswith("-all"))
    undo = format_undo(selected)
    store_decisions(searcher, [_make_decision(question, answer.removesuffix("-all")) for question in selected])
    return _make_next_url(
        review_cache.get_review(searcher, params.selection, refresh=False), params, answer, undo, selected
    )


def _select_questions(
    questions: list[ReviewQuestion], fields: dict[str, str], *, all_open: bool
) -> list[ReviewQuestion]:
    if all_open:
        return [question for question in questions if question.is_open]
    ids = {fields.get("first", ""), fields.get("second", "")}
    selected = [item for item in questions if {str(item.kept_file.image_id), str(item.other_file.image_id)} == ids]
    if not selected:
        raise HTTPException(409, "These two do not stand beside each other any more. Open the page again.")
    return selected


def _make_decision(question: ReviewQuestion, answer: str) -> DecisionRequest:
    kept, other = question.kept_file.image_id, question.other_file.image_id
    if answer == "swap":
        return _make_decision_request(kept, other, True, other)
    if answer == "same":
        chosen = question.decision.keep_sha256 if question.decision else None
        return _make_decision_request(kept, other, True, kept if chosen == question.kept_file.sha256 else None)
    if answer == "different":
        return _make_decision_request(kept, other, False, None)
    if answer == "open":
        return _make_decision_request(kept, other, None, None)
    raise HTTPException(422, "answer: one of same, different, swap, open, same-all, different-all, undo.")


def _make_next_url(
    review: DuplicateReview, params: ReviewPageParams, answer: str, undo: str, questions: list[ReviewQuestion]
) -> str:
    """Return the URL of the next undecided pair: in this group, after it or before it; at the end, the final page."""
    cases = filter_cases(review, params)
    at = next((at for at, case in enumerate(cases) if case.id == params.group), 0)
    back = {"undo": undo, "back": f"{params.group}.{questions[0].position}" if questions else None}
    if answer in ("swap", "open"):
        turned = questions[0].position if answer == "open" else _find_position(review, cases[at], questions[0])
        return params.make_url(group=params.group, pair=turned, **back)
    if params.state != "open" and not any(
        question.is_open for question in questions
    ):  # a decision was changed: show it again
        return params.make_url(group=params.group, pair=params.pair, **back)
    for case in (*cases[at:], *cases[:at]):
        if review.is_open(case):
            position = next(item.position for item in review.get_questions(case) if item.is_open)
            return params.make_url(group=case.id, pair=position, **back)
    return params.make_url(**back)


def _find_position(review: DuplicateReview, case: DuplicateGroup, question: ReviewQuestion) -> int:
    """Return the position of the pair after the other image became the one to keep."""
    ids = {question.kept_file.image_id, question.other_file.image_id}
    found = (
        item.position
        for item in review.get_questions(case)
        if {item.kept_file.image_id, item.other_file.image_id} == ids
    )
    return next(found, question.position)


def _make_decision_request(
    first: int | None, second: int | None, same: bool | None, keep: int | None
) -> DecisionRequest:
    try:
        return DecisionRequest(first=first or 0, second=second or 0, same=same, keep=keep)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _parse_page_params(request: Request) -> ReviewPageParams:
    query = request.query_params
    given: dict[str, object] = {name: value for name, value in query.items() if value != ""}
    try:
        return ReviewPageParams.model_validate(given | {"tier": query.getlist("tier")})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


REVIEW_IMAGE_SIDE = 1024  # pixels of the longer side of a shown image
MAX_STRIP_IMAGES = 40  # thumbnails of a group at a time

FileOutcome = Literal["kept", "removed", "stays"]

_TIER_TABS: tuple[tuple[str, tuple[Tier, ...]], ...] = (
    ("All copies", ()),
    ("Near copies", ("near",)),
    ("Same pixels", ("pixels",)),
    ("Same bytes", ("bytes",)),
    ("Similar", ("similar",)),
)


@dataclass(frozen=True)
class ReviewTab:
    name: str
    url: str
    count: int | None
    current: bool


@dataclass(frozen=True)
class ReviewPanel:
    """One image of a pair. title: its name, with the folder if names are equal. outcome: of its file."""

    file: ImageFile
    name: str
    title: str
    folder: str
    path: str
    facts: list[FileProperty]
    outcome: FileOutcome
    image_url: str
    file_url: str
    page_url: str


@dataclass(frozen=True)
class GroupThumbnail:
    """A thumbnail in the strip of a group. state: kept, same, different or open."""

    name: str
    url: str
    thumbnail_url: str
    state: str
    current: bool


@dataclass(frozen=True)
class PairView:
    """The shown pair."""

    case: DuplicateGroup
    question: ReviewQuestion
    panels: list[ReviewPanel]
    explanation: str
    members: list[GroupThumbnail]
    number: int
    form_url: str
    previous_url: str | None
    next_url: str | None
    difference_url: str | None
    overlay_url: str | None
    decision_label: str
    open_count: int


@dataclass(frozen=True)
class DuplicatesView:
    """The review page. `is_beyond_run`: whether the requested threshold is above the threshold of the run.

    `prefetch_urls`: images of the next pair.
    """

    total: int = 0
    params: ReviewPageParams | None = None
    tabs: Sequence[ReviewTab] = ()
    states: Sequence[ReviewTab] = ()
    pair: PairView | None = None
    case_count: int = 0
    decided_count: int = 0
    open_count: int = 0
    has_run: bool = False
    has_cases: bool = False
    threshold: float | None = None
    is_beyond_run: bool = False
    calibration: ThresholdCalibration | None = None
    curve: PrecisionRecallCurve | None = None
    plan_url: str = ""
    whole_plan_url: str = ""
    undo_url: str = ""
    prefetch_urls: Sequence[str] = ()


def make_duplicates_view(searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams) -> DuplicatesView:
    """Make the page for the parameters of a URL."""
    review = review_cache.get_review(searcher, params.selection, refresh=not params.group)
    cases = filter_cases(review, params)
    at = find_case_index(review, cases, params)
    findings, calibration = review.findings, review.findings.calibration
    decided, waiting = review.get_progress()
    threshold = findings.get_effective_threshold(params.threshold)
    plain = {"tier": [tier for tier in params.tier if tier != "similar"], "threshold": params.threshold}
    return DuplicatesView(
        total=searcher.count_images(),
        params=params,
        tabs=_make_tier_tabs(searcher, review_cache, params),
        states=_make_state_tabs(params),
        pair=None if at is None else _make_pair_view(review, cases, at, params),
        case_count=len(cases),
        decided_count=decided,
        open_count=waiting,
        has_run=findings.run_id is not None,
        has_cases=bool(review.cases),
        threshold=threshold,
        is_beyond_run=params.threshold is not None and threshold is not None and params.threshold > threshold,
        calibration=calibration,
        curve=make_curve(calibration, threshold) if calibration and threshold is not None else None,
        plan_url=urls.plan(**plain),
        whole_plan_url=urls.plan(**plain, all="true"),
        undo_url=_make_undo_url(params),
        prefetch_urls=[] if at is None else _list_prefetch_urls(cases, at),
    )


def _make_undo_url(params: ReviewPageParams) -> str:
    """Return the URL that undoes the last decision."""
    group, _, pair = params.back.partition(".")
    return params.make_url(group=group, pair=pair)


def _make_tier_tabs(searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams) -> list[ReviewTab]:
    """Make the tabs of the tiers. They count all groups, decided or not, as of the time when the list was opened."""
    count = review_cache.get_counts(searcher, params.threshold, refresh=not params.group)
    return [
        ReviewTab(
            name,
            urls.duplicates_page(tier=tiers, threshold=params.threshold),
            sum(count[tier] for tier in tiers or COPY_TIERS),
            tuple(params.tier) == tiers,
        )
        for name, tiers in _TIER_TABS
    ]


def _make_state_tabs(params: ReviewPageParams) -> list[ReviewTab]:
    if params.tier == ["bytes"]:
        return []
    names = {"open": "To decide", "decided": "Decided", "all": "All"}
    tabs = []
    for state, name in names.items():
        url = params.make_url(show=None if state == "open" else state)
        tabs.append(ReviewTab(name, url, None, params.show == state))
    return tabs


def _make_pair_view(
    review: DuplicateReview, cases: Sequence[DuplicateGroup], index: int, params: ReviewPageParams
) -> PairView:
    case = cases[index]
    question = find_question(review, case, params.pair)
    questions = review.get_questions(case)
    turn = questions.index(question)
    ids = question.kept_file.image_id, question.other_file.image_id
    distinct = bool(ids[0] and ids[1] and ids[0] != ids[1])
    return PairView(
        case=case,
        question=question,
        panels=_make_panels(question, questions),
        explanation=_explain_outcome(question, has_decided=review.get_progress()[0] > 0),
        members=_make_thumbnails(review, case, question, params) if len(case.members) > 2 else [],
        number=index + 1,
        form_url=params.make_url(group=case.id, pair=question.position),
        previous_url=_make_adjacent_url(review, cases, index, turn - 1, params),
        next_url=_make_adjacent_url(review, cases, index, turn + 1, params),
        difference_url=urls.difference(*ids) if distinct else None,  # type: ignore[arg-type]
        overlay_url=urls.difference(*ids, show="overlay") if distinct else None,  # type: ignore[arg-type]
        decision_label=_label_decision(question),
        open_count=sum(item.is_open for item in questions),
    )


def _make_adjacent_url(
    review: DuplicateReview, cases: Sequence[DuplicateGroup], index: int, question_index: int, params: ReviewPageParams
) -> str | None:
    """Return the URL of the previous or next pair, in the same group or in an adjacent one."""
    questions = review.get_questions(cases[index])
    if 0 <= question_index < len(questions):
        return params.make_url(group=cases[index].id, pair=questions[question_index].position)
    beside = index + (1 if question_index > 0 else -1)
    if not 0 <= beside < len(cases):
        return None
    return params.make_url(group=cases[beside].id, pair=None if question_index > 0 else len(cases[beside].members) - 1)


def _make_panels(question: ReviewQuestion, questions: Sequence[ReviewQuestion]) -> list[ReviewPanel]:
    """Make both images of a pair; their outcome may depend on other pairs of the group."""
    removed = {item.other_file.path for item in questions if item.is_removed}
    kept = {item.kept_file.path for item in questions if item.is_removed}

    def fate(file: ImageFile) -> FileOutcome:
        return "removed" if file.path in removed else "kept" if file.path in kept else "stays"

    two = question.kept_file, question.other_file
    return [_make_panel(item, other, fate(item)) for item, other in (two, two[::-1])]


def _make_panel(file: ImageFile, other_file: ImageFile, outcome: FileOutcome) -> ReviewPanel:
    image_id = file.image_id or 0
    path, other = replace_surrogates(file.path), replace_surrogates(other_file.path)
    name, folder = PurePath(path).name, shorten_folder(path, other)
    return ReviewPanel(
        file=file,
        name=name,
        title=f"{folder}{name}" if name == PurePath(other).name else name,
        folder=folder,
        path=path,
        facts=compare_file_properties(file, other_file),
        outcome=outcome,
        image_url=urls.thumbnail(image_id, REVIEW_IMAGE_SIDE),
        file_url=urls.file(image_id),
        page_url=urls.similar_page(image_id),
    )


def _explain_outcome(question: ReviewQuestion, *, has_decided: bool) -> str:
    """Explain the outcome of a pair in one sentence."""
    if question.note:
        return question.note
    if not question.needs_decision:
        return "There is nothing to decide: the plan for the same bytes, and that for everything, take them along."
    if question.decision is None and question.tier == "similar":
        return "Only similar: both stay, unless you call them the same."
    if question.decision is None:
        return (
            ""
            if has_decided
            else "Nothing goes into the plan before you decide, nothing is touched before you apply it."
        )
    if not question.decision.same:
        return "Neither file is removed because of the other, and this pair is not shown again."
    return ""


def _label_decision(question: ReviewQuestion) -> str:
    if question.decision is None:
        return ""
    if not question.decision.same:
        return "different"
    return "same, keeper chosen" if question.decision.keep_sha256 else "same"


def _make_thumbnails(
    review: DuplicateReview, case: DuplicateGroup, current: ReviewQuestion, params: ReviewPageParams
) -> list[GroupThumbnail]:
    """Make thumbnails of the group; of a large group, those around the current pair."""
    by_place = {question.position: question for question in review.get_questions(case)}
    start = max(0, min(current.position - MAX_STRIP_IMAGES // 2, len(case.members) - MAX_STRIP_IMAGES))
    smalls = []
    for place, file in list(enumerate(case.files))[start : start + MAX_STRIP_IMAGES]:
        question = by_place.get(place)
        state = "kept" if question is None else (_label_decision(question).partition(",")[0] or "open")
        url = params.make_url(group=case.id, pair=place or None)
        name = PurePath(replace_surrogates(file.path)).name
        smalls.append(GroupThumbnail(name, url, urls.thumbnail(file.image_id or 0), state, question is current))
    return smalls


def _list_prefetch_urls(cases: Sequence[DuplicateGroup], index: int) -> list[str]:
    """List the images of the next pair, so that the browser loads them early."""
    return [
        urls.thumbnail(file.image_id or 0, REVIEW_IMAGE_SIDE)
        for case in cases[index + 1 : index + 2]
        for file in case.files[:2]
    ]
