"""The page at `/`: a plain form that works without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import TheDesk, ThePool, searcher_of
from simile.service.errors import problem_of
from simile.service.requests.search import form_of, uploads_in
from simile.service.schemas.search import MOST_ASKED
from simile.service.state.encoding_pool import EncodingPool
from simile.service.web import search
from simile.service.web.query_params import Asking
from simile.service.web.rendering import render_page

pass
from dataclasses import dataclass
from typing import NamedTuple

from simile.core.errors import BadSetting, SimileError
from simile.images.decoding import decode
from simile.images.rendering import sheets
from simile.search.queries import Asked, Question
from simile.search.searcher import Answer, Searcher
from simile.service import urls
from simile.service.schemas.search import MAX_LIMIT, MOST_ASKED, HitOut, ImageOut, QueryOut
from simile.service.serializers.search import data_url, image_out, search_out
from simile.service.web.rendering import called

router = APIRouter(include_in_schema=False)

# Errors become the page itself, with the reason: parsing happens inside the handlers for that.
_SHOWN = (SimileError, HTTPException, RequestValidationError)
_TEMPLATE = "page.html"


@router.get(urls.PAGE)
async def show_page(request: Request, pool: ThePool, desk: TheDesk) -> Response:
    """The start, or what is similar to the images that the address names."""
    try:
        link = Asking.read(request.query_params)
        searcher = await searcher_of(request)
        if not link.positives and not link.negative_id:
            return render_page(request, _TEMPLATE, await pool.run(lambda: search.start(searcher)))
        return await _results(request, await _look(request, desk, searcher, link))
    except NothingIndexed as error:
        asked = problem_of(error) if request.query_params else None
        return render_page(request, _TEMPLATE, View(Asking()), asked)
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


@router.post(urls.PAGE)
async def search_page(request: Request, pool: ThePool, desk: TheDesk) -> Response:
    """What is similar to the pictures in the form's fields `file`, and to the images that it names, together."""
    try:
        searcher = await searcher_of(request)
        async with form_of(request, MOST_ASKED) as form:
            link = Asking.read(form)
            sent = uploads_in(form, needed=not link.positives)
            uploads = await pool.run(lambda: [Named(upload.name, upload.read()) for upload in sent])
        return await _results(request, await _look(request, desk, searcher, link, uploads))
    except _SHOWN as error:
        return await _show_problem(request, pool, error)


async def _look(
    request: Request, desk: TheDesk, searcher: Searcher, link: Asking, uploads: Sequence[Named] = ()
) -> View:
    return await desk.ask(
        request,
        lambda: search.question(searcher, link, uploads),
        lambda answer: search.results(searcher, link, uploads, answer),
        heavy=True,
    )


async def _results(request: Request, view: View) -> Response:
    """Written in a thread: a thousand hits take a tenth of a second, in which nobody else should have to wait."""
    return await run_in_threadpool(render_page, request, _TEMPLATE, view)


async def _show_problem(request: Request, pool: EncodingPool, error: Exception) -> Response:
    searcher = request.app.state.door.searcher
    view = await pool.run(lambda: search.start_or_nothing(searcher))
    return render_page(request, _TEMPLATE, view, problem_of(error))


EXAMPLES = 12
PREVIEW_SIDE = 256


@dataclass(frozen=True)
class Like:
    """A picture that was asked with. forget: address of the search without it; upload: which of the uploads it is."""

    name: str
    source: str
    width: int
    height: int
    image_id: int | None = None
    forget: str | None = None
    upload: int | None = None


