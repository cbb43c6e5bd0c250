"""The pages `/collection` and `/pictures/{id}`; they work without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BeingComputed, NothingIndexed
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.api.images import list_images
from simile.service.dependencies import EncodingPoolDep
from simile.service.schemas.search import MAX_ID, ImageListOptions
from simile.service.schemas.serializers import list_partners, make_image_response, make_quality, make_search_response
from simile.service.web.query_params import CollectionPageParams, PageLink, SearchPageParams
from simile.service.web.rendering import View, get_image_name, show_page

COLLECTION_PAGE_SIZE = 60  # images on a page of the collection: fills rows of 2, 3, 4, 5 and 6
IMAGE_PAGE_SIDE = 1024  # pixels of the longer side of an opened image
MAX_PAGE_NEIGHBOURS = 8
RETRY_SECONDS = 2  # seconds until a page reloads while the outlier order is computed

_SORT_LABELS = {"newest": "Newest", "id": "Oldest", "taken": "Taken", "unlike": "Least like the rest"}

router = APIRouter(include_in_schema=False)


@router.get(urls.COLLECTION_PAGE)
async def show_collection(request: Request, pool: EncodingPoolDep) -> Response:
    """Show a page of the collection with the order and the filters of the URL."""
    return await show_page(
        request, "collection.html", CollectionPageParams.from_params, make_collection_view, pool=pool
    )


@router.get(urls.IMAGE_PAGES + "/{image_id}")
async def show_image_page(request: Request, image_id: str, pool: EncodingPoolDep) -> Response:
    """Show an image with all its details. The query parameters describe the search that it was opened from."""
    return await show_page(
        request,
        "picture.html",
        lambda query: (_parse_image_id(image_id), SearchPageParams.from_params(query)),
        lambda searcher, parsed: make_image_view(searcher, *parsed),
        pool=pool,
        explains_empty=True,
    )


def _parse_image_id(text: str) -> int:
    """Parse an image id. It is not declared as a number in the route, because its errors must be pages."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise HTTPException(404, f"{text} is no image id.")


def make_collection_view(searcher: Searcher, params: CollectionPageParams) -> View:
    """Make a page of the collection. Raises BadSetting for an invalid filter or cursor."""
    view: View = {"params": params, "has_encoder": searcher.catalogue.get_state().active_encoder is not None}
    sorts = [
        PageLink(text=text, url=params.make_url(sort=sort), current=sort == params.sort)
        for sort, text in _SORT_LABELS.items()
    ]
    try:
        page = list_images(searcher, ImageListOptions(**params.model_dump(), limit=COLLECTION_PAGE_SIZE))
    except BeingComputed:
        return view | {"total": searcher.count_images(), "sorts": sorts, "retry_seconds": RETRY_SECONDS}
    except NothingIndexed:
        return view
    next_url = params.make_url(cursor=page.next) if page.next else None
    return view | {"total": page.total, "images": page.images, "sorts": sorts, "next_url": next_url}


def make_image_view(searcher: Searcher, image_id: int, params: SearchPageParams) -> View:
    """Make the page of an image. Raises NoSuchImage.

    Args:
        params: The search that it was opened from.
    """
    record = searcher.get_image_with_error(image_id)
    query = SearchQuery((image_id,), params=SearchParams(limit=MAX_PAGE_NEIGHBOURS, include_metadata=True))
    near = make_search_response(searcher, searcher.search(query), {"metadata"})
    image = make_image_response(record, searcher.get_metadata(image_id))
    return {
        "params": params,
        "image": image,
        "photo": searcher.get_photo_metadata(image_id),
        "quality": make_quality(searcher, image_id),
        "partners": list_partners(record.paths),
        "name": get_image_name(image),
        "large_url": urls.thumbnail(image_id, IMAGE_PAGE_SIDE),
        "error_percentile": _get_error_percentile(searcher, record.reconstruction_error),
        "sigma": near.query.sigma,
        "has_decoder": searcher.get_encoder().has_decoder,
        "neighbours": near.hits,
        "is_upload": all(map(searcher.home.is_upload, record.paths)),
    }


def _get_error_percentile(searcher: Searcher, error: float | None) -> float | None:
    """Return the percentile (0 to 100) of a reconstruction error in the collection; None before calibration."""
    gauge = searcher.calibrations.get(searcher.index.get_snapshot())
    return None if gauge is None else gauge.compute_confidence(error, None, None).error_percentile
