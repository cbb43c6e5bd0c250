"""The collection: list, add, read, describe and delete images."""

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
from simile.search.pagination import ImagePageRequest, get_image_page
from simile.search.searcher import Searcher, SearchQuery
from simile.service import urls
from simile.service.api.file_response import make_image_file_response
from simile.service.api.search import HEAVY_HITS
from simile.service.api.uploads import store_upload
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
from simile.service.requests.search import JSON_MEDIA_TYPE, SearchOptionsQuery, read_json
from simile.service.schemas.search import (
    AddImageResponse,
    ImageDetailResponse,
    ImageListItemResponse,
    ImageListOptions,
    ImageListResponse,
    MetadataRequest,
    SearchResponse,
)
from simile.service.security.authorization import require_scope
from simile.service.serializers.search import dump_search_json, make_image_fields

router = APIRouter(prefix=f"{urls.API}/images", tags=["images"])

IfDuplicateParam = Annotated[
    Literal["reject", "link", "keep"] | None,
    Query(description="What to do if the collection has a copy; without it the collection is not checked for copies."),
]
SideParam = Annotated[int, Query(ge=32, le=2048, description="Maximum width and height in pixels.")]
MetadataModeParam = Annotated[
    Literal["strip", "keep"],
    Query(
        alias="metadata",
        description="`strip`: remove what a camera wrote into the file (EXIF with GPS, XMP, IPTC, comments); the "
        "pixels stay unchanged. `keep`: the unchanged bytes; needs the scope `write` where keys are used.",
    ),
]

_EXISTING_RESPONSES: ResponseDocs = {
    200: {"model": AddImageResponse, "description": "The bytes are indexed already, or the upload is linked to a copy"}
}
_IMAGE_ERRORS = document_errors(404, 409, 422, 503)
_BINARY_CONTENT = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
_RANGE_RESPONSES: ResponseDocs = {206: {"content": _BINARY_CONTENT, "description": "The requested range"}}


@router.get("", responses=document_errors(409, 422, 503))
def list_images(searcher: SearcherDep, params: Annotated[ImageListOptions, Query()]) -> ImageListResponse:
    """List a page of the collection: by id, newest first, or outliers first.

    `sort=unlike` is computed on first use; until then 503 `being-computed`.
    """
    page_request = ImagePageRequest(
        filter=params.to_filter(), sort=params.sort, limit=params.limit, offset=params.offset, cursor=params.cursor
    )
    page = get_image_page(searcher, page_request)
    metadata = searcher.get_metadata_by_id([record.id for record in page.images])
    distances = page.distances or {}
    images = [
        ImageListItemResponse(
            **make_image_fields(record, metadata.get(record.id)), unlike_distance=distances.get(record.id)
        )
        for record in page.images
    ]
    return ImageListResponse(
        images=images, total=page.total, limit=params.limit, offset=params.offset, next=page.next_cursor
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
    """Add an image (multipart field `file`). After the response it is stored, and the next search finds it.

    Safe to repeat: the same bytes are one image, and the response has its id. The field `metadata` holds JSON.
    `if_duplicate` checks the collection for copies: the same bytes, the same pixels, or a near copy that is confirmed
    by its pixels. `reject`: 409, nothing is stored. `link`: returns the existing copy, nothing is stored. `keep`: the
    image is stored, and the response lists the copies.
    """
    upload = image_upload.upload
    result = await pool.run(
        lambda: store_upload(searcher, upload.read(), upload.name, if_duplicate, image_upload.metadata)
    )
    if result.problem is not None:
        return make_problem_response(request, result.problem)
    response.headers["Location"] = urls.image(result.image.image_id)
    response.status_code = 201 if result.is_new else 200
    return result.image


@router.get("/{image_id}", responses=_IMAGE_ERRORS)
def show_image(image_id: ImageIdParam, searcher: SearcherDep) -> ImageDetailResponse:
    """Return an image with its metadata."""
    return _make_image_detail(searcher, image_id)


@router.delete("/{image_id}", status_code=204, responses=_IMAGE_ERRORS)
def forget_image(image_id: ImageIdParam, searcher: SearcherDep) -> None:
    """Remove an image from the collection. An uploaded file is deleted; a file in one of your folders stays."""
    delete_image(searcher, image_id)


@router.put(
    "/{image_id}/metadata",
    responses=_IMAGE_ERRORS | document_errors(400, 408, 413, 415),
    openapi_extra=json_body(MetadataRequest),
)
async def replace_metadata(image_id: ImageIdParam, request: Request, searcher: SearcherDep) -> ImageDetailResponse:
    """Replace the image's metadata. Searches with `where` use it.

    A later `simile index` with a manifest that lists the file replaces it again.
    """
    metadata = (await read_json(request, MetadataRequest)).to_texts()

    def replace() -> ImageDetailResponse:
        searcher.catalogue.metadata.set_for_image(image_id, metadata)
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
    """Return the image's file, or a byte range of it (`Range`)."""
    if metadata_mode == "keep":
        require_scope(request, "write")
    return make_image_file_response(request, searcher, image_id, keep_metadata=metadata_mode == "keep")


@router.get(
    "/{image_id}/thumbnail",
    response_class=Response,
    responses=document_image("image/jpeg", "image/png", cacheable=True) | _IMAGE_ERRORS,
)
def thumbnail(image_id: ImageIdParam, request: Request, searcher: SearcherDep, side: SideParam = 256) -> Response:
    """Return a thumbnail of the image, at most `side` pixels wide and high."""

    def make() -> tuple[bytes, str]:
        try:
            return searcher.get_thumbnail(image_id, side)
        except UnreadableImage as error:  # not the client's upload: a file that has changed since it was indexed
            raise HTTPException(404, str(error)) from error

    return make_etag_response(request, f"{searcher.get_image(image_id).sha256}-thumbnail-{side}", make)


@router.get(
    "/{image_id}/reconstruction",
    response_class=Response,
    responses=document_image("image/png", cacheable=True) | _IMAGE_ERRORS,
)
def reconstruction(image_id: ImageIdParam, request: Request, searcher: SearcherDep) -> Response:
    """Return the image's reconstruction: its latent vector, decoded. The file is not read."""
    tag = f"{searcher.get_image(image_id).sha256}-{searcher.get_encoder().fingerprint}"
    return make_etag_response(request, tag, lambda: (searcher.reconstruct_image(image_id), "image/png"))


@router.get("/{image_id}/neighbours", response_class=Response, responses=document_json(SearchResponse) | _IMAGE_ERRORS)
async def neighbours(
    image_id: ImageIdParam, request: Request, searcher: SearcherDep, batcher: BatcherDep, params: SearchOptionsQuery
) -> Response:
    """Find the images most similar to this one; the image itself is not a hit."""
    include = params.get_includes()
    query = SearchQuery((image_id,), params=params.to_search_params(), attributes=params.to_attribute_strengths())
    data = await batcher.search(
        request,
        query,
        partial(dump_search_json, searcher, include=include),
        heavy="reconstruction" in include or params.limit > HEAVY_HITS,
    )
    return Response(data, media_type=JSON_MEDIA_TYPE)


def _make_image_detail(searcher: Searcher, image_id: int) -> ImageDetailResponse:
    fields = make_image_fields(searcher.get_image_with_error(image_id), searcher.get_metadata(image_id))
    return ImageDetailResponse(**fields, sigma=searcher.get_mean_sigma(image_id))
