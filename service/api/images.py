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
from simile.search.attributes import make_attribute_query
from simile.search.pagination import ImagePageRequest, get_image_page
from simile.search.searcher import Searcher, SearchQuery
from simile.service import urls
from simile.service.api.file_response import make_image_file_response
from simile.service.api.uploads import AddImageResult, store_upload
from simile.service.dependencies import BatcherDep, EncodingPoolDep, ImageIdParam, ImageUploadDep, SearcherDep
from simile.service.errors import make_problem_response
from simile.service.middleware.headers import make_etag_response
from simile.service.openapi.install import (
    ResponseDocs,
    document_errors,
    document_image,
    document_json,
    image_upload_body,
    json_body,
)
from simile.service.requests.search import JSON_MEDIA_TYPE, read_json
from simile.service.schemas.search import (
    AddImageResponse,
    ImageDetailResponse,
    ImageListItemResponse,
    ImageListOptions,
    ImageListResponse,
    MetadataRequest,
    SearchOptions,
    SearchResponse,
)
from simile.service.security.authorization import require_scope
from simile.service.serializers.search import dump_search_json, make_image_fields

router = APIRouter(prefix=f"{urls.API}/images", tags=["images"])

IfDuplicateParam = Annotated[
    Literal["reject", "link", "keep"] | None,
    Query(description="What to do with a picture that is there already; not asked for, nobody looks."),
]
SideParam = Annotated[int, Query(ge=32, le=2048, description="Pixels of the longer side, at most.")]

MetadataModeParam = Annotated[
    Literal["strip", "keep"],
    Query(
        alias="metadata",
        description="`strip`: without what a camera wrote into it (EXIF with GPS, XMP, IPTC, comments); the pixels are "
        "as they were. `keep`: the bytes as they are; needs the scope `write` where keys are used.",
    ),
]

_HEAVY_NEIGHBOURS = 100  # hits; see search.py
_EXISTING_RESPONSES: ResponseDocs = {
    200: {"model": AddImageResponse, "description": "These bytes were known, or it is linked to a copy"}
}
_IMAGE_ERRORS = document_errors(404, 409, 422, 503)
_BINARY_CONTENT = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_RANGE_RESPONSES: ResponseDocs = {206: {"content": _BINARY_CONTENT, "description": "The stretch that was asked for"}}


@router.get("", responses=document_errors(409, 422, 503))
def list_images(searcher: SearcherDep, params: Annotated[ImageListOptions, Query()]) -> ImageListResponse:
    """A page of the collection: by id, the newest first, or those least like the rest first.

    What is `unlike` the rest is computed at the first such question: until then 503 `being-computed`.
    """
    browsing = ImagePageRequest(params.to_filter(), params.sort, params.limit, params.offset, params.cursor)
    page = get_image_page(searcher, browsing)
    said = searcher.get_metadata_by_id([record.id for record in page.images])
    distances = page.distances or {}
    listed = [
        ImageListItemResponse(**make_image_fields(one, said.get(one.id)), unlike_distance=distances.get(one.id))
        for one in page.images
    ]
    return ImageListResponse(
        images=listed, total=page.total, limit=params.limit, offset=params.offset, next=page.next_cursor
    )


@router.post(
    "",
    status_code=201,
    response_model=AddImageResponse,
    response_model_exclude_unset=True,
    responses=_EXISTING_RESPONSES | document_errors(400, 408, 409, 413, 415, 422, 503),
    openapi_extra=image_upload_body(),
)
async def add_image(
    request: Request,
    image_upload: ImageUploadDep,
    searcher: SearcherDep,
    pool: EncodingPoolDep,
    response: Response,
    if_duplicate: IfDuplicateParam = None,
) -> AddImageResponse | Response:
    """Add a picture (multipart field `file`). When this answers, the picture is stored and the next search finds it.

    Safe to repeat: the same bytes are one image, and its id is answered again. `metadata`, JSON: what to say of it.
    With `if_duplicate` the collection is first asked whether it has a copy of it: the same bytes, the same pixels, or
    a near copy that its pixels confirm. `reject`: 409, nothing is stored. `link`: the copy that is there, nothing is
    stored. `keep`: stored, and the copies are named.
    """

    def add() -> AddImageResult:
        upload, said = image_upload.upload, image_upload.metadata
        return store_upload(searcher, upload.read(), upload.name, if_duplicate, said)

    added = await pool.run(add)
    if added.problem is not None:
        return make_problem_response(request, added.problem)
    response.headers["Location"] = urls.image(added.image.image_id)
    response.status_code = 201 if added.is_new else 200
    return added.image