class Named(NamedTuple):
    """An upload: what it is called, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class View:
    """What there is to see.

    more: address of the same with more hits; unfiltered: of the same without filters. scale: the distance that fills
    a whole bar. mu: of what was searched for. calibrated: whether scores are. middle: what the model draws for several
    pictures together. uploads: how many of them were uploaded.
    """

    link: Asking
    total: int = 0
    title: str = ""
    query: QueryOut | None = None
    like: Sequence[Like] = ()
    unlike: Sequence[Like] = ()
    middle: str | None = None
    mu: Sequence[float] = ()
    calibrated: bool = False
    hits: Sequence[HitOut] = ()
    scale: float = 1.0
    more: str | None = None
    unfiltered: str = urls.PAGE
    uploads: int = 0
    examples: Sequence[ImageOut] = ()


def start(searcher: Searcher) -> View:
    """Nothing was searched yet: some indexed pictures to try."""
    total = searcher.count()
    return View(Asking(), total=total, examples=spread(searcher, total))


def start_or_nothing(searcher: Searcher | None) -> View:
    """For a page that says what went wrong, maybe with the home itself."""
    try:
        return start(searcher) if searcher else View(Asking())
    except SimileError:
        return View(Asking())


def question(searcher: Searcher, link: Asking, uploads: Sequence[Named]) -> Question:
    """What is asked: pictures like the link's and the uploads together. It decodes the uploads.

    Raises UnreadableImage, BadSetting (nothing to be like, too many pictures, a filter that can't be understood).
    """
    if not uploads and not link.positives:
        raise BadSetting("A search needs a picture to be like. Choose one first, then what it should not be like.")
    if len(uploads) + len(link.positives) + len(link.negative_id) > MOST_ASKED:
        raise BadSetting(f"A search takes at most {MOST_ASKED} pictures. Leave some out.")
    prepared = [searcher.prepare(upload.data, upload.name) for upload in uploads]
    asked = Asked(limit=link.limit, only=link.only(), within=link.within, metadata=True)
    return Question((*prepared, *link.positives), tuple(link.negative_id), asked)


def results(searcher: Searcher, link: Asking, uploads: Sequence[Named], answer: Answer) -> View:
    """The answer, for people. Raises NoSuchImage for a picture that was deleted just now."""
    like = [_uploaded(searcher, upload, at, link) for at, upload in enumerate(uploads)]
    like += [_like(_image(searcher, one), link) for one in link.positives]
    unlike = [_like(_image(searcher, one), link) for one in link.negative_id]
    found = search_out(searcher, answer, {"reconstruction", "metadata"})
    total = searcher.count()
    return View(
        link=link,
        total=total,
        title=_title(like, unlike),
        query=found.query,
        like=like,
        unlike=unlike,
        middle=_middle(searcher, answer, like[0]) if len(like) + len(unlike) > 1 else None,
        mu=[round(value, 5) for value in answer.query.mu.tolist()],
        calibrated=found.score_calibrated,
        hits=found.hits,
        scale=max((hit.distance for hit in found.hits), default=0.0) or 1.0,
        more=_more(link, total, len(found.hits)),
        unfiltered=Asking(positive_id=link.positives, negative_id=link.negative_id).address(),
        uploads=len(uploads),
    )


def _title(like: Sequence[Like], unlike: Sequence[Like]) -> str:
    if not unlike and len(like) == 1:
        return like[0].name
    together = "Like one picture" if len(like) == 1 else f"Like {len(like)} pictures together"
    return f"{together}, unlike {len(unlike)}" if unlike else together


def _image(searcher: Searcher, image_id: int) -> ImageOut:
    return image_out(searcher.image(image_id), searcher.metadata(image_id))


def _more(link: Asking, total: int, found: int) -> str | None:
    """The same with twice as many hits, unless these are all."""
    reachable = min(total - len(link.positives) - len(link.negative_id), MAX_LIMIT)  # what asks is left out
    if found < link.limit or link.limit >= reachable:
        return None
    return link.address(limit=min(2 * link.limit, MAX_LIMIT))


def _like(image: ImageOut, link: Asking) -> Like:
    forget = link.forgetting(image.image_id)
    return Like(called(image), image.thumbnail_url, image.width, image.height, image.image_id, forget)


def _uploaded(searcher: Searcher, upload: Named, at: int, link: Asking) -> Like:
    """An upload comes back in the page, small: nothing of it is kept."""
    picture = decode(upload.data, name=upload.name, limits=searcher.limits, min_side=PREVIEW_SIDE)
    small = sheets.thumbnail(picture)
    source = data_url(small, "image/png" if small.startswith(b"\x89PNG") else "image/jpeg")
    forget = link.address() if link.positives else urls.PAGE
    return Like(upload.name, source, picture.width, picture.height, forget=forget, upload=at)


def _middle(searcher: Searcher, answer: Answer, first: Like) -> str | None:
    """What the model draws for what was searched for, in the aspect of the first picture that was asked with."""
    if not searcher.encoder().has_decoder:
        return None
    return data_url(searcher.reconstruct_mu(answer.query.mu, first.width, first.height, answer.encoder), "image/png")


def spread(searcher: Searcher, total: int, most: int = EXAMPLES) -> list[ImageOut]:
    """Some images from all over a collection of so many: neighbours in a folder are often alike."""
    wanted = min(most, total)
    pages = [searcher.images(limit=1, offset=at * total // wanted) for at in range(wanted)]
    found = [record for page in pages for record in page]
    said = searcher.metadata_of([record.id for record in found])
    return [image_out(record, said.get(record.id)) for record in found]
