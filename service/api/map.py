"""The map of the collection: what it is, its points, its thumbnails, and having it made."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.map.map import MapSettings
from simile.explore.map.projection import LayoutName
from simile.explore.map.render import count_tiles, find_labels, get_tile, get_tile_bytes
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, MapCacheDep, SearcherDep
from simile.service.middleware.headers import make_etag_response
from simile.service.openapi.install import ResponseDocs, document_errors, document_image, document_json, json_body
from simile.service.requests.search import read_json
from simile.service.schemas.map import MapPointsResponse, MapProgressResponse, MapRequest, MapResponse
from simile.service.serializers.map import (
    BINARY_MEDIA_TYPE,
    make_map_response,
    make_points_response,
    make_progress_response,
)

router = APIRouter(prefix=urls.MAP, tags=["map"])

LayoutParam = Annotated[LayoutName, Query(description="Which map.")]
LabelParam = Annotated[
    str | None, Query(max_length=200, description="By which of the map's `labels` the pictures are told apart.")
]
TileParam = Annotated[int, Path(ge=0, le=1_000_000, description="Which tile: `place` // 256.")]
MapTagParam = Annotated[
    str | None, Query(alias="map", pattern="^[0-9a-f]{16}$", description="The map that the place is of.")
]

_MAP_ERRORS = document_errors(404, 409, 422, 503)
_POINTS_RESPONSES = document_json(MapPointsResponse)
_POINTS_RESPONSES[200]["content"] = {BINARY_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_NOT_MODIFIED: ResponseDocs = {304: {"description": "You have it: it is what If-None-Match names"}}


@router.get("", responses=_MAP_ERRORS)
def show_map(searcher: SearcherDep, map_cache: MapCacheDep, layout: LayoutParam = "pca") -> MapResponse:
    """What the map is: its clusters, each with its most typical picture, its labels, its tiles.

    Where there is none yet, that by PCA is made: 503 `being-computed` until then. Others: 404 until they are asked for.
    """
    return make_map_response(searcher, map_cache, map_cache.get_view(searcher, layout))


@router.post(
    "",
    status_code=202,
    responses=document_errors(400, 403, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(MapRequest),
)
async def make_map(request: Request, searcher: SearcherDep, map_cache: MapCacheDep) -> MapProgressResponse:
    """Have a map made, in a process of its own; one at a time, and the answer says which. Kept, and shown when done."""
    wanted = await read_json(request, MapRequest)
    wish = MapSettings(wanted.layout, wanted.clusters, wanted.count, wanted.seed)
    made = make_progress_response(await run_in_threadpool(map_cache.start, searcher, wish))
    assert made is not None
    return made


@router.get("/points", response_class=Response, responses=_POINTS_RESPONSES | _NOT_MODIFIED | _MAP_ERRORS)
def points(
    request: Request,
    searcher: SearcherDep,
    map_cache: MapCacheDep,
    layout: LayoutParam = "pca",
    label: LabelParam = None,
) -> Response:
    """Every picture of the map. `Accept: application/octet-stream`: the same as bare columns of numbers."""
    view = map_cache.get_view(searcher, layout)
    chosen = None if label is None else find_labels(map_cache.get_labels(searcher, view), label)
    return make_points_response(request, searcher, view, chosen)


@router.get(
    "/tiles/{tile}", response_class=Response, responses=document_image("image/webp", cacheable=True) | _MAP_ERRORS
)
async def tile(
    tile: TileParam,
    request: Request,
    searcher: SearcherDep,
    map_cache: MapCacheDep,
    pool: EncodingPoolDep,
    layout: LayoutParam = "pca",
    tag: MapTagParam = None,
) -> Response:
    """256 thumbnails of pictures that lie near each other, 16 in a row; clear where a picture was deleted."""

    def make() -> Response:
        view = map_cache.get_view(searcher, layout)
        if tag not in (None, view.map.tag):
            raise HTTPException(404, "This map was made anew since. Ask for the points again.")
        if tile >= count_tiles(view):
            raise HTTPException(404, f"This map has tiles 0 to {count_tiles(view) - 1}.")
        found = get_tile(searcher, view, tile)
        return make_etag_response(request, found.tag, lambda: (get_tile_bytes(searcher, found), "image/webp"))

    return await pool.run(make)