@router.get("/{image_id}", responses=_IMAGE_ERRORS)
def show_image(image_id: ImageIdParam, searcher: SearcherDep) -> ImageDetailResponse:
    """What is known of an image, and what is said of it."""
    return _make_image_detail(searcher, image_id)


@router.delete("/{image_id}", status_code=204, responses=_IMAGE_ERRORS)
def forget_image(image_id: ImageIdParam, searcher: SearcherDep) -> None:
    """Forget an image. A file in a folder of yours stays where it is; one that was uploaded is removed."""
    delete_image(searcher, image_id)


@router.put(
    "/{image_id}/metadata",
    responses=_IMAGE_ERRORS | document_errors(400, 408, 413, 415),
    openapi_extra=json_body(MetadataRequest),
)
async def replace_metadata(image_id: ImageIdParam, request: Request, searcher: SearcherDep) -> ImageDetailResponse:
    """Say something of an image, in place of all that was said before. Searches with `where` find it by that.

    A later `simile index` with a manifest that names the file replaces it.
    """
    said = (await read_json(request, MetadataRequest)).to_texts()

    def replace() -> ImageDetailResponse:
        searcher.catalogue.metadata.set_for_image(image_id, said)
        return _make_image_detail(searcher, image_id)

    return await run_in_threadpool(replace)


@router.get(
    "/{image_id}/file",
    response_class=Response,
    responses=document_image("image/*", cacheable=True) | _RANGE_RESPONSES | _IMAGE_ERRORS | document_errors(416),
)
def image_file(
    image_id: ImageIdParam, request: Request, searcher: SearcherDep, metadata_mode: MetadataModeParam = "strip"
) -> Response:
    """The image's own file, or a stretch of it (`Range`)."""
    if metadata_mode == "keep":
        require_scope(request, "write")
    return make_image_file_response(request, searcher, image_id, keep_metadata=metadata_mode == "keep")


@router.get(
    "/{image_id}/thumbnail",
    response_class=Response,
    responses=document_image("image/jpeg", "image/png", cacheable=True) | _IMAGE_ERRORS,
)
def thumbnail(image_id: ImageIdParam, request: Request, searcher: SearcherDep, side: SideParam = 256) -> Response:
    """A small version of the image, at most `side` pixels wide and high."""

    def make() -> tuple[bytes, str]:
        try:
            return searcher.get_thumbnail(image_id, side)
        except UnreadableImage as error:  # not the client's upload, but a file that has changed since it was indexed
            raise HTTPException(404, str(error)) from error

    return make_etag_response(request, f"{searcher.get_image(image_id).sha256}-thumbnail-{side}", make)


@router.get(
    "/{image_id}/reconstruction",
    response_class=Response,
    responses=document_image("image/png", cacheable=True) | _IMAGE_ERRORS,
)
def reconstruction(image_id: ImageIdParam, request: Request, searcher: SearcherDep) -> Response:
    """What the model saw in the image: its latent, decoded. Needs no file."""
    tag = f"{searcher.get_image(image_id).sha256}-{searcher.get_encoder().fingerprint}"
    return make_etag_response(request, tag, lambda: (searcher.reconstruct_image(image_id), "image/png"))


@router.get("/{image_id}/neighbours", response_class=Response, responses=document_json(SearchResponse) | _IMAGE_ERRORS)
async def neighbours(
    image_id: ImageIdParam,
    request: Request,
    searcher: SearcherDep,
    batcher: BatcherDep,
    params: Annotated[SearchOptions, Query()],
) -> Response:
    """The images most similar to this one, itself left out."""
    include = params.get_includes()
    render = partial(dump_search_json, searcher, include=include)
    heavy = "reconstruction" in include or params.limit > _HEAVY_NEIGHBOURS
    question = SearchQuery((image_id,), params=params.to_search_params())
    pushed = partial(make_attribute_query, searcher, question, params.plus, params.minus, params.strength)
    is_pushed = bool(params.plus or params.minus)
    data = await batcher.search(request, pushed if is_pushed else question, render, heavy=heavy)
    return Response(data, media_type=JSON_MEDIA_TYPE)


def _make_image_detail(searcher: Searcher, image_id: int) -> ImageDetailResponse:
    fields = make_image_fields(searcher.get_image_with_error(image_id), searcher.get_metadata(image_id))
    return ImageDetailResponse(**fields, sigma=searcher.get_mean_sigma(image_id))
