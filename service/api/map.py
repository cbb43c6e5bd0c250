"""Routes of the map: its description, points and thumbnails, and making a new one."""

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
from simile.service.dependencies import ComputePoolDep, MapCacheDep, SearcherDep
from simile.service.middleware.headers import make_etag_response
from simile.service.openapi import install as docs
from simile.service.requests.search import read_json
from simile.service.schemas import map as schemas
from simile.service.state.map_cache import MapProgress

router = APIRouter(prefix=urls.MAP, tags=["map"])

LayoutParam = Annotated[LayoutName, Query(description="The layout of the map.")]
LabelParam = Annotated[
    str | None, Query(max_length=200, description="Adds the labels of this source, one of the map's `labels`.")
]
TileParam = Annotated[int, Path(ge=0, le=1_000_000, description="The number of the tile: `place` // 256.")]
MapTagParam = Annotated[
    str | None, Query(alias="map", pattern="^[0-9a-f]{16}$", description="The map that the tile belongs to.")
]

_MAP_ERRORS = docs.document_errors(404, 409, 422, 503)
_POINTS_RESPONSES = (
    docs.document_json(schemas.MapPointsResponse, binary_media_types=[schemas.BINARY_MEDIA_TYPE])
    | docs.NOT_MODIFIED_RESPONSE
    | _MAP_ERRORS
)


@router.get("", responses=_MAP_ERRORS)
def show_map(searcher: SearcherDep, map_cache: MapCacheDep, layout: LayoutParam = "pca") -> schemas.MapResponse:
    """Describe the map: clusters, each with its most typical image, labels and tiles.

    A missing map by PCA is computed: 503 `being-computed` until then. Other layouts: 404 until they are requested.
    """
    return schemas.make_map_response(searcher, map_cache, map_cache.get_view(searcher, layout))


@router.post(
    "",
    status_code=202,
    responses=docs.document_errors(400, 403, 408, 409, 413, 415, 422, 503),
    openapi_extra=docs.json_body(schemas.MapRequest),
)
async def make_map(request: Request, searcher: SearcherDep, map_cache: MapCacheDep) -> MapProgress:
    """Start to make a map in a separate process. Only one is made at a time; the response says which."""
    body = await read_json(request, schemas.MapRequest)
    return await run_in_threadpool(map_cache.start, searcher, MapSettings(**body.model_dump()))


@router.get("/points", response_class=Response, responses=_POINTS_RESPONSES)
def points(
    request: Request,
    searcher: SearcherDep,
    map_cache: MapCacheDep,
    layout: LayoutParam = "pca",
    label: LabelParam = None,
) -> Response:
    """Return all images of the map in columns. `Accept: application/octet-stream`: in binary."""
    view = map_cache.get_view(searcher, layout)
    labels = None if label is None else find_labels(map_cache.get_labels(searcher, view), label)
    return schemas.make_points_response(request, searcher, view, labels)


@router.get(
    "/tiles/{tile}",
    response_class=Response,
    responses=docs.document_image("image/webp", cacheable=True) | _MAP_ERRORS,
)
async def tile(
    tile: TileParam,
    request: Request,
    searcher: SearcherDep,
    map_cache: MapCacheDep,
    pool: ComputePoolDep,
    layout: LayoutParam = "pca",
    tag: MapTagParam = None,
) -> Response:
    """Return 256 thumbnails of images near each other, 16 in a row; transparent for a deleted image."""

    def make() -> Response:
        view = map_cache.get_view(searcher, layout)
        if tag not in (None, view.map.tag):
            raise HTTPException(404, "This map was replaced by a newer one. Request the points again.")
        if tile >= count_tiles(view):
            raise HTTPException(404, f"This map has tiles 0 to {count_tiles(view) - 1}.")
        content = get_tile(searcher, view, tile)
        return make_etag_response(request, content.tag, lambda: (get_tile_bytes(searcher, content), "image/webp"))

    return await pool.run(make)
