"""The map of the collection: what it is, its points, its thumbnails, and having it made."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.map.map import Wish
from simile.explore.map.projection import LayoutName
from simile.explore.map.render import label_called, tile_bytes, tile_count, tile_of
from simile.service import urls
from simile.service.dependencies import TheMaps, ThePool, TheSearcher
from simile.service.middleware.headers import picture
from simile.service.openapi.install import Responses, answers, errors, json_body, pictures
from simile.service.requests.search import read_json
from simile.service.schemas.map import ComputingOut, MapIn, MapOut, PointsOut
from simile.service.serializers.map import BINARY, computing_out, map_out, points_response

router = APIRouter(prefix=urls.MAP, tags=["map"])

Layout = Annotated[LayoutName, Query(description="Which map.")]
Label = Annotated[
    str | None, Query(max_length=200, description="By which of the map's `labels` the pictures are told apart.")
]
TileNumber = Annotated[int, Path(ge=0, le=1_000_000, description="Which tile: `place` // 256.")]
MapTag = Annotated[
    str | None, Query(alias="map", pattern="^[0-9a-f]{16}$", description="The map that the place is of.")
]

_NOT_YET = errors(404, 409, 422, 503)
_POINTS = answers(PointsOut)
_POINTS[200]["content"] = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
_KEPT: Responses = {304: {"description": "You have it: it is what If-None-Match names"}}


@router.get("", responses=_NOT_YET)
def show_map(searcher: TheSearcher, maps: TheMaps, layout: Layout = "pca") -> MapOut:
    """What the map is: its clusters, each with its most typical picture, its labels, its tiles.

    Where there is none yet, that by PCA is made: 503 `being-computed` until then. Others: 404 until they are asked for.
    """
    return map_out(searcher, maps, maps.view(searcher, layout))


@router.post(
    "", status_code=202, responses=errors(400, 403, 408, 409, 413, 415, 422, 503), openapi_extra=json_body(MapIn)
)
async def make_map(request: Request, searcher: TheSearcher, maps: TheMaps) -> ComputingOut:
    """Have a map made, in a process of its own; one at a time, and the answer says which. Kept, and shown when done."""
    wanted = await read_json(request, MapIn)
    wish = Wish(wanted.layout, wanted.clusters, wanted.count, wanted.seed)
    made = computing_out(await run_in_threadpool(maps.start, searcher, wish))
    assert made is not None
    return made


@router.get("/points", response_class=Response, responses=_POINTS | _KEPT | _NOT_YET)
def points(
    request: Request, searcher: TheSearcher, maps: TheMaps, layout: Layout = "pca", label: Label = None
) -> Response:
    """Every picture of the map. `Accept: application/octet-stream`: the same as bare columns of numbers."""
    view = maps.view(searcher, layout)
    chosen = None if label is None else label_called(maps.labels(searcher, view), label)
    return points_response(request, searcher, view, chosen)


@router.get("/tiles/{tile}", response_class=Response, responses=pictures("image/webp", keeps=True) | _NOT_YET)
async def tile(
    tile: TileNumber,
    request: Request,
    searcher: TheSearcher,
    maps: TheMaps,
    pool: ThePool,
    layout: Layout = "pca",
    tag: MapTag = None,
) -> Response:
    """256 thumbnails of pictures that lie near each other, 16 in a row; clear where a picture was deleted."""

    def make() -> Response:
        view = maps.view(searcher, layout)
        if tag not in (None, view.map.tag):
            raise HTTPException(404, "This map was made anew since. Ask for the points again.")
        if tile >= tile_count(view):
            raise HTTPException(404, f"This map has tiles 0 to {tile_count(view) - 1}.")
        found = tile_of(searcher, view, tile)
        return picture(request, found.tag, lambda: (tile_bytes(searcher, found), "image/webp"))

    return await pool.run(make)
