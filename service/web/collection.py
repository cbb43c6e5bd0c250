"""The pages at `/collection` and `/pictures/{id}`: looking at what there is, without JavaScript too."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.service import urls
from simile.service.web import collection as pages
from simile.service.web.query_params import Asking, Shelf

pass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simile.core.errors import BeingComputed, NothingIndexed
from simile.search.pagination import Browse, Page, browse
from simile.search.queries import Asked, Question
from simile.search.searcher import Searcher
from simile.service.dependencies import ThePool, searcher_of
from simile.service.errors import problem_of
from simile.service.schemas.search import MAX_ID, HitOut, ImageOut, ListedOut
from simile.service.serializers.search import image_fields, image_out, search_out
from simile.service.web.query_params import SHELF, Asking, Shelf
from simile.service.web.rendering import called, render_page

router = APIRouter(include_in_schema=False)

_SHOWN = (SimileError, HTTPException, RequestValidationError)


@router.get(urls.COLLECTION_PAGE)
async def show_collection(request: Request, pool: ThePool) -> Response:
    """A stretch of the collection, in the order and with the filters that the address names."""
    try:
        link = Shelf.read(request.query_params)
        searcher = await searcher_of(request)
        view = await pool.run(lambda: pages.shelf(searcher, link))
        return render_page(request, "collection.html", view)
    except NothingIndexed:
        return render_page(request, "collection.html", CollectionView())
    except _SHOWN as error:
        return render_page(request, "collection.html", CollectionView(Shelf()), problem_of(error))


@router.get(urls.PICTURES_PAGE + "/{image_id}")
async def show_picture(request: Request, image_id: str, pool: ThePool) -> Response:
    """One picture with everything that is known of it. The rest of the address: the search it was opened from."""
    try:
        number, link = _id(image_id), Asking.read(request.query_params)
        searcher = await searcher_of(request)
        view = await pool.run(lambda: pages.picture(searcher, number, link))
        return render_page(request, "picture.html", view)
    except _SHOWN as error:
        return render_page(request, "picture.html", NoPicture(), problem_of(error))


def _id(text: str) -> int:
    """A picture's number. Not declared as one: its errors are to be pages."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise HTTPException(404, f"{text} is no picture's number.")


LARGE = 1024  # pixels of the longer side that an opened picture is shown at
NEIGHBOURS = 8
RETRY = 2  # seconds until a page asks again for what is being computed

_SORTS = (("newest", "Newest"), ("id", "Oldest"), ("unlike", "Least like the rest"))


@dataclass(frozen=True)
class Sorting:
    """An order of the collection, and its address."""

    text: str
    url: str
    current: bool


@dataclass(frozen=True)
class CollectionView:
    """A stretch of the collection. ready: pictures can be added. pending: seconds until the order may be known."""

    link: Shelf | None = None
    ready: bool = False
    total: int = 0
    images: Sequence[ListedOut] = ()
    sorts: Sequence[Sorting] = ()
    more: str | None = None
    pending: int | None = None


@dataclass(frozen=True)
class PictureView:
    """One picture. link: the search that it was opened from. uploaded: its file is the service's own."""

    link: Asking
    image: ImageOut
    name: str
    large: str
    error_percentile: float | None
    sigma: float | None
    has_decoder: bool
    metadata: Mapping[str, object]
    neighbours: Sequence[HitOut]
    uploaded: bool


@dataclass(frozen=True)
class NoPicture:
    """A picture that isn't there."""

    image: None = None
    name: str = ""


def shelf(searcher: Searcher, link: Shelf) -> CollectionView:
    """A stretch of the collection. Raises BadSetting for a filter or a cursor that can't be understood."""
    sorts = [Sorting(text, link.address(sort=sort), sort == link.sort) for sort, text in _SORTS]
    ready = _is_ready(searcher)
    try:
        page = browse(searcher, Browse(link.only(), link.sort, SHELF, after=link.cursor))
    except BeingComputed:
        return CollectionView(link, ready, searcher.count(), sorts=sorts, pending=RETRY)
    except NothingIndexed:
        return CollectionView(link, ready)
    more = link.address(cursor=page.next) if page.next else None
    return CollectionView(link, ready, page.total, _listed(searcher, page), sorts, more)


def picture(searcher: Searcher, image_id: int, link: Asking) -> PictureView:
    """Everything about one picture. Raises NoSuchImage."""
    record = searcher.measured(image_id)
    found = searcher.ask(Question((image_id,), asked=Asked(limit=NEIGHBOURS, metadata=True)))
    near = search_out(searcher, found, {"metadata"})
    image = image_out(record, searcher.metadata(image_id))
    own = searcher.home.uploads
    return PictureView(
        link=link,
        image=image,
        name=called(image),
        large=urls.thumbnail(image_id, LARGE),
        error_percentile=_percentile(searcher, record.reconstruction_error),
        sigma=near.query.sigma,
        has_decoder=searcher.encoder().has_decoder,
        metadata=image.metadata,
        neighbours=near.hits,
        uploaded=all(Path(path).is_relative_to(own) for path in record.paths),
    )


def _percentile(searcher: Searcher, error: float | None) -> float | None:
    """Where a reconstruction error stands among those of the collection, 0 to 100; None while that is unknown."""
    gauge = searcher.gauges.current(searcher.index.current())
    return None if gauge is None else gauge.judge(error, None, None).error_percentile


def _listed(searcher: Searcher, page: Page) -> list[ListedOut]:
    distances, said = page.distances or {}, searcher.metadata_of([one.id for one in page.images])
    return [
        ListedOut(**image_fields(one, said.get(one.id)), unlike_distance=distances.get(one.id)) for one in page.images
    ]


def _is_ready(searcher: Searcher) -> bool:
    return searcher.catalogue.state().active_encoder is not None
