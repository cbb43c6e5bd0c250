"""The page at `/map`: the collection in a plane."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from explore.layouts import LAYOUTS, LayoutName
from service import urls
from service.deps import TheMaps, searcher_of
from service.map_pages import MapPage, look
from service.pages import render_page
from service.problems import problem_of

router = APIRouter(include_in_schema=False)

_TEMPLATE = "map.html"


@router.get(urls.MAP_PAGE)
async def show_map_page(request: Request, maps: TheMaps) -> Response:
    """The map that the address names; the list of its clusters says the same in words."""
    asked = request.query_params.get("layout", "pca")
    layout: LayoutName = next((one for one in LAYOUTS if one == asked), "pca")
    try:
        searcher = await searcher_of(request)
        view = await run_in_threadpool(look, searcher, maps, layout)
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, MapPage(layout))
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, MapPage(layout), problem_of(error))
