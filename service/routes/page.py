"""The page at `/`: a plain form that works without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from search.searcher import Searcher
from service import search_pages, urls
from service.asking import Asking
from service.bodies import form_of, uploads_in
from service.deps import TheDesk, ThePool, searcher_of
from service.limits import EncodingPool
from service.pages import render_page
from service.problems import problem_of
from service.schemas import MOST_ASKED
from service.search_pages import Named, View

router = APIRouter(include_in_schema=False)

# Errors become the page itself, with the reason: parsing happens inside the handlers for that.
_SHOWN = (SimileError, HTTPException, RequestValidationError)
_TEMPLATE = "page.html"


@router.get(urls.PAGE)
async def show_page(request: Request, pool: ThePool, desk: TheDesk) -> Response:
    """The start, or what is similar to the images that the address names."""
    try:
        link = Asking.read(request.query_params)
        searcher = await searcher_of(request)
        if not link.positives and not link.negative_id:
            return render_page(request, _TEMPLATE, await pool.run(lambda: search_pages.start(searcher)))
        return await _results(request, await _look(request, desk, searcher, link))
    except NothingIndexed as error:
        asked = problem_of(error) if request.query_params else None
        return render_page(request, _TEMPLATE, View(Asking()), asked)
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


@router.post(urls.PAGE)
async def search_page(request: Request, pool: ThePool, desk: TheDesk) -> Response:
    """What is similar to the pictures in the form's fields `file`, and to the images that it names, together."""
    try:
        searcher = await searcher_of(request)
        async with form_of(request, MOST_ASKED) as form:
            link = Asking.read(form)
            sent = uploads_in(form, needed=not link.positives)
            uploads = await pool.run(lambda: [Named(upload.name, upload.read()) for upload in sent])
        return await _results(request, await _look(request, desk, searcher, link, uploads))
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


async def _look(
    request: Request, desk: TheDesk, searcher: Searcher, link: Asking, uploads: Sequence[Named] = ()
) -> View:
    return await desk.ask(
        request,
        lambda: search_pages.question(searcher, link, uploads),
        lambda answer: search_pages.results(searcher, link, uploads, answer),
        heavy=True,
    )


async def _results(request: Request, view: View) -> Response:
    """Written in a thread: a thousand hits take a tenth of a second, in which nobody else should have to wait."""
    return await run_in_threadpool(render_page, request, _TEMPLATE, view)


async def _show_problem(request: Request, pool: EncodingPool, error: Exception) -> Response:
    searcher = request.app.state.door.searcher
    view = await pool.run(lambda: search_pages.start_or_nothing(searcher))
    return render_page(request, _TEMPLATE, view, problem_of(error))
