"""The pages at `/collection` and `/pictures/{id}`: looking at what there is, without JavaScript too."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from service import collection_pages as pages
from service import urls
from service.asking import Asking, Shelf
from service.collection_pages import CollectionView, NoPicture
from service.deps import ThePool, searcher_of
from service.pages import render_page
from service.problems import problem_of
from service.schemas import MAX_ID

router = APIRouter(include_in_schema=False)

_SHOWN = (SimileError, HTTPException, RequestValidationError)


@router.get(urls.COLLECTION_PAGE)
async def show_collection(request: Request, pool: ThePool) -> Response:
    """A stretch of the collection, in the order and with the filters that the address names."""
    try:
        link = Shelf.read(request.query_params)
        searcher = await searcher_of(request)
        view = await pool.run(lambda: pages.shelf(searcher, link))
        return render_page(request, "collection.html", view)
    except NothingIndexed:
        return render_page(request, "collection.html", CollectionView())
    except _SHOWN as error:
        return render_page(request, "collection.html", CollectionView(Shelf()), problem_of(error))


@router.get(urls.PICTURES_PAGE + "/{image_id}")
async def show_picture(request: Request, image_id: str, pool: ThePool) -> Response:
    """One picture with everything that is known of it. The rest of the address: the search it was opened from."""
    try:
        number, link = _id(image_id), Asking.read(request.query_params)
        searcher = await searcher_of(request)
        view = await pool.run(lambda: pages.picture(searcher, number, link))
        return render_page(request, "picture.html", view)
    except _SHOWN as error:
        return render_page(request, "picture.html", NoPicture(), problem_of(error))


def _id(text: str) -> int:
    """A picture's number. Not declared as one: its errors are to be pages."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise HTTPException(404, f"{text} is no picture's number.")
