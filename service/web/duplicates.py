"""The review page at `/duplicates`: one pair at a time, with plain forms that work without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simile.dedup.cleanup.companions import CompanionFinder, ValueReader, find_additions, make_finder
from simile.dedup.detection.threshold import make_curve
from simile.dedup.records import DuplicateGroup, ImageFile, Tier
from simile.dedup.reporting.cards import compare_file_properties, list_additions, shorten_folder
from simile.dedup.review import DuplicateReview, ReviewQuestion
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, ReviewCacheDep, get_searcher
from simile.service.errors import make_problem
from simile.service.requests.search import open_form
from simile.service.schemas.duplicates import DecisionRequest
from simile.service.schemas.search import replace_surrogates
from simile.service.state.review_cache import COPY_TIERS, ReviewCache, store_decisions
from simile.service.web.duplicates_state import (
    ANSWERS,
    ReviewPageParams,
    filter_cases,
    find_case_index,
    find_question,
    format_undo,
    make_decision,
    parse_undo,
)
from simile.service.web.query_params import PageLink
from simile.service.web.rendering import PAGE_ERRORS, View, render_page, show_page

REVIEW_IMAGE_SIDE = 1024  # pixels of the longer side of a shown image
MAX_STRIP_IMAGES = 40  # thumbnails of a group at a time

_TEMPLATE = "duplicates.html"
_TIER_TABS: dict[str, tuple[Tier, ...]] = {
    "All copies": (),
    "Near copies": ("near",),
    "Same pixels": ("pixels",),
    "Same bytes": ("bytes",),
    "Series": ("series",),
    "Similar": ("similar",),
}
_STATE_TABS = {"open": "To decide", "decided": "Decided", "all": "All"}

router = APIRouter(include_in_schema=False)


@router.get(urls.DUPLICATES_PAGE)
async def show_duplicates(request: Request, pool: EncodingPoolDep, review_cache: ReviewCacheDep) -> Response:
    """Show the pair of the URL, or the first undecided pair."""
    return await show_page(
        request,
        _TEMPLATE,
        ReviewPageParams.from_params,
        lambda searcher, params: make_duplicates_view(searcher, review_cache, params),
        pool=pool,
    )


@router.post(urls.DUPLICATES_PAGE)
async def submit_decision(request: Request, pool: EncodingPoolDep, review_cache: ReviewCacheDep) -> Response:
    """Store a decision and redirect to the next pair."""
    try:
        params = ReviewPageParams.from_params(request.query_params)
        searcher = await get_searcher(request)
        async with open_form(request) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            next_url = await pool.run(lambda: _apply_answer(searcher, review_cache, params, fields))
        return RedirectResponse(next_url, 303)
    except PAGE_ERRORS as error:
        return render_page(request, _TEMPLATE, {}, make_problem(error))


def _apply_answer(
    searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams, fields: dict[str, str]
) -> str:
    """Store the decision; return the URL of the next page."""
    answer = fields.get("answer", "")
    if answer == "undo":
        store_decisions(searcher, parse_undo(fields.get("undo", "")))
        return params.make_url(group=params.group, pair=params.pair)
    review = review_cache.get_review(searcher, params.selection, refresh=False)
    case = next((item for item in review.cases if item.id == params.group), None)
    if case is None:
        raise HTTPException(404, "This group is not in the list any more. Open the page again.")
    questions = [question for question in review.get_questions(case) if question.needs_decision]
    selected = _select_questions(questions, fields, all_open=answer.endswith("-all"))
    undo = format_undo(selected)
    store_decisions(searcher, [_answer_question(question, answer.removesuffix("-all")) for question in selected])
    review = review_cache.get_review(searcher, params.selection, refresh=False)
    return _make_next_url(review, params, answer, undo, selected)


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


def _answer_question(question: ReviewQuestion, answer: str) -> DecisionRequest:
    if answer not in ANSWERS:
        raise HTTPException(422, "answer: one of same, different, swap, open, same-all, different-all, undo.")
    kept, other, chosen = question.kept_file, question.other_file, None
    if answer == "swap":
        chosen = other.image_id
    elif answer == "same" and question.decision and question.decision.keep_sha256 == kept.sha256:
        chosen = kept.image_id
    return make_decision({"first": kept.image_id, "second": other.image_id, "keep": chosen}, answer)


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
    if params.state != "open" and not any(question.is_open for question in questions):  # changed: show it again
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


def make_duplicates_view(searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams) -> View:
    """Make the page for the parameters of a URL."""
    review = review_cache.get_review(searcher, params.selection, refresh=not params.group)
    cases = filter_cases(review, params)
    at = find_case_index(review, cases, params)
    findings, calibration = review.findings, review.findings.calibration
    decided, waiting = review.get_progress()
    threshold = findings.get_effective_threshold(params.threshold)
    plain = {"tier": [tier for tier in params.tier if tier not in ("series", "similar")], "threshold": params.threshold}
    back_group, _, back_pair = params.back.partition(".")
    return {
        "total": searcher.count_images(),
        "params": params,
        "tabs": _make_tier_tabs(searcher, review_cache, params),
        "states": _make_state_tabs(params),
        "pair": None if at is None else _make_pair_view(searcher, review, cases, at, params),
        "case_count": len(cases),
        "decided_count": decided,
        "open_count": waiting,
        "has_run": findings.run_id is not None,
        "left_out_count": len(findings.left_out),
        "has_cases": bool(review.cases),
        "threshold": threshold,
        "is_beyond_run": params.threshold is not None and threshold is not None and params.threshold > threshold,
        "calibration": calibration,
        "curve": make_curve(calibration, threshold) if calibration and threshold is not None else None,
        "plan_url": urls.plan(**plain),
        "whole_plan_url": urls.plan(**plain, all="true"),
        "undo_url": params.make_url(group=back_group, pair=back_pair),
        "prefetched": [] if at is None else [file for case in cases[at + 1 : at + 2] for file in case.files[:2]],
        "side": REVIEW_IMAGE_SIDE,
    }


def _make_tier_tabs(searcher: Searcher, review_cache: ReviewCache, params: ReviewPageParams) -> list[PageLink]:
    """Make the tabs of the tiers. They count all groups, decided or not, as of the time when the list was opened."""
    counts = review_cache.get_counts(searcher, params.threshold, refresh=not params.group)
    return [
        PageLink(
            text=text,
            url=urls.duplicates_page(tier=tiers, threshold=params.threshold),
            current=tuple(params.tier) == tiers,
            count=sum(counts[tier] for tier in tiers or COPY_TIERS),
        )
        for text, tiers in _TIER_TABS.items()
    ]


def _make_state_tabs(params: ReviewPageParams) -> list[PageLink]:
    if params.tier == ["bytes"]:
        return []
    return [
        PageLink(text=text, url=params.make_url(show=state), current=params.show == state)
        for state, text in _STATE_TABS.items()
    ]


def _make_pair_view(
    searcher: Searcher, review: DuplicateReview, cases: Sequence[DuplicateGroup], index: int, params: ReviewPageParams
) -> View:
    """Make the shown pair. `panels`: the kept image, then the other; `members`: the thumbnails of a larger group."""
    case = cases[index]
    question = find_question(review, case, params.pair)
    questions = review.get_questions(case)
    turn = questions.index(question)
    ids = question.kept_file.image_id, question.other_file.image_id
    return {
        "case": case,
        "question": question,
        "panels": _make_panels(question, questions, make_finder(searcher.catalogue)),
        "explanation": _explain_outcome(question, has_decided=review.get_progress()[0] > 0),
        "members": _make_thumbnails(review, case, question, params) if len(case.members) > 2 else [],
        "number": index + 1,
        "form_url": params.make_url(group=case.id, pair=question.position),
        "previous_url": _make_adjacent_url(review, cases, index, turn - 1, params),
        "next_url": _make_adjacent_url(review, cases, index, turn + 1, params),
        "different_ids": ids if ids[0] and ids[1] and ids[0] != ids[1] else None,
        "decision_label": _label_decision(question),
        "open_count": sum(item.is_open for item in questions),
    }


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
    return params.make_url(group=cases[beside].id, pair=0 if question_index > 0 else len(cases[beside].members) - 1)


def _make_panels(question: ReviewQuestion, questions: Sequence[ReviewQuestion], finder: CompanionFinder) -> list[View]:
    """Make both images of a pair; their outcome (kept, removed, stays) may depend on other pairs of the group."""
    removed = {item.other_file.path for item in questions if item.is_removed}
    kept = {item.kept_file.path for item in questions if item.is_removed}
    reader, leaving = ValueReader(), {Path(path) for path in removed}

    def make_panel(file: ImageFile, other_file: ImageFile) -> View:
        path, other = replace_surrogates(file.path), replace_surrogates(other_file.path)
        name, folder = PurePath(path).name, shorten_folder(path, other)
        return {
            "file": file,
            "path": path,
            "folder": folder,
            "name": name,
            "title": f"{folder}{name}" if name == PurePath(other).name else name,
            "properties": [
                *compare_file_properties(file, other_file),
                *list_additions(find_additions(file.path, finder, reader, leaving)),
            ],
            "outcome": "removed" if file.path in removed else "kept" if file.path in kept else "stays",
        }

    two = question.kept_file, question.other_file
    return [make_panel(*two), make_panel(*two[::-1])]


def _explain_outcome(question: ReviewQuestion, *, has_decided: bool) -> str:
    """Explain the outcome of a pair in one sentence."""
    if question.note:
        return question.note
    if not question.needs_decision:
        return "There is nothing to decide: the plan for the same bytes, and that for everything, take them along."
    if question.decision is None and question.tier == "similar":
        return "Only similar: both stay, unless you call them the same."
    if question.decision is None and not has_decided:
        return "Nothing goes into the plan before you decide, nothing is touched before you apply it."
    if question.decision is not None and not question.decision.same:
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
) -> list[View]:
    """Make thumbnails of the group; of a large group, those around the current pair."""
    questions = {question.position: question for question in review.get_questions(case)}
    start = max(0, min(current.position - MAX_STRIP_IMAGES // 2, len(case.members) - MAX_STRIP_IMAGES))
    return [
        {
            "name": PurePath(replace_surrogates(file.path)).name,
            "url": params.make_url(group=case.id, pair=place),
            "thumbnail_url": urls.thumbnail(file.image_id or 0),
            "state": _label_state(questions.get(place)),
            "current": questions.get(place) is current,
        }
        for place, file in list(enumerate(case.files))[start : start + MAX_STRIP_IMAGES]
    ]


def _label_state(question: ReviewQuestion | None) -> str:
    """Return kept, same, different or open."""
    return "kept" if question is None else _label_decision(question).partition(",")[0] or "open"
