"""The page at `/map`: the collection in a plane."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.explore.map.projection import LAYOUTS, LayoutName
from simile.service import urls
from simile.service.dependencies import TheMaps, searcher_of

pass
from collections.abc import Sequence
from dataclasses import dataclass

from simile.core.errors import BeingComputed
from simile.search.searcher import Searcher
from simile.service.errors import Refusal, problem_of
from simile.service.schemas.map import MapOut
from simile.service.serializers.map import map_out
from simile.service.state.map_cache import Maps
from simile.service.web.rendering import render_page

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


@dataclass(frozen=True)
class MapPage:
    """A map; or that it is being made; or that nobody has asked for one of this layout yet."""

    layout: LayoutName = "pca"
    map: MapOut | None = None
    waiting: bool = False
    layouts: Sequence[LayoutName] = LAYOUTS
    stored: Sequence[LayoutName] = ()
    total: int = 0  # pictures in the home


def look(searcher: Searcher, maps: Maps, layout: LayoutName) -> MapPage:
    """The map as of now. Raises NothingIndexed, and Refusal where it could not be made."""
    total, stored = searcher.count(), maps.stored(searcher)
    try:
        found = map_out(searcher, maps, maps.view(searcher, layout))
        return MapPage(layout, found, stored=stored, total=total)
    except BeingComputed:
        return MapPage(layout, waiting=True, stored=stored, total=total)
    except Refusal as refusal:
        if refusal.kind != "no-such-map":
            raise
        return MapPage(layout, stored=stored, total=total)
