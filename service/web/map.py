"""The page at `/map`: the collection in a plane."""

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
from simile.service.schemas.map import MapResponse
from simile.service.serializers.map import make_map_response
from simile.service.state.map_cache import MapCache
from simile.service.web.rendering import render_page

pass

router = APIRouter(include_in_schema=False)

_TEMPLATE = "map.html"


@router.get(urls.MAP_PAGE)
async def show_map_page(request: Request, map_cache: MapCacheDep) -> Response:
    """The map that the address names; the list of its clusters says the same in words."""
    asked = request.query_params.get("layout", "pca")
    layout: LayoutName = next((one for one in LAYOUTS if one == asked), "pca")
    try:
        searcher = await get_searcher(request)
        view = await run_in_threadpool(make_map_page_view, searcher, map_cache, layout)
        return render_page(request, _TEMPLATE, view)
    except NothingIndexed:
        return render_page(request, _TEMPLATE, MapPageView(layout))
    except (SimileError, HTTPException) as error:
        return render_page(request, _TEMPLATE, MapPageView(layout), make_problem(error))


@dataclass(frozen=True)
class MapPageView:
    """A map; or that it is being made; or that nobody has asked for one of this layout yet."""

    layout: LayoutName = "pca"
    map: MapResponse | None = None
    is_computing: bool = False
    layouts: Sequence[LayoutName] = LAYOUTS
    available_layouts: Sequence[LayoutName] = ()
    total: int = 0  # pictures in the home


def make_map_page_view(searcher: Searcher, map_cache: MapCache, layout: LayoutName) -> MapPageView:
    """The map as of now. Raises NothingIndexed, and Refusal where it could not be made."""
    total, stored = searcher.count_images(), map_cache.list_layouts(searcher)
    try:
        found = make_map_response(searcher, map_cache, map_cache.get_view(searcher, layout))
        return MapPageView(layout, found, available_layouts=stored, total=total)
    except BeingComputed:
        return MapPageView(layout, is_computing=True, available_layouts=stored, total=total)
    except ProblemException as refusal:
        if refusal.problem_kind != "no-such-map":
            raise
        return MapPageView(layout, available_layouts=stored, total=total)
