"""The search page at `/`: a plain form that works without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, cast

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import BadSetting, NothingIndexed, SimileError
from simile.core.records import Box
from simile.images.rendering.sheets import render_thumbnail
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher, SearchResult
from simile.search.words.text import suggest_words
from simile.search.words.vocabulary import Word
from simile.service import urls
from simile.service.dependencies import BatcherDep, EncodingPoolDep, get_searcher
from simile.service.errors import make_problem
from simile.service.requests.search import get_uploads, open_form
from simile.service.schemas.search import MAX_LIMIT, MAX_QUERY_IMAGES, ImageResponse
from simile.service.schemas.serializers import make_data_url, make_image_response, make_search_response
from simile.service.security.prices import get_search_price
from simile.service.state.batcher import ComputePool, EncodingPool
from simile.service.web.query_params import SearchPageParams
from simile.service.web.rendering import PAGE_ERRORS, View, get_image_name, render_page

MAX_EXAMPLE_IMAGES = MAX_EXAMPLE_WORDS = 12
PREVIEW_SIDE = 256

_TEMPLATE = "page.html"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class QueryImageView:
    """A query image. remove_url: the search without it. upload_index: which upload it is."""

    name: str
    url: str
    width: int
    height: int
    image_id: int | None = None
    remove_url: str | None = None
    upload_index: int | None = None


class NamedUpload(NamedTuple):
    """An upload: its name and its bytes."""

    name: str
    data: bytes


@router.get(urls.SEARCH_PAGE)
async def show_search_page(request: Request, pool: EncodingPoolDep, batcher: BatcherDep) -> Response:
    """Show the start page, or the results for the images in the URL."""
    try:
        link = SearchPageParams.from_params(request.query_params)
        searcher = await get_searcher(request)
        if not link.positives and not link.negative_id and link.text is None:
            return render_page(request, _TEMPLATE, await pool.run(lambda: make_start_view(searcher)))
        return await _show_results(request, batcher, searcher, link)
    except NothingIndexed as error:
        return render_page(request, _TEMPLATE, {}, make_problem(error) if request.query_params else None)
    except PAGE_ERRORS as error:
        return await _render_problem(request, pool, error)


@router.post(urls.SEARCH_PAGE)
async def submit_search(request: Request, pool: EncodingPoolDep, batcher: BatcherDep) -> Response:
    """Search by the form's uploads (`file`) and the images that it names."""
    try:
        searcher = await get_searcher(request)
        async with open_form(request, MAX_QUERY_IMAGES) as form:
            link = SearchPageParams.from_params(form)
            sent = get_uploads(form, required=not link.positives and link.text is None)
            uploads = await pool.run(lambda: [NamedUpload(upload.name, upload.read()) for upload in sent])
        return await _show_results(request, batcher, searcher, link, uploads)
    except PAGE_ERRORS as error:
        return await _render_problem(request, pool, error)


async def _show_results(
    request: Request,
    batcher: BatcherDep,
    searcher: Searcher,
    params: SearchPageParams,
    uploads: Sequence[NamedUpload] = (),
) -> Response:
    if len(uploads) + len(params.positives) + len(params.negative_id) > 1:  # only one image has a part
        params = params.model_copy(update={"box": None, "verify": False})
    # Only the hits of one whole image are verified, and only where nothing else orders them.
    if params.text or params.diversity or params.group_by or params.box:
        params = params.model_copy(update={"verify": False})
    is_selective = params.distinct or params.diversity or params.group_by or params.to_filter()
    is_slow = bool(params.negative_id or params.text or is_selective) or params.within is not None
    price = get_search_price(is_slow=is_slow and not uploads, is_verified=params.verify)
    make_query = partial(make_search_query, searcher, params, uploads)
    make_view = partial(make_results_view, searcher, params, uploads)
    with request.app.state.admission.hold(request.scope, price):
        if params.verify:
            pool = cast(ComputePool, request.app.state.compute_pool)
            view = await pool.run(lambda: make_view(searcher.search(make_query())))
        else:
            view = await batcher.search(request, make_query, make_view, heavy=True)
    # In a thread: 1,000 hits take 0.1 s, which would block the event loop.
    return await run_in_threadpool(render_page, request, _TEMPLATE, view)


