"""The tools of the MCP server: read-only, with the results and the limits of the HTTP API."""

from __future__ import annotations

import base64
import binascii
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import ImageContent, ToolAnnotations
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from simile.core.errors import SimileError
from simile.dedup.records import Tier
from simile.images.sources.reader import read_bytes
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.api import duplicates, facets, images, search, status
from simile.service.dependencies import get_searcher
from simile.service.errors import make_problem, make_too_large_error
from simile.service.requests.search import SearchInput, Upload, make_display_name, validate_fields
from simile.service.schemas.duplicates import DuplicateListResponse
from simile.service.schemas.encoders import StatusResponse
from simile.service.schemas.facets import FacetListResponse, FacetOptions
from simile.service.schemas.search import (
    ImageDetailResponse,
    ImageIdField,
    ImageIdList,
    ImageListOptions,
    ImageListResponse,
    SearchForm,
    SearchResponse,
)
from simile.service.schemas.serializers import make_search_response

Options = TypeVar("Options", bound=BaseModel)

MAX_TOOL_LIMIT = 100  # results of one call: a model reads all of them
MAX_THUMBNAIL_SIDE = 400  # pixels
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_NO_QUERY = "Give image_path, image_base64, positive_ids or text. list_images lists images by a filter alone."


WhereParam = Annotated[
    str | None,
    Field(
        max_length=4096,
        description="Only images for which this holds: `class=shirt and not price<10`, `camera contains nikon or "
        "taken>=2024-05`, `label in (dress, skirt)`, `place near 52.5,13.4,10km`. A name is one of the metadata "
        "(count_facets lists them), or path, format, width, height, bytes, modified, taken, camera, lens, rating, "
        "keyword, title, place, quality.",
    ),
]
LimitParam = Annotated[int, Field(ge=1, le=MAX_TOOL_LIMIT, description="Maximum number of results.")]
OffsetParam = Annotated[int, Field(ge=0, le=1_000_000, description="Number of results to skip.")]
DistinctParam = Annotated[bool, Field(description="One hit of each group of known copies or series.")]


