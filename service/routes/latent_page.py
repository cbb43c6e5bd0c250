"""The page at `/latent`: mix two pictures, push attributes, walk dimensions, make pictures, search from any of them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from service import urls
from service.deps import TheLatents, ThePool, searcher_of
from service.latent_pages import LatentPage, look
from service.pages import render_page
from service.problems import problem_of

router = APIRouter(include_in_schema=False)

_TEMPLATE = "latent.html"


@router.get(urls.LATENT_PAGE)
async def show_latent_page(request: Request, latents: TheLatents, pool: ThePool) -> Response:
    """The place that the address names. Without a script it is a form."""
    try:
        searcher = await searcher_of(request)
        asked = dict(request.query_params)
        view = await pool.run(lambda: look(searcher, latents, asked))
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, LatentPage())
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, LatentPage(), problem_of(error))
