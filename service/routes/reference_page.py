"""The page at `/docs`: the API, from the document that programs read at `/openapi.json`."""

from __future__ import annotations

from functools import lru_cache

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service import urls
from service.pages import render_page
from service.reference_pages import Reference, reference

router = APIRouter(include_in_schema=False)


@router.get(urls.DOCS)
def show_reference(request: Request) -> Response:
    """Every operation, what it takes, and what it answers."""
    return render_page(request, "reference.html", _reference(request.app))


@lru_cache(4)
def _reference(app: FastAPI) -> Reference:
    return reference(app.openapi())