class ImageTools:
    """The tools for one app, for agents that reach it over HTTP or stdio.

    Args:
        folders: Folders below which `image_path` may name a file.
    """

    def __init__(self, app: FastAPI, folders: Sequence[Path]) -> None:
        self._app = app
        self._folders = [folder.resolve() for folder in folders]

    def make_tools(self) -> list[Tool]:
        """Return the tools, each with the schemas of its arguments and of its result."""
        functions: tuple[tuple[Callable[..., Any], type[BaseModel] | None], ...] = (
            (self.search_images, SearchResponse),
            (self.find_neighbours, SearchResponse),
            (self.list_images, ImageListResponse),
            (self.count_facets, FacetListResponse),
            (self.get_image, ImageDetailResponse),
            (self.get_thumbnail, None),
            (self.list_duplicates, DuplicateListResponse),
            (self.get_status, StatusResponse),
        )
        return [_make_tool(function, model) for function, model in functions]

    async def search_images(  # an argument for each field of the schema  # noqa: PLR0913, PLR0917
        self,
        ctx: Context,
        image_path: Annotated[str | None, Field(max_length=4096, description="An image file on the server.")] = None,
        image_base64: Annotated[str | None, Field(description="The bytes of an image file, as base64.")] = None,
        positive_ids: Annotated[ImageIdList, Field(description="Indexed images that hits should resemble.")] = [],  # noqa: B006
        negative_ids: Annotated[ImageIdList, Field(description="Indexed images that hits should not resemble.")] = [],  # noqa: B006
        text: Annotated[
            str | None,
            Field(min_length=1, max_length=1000, description="Words that hits should have: `red dress`, `-striped`."),
        ] = None,
        where: WhereParam = None,
        limit: LimitParam = 10,
        offset: OffsetParam = 0,
        min_score: Annotated[float | None, Field(ge=0, le=1, description="Smallest score of a hit.")] = None,
        distinct: DistinctParam = False,
    ) -> SearchResponse:
        """Find the indexed images most similar to an image file, to indexed images, to a text, or to all together.

        Hits come nearest first, with ids for the other tools, paths and metadata. A `score` near 1 is a match that does
        not happen by chance; `query.unlike` tells that the collection has nothing like the query.
        """
        with _explained_errors():
            files = await run_in_threadpool(self._read_query, image_path, image_base64)
            if not files and not positive_ids and text is None:
                raise ToolError(_NO_QUERY)
            terms = {"positive_id": positive_ids, "negative_id": negative_ids, "text": text}
            options = {"where": where, "limit": limit, "offset": offset, "min_score": min_score, "distinct": distinct}
            return await self._search(ctx, files, **terms, **options)

    async def find_neighbours(
        self,
        ctx: Context,
        image_id: ImageIdField,
        where: WhereParam = None,
        limit: LimitParam = 10,
        offset: OffsetParam = 0,
        distinct: DistinctParam = False,
    ) -> SearchResponse:
        """Find the indexed images most similar to one of them, nearest first; the image itself is not a hit."""
        with _explained_errors():
            options = {"where": where, "limit": limit, "offset": offset, "distinct": distinct}
            return await self._search(ctx, [], positive_id=[image_id], **options)

    async def list_images(
        self,
        ctx: Context,
        where: WhereParam = None,
        sort: Annotated[
            Literal["id", "newest", "taken", "unlike"],
            Field(description="`taken`: the newest photo first. `unlike`: outliers of the collection first."),
        ] = "id",
        limit: LimitParam = 20,
        cursor: Annotated[str | None, Field(max_length=200, description="`next` of the previous page.")] = None,
    ) -> ImageListResponse:
        """List the images that satisfy a filter, with their number, metadata and ids."""
        with _explained_errors():
            options = _validate(ImageListOptions, where=where, sort=sort, limit=limit, cursor=cursor)
            return await run_in_threadpool(images.list_images, await self._get_searcher(ctx), options)

    async def count_facets(
        self,
        ctx: Context,
        fields: Annotated[
            list[str],
            Field(max_length=32, description="Names of metadata, or `format`, `camera`, `rating`, `year` … None: all."),
        ] = [],  # noqa: B006
        where: WhereParam = None,
        limit: LimitParam = 20,
    ) -> FacetListResponse:
        """Count images by the values of their fields. Each value has the condition for `where`."""
        with _explained_errors():
            options = _validate(FacetOptions, fields=fields, where=where, limit=limit)
            return await facets.count_facets(await self._get_searcher(ctx), self._app.state.compute_pool, options)

    async def get_image(self, ctx: Context, image_id: ImageIdField) -> ImageDetailResponse:
        """Return the paths, the size, the metadata and the photo metadata (EXIF, XMP, IPTC) of an indexed image."""
        with _explained_errors():
            return await run_in_threadpool(images.show_image, image_id, await self._get_searcher(ctx))

    async def get_thumbnail(
        self,
        ctx: Context,
        image_id: ImageIdField,
        side: Annotated[
            int, Field(ge=32, le=MAX_THUMBNAIL_SIDE, description="Maximum width and height in pixels.")
        ] = 256,
    ) -> ImageContent:
        """Return a small image of an indexed image, without the metadata of the file."""
        with _explained_errors():
            searcher = await self._get_searcher(ctx)
            data, media_type = await run_in_threadpool(searcher.get_thumbnail, image_id, side)
            return ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type=media_type)

    async def list_duplicates(
        self,
        ctx: Context,
        tiers: Annotated[
            list[Tier], Field(description="Any of bytes, pixels, near; or only similar. None: all three.")
        ] = [],  # noqa: B006
        limit: LimitParam = 10,
        offset: OffsetParam = 0,
    ) -> DuplicateListResponse:
        """List the groups of copies that the last `simile dedup` found, the most certain first. Nothing is removed."""
        with _explained_errors():
            find = partial(duplicates.list_duplicates, tier=tiers, limit=limit, offset=offset)
            return await run_in_threadpool(find, await self._get_searcher(ctx), self._app.state.review_cache)

    async def get_status(self, ctx: Context) -> StatusResponse:
        """Return the number of images, the active encoder, the state of the index and the last runs of indexing."""
        with _explained_errors():
            return await run_in_threadpool(status.status, await self._get_searcher(ctx))

    async def _search(self, ctx: Context, files: list[Upload], **fields: Any) -> SearchResponse:
        search_input = SearchInput(_validate(SearchForm, include="metadata", **fields), tuple(files))
        request = self._get_request(ctx)
        return await search.render_search(request, await get_searcher(request), search_input, make_search_response)

    async def _get_searcher(self, ctx: Context) -> Searcher:
        return await get_searcher(self._get_request(ctx))

    def _get_request(self, ctx: Context) -> Request:
        """Return the HTTP request of a call; over stdio one without a client."""
        request = ctx.request_context.request
        if request is not None:
            return cast(Request, request)
        return Request({"type": "http", "app": self._app, "method": "POST", "path": urls.MCP, "headers": []})

    def _read_query(self, image_path: str | None, image_base64: str | None) -> list[Upload]:
        """Return the query images that a call has as a path and as base64."""
        uploads = []
        if image_path is not None:
            uploads.append(Upload(make_display_name(image_path), io.BytesIO(self._read_file(image_path))))
        if image_base64 is not None:
            uploads.append(Upload("image_base64", io.BytesIO(self._decode(image_base64))))
        return uploads

    def _read_file(self, path: str) -> bytes:
        """Read a file below one of the allowed folders, also by a link. Raises ToolError, UnreadableImage."""
        try:
            resolved = Path(path).expanduser().resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, links in a circle, no such user
            raise ToolError(f"image_path {path!r} is no path: {error}. Give the full path of an image file.") from None
        if not any(resolved.is_relative_to(folder) for folder in self._folders):
            allowed = ", ".join(map(str, self._folders)) or "there are none"
            raise ToolError(
                f"image_path {path!r} is outside the folders that may be read ({allowed}). Send image_base64, or ask "
                "the operator to allow its folder: SIMILE_ROOTS, or `simile mcp --root FOLDER`."
            )
        return read_bytes(resolved, self._app.state.searcher_provider.get_searcher().limits)

    def _decode(self, text: str) -> bytes:
        """Decode base64. Raises ToolError, and HTTPException if the image is too large."""
        max_bytes: int = self._app.state.settings.max_bytes
        if len(text) > max_bytes * 4 / 3 + 4:
            raise make_too_large_error(max_bytes)
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            reason = f"image_base64 is not base64: {error} Send the bytes of an image file, without a data: prefix."
            raise ToolError(reason) from None


def _make_tool(function: Callable[..., Any], model: type[BaseModel] | None) -> Tool:
    tool = Tool.from_function(function, description=inspect.getdoc(function), annotations=_READ_ONLY)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"  # the SDK ignores a misspelt `where`, and the result has all images
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema()
    if model is not None:  # the SDK describes what the model validates, with other names for fields with an alias
        tool.fn_metadata.output_schema = model.model_json_schema(mode="serialization")
    return tool


def _validate(model: type[Options], **fields: Any) -> Options:
    """Return the options of the HTTP API for the arguments of a call. Raises RequestValidationError."""
    return validate_fields(model, {name: value for name, value in fields.items() if value is not None}, "arguments")


@contextmanager
def _explained_errors() -> Iterator[None]:
    """Raise the problem that the HTTP API would return as the error of the tool, which the agent reads."""
    try:
        yield
    except (SimileError, HTTPException, RequestValidationError) as error:
        raise ToolError(make_problem(error).detail) from error
