"""The collection: list, add, look at, describe, delete."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import UnreadableImage
from simile.indexer.pipeline.uploads import delete_image
from simile.search.attributes import pushed_question
from simile.search.pagination import Browse, browse
from simile.search.searcher import Question, Searcher
from simile.service import urls
from simile.service.api.file_response import image_file_response
from simile.service.api.uploads import Added, add_picture
from simile.service.dependencies import ImageId, TheAddition, TheDesk, ThePool, TheSearcher
from simile.service.errors import respond
from simile.service.middleware.headers import picture
from simile.service.openapi.install import Responses, addition_body, answers, errors, json_body, pictures
from simile.service.requests.search import JSON, read_json
from simile.service.schemas.search import (
    AddedOut,
    ImageDetailOut,
    ImagesOut,
    ListedOut,
    ListOptions,
    MetadataIn,
    SearchOptions,
    SearchOut,
)
from simile.service.security.authorization import demand
from simile.service.serializers.search import image_fields, search_json

router = APIRouter(prefix=f"{urls.API}/images", tags=["images"])

IfDuplicate = Annotated[
    Literal["reject", "link", "keep"] | None,
    Query(description="What to do with a picture that is there already; not asked for, nobody looks."),
]
Side = Annotated[int, Query(ge=32, le=2048, description="Pixels of the longer side, at most.")]

Wanted = Annotated[
    Literal["strip", "keep"],
    Query(
        alias="metadata",
        description="`strip`: without what a camera wrote into it (EXIF with GPS, XMP, IPTC, comments); the pixels are "
        "as they were. `keep`: the bytes as they are; needs the scope `write` where keys are used.",
    ),
]

_MANY = 100  # hits; see search.py
_KNOWN: Responses = {200: {"model": AddedOut, "description": "These bytes were known, or it is linked to a copy"}}
_GONE = errors(404, 409, 422, 503)
_BINARY = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_PART: Responses = {206: {"content": _BINARY, "description": "The stretch that was asked for"}}


@router.get("", responses=errors(409, 422, 503))
def list_images(searcher: TheSearcher, wanted: Annotated[ListOptions, Query()]) -> ImagesOut:
    """A page of the collection: by id, the newest first, or those least like the rest first.

    What is `unlike` the rest is computed at the first such question: until then 503 `being-computed`.
    """
    browsing = Browse(wanted.only(), wanted.sort, wanted.limit, wanted.offset, wanted.cursor)
    page = browse(searcher, browsing)
    said = searcher.metadata_of([record.id for record in page.images])
    distances = page.distances or {}
    listed = [
        ListedOut(**image_fields(one, said.get(one.id)), unlike_distance=distances.get(one.id)) for one in page.images
    ]
    return ImagesOut(images=listed, total=page.total, limit=wanted.limit, offset=wanted.offset, next=page.next)


@router.post(
    "",
    status_code=201,
    response_model=AddedOut,
    response_model_exclude_unset=True,
    responses=_KNOWN | errors(400, 408, 409, 413, 415, 422, 503),
    openapi_extra=addition_body(),
)
async def add_image(
    request: Request,
    addition: TheAddition,
    searcher: TheSearcher,
    pool: ThePool,
    response: Response,
    if_duplicate: IfDuplicate = None,
) -> AddedOut | Response:
    """Add a picture (multipart field `file`). When this answers, the picture is stored and the next search finds it.

    Safe to repeat: the same bytes are one image, and its id is answered again. `metadata`, JSON: what to say of it.
    With `if_duplicate` the collection is first asked whether it has a copy of it: the same bytes, the same pixels, or
    a near copy that its pixels confirm. `reject`: 409, nothing is stored. `link`: the copy that is there, nothing is
    stored. `keep`: stored, and the copies are named.
    """

    def add() -> Added:
        upload, said = addition.upload, addition.said
        return add_picture(searcher, upload.read(), upload.name, if_duplicate, said)

    added = await pool.run(add)
    if added.refused is not None:
        return respond(request, added.refused)
    response.headers["Location"] = urls.image(added.image.image_id)
    response.status_code = 201 if added.created else 200
    return added.image


@router.get("/{image_id}", responses=_GONE)
def show_image(image_id: ImageId, searcher: TheSearcher) -> ImageDetailOut:
    """What is known of an image, and what is said of it."""
    return _detail(searcher, image_id)


@router.delete("/{image_id}", status_code=204, responses=_GONE)
def forget_image(image_id: ImageId, searcher: TheSearcher) -> None:
    """Forget an image. A file in a folder of yours stays where it is; one that was uploaded is removed."""
    delete_image(searcher, image_id)


@router.put(
    "/{image_id}/metadata",
    responses=_GONE | errors(400, 408, 413, 415),
    openapi_extra=json_body(MetadataIn),
)
async def replace_metadata(image_id: ImageId, request: Request, searcher: TheSearcher) -> ImageDetailOut:
    """Say something of an image, in place of all that was said before. Searches with `where` find it by that.

    A later `simile index` with a manifest that names the file replaces it.
    """
    said = (await read_json(request, MetadataIn)).texts()

    def replace() -> ImageDetailOut:
        searcher.catalogue.set_image_metadata(image_id, said)
        return _detail(searcher, image_id)

    return await run_in_threadpool(replace)


@router.get(
    "/{image_id}/file",
    response_class=Response,
    responses=pictures("image/*", keeps=True) | _PART | _GONE | errors(416),
)
def image_file(image_id: ImageId, request: Request, searcher: TheSearcher, wanted: Wanted = "strip") -> Response:
    """The image's own file, or a stretch of it (`Range`)."""
    if wanted == "keep":
        demand(request, "write")
    return image_file_response(request, searcher, image_id, keep=wanted == "keep")


