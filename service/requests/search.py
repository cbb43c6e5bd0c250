"""Read uploads, forms and JSON bodies; an invalid request becomes a 4xx that names the field."""

from __future__ import annotations

import errno
import re
import tempfile
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from simile.core.errors import BadSetting
from simile.core.records import Box
from simile.search.queries import SearchQuery
from simile.search.searcher import Searcher
from simile.service.errors import ProblemException, make_too_large_error
from simile.service.schemas.search import (
    MAX_BATCH_SEARCHES,
    MAX_QUERY_IMAGES,
    MetadataRequest,
    SearchBatchRequest,
    SearchForm,
    SearchOptions,
    SearchRequest,
)

BodyModel = TypeVar("BodyModel", bound=BaseModel)

MULTIPART_MEDIA_TYPE = "multipart/form-data"
JSON_MEDIA_TYPE = "application/json"
MAX_JSON_BYTES = 1 << 20  # a vector of 65,536 numbers needs less
MAX_BATCH_BYTES = 2 << 20  # a hundred vectors of 1,000 numbers
MAX_JSON_VALUES = 200_000  # parsing more would stop the event loop for too long
MAX_JSON_CONTAINERS = 5_000  # objects, lists and fields, which take longer than numbers
MAX_FORM_FIELDS = 192
_FORM_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1"})
# Fields that a form may repeat.
_LIST_FIELDS = frozenset({"include", "plus", "minus", "where", "format", "keyword", "positive_id", "negative_id"})
_NO_FORM_ERROR = f"Send the image as {MULTIPART_MEDIA_TYPE}, in the field `file`."
_NO_SEARCH_ERROR = "Send images as {} (field `file`), or image_id or vector as {}."
_NO_BATCH_ERROR = "Send images as {} (field `file`, repeated), or `searches` as {}."


@dataclass(frozen=True)
class Upload:
    """A file of a form. `name` is for display only and never becomes a path. `metadata`: of the image."""

    name: str
    file: BinaryIO
    metadata: dict[str, str] | None = None

    def read(self) -> bytes:
        """Read the whole file; blocks on the disk, so call it in a thread."""
        return self.file.read()


@dataclass(frozen=True)
class SearchInput:
    """One search: a JSON body, or the fields of a form with its files."""

    body: SearchRequest | SearchForm
    files: tuple[Upload, ...] = ()
    negative_files: tuple[Upload, ...] = ()

    @property
    def needs_decoding(self) -> bool:
        """Whether `make_query` decodes images, so that it belongs in a thread."""
        return bool(self.files or self.negative_files or self.body.box)

    @property
    def _is_by_image(self) -> bool:
        """Whether the search is by one upload or by the id of one image."""
        if isinstance(self.body, SearchRequest):
            return self.body.image_id is not None
        return len(self.files) == 1 and not (self.negative_files or self.body.positive_id or self.body.negative_id)

    def make_query(self, searcher: Searcher) -> SearchQuery:
        """Return the query for a Searcher; decodes the files. Raises UnreadableImage, BadSetting, NothingIndexed."""
        body = self.body
        box = None if body.box is None else Box.parse(body.box)
        if box is not None and not self._is_by_image:
            raise BadSetting("box names a part of one image: an upload or image_id. Leave it out for other searches.")
        if isinstance(body, SearchRequest):
            query = body.to_query()
            if box is None or body.image_id is None:
                return query
            return replace(query, positives=(searcher.prepare_indexed_part(body.image_id, box),))
        params, strengths = body.to_search_params(), body.to_attribute_strengths()
        positives = [searcher.prepare_query_image(upload.read(), upload.name, box) for upload in self.files]
        negatives = [searcher.prepare_query_image(upload.read(), upload.name) for upload in self.negative_files]
        return SearchQuery(
            (*positives, *body.positive_id), (*negatives, *body.negative_id), params, strengths, body.text
        )


async def read_upload(request: Request) -> AsyncIterator[Upload]:
    """Dependency: the file in the form field `file`."""
    _check_media_type(request, MULTIPART_MEDIA_TYPE, _NO_FORM_ERROR)
    async with open_form(request) as form:
        yield get_uploads(form, required=True)[0]


