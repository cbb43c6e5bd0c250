"""The page at `/`: a plain form that works without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from search.searcher import Searcher
from service import pages, urls
from service.bodies import form_of, upload_in
from service.deps import ThePool, searcher_of
from service.limits import EncodingPool
from service.problems import problem_of
from service.schemas import MAX_LIMIT, ImageIdField

router = APIRouter(include_in_schema=False)

# Errors become the page itself, with the reason: parsing happens inside the handlers for that.
_SHOWN = (SimileError, HTTPException, RequestValidationError)


class Link(BaseModel):
    """What the page's address may ask for."""

    image_id: ImageIdField | None = None
    limit: int = Field(pages.HITS, ge=1, le=MAX_LIMIT)


@router.get(urls.PAGE)
async def show_page(request: Request, pool: ThePool) -> Response:
    """The start, or what is similar to the image that the address names."""
    try:
        link = _link(request)
        searcher = await searcher_of(request)
        return pages.render(request, await pool.run(lambda: _look(searcher, link)))
    except NothingIndexed as error:
        return pages.render(request, pages.View(), problem_of(error) if request.query_params else None)
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


@router.post(urls.PAGE)
async def search_page(request: Request, pool: ThePool) -> Response:
    """What is similar to the picture in the form's field `file`."""
    try:
        searcher = await searcher_of(request)
        async with form_of(request) as form:
            upload = upload_in(form)
            return pages.render(request, await pool.run(lambda: pages.by_file(searcher, upload.read(), upload.name)))
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


async def _show_problem(request: Request, pool: EncodingPool, error: Exception) -> Response:
    searcher = request.app.state.door.searcher
    view = await pool.run(lambda: pages.start_or_nothing(searcher))
    return pages.render(request, view, problem_of(error))


def _look(searcher: Searcher, link: Link) -> pages.View:
    return pages.start(searcher) if link.image_id is None else pages.by_id(searcher, link.image_id, link.limit)


def _link(request: Request) -> Link:
    try:
        return Link.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
