"""The page at `/map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BeingComputed, NothingIndexed, SimileError
from simile.explore.map.projection import LAYOUTS, LayoutName
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import MapCacheDep, get_searcher
from simile.service.errors import ProblemException, make_problem
from simile.service.schemas.map import MapResponse, make_map_response
from simile.service.state.map_cache import MapCache
from simile.service.web.rendering import render_page

router = APIRouter(include_in_schema=False)

_TEMPLATE = "map.html"


@router.get(urls.MAP_PAGE)
async def show_map_page(request: Request, map_cache: MapCacheDep) -> Response:
    """Show the map with the layout of the query string; the list of clusters is its text alternative."""
    requested = request.query_params.get("layout", "pca")
    layout: LayoutName = next((name for name in LAYOUTS if name == requested), "pca")
    try:
        searcher = await get_searcher(request)
        view = await run_in_threadpool(make_map_page_view, searcher, map_cache, layout)
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, MapPageView(layout=layout))
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, MapPageView(layout=layout), make_problem(error))


@dataclass(frozen=True, kw_only=True)
class MapPageView:
    """The content of the page: a map, or `is_computing`, or neither if no map of this layout was requested yet."""

    layout: LayoutName = "pca"
    map: MapResponse | None = None
    is_computing: bool = False
    layouts: Sequence[LayoutName] = LAYOUTS
    total: int = 0  # images in the home


def make_map_page_view(searcher: Searcher, map_cache: MapCache, layout: LayoutName) -> MapPageView:
    """Make the content of the page. Raises NothingIndexed, and ProblemException if the map could not be made."""
    total = searcher.count_images()
    try:
        response = make_map_response(searcher, map_cache, map_cache.get_view(searcher, layout))
        return MapPageView(layout=layout, map=response, total=total)
    except BeingComputed:
        return MapPageView(layout=layout, is_computing=True, total=total)
    except ProblemException as problem:
        if problem.problem_kind != "no-such-map":
            raise
        return MapPageView(layout=layout, total=total)