async def read_image_upload(request: Request) -> AsyncIterator[Upload]:
    """Dependency: the image in the form field `file` and its metadata, as JSON, in the form field `metadata`."""
    _check_media_type(request, MULTIPART_MEDIA_TYPE, _NO_FORM_ERROR)
    async with open_form(request) as form:
        metadata, text = None, form.get("metadata") or None
        if isinstance(text, UploadFile):
            raise make_field_error("metadata", "it is a file: send it as text")
        if text is not None:
            check_json_size(text.encode())
            try:
                value = from_json(text)
            except ValueError as error:
                raise make_field_error("metadata", f"it is not JSON: {error}") from None
            metadata = validate_fields(MetadataRequest, {"metadata": value}, strict=True).to_texts()
        yield replace(get_uploads(form, required=True)[0], metadata=metadata)


@asynccontextmanager
async def read_search(request: Request) -> AsyncIterator[SearchInput]:
    """Read a search by files (form) or by id, vector or ids (JSON). The body wins over the query string."""
    options = _parse_query_options(request)
    if get_media_type(request) == MULTIPART_MEDIA_TYPE:
        async with open_form(request, MAX_QUERY_IMAGES) as form:
            body = _parse_search_form(form, options)
            files = get_uploads(form, required=not body.positive_id and body.text is None)
            negatives = get_uploads(form, "negative")
            if len(files) + len(negatives) + len(body.positive_id) + len(body.negative_id) > MAX_QUERY_IMAGES:
                raise make_field_error("file", f"files and ids are more than {MAX_QUERY_IMAGES} images together")
            yield SearchInput(body, tuple(files), tuple(negatives))
    elif options.text is not None and not get_media_type(request):  # a text needs no body
        yield SearchInput(validate_fields(SearchForm, options.model_dump(exclude_unset=True), "query"))
    else:
        search = await read_json(request, SearchRequest, _NO_SEARCH_ERROR)
        yield SearchInput(_merge_options(search, options))


async def read_search_batch(request: Request) -> AsyncIterator[list[SearchInput]]:
    """Dependency: several searches, one for each file (form), or as JSON."""
    options = _parse_query_options(request)
    if get_media_type(request) == MULTIPART_MEDIA_TYPE:
        async with open_form(request, MAX_BATCH_SEARCHES) as form:
            body = _parse_search_form(form, options)
            if body.positive_id or body.negative_id or form.getlist("negative"):
                raise make_field_error("negative", "in a batch each file is a separate search")
            _check_batch_options([body])
            yield [SearchInput(body, (upload,)) for upload in get_uploads(form, required=True)]
    else:
        batch = await read_json(request, SearchBatchRequest, _NO_BATCH_ERROR, MAX_BATCH_BYTES)
        searches = [_merge_options(search, options) for search in batch.searches]
        _check_batch_options(searches)
        yield [SearchInput(search) for search in searches]


async def read_json(
    request: Request,
    model: type[BodyModel],
    media_type_error: str = "Send the body as {1}.",
    max_bytes: int = MAX_JSON_BYTES,
) -> BodyModel:
    """Read the JSON body of a request.

    Args:
        media_type_error: The detail for another media type; {} stand for the media types of forms and of JSON.

    Raises:
        HTTPException, RequestValidationError: 400, 413, 415 or 422.
    """
    _check_media_type(request, JSON_MEDIA_TYPE, media_type_error.format(MULTIPART_MEDIA_TYPE, JSON_MEDIA_TYPE))
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise make_too_large_error(max_bytes)
    check_json_size(data)
    try:
        # Strict: "5", 5.0 and true are not ids.
        return model.model_validate_json(bytes(data), strict=True)
    except ValidationError as error:
        located = _locate_errors(error, "body")
        errors = located.errors()
        if errors[0]["type"] == "json_invalid":
            raise HTTPException(400, f"{errors[0]['msg']}.") from None
        raise located from None


def check_json_size(data: bytes | bytearray) -> None:
    """Raise HTTPException (400) if JSON text has too many values. Characters inside texts count, too."""
    containers = data.count(b"[") + data.count(b"{") + data.count(b":")
    if containers > MAX_JSON_CONTAINERS or data.count(b",") > MAX_JSON_VALUES:
        detail = (
            f"The JSON has more than {MAX_JSON_VALUES:,} values, or {MAX_JSON_CONTAINERS:,} objects, lists and fields."
        )
        raise HTTPException(400, detail + " Send it in several requests.")


