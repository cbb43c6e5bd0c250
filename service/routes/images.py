"""The collection: list, add, look at, delete."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from core.errors import UnreadableImage
from indexer.uploads import delete_image
from models.images import Limits, read_bytes
from service import urls
from service.answers import image_out, search_out
from service.deps import ImageId, Limit, Offset, ThePool, TheSearcher, TheUpload
from service.headers import FILE_POLICY, picture
from service.openapi import Responses, errors, pictures, upload_body
from service.problems import respond
from service.schemas import AddedOut, ImageOut, ImagesOut, SearchOptions, SearchOut
from service.uploads import Added, add_picture

router = APIRouter(prefix=f"{urls.API}/images", tags=["images"])

IfDuplicate = Annotated[
    Literal["reject", "link", "keep"] | None,
    Query(description="What to do with a picture that is there already; not asked for, nobody looks."),
]
Side = Annotated[int, Query(ge=32, le=2048, description="Pixels of the longer side, at most.")]

_CHUNK = 256 * 1024
_KNOWN: Responses = {200: {"model": AddedOut, "description": "These bytes were known, or it is linked to a copy"}}
_GONE = errors(404, 409, 422, 503)


@router.get("", responses=errors(409, 422, 503))
def list_images(searcher: TheSearcher, limit: Limit = 100, offset: Offset = 0) -> ImagesOut:
    """A page of the collection, by id."""
    found = searcher.images(limit=limit, offset=offset)
    return ImagesOut(images=[image_out(one) for one in found], total=searcher.count(), limit=limit, offset=offset)


@router.post(
    "",
    status_code=201,
    response_model=AddedOut,
    response_model_exclude_unset=True,
    responses=_KNOWN | errors(400, 403, 409, 413, 415, 422, 503),
    openapi_extra=upload_body(),
)
async def add_image(
    request: Request,
    upload: TheUpload,
    searcher: TheSearcher,
    pool: ThePool,
    response: Response,
    if_duplicate: IfDuplicate = None,
) -> AddedOut | Response:
    """Add a picture (multipart field `file`). When this answers, the picture is stored and the next search finds it.

    With `if_duplicate` the collection is first asked whether it has a copy of it: the same bytes, the same pixels, or
    a near copy that its pixels confirm. `reject`: 409, nothing is stored. `link`: the copy that is there, nothing is
    stored. `keep`: stored, and the copies are named.
    """

    def add() -> Added:
        return add_picture(searcher, upload.read(), upload.name, if_duplicate)

    added = await pool.run(add)
    if added.refused is not None:
        return respond(request, added.refused)
    response.headers["Location"] = urls.image(added.image.image_id)
    response.status_code = 201 if added.created else 200
    return added.image


@router.get("/{image_id}", responses=_GONE)
def show_image(image_id: ImageId, searcher: TheSearcher) -> ImageOut:
    """What is known of an image."""
    return image_out(searcher.measured(image_id))


@router.delete("/{image_id}", status_code=204, responses=_GONE | errors(403))
def forget_image(image_id: ImageId, searcher: TheSearcher) -> None:
    """Forget an image. A file in a folder of yours stays where it is; one that was uploaded is removed."""
    delete_image(searcher, image_id)


@router.get("/{image_id}/file", response_class=Response, responses=pictures("image/*") | _GONE)
def image_file(image_id: ImageId, searcher: TheSearcher) -> Response:
    """The image's own file."""
    path, media_type = searcher.file(image_id)
    file = _open(path, searcher.limits)
    size = file.seek(0, 2)
    file.seek(0)
    headers = {
        "Content-Length": str(size),
        "Content-Security-Policy": FILE_POLICY,
        "Cache-Control": "private, no-cache",
    }
    return StreamingResponse(_chunks(file), headers=headers, media_type=_harmless(media_type))


@router.get("/{image_id}/thumbnail", response_class=Response, responses=pictures("image/jpeg", "image/png") | _GONE)
def thumbnail(image_id: ImageId, request: Request, searcher: TheSearcher, side: Side = 256) -> Response:
    """A small version of the image, at most `side` pixels wide and high."""

    def make() -> tuple[bytes, str]:
        try:
            return searcher.thumbnail(image_id, side)
        except UnreadableImage as error:  # not the client's upload, but a file that has changed since it was indexed
            raise HTTPException(404, str(error)) from error

    return picture(request, f"{searcher.image(image_id).sha256}-thumbnail-{side}", make)


@router.get("/{image_id}/reconstruction", response_class=Response, responses=pictures("image/png") | _GONE)
def reconstruction(image_id: ImageId, request: Request, searcher: TheSearcher) -> Response:
    """What the model saw in the image: its latent, decoded. Needs no file."""
    tag = f"{searcher.image(image_id).sha256}-{searcher.encoder().fingerprint}"
    return picture(request, tag, lambda: (searcher.reconstruct_id(image_id), "image/png"))


@router.get("/{image_id}/neighbours", responses=_GONE)
def neighbours(image_id: ImageId, searcher: TheSearcher, wanted: Annotated[SearchOptions, Query()]) -> SearchOut:
    """The images most similar to this one, itself left out."""
    limit, offset, within = wanted.limit, wanted.offset, wanted.within
    found = searcher.by_id(image_id, limit=limit, offset=offset, only=wanted.only(), within=within)
    return search_out(searcher, found, with_reconstruction="reconstruction" in wanted.include)


def _open(path: Path, limits: Limits) -> BinaryIO:
    try:
        return path.open("rb")
    except NotADirectoryError as error:  # a picture in an archive
        try:
            return BytesIO(read_bytes(path, limits))
        except UnreadableImage as reason:
            raise HTTPException(404, str(reason)) from error
    except OSError as error:
        raise HTTPException(404, f"{path} can't be read any more ({error.strerror}).") from error


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _harmless(media_type: str) -> str:
    """Only pictures are served as what they are: SVG and HTML could run scripts under this address."""
    return media_type if media_type.startswith("image/") and "svg" not in media_type else "application/octet-stream"