async def _render_problem(request: Request, pool: EncodingPool, error: Exception) -> Response:
    searcher = request.app.state.searcher_provider.searcher
    view = await pool.run(lambda: make_fallback_view(searcher))
    return render_page(request, _TEMPLATE, {**view, "text": request.query_params.get("text")}, make_problem(error))


def make_start_view(searcher: Searcher) -> View:
    """Make the start page with some indexed images to try."""
    total = searcher.count_images()
    view: View = {"total": total, "examples": select_spread_images(searcher)}
    if total and (vocabulary := searcher.vocabularies.find(searcher.index.get_snapshot())) is not None:
        view |= {"known_words": list(islice(_iterate_phrases(suggest_words("", vocabulary)), MAX_EXAMPLE_WORDS))}
    return view


def _iterate_phrases(words: Sequence[Word]) -> Iterator[Word]:
    """Yield the words without those that are only a part of a phrase: of `ankle boot`, not `ankle`."""
    phrases: dict[tuple[float, int], list[str]] = {}
    for word in words:
        phrases.setdefault((word.auc, word.count), []).append(f" {word.text} ")
    for word in words:
        equal = phrases[word.auc, word.count]  # learned from the same images, or from as many
        if not any(f" {word.text} " in phrase and len(phrase) > len(word.text) + 2 for phrase in equal):
            yield word


def make_fallback_view(searcher: Searcher | None) -> View:
    """Make the page that shows a problem; the home itself may be unreadable."""
    try:
        return make_start_view(searcher) if searcher else {}
    except SimileError:
        return {}


def make_search_query(searcher: Searcher, params: SearchPageParams, uploads: Sequence[NamedUpload]) -> SearchQuery:
    """Make the query from the URL's images and the uploads, which are decoded.

    Raises UnreadableImage, BadSetting (no positive image, too many images, an invalid filter).
    """
    if not uploads and not params.positives and (params.text is None or params.negative_id):
        raise BadSetting("A search needs a positive image. Choose one before a negative image.")
    if len(uploads) + len(params.positives) + len(params.negative_id) > MAX_QUERY_IMAGES:
        raise BadSetting(f"A search takes at most {MAX_QUERY_IMAGES} images. Remove some.")
    box = None if params.box is None else Box.parse(params.box)
    prepared = [searcher.prepare_query_image(upload.data, upload.name, box) for upload in uploads]
    indexed = [item if box is None else searcher.prepare_indexed_part(item, box) for item in params.positives]
    search_params = SearchParams(
        limit=params.limit,
        filter=params.to_filter(),
        radius=params.within,
        include_metadata=True,
        verify=params.verify,
        distinct=params.distinct,
        diversity=params.diversity,
        group_by=params.group_by,
        combine=params.combine,
    )
    negatives = tuple(params.negative_id)
    return SearchQuery((*prepared, *indexed), negatives, search_params, text=params.text)


