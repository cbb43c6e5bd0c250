"""The collection: list, add, read, describe and delete images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import UnreadableImage
from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.images.formats import get_media_type, has_image_signature
from simile.images.privacy.strip import strip_metadata
from simile.indexer.pipeline.uploads import add_upload, delete_image
from simile.search.pagination import ImagePageRequest, get_image_page
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.api.search import run_search
from simile.service.dependencies import EncodingPoolDep, ImageIdParam, ImageUploadDep, SearcherDep
from simile.service.errors import ProblemDetails, make_problem_response
from simile.service.middleware.headers import CACHE_AND_REVALIDATE, FILE_POLICY, is_not_modified, make_etag_response
from simile.service.openapi.install import document_errors, document_image, document_json, json_body, upload_body
from simile.service.requests.search import SearchInput, read_json
from simile.service.schemas import search as schemas
from simile.service.schemas.serializers import list_partners, make_image_fields, make_photo, make_quality
from simile.service.security.api_keys import Principal
from simile.service.security.authorization import require_scope
from simile.store.catalogue.records import UploadAccount

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

_RANGE_PATTERN = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_MAX_NAMED_COPIES = 3  # copies that the detail of a problem names; its field `duplicates` has all
_IMAGE_ERRORS = document_errors(404, 409, 422, 503)
_FILE_RESPONSES = document_image("image/*", cacheable=True)
_FILE_RESPONSES[206] = _FILE_RESPONSES[200] | {"description": "The requested range"}


@router.get("", responses=document_errors(409, 422, 503))
def list_images(
    searcher: SearcherDep, params: Annotated[schemas.ImageListOptions, Query()]
) -> schemas.ImageListResponse:
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
        schemas.ImageListItemResponse(
            **make_image_fields(record, metadata.get(record.id)), unlike_distance=distances.get(record.id)
        )
        for record in page.images
    ]
    return schemas.ImageListResponse(
        images=images, total=page.total, limit=params.limit, offset=params.offset, next=page.next_cursor
    )


@router.post(
    "",
    status_code=201,
    response_model=schemas.AddImageResponse,
    response_model_exclude_unset=True,
    responses=document_json(
        schemas.AddImageResponse, "The bytes are indexed already, or the upload is linked to a copy"
    )
    | document_errors(400, 408, 409, 413, 415, 422, 503),
    openapi_extra=upload_body(schemas.MetadataRequest),
)
async def add_image(
    request: Request,
    upload: ImageUploadDep,
    searcher: SearcherDep,
    pool: EncodingPoolDep,
    response: Response,
    if_duplicate: IfDuplicateParam = None,
) -> schemas.AddImageResponse | Response:
    """Add an image (multipart field `file`). After the response it is stored, and the next search finds it.

    Safe to repeat: the same bytes are one image, and the response has its id. The field `metadata` holds JSON.
    403 `quota-exceeded`: the image exceeds the quota of the key; deleting images makes room.
    `if_duplicate` checks the collection for copies: the same bytes, the same pixels, or a near copy that is confirmed
    by its pixels. `reject`: 409, nothing is stored. `link`: returns the existing copy, nothing is stored. `keep`: the
    image is stored, and the response lists the copies.
    """

    def store() -> schemas.AddImageResponse | Response:
        data = upload.read()
        copies = [] if if_duplicate is None else find_existing_copies(searcher, data, upload.name)
        if if_duplicate != "keep":  # an invoice with another amount is another invoice
            copies = [copy for copy in copies if not copy.changes.is_mutual]
        if copies and if_duplicate == "reject":
            return make_problem_response(request, _make_duplicate_problem(upload.name, copies))
        more: dict[str, Any] = {}  # a field that was not requested stays unset, so that the response leaves it out
        if if_duplicate is not None:
            more["duplicates"] = [_make_match_fields(copy) for copy in copies]
        if copies and if_duplicate == "link":
            image_id, is_new = copies[0].image_id, False
            more["duplicate_of"] = image_id
        else:
            image_id, is_new = add_upload(
                searcher, data, name=upload.name, metadata=upload.metadata, account=_get_account(request)
            )
        response.headers["Location"] = urls.image(image_id)
        response.status_code = 201 if is_new else 200
        fields = make_image_fields(searcher.get_image(image_id), searcher.get_metadata(image_id))
        return schemas.AddImageResponse(**fields, **more)

    return await pool.run(store)


@router.get("/{image_id}", responses=_IMAGE_ERRORS)
def show_image(image_id: ImageIdParam, searcher: SearcherDep) -> schemas.ImageDetailResponse:
    """Return an image with its metadata."""
    return _make_image_detail(searcher, image_id)


@router.delete("/{image_id}", status_code=204, responses=_IMAGE_ERRORS)
def forget_image(image_id: ImageIdParam, searcher: SearcherDep) -> None:
    """Remove an image from the collection. An uploaded file is deleted; a file in one of your folders stays."""
    delete_image(searcher, image_id)


@router.put(
    "/{image_id}/metadata",
    responses=_IMAGE_ERRORS | document_errors(400, 408, 413, 415),
    openapi_extra=json_body(schemas.MetadataRequest),
)
async def replace_metadata(
    image_id: ImageIdParam, request: Request, searcher: SearcherDep
) -> schemas.ImageDetailResponse:
    """Replace the image's metadata. Searches with `where` use it.

    A later `simile index` with a manifest that lists the file replaces it again.
    """
    metadata = (await read_json(request, schemas.MetadataRequest)).to_texts()

    def replace() -> schemas.ImageDetailResponse:
        searcher.catalogue.metadata.set_for_image(image_id, metadata)
        return _make_image_detail(searcher, image_id)

    return await run_in_threadpool(replace)


@router.get(
    "/{image_id}/file",
    response_class=Response,
    responses=_FILE_RESPONSES | _IMAGE_ERRORS | document_errors(416),
)
def image_file(
    image_id: ImageIdParam, request: Request, searcher: SearcherDep, metadata_mode: MetadataModeParam = "strip"
) -> Response:
    """Return the image's file, or a byte range of it (`Range`)."""
    if metadata_mode == "keep":
        require_scope(request, "write")
    return _make_file_response(request, searcher, image_id, keep_metadata=metadata_mode == "keep")


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


