"""The page at `/duplicates`: one pair at a time, plain forms that work without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from core.errors import NothingIndexed, SimileError
from dedup.review import Case, Question, Review
from search.searcher import Searcher
from service import duplicate_pages as pages
from service import urls
from service.bodies import form_of
from service.deps import ThePool, TheReviews, searcher_of
from service.duplicate_answers import store_decisions
from service.duplicate_pages import DuplicatesView
from service.duplicate_schemas import DecisionIn
from service.pages import render_page
from service.problems import problem_of
from service.reviews import Reviews
from service.whereabouts import Where, listed, parse_undo, undo_of

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