def make_results_view(
    searcher: Searcher, params: SearchPageParams, uploads: Sequence[NamedUpload], result: SearchResult
) -> View:
    """Make the page of the results. Raises NoSuchImage for an image that was deleted meanwhile."""
    like = [_make_upload_view(searcher, upload, position, params) for position, upload in enumerate(uploads)]
    like += [_make_query_image_view(load_image(searcher, item), params) for item in params.positives]
    unlike = [_make_query_image_view(load_image(searcher, item), params) for item in params.negative_id]
    found = make_search_response(searcher, result, {"reconstruction", "metadata"})
    total = searcher.count_images()
    has_mean = len(like) + len(unlike) > 1 and params.combine == "mean"
    return {
        "params": params,
        "total": total,
        "title": _make_title(like, unlike, params.text),
        "query": found.query,
        "text": params.text,
        "positives": like,
        "negatives": unlike,
        "mean_image_url": _reconstruct_mean(searcher, result, like[0]) if has_mean else None,
        "mu": [round(value, 5) for value in result.query.mu.tolist()],
        "is_calibrated": found.score_calibrated,
        "hits": found.hits,
        "group_counts": {group.value: group.count for group in found.groups or ()},
        "max_distance": max((hit.distance for hit in found.hits), default=0.0) or 1.0,  # of a full bar
        "more_url": _make_more_url(params, total, len(found.hits if found.groups is None else found.groups)),
        "box": None if params.box is None else Box.parse(params.box),
        "unfiltered_url": SearchPageParams(
            positive_id=params.positives, negative_id=params.negative_id, text=params.text, box=params.box
        ).make_url(),
        "upload_count": len(uploads),
    }


def _make_title(
    positives: Sequence[QueryImageView], negatives: Sequence[QueryImageView], text: str | None = None
) -> str:
    if text is not None:
        return f"“{text}”, {_make_title(positives, negatives)}" if positives else f"“{text}”"
    if not negatives and len(positives) == 1:
        return positives[0].name
    together = "Like one image" if len(positives) == 1 else f"Like {len(positives)} images together"
    return f"{together}, unlike {len(negatives)}" if negatives else together


def load_image(searcher: Searcher, image_id: int) -> ImageResponse:
    """Return an indexed image with its metadata. Raises NoSuchImage."""
    return make_image_response(searcher.get_image(image_id), searcher.get_metadata(image_id))


def _make_more_url(params: SearchPageParams, total: int, hit_count: int) -> str | None:
    """Return the URL with twice as many hits, or groups of hits, unless all are shown."""
    reachable = min(total - len(params.positives) - len(params.negative_id), MAX_LIMIT)  # query images are no hits
    if params.group_by is not None:
        reachable = min(reachable, MAX_LIMIT // SearchParams.group_size)
    if hit_count < params.limit or params.limit >= reachable:
        return None
    return params.make_url(limit=min(2 * params.limit, reachable))


def _make_query_image_view(image: ImageResponse, params: SearchPageParams) -> QueryImageView:
    forget = params.make_url_without(image.image_id)
    return QueryImageView(get_image_name(image), image.thumbnail_url, image.width, image.height, image.image_id, forget)


def _make_upload_view(searcher: Searcher, upload: NamedUpload, index: int, params: SearchPageParams) -> QueryImageView:
    """Show an upload as a small data URL; it is not stored."""
    render = partial(render_thumbnail, limits=searcher.limits, side=PREVIEW_SIDE)
    thumbnail, media_type, width, height = searcher.decode_upload(render, upload.data, upload.name)
    forget = params.make_url() if params.positives else urls.search_page()
    source = make_data_url(thumbnail, media_type)
    return QueryImageView(upload.name, source, width, height, remove_url=forget, upload_index=index)


def _reconstruct_mean(searcher: Searcher, result: SearchResult, first: QueryImageView) -> str | None:
    """Reconstruct the query's mu, with the aspect ratio of the first query image."""
    if not searcher.get_encoder().has_decoder:
        return None
    data = searcher.reconstruct_latent(result.query.mu, first.width, first.height, result.encoder)
    return make_data_url(data, "image/png")


def select_spread_images(searcher: Searcher, limit: int = MAX_EXAMPLE_IMAGES) -> list[ImageResponse]:
    """Choose images that are spread over the collection, because neighbours in a folder are often similar."""
    images = searcher.catalogue.images
    found = list(images.get_many(images.get_spread_ids(limit)).values())
    metadata = searcher.get_metadata_by_id([record.id for record in found])
    return [make_image_response(record, metadata.get(record.id)) for record in found]