@router.get(
    "/{image_id}/neighbours", response_class=Response, responses=document_json(schemas.SearchResponse) | _IMAGE_ERRORS
)
async def neighbours(
    image_id: ImageIdParam,
    request: Request,
    searcher: SearcherDep,
    params: Annotated[schemas.SearchOptions, Query()],
) -> Response:
    """Find the images most similar to this one; the image itself is not a hit."""
    search_input = SearchInput(schemas.SearchRequest(image_id=image_id, **params.model_dump(exclude_unset=True)))
    return await run_search(request, searcher, search_input)


def _get_account(request: Request) -> UploadAccount:
    """Return what an upload counts towards: the key of the request, or all clients without one."""
    visitor: Principal | None = request.state.visitor
    default: int = request.app.state.settings.upload_quota
    return UploadAccount(None, default) if visitor is None else UploadAccount(visitor.key_id, visitor.quota or default)


def _make_image_detail(searcher: Searcher, image_id: int) -> schemas.ImageDetailResponse:
    fields = make_image_fields(searcher.get_image_with_error(image_id), searcher.get_metadata(image_id))
    photo, sigma = make_photo(searcher.get_photo_metadata(image_id)), searcher.get_mean_sigma(image_id)
    quality = make_quality(searcher, image_id)
    partners = list_partners(fields["paths"])
    return schemas.ImageDetailResponse(**fields, sigma=sigma, photo=photo, partners=partners, quality=quality)


def _make_match_fields(match: ImageMatch) -> dict[str, Any]:
    return vars(match) | urls.image_urls(match.image_id)


def _make_duplicate_problem(name: str, copies: Sequence[ImageMatch]) -> ProblemDetails:
    matches = [schemas.DuplicateMatchResponse.model_validate(_make_match_fields(copy)) for copy in copies]
    named = ", ".join(f"image {match.image_id} ({match.path}: {match.reason})" for match in matches[:_MAX_NAMED_COPIES])
    more = f" and {len(copies) - _MAX_NAMED_COPIES} more" if len(copies) > _MAX_NAMED_COPIES else ""
    detail = (
        f"{name} exists already: {named}{more}. Nothing was stored. Use that image, or send this one again with "
        "if_duplicate=keep."
    )
    return ProblemDetails(
        409, detail, "duplicate", extensions={"duplicates": [match.model_dump() for match in matches]}
    )


def _make_file_response(request: Request, searcher: Searcher, image_id: int, *, keep_metadata: bool) -> Response:
    """Return the file of an image, or 304 if the client has it.

    Only the bytes that were indexed are served: the path may hold another file now. `keep_metadata`: keep the metadata
    that a camera wrote into the file.

    Raises:
        NoSuchImage: The id is unknown.
        HTTPException: 404 if the file is unreadable or has changed, 416 for a range after its end.
    """
    etag = f'"{searcher.get_image(image_id).sha256}-{"whole" if keep_metadata else "plain"}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE_AND_REVALIDATE,
        "Content-Security-Policy": FILE_POLICY,
    }
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    try:
        if keep_metadata:
            data, record = searcher.read_file(image_id)
            media_type = get_media_type(record.format)
        else:
            data, media_type = searcher.decode_file(image_id, partial(strip_metadata, limits=searcher.limits))
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    # Only raster images keep their media type: SVG and HTML could run scripts on this origin.
    is_safe = media_type.startswith("image/") and "svg" not in media_type and has_image_signature(data[:32])
    return _make_range_response(request, data, headers, media_type if is_safe else "application/octet-stream")


def _make_range_response(request: Request, data: bytes, headers: dict[str, str], media_type: str) -> Response:
    """Apply the Range header (RFC 9110, 14): one byte range, 416 for a range after the end, else the whole file."""
    match = _RANGE_PATTERN.fullmatch(request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    is_stale = request.headers.get("if-range") not in (None, headers["ETag"])
    if (not first and not last) or is_stale or (first and last and int(last) < int(first)):
        return Response(data, headers=headers, media_type=media_type)
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start >= len(data) or (not first and not int(last)):
        detail = f"The file has {len(data):,} bytes: the requested range starts after its end."
        raise HTTPException(416, detail, {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers=headers, media_type=media_type)
