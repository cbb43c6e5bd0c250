"""What the pages of the collection show: a stretch of it, and one picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import BeingComputed, NothingIndexed
from search.browsing import Browse, Page, browse
from search.questions import Asked, Question
from search.searcher import Searcher
from service import urls
from service.answers import image_fields, image_out, search_out
from service.asking import SHELF, Asking, Shelf
from service.pages import called
from service.schemas import HitOut, ImageOut, ListedOut

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