@asynccontextmanager
async def open_form(request: Request, max_files: int = 1) -> AsyncIterator[FormData]:
    """Open the form of a request with at most `max_files` files; closes their temporary files at the end."""
    charset = parse_options_header(request.headers.get("content-type"))[1].get(b"charset", b"utf-8").lower()
    if charset not in _FORM_CHARSETS:
        # Starlette decodes names and values with any codec of Python, some of which take minutes or raise.
        raise HTTPException(415, f"The charset {charset.decode('latin-1')[:40]!r} of the form is not read. Send utf-8.")
    async with AsyncExitStack() as stack:
        try:
            form = await stack.enter_async_context(request.form(max_files=max_files, max_fields=MAX_FORM_FIELDS))
        except OSError as error:
            raise _make_spool_error(error) from error
        yield form


def _make_spool_error(error: OSError) -> Exception:
    """Return a 503 if the disk for temporary files is full, else the error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    detail = f"No space is left for uploads in {tempfile.gettempdir()}. Send it again in a while."
    return ProblemException(503, "disk-full", detail, 5)


def get_uploads(form: FormData, field: str = "file", *, required: bool = False) -> list[Upload]:
    """Return the files of a form field without empty ones. Raises RequestValidationError, also for text."""
    values = form.getlist(field)
    if any(not isinstance(value, UploadFile) for value in values):
        raise make_field_error(field, "it is text: send it as a file, with a file name")
    files = [value for value in values if isinstance(value, UploadFile) and (value.filename or value.size)]
    if required and not files:
        names = ", ".join(sorted(form)[:5]) or "no field at all"
        reason = "no file was chosen" if values else f"the form has no field `{field}` (it has: {names})"
        raise make_field_error(field, reason)
    return [Upload(make_display_name(value.filename or ""), value.file) for value in files]


def make_display_name(name: str) -> str:
    """Return the name of a client's file for display: no folders, no invisible characters, at most 200 characters."""
    last = re.split(r"[/\\]", name)[-1]
    # Category C: control characters, and characters that change the direction of the text around them.
    visible = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return visible[:200] or "upload"


def validate_fields(
    model: type[BodyModel], fields: Mapping[str, Any], location: str = "body", *, strict: bool | None = None
) -> BodyModel:
    """Validate fields of a form or a query string. Raises RequestValidationError, located in `location`."""
    try:
        return model.model_validate(fields, strict=strict)
    except ValidationError as error:
        raise _locate_errors(error, location) from None


def get_media_type(request: Request) -> str:
    """Return the media type of the body without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def make_field_error(field: str, reason: str) -> RequestValidationError:
    """Return the 422 for a field of the body."""
    return RequestValidationError([{"loc": ("body", field), "msg": reason, "type": "value_error"}])


def _locate_errors(error: ValidationError, location: str) -> RequestValidationError:
    """Return the error with `location`, `body` or `query`, prepended to the field names."""
    errors = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**details, "loc": (location, *details["loc"])} for details in errors])


def _check_media_type(request: Request, media_type: str, reason: str) -> None:
    if get_media_type(request) != media_type:
        raise HTTPException(415, reason)


def _check_batch_options(searches: Sequence[SearchOptions]) -> None:
    """Refuse to verify the hits of a batch, which would decode up to 2,000 files. Raises RequestValidationError."""
    if any(search.verify for search in searches):
        raise make_field_error("verify", "the hits of a batch are not verified: send each search to /v1/search")


def _parse_query_options(request: Request) -> SearchOptions:
    """Return the options of the query string, parsed by hand: FastAPI takes 1.4 ms for a model with so many fields."""
    return validate_fields(SearchOptions, _get_values(request.query_params, SearchOptions), "query")


def _parse_search_form(form: FormData, options: SearchOptions) -> SearchForm:
    """Return the fields of a form; options of the query string fill the missing ones."""
    return validate_fields(SearchForm, options.model_dump(exclude_unset=True) | _get_values(form, SearchForm))


def _get_values(fields: ImmutableMultiDict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    names = model.model_fields.keys() & fields.keys()
    return {name: fields.getlist(name) if name in _LIST_FIELDS else fields[name] for name in names}


def _merge_options(body: SearchRequest, options: SearchOptions) -> SearchRequest:
    """Return the body; options of the query string fill the missing fields."""
    return body.model_copy(update=options.model_dump(exclude_unset=True, exclude=body.model_fields_set))
