"""The page at `/map`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BeingComputed
from simile.explore.map.projection import LAYOUTS, LayoutName
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import MapCacheDep
from simile.service.errors import ProblemException
from simile.service.schemas.map import make_map_response
from simile.service.state.map_cache import MapCache
from simile.service.web.rendering import View, show_page

router = APIRouter(include_in_schema=False)


@router.get(urls.MAP_PAGE)
async def show_map_page(request: Request, map_cache: MapCacheDep) -> Response:
    """Show the map with the layout of the query string; the list of clusters is its text alternative."""
    return await show_page(
        request, "map.html", _parse_layout, lambda searcher, layout: make_map_page_view(searcher, map_cache, layout)
    )


def _parse_layout(query: QueryParams) -> LayoutName:
    return next((name for name in LAYOUTS if name == query.get("layout")), "pca")


def make_map_page_view(searcher: Searcher, map_cache: MapCache, layout: LayoutName) -> View:
    """Make the page: with a map, or `is_computing`, or neither if no map of this layout was requested yet.

    Raises NothingIndexed, and ProblemException if the map could not be made.
    """
    view: View = {"layout": layout, "layouts": LAYOUTS, "total": searcher.count_images()}
    try:
        view["map"] = make_map_response(searcher, map_cache, map_cache.get_view(searcher, layout))
    except BeingComputed:
        view["is_computing"] = True
    except ProblemException as problem:
        if problem.problem_kind != "no-such-map":
            raise
    return view
