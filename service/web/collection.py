"""The pages `/collection` and `/pictures/{id}`; they work without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BeingComputed, NothingIndexed, SimileError
from simile.search.pagination import ImagePageRequest, ImagePageResult, get_image_page
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, get_searcher
from simile.service.errors import make_problem
from simile.service.schemas.search import MAX_ID, HitResponse, ImageListItemResponse, ImageResponse
from simile.service.serializers.search import make_image_fields, make_image_response, make_search_response
from simile.service.web import collection as pages
from simile.service.web.query_params import COLLECTION_PAGE_SIZE, CollectionPageParams, SearchPageParams
from simile.service.web.rendering import get_image_name, render_page

pass

router = APIRouter(include_in_schema=False)

_COLLECTION_PAGE_ERRORS = (SimileError, HTTPException, RequestValidationError)


@router.get(urls.COLLECTION_PAGE)
async def show_collection(request: Request, pool: EncodingPoolDep) -> Response:
    """Show a page of the collection with the order and the filters of the URL."""
    try:
        link = CollectionPageParams.from_params(request.query_params)
        searcher = await get_searcher(request)
        view = await pool.run(lambda: pages.make_collection_view(searcher, link))
        return render_page(request, "collection.html", view)
    except NothingIndexed:
        return render_page(request, "collection.html", CollectionView())
    except _COLLECTION_PAGE_ERRORS as error:
        return render_page(request, "collection.html", CollectionView(CollectionPageParams()), make_problem(error))


@router.get(urls.IMAGE_PAGES + "/{image_id}")
async def show_image_page(request: Request, image_id: str, pool: EncodingPoolDep) -> Response:
    """Show an image with all its details. The query parameters describe the search that it was opened from."""
    try:
        number, link = _parse_image_id(image_id), SearchPageParams.from_params(request.query_params)
        searcher = await get_searcher(request)
        view = await pool.run(lambda: pages.make_image_view(searcher, number, link))
        return render_page(request, "picture.html", view)
    except _COLLECTION_PAGE_ERRORS as error:
        return render_page(request, "picture.html", MissingImageView(), make_problem(error))


def _parse_image_id(text: str) -> int:
    """Parse an image id. It is not declared as a number in the route, because its errors must be pages."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise HTTPException(404, f"{text} is no image id.")


IMAGE_PAGE_SIDE = 1024  # pixels of the longer side of an opened image
MAX_PAGE_NEIGHBOURS = 8
RETRY_SECONDS = 2  # seconds until a page reloads while the outlier order is computed

_SORT_LABELS = (("newest", "Newest"), ("id", "Oldest"), ("unlike", "Least like the rest"))


@dataclass(frozen=True)
class SortLink:
    """A sort order of the collection and its URL."""

    text: str
    url: str
    current: bool


@dataclass(frozen=True)
class CollectionView:
    """A page of the collection. has_encoder: images can be added. retry_seconds: delay of the next reload."""

    params: CollectionPageParams | None = None
    has_encoder: bool = False
    total: int = 0
    images: Sequence[ImageListItemResponse] = ()
    sorts: Sequence[SortLink] = ()
    next_url: str | None = None
    retry_seconds: int | None = None


@dataclass(frozen=True)
class ImagePageView:
    """The page of an image. params: the search that it was opened from. is_upload: its file is in the home."""

    params: SearchPageParams
    image: ImageResponse
    name: str
    large_url: str
    error_percentile: float | None
    sigma: float | None
    has_decoder: bool
    metadata: Mapping[str, object]
    neighbours: Sequence[HitResponse]
    is_upload: bool


@dataclass(frozen=True)
class MissingImageView:
    """The page for an image id that does not exist."""

    image: None = None
    name: str = ""


def make_collection_view(searcher: Searcher, params: CollectionPageParams) -> CollectionView:
    """Make a page of the collection. Raises BadSetting for an invalid filter or cursor."""
    sorts = [SortLink(text, params.make_url(sort=sort), sort == params.sort) for sort, text in _SORT_LABELS]
    ready = _has_encoder(searcher)
    try:
        page = get_image_page(
            searcher,
            ImagePageRequest(
                filter=params.to_filter(), sort=params.sort, limit=COLLECTION_PAGE_SIZE, cursor=params.cursor
            ),
        )
    except BeingComputed:
        return CollectionView(params, ready, searcher.count_images(), sorts=sorts, retry_seconds=RETRY_SECONDS)
    except NothingIndexed:
        return CollectionView(params, ready)
    more = params.make_url(cursor=page.next_cursor) if page.next_cursor else None
    return CollectionView(params, ready, page.total, _make_list_items(searcher, page), sorts, more)


def make_image_view(searcher: Searcher, image_id: int, params: SearchPageParams) -> ImagePageView:
    """Make the page of an image. Raises NoSuchImage."""
    record = searcher.get_image_with_error(image_id)
    found = searcher.search(
        SearchQuery((image_id,), params=SearchParams(limit=MAX_PAGE_NEIGHBOURS, include_metadata=True))
    )
    near = make_search_response(searcher, found, {"metadata"})
    image = make_image_response(record, searcher.get_metadata(image_id))
    own = searcher.home.uploads
    return ImagePageView(
        params=params,
        image=image,
        name=get_image_name(image),
        large_url=urls.thumbnail(image_id, IMAGE_PAGE_SIDE),
        error_percentile=_get_error_percentile(searcher, record.reconstruction_error),
        sigma=near.query.sigma,
        has_decoder=searcher.get_encoder().has_decoder,
        metadata=image.metadata,
        neighbours=near.hits,
        is_upload=all(Path(path).is_relative_to(own) for path in record.paths),
    )


def _get_error_percentile(searcher: Searcher, error: float | None) -> float | None:
    """Return the percentile (0 to 100) of a reconstruction error in the collection; None before calibration."""
    gauge = searcher.calibrations.get(searcher.index.get_snapshot())
    return None if gauge is None else gauge.compute_confidence(error, None, None).error_percentile


def _make_list_items(searcher: Searcher, page: ImagePageResult) -> list[ImageListItemResponse]:
    distances, metadata_by_id = page.distances or {}, searcher.get_metadata_by_id([item.id for item in page.images])
    return [
        ImageListItemResponse(
            **make_image_fields(item, metadata_by_id.get(item.id)), unlike_distance=distances.get(item.id)
        )
        for item in page.images
    ]


def _has_encoder(searcher: Searcher) -> bool:
    return searcher.catalogue.get_state().active_encoder is not None