@router.get(
    "/{image_id}/thumbnail", response_class=Response, responses=pictures("image/jpeg", "image/png", keeps=True) | _GONE
)
def thumbnail(image_id: ImageId, request: Request, searcher: TheSearcher, side: Side = 256) -> Response:
    """A small version of the image, at most `side` pixels wide and high."""

    def make() -> tuple[bytes, str]:
        try:
            return searcher.thumbnail(image_id, side)
        except UnreadableImage as error:  # not the client's upload, but a file that has changed since it was indexed
            raise HTTPException(404, str(error)) from error

    return picture(request, f"{searcher.image(image_id).sha256}-thumbnail-{side}", make)


@router.get("/{image_id}/reconstruction", response_class=Response, responses=pictures("image/png", keeps=True) | _GONE)
def reconstruction(image_id: ImageId, request: Request, searcher: TheSearcher) -> Response:
    """What the model saw in the image: its latent, decoded. Needs no file."""
    tag = f"{searcher.image(image_id).sha256}-{searcher.encoder().fingerprint}"
    return picture(request, tag, lambda: (searcher.reconstruct_id(image_id), "image/png"))


@router.get("/{image_id}/neighbours", response_class=Response, responses=answers(SearchOut) | _GONE)
async def neighbours(
    image_id: ImageId,
    request: Request,
    searcher: TheSearcher,
    desk: TheDesk,
    wanted: Annotated[SearchOptions, Query()],
) -> Response:
    """The images most similar to this one, itself left out."""
    include = wanted.included()
    render = partial(search_json, searcher, include=include)
    heavy = "reconstruction" in include or wanted.limit > _MANY
    question = Question((image_id,), asked=wanted.asked())
    pushed = partial(pushed_question, searcher, question, wanted.plus, wanted.minus, wanted.strength)
    is_pushed = bool(wanted.plus or wanted.minus)
    data = await desk.ask(request, pushed if is_pushed else question, render, heavy=heavy)
    return Response(data, media_type=JSON)


def _detail(searcher: Searcher, image_id: int) -> ImageDetailOut:
    fields = image_fields(searcher.measured(image_id), searcher.metadata(image_id))
    return ImageDetailOut(**fields, sigma=searcher.sigma_of(image_id))
