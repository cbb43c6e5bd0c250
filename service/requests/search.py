"""Reading what a request brings: a file in a form, or JSON. What is wrong with it becomes a 4xx that says so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from simile.search.attributes import make_attribute_query
from simile.search.queries import SearchQuery
from simile.search.searcher import Searcher
from simile.service.errors import make_too_large_error
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
MAX_JSON_BYTES = 1 << 20  # 65,536 numbers need less
MAX_BATCH_BYTES = 8 << 20
MAX_FORM_FIELDS = 192
_LIST_FIELDS = frozenset(
    {"include", "plus", "minus", "where", "format", "positive_id", "negative_id"}
)  # fields that a form may repeat


@dataclass(frozen=True)
class Upload:
    """A file that came with a form. `name` is for display only: it never becomes a path."""

    name: str
    file: BinaryIO

    def read(self) -> bytes:
        """All of it; blocks on the disk, so call it in a thread."""
        return self.file.read()


@dataclass(frozen=True)
class ImageUpload:
    """A picture to add. said: metadata of it; None: nothing is said."""

    upload: Upload
    metadata: dict[str, str] | None


@dataclass(frozen=True)
class SearchInput:
    """One search. Of a form: its files, those to be unlike, and the rest of it; else `body`."""

    body: SearchRequest | SearchForm
    files: tuple[Upload, ...] = ()
    negative_files: tuple[Upload, ...] = ()

    @property
    def include(self) -> frozenset[str]:
        return self.body.get_includes()

    @property
    def needs_decoding(self) -> bool:
        """Whether pictures have to be decoded or encoded for it."""
        return bool(self.files or self.negative_files or self.body.plus or self.body.minus)

    def make_query(self, searcher: Searcher) -> SearchQuery:
        """The same for a Searcher; decodes. Raises UnreadableImage, BadSetting, NothingIndexed."""
        return make_attribute_query(
            searcher, self._make_plain_query(searcher), self.body.plus, self.body.minus, self.body.strength
        )

    def _make_plain_query(self, searcher: Searcher) -> SearchQuery:
        if isinstance(self.body, SearchRequest):
            return self.body.to_query()
        asked = self.body.to_search_params()
        like = [searcher.prepare_query_image(one.read(), one.name) for one in self.files]
        unlike = [searcher.prepare_query_image(one.read(), one.name) for one in self.negative_files]
        return SearchQuery((*like, *self.body.positive_id), (*unlike, *self.body.negative_id), asked)


async def read_upload(request: Request) -> AsyncIterator[Upload]:
    """Dependency: the one file of a form's field `file`."""
    if get_media_type(request) != MULTIPART_MEDIA_TYPE:
        raise HTTPException(415, f"Send the picture as {MULTIPART_MEDIA_TYPE}, in the field `file`.")
    async with open_form(request) as form:
        yield get_upload(form)


async def read_image_upload(request: Request) -> AsyncIterator[ImageUpload]:
    """Dependency: a picture to add, in a form's field `file`, and what to say of it, in its field `metadata`."""
    if get_media_type(request) != MULTIPART_MEDIA_TYPE:
        raise HTTPException(415, f"Send the picture as {MULTIPART_MEDIA_TYPE}, in the field `file`.")
    async with open_form(request) as form:
        said = parse_json_field(form, "metadata", MetadataRequest)
        yield ImageUpload(get_upload(form), None if said is None else said.to_texts())


@asynccontextmanager
async def read_search(request: Request) -> AsyncIterator[SearchInput]:
    """A search by files (form), or by id, vector or several ids (JSON). The body wins over the address."""
    kind, said = get_media_type(request), _get_query_options(request)
    if kind == MULTIPART_MEDIA_TYPE:
        async with open_form(request, MAX_QUERY_IMAGES) as form:
            yield _make_search_input(form, said)
    elif kind == JSON_MEDIA_TYPE:
        options = _parse_query_options(said)
        yield SearchInput(
            _merge_options(_parse_json(await _read_body(request, MAX_JSON_BYTES), SearchRequest), options)
        )
    else:
        raise HTTPException(
            415, f"Send pictures as {MULTIPART_MEDIA_TYPE} (field `file`), or image_id or vector as {JSON_MEDIA_TYPE}."
        )


@asynccontextmanager
async def read_search_batch(request: Request) -> AsyncIterator[list[SearchInput]]:
    """Several searches, each by one file (form), or as JSON."""
    kind, said = get_media_type(request), _get_query_options(request)
    if kind == MULTIPART_MEDIA_TYPE:
        async with open_form(request, MAX_BATCH_SEARCHES) as form:
            body = _parse_search_form(form, said)
            if body.positive_id or body.negative_id or form.getlist("negative"):
                raise make_field_error("negative", "each file of a batch is a search of its own")
            yield [SearchInput(body, (upload,)) for upload in get_uploads(form, required=True)]
    elif kind == JSON_MEDIA_TYPE:
        options = _parse_query_options(said)
        batch = _parse_json(await _read_body(request, MAX_BATCH_BYTES), SearchBatchRequest)
        yield [SearchInput(_merge_options(body, options)) for body in batch.searches]
    else:
        raise HTTPException(
            415,
            f"Send pictures as {MULTIPART_MEDIA_TYPE} (field `file`, repeated), or `searches` as {JSON_MEDIA_TYPE}.",
        )


async def read_json(request: Request, model: type[BodyModel]) -> BodyModel:
    """The request's JSON body. Raises what becomes 400, 413, 415 or 422."""
    if get_media_type(request) != JSON_MEDIA_TYPE:
        raise HTTPException(415, f"Send it as {JSON_MEDIA_TYPE}.")
    return _parse_json(await _read_body(request, MAX_JSON_BYTES), model)


@asynccontextmanager
async def open_form(request: Request, max_files: int = 1) -> AsyncIterator[FormData]:
    """The request's form, with at most so many files; its temporary files are closed at the end."""
    async with request.form(max_files=max_files, max_fields=MAX_FORM_FIELDS) as form:
        yield form


def get_upload(form: FormData) -> Upload:
    """The form's field `file`. Raises RequestValidationError if it is no file, or no file was chosen."""
    return get_uploads(form, required=True)[0]


def get_uploads(form: FormData, field: str = "file", *, required: bool = False) -> list[Upload]:
    """The files of a field, without those that nobody chose. Raises RequestValidationError for text in their place.

    needed: and where there is none.
    """
    values = form.getlist(field)
    if any(not isinstance(value, UploadFile) for value in values):
        raise make_field_error(field, "it came as text: send it as a file, with a file name")
    files = [value for value in values if isinstance(value, UploadFile) and (value.filename or value.size)]
    if required and not files:
        found = ", ".join(sorted(form)[:5]) or "no field at all"
        chosen = "no file was chosen" if values else f"the form has no field `{field}` (it has: {found})"
        raise make_field_error(field, chosen)
    return [Upload(make_display_name(value.filename or ""), value.file) for value in files]


def parse_json_field(form: FormData, field: str, model: type[BodyModel]) -> BodyModel | None:
    """A field that holds JSON; None where there is none. Raises RequestValidationError."""
    value = form.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise make_field_error(field, "it came as a file: send it as text")
    try:
        return model.model_validate({field: from_json(value)}, strict=True)
    except ValidationError as error:
        raise RequestValidationError(locate_errors(error, "body")) from None
    except ValueError as error:
        raise make_field_error(field, f"it is no JSON: {error}") from None


def make_display_name(name: str) -> str:
    """A client's file name, fit to be shown: no folders, nothing invisible, not endless."""
    last = re.split(r"[/\\]", name)[-1]
    # Category C: control characters, and those that turn the direction of the text around them.
    visible = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return visible[:200] or "upload"


def _get_query_options(request: Request) -> dict[str, Any]:
    """The options that the address gives, as text. Read by hand: FastAPI takes longer over them than over the rest."""
    said = request.query_params
    names = said.keys() & SearchOptions.model_fields.keys()
    return {name: said.getlist(name) if name in _LIST_FIELDS else said[name] for name in names}


def _parse_query_options(query_options: dict[str, Any]) -> SearchOptions:
    try:
        return SearchOptions.model_validate(query_options)
    except ValidationError as error:
        raise RequestValidationError(locate_errors(error, "query")) from None


def _make_search_input(form: FormData, query_options: dict[str, Any]) -> SearchInput:
    body = _parse_search_form(form, query_options)
    needed = not body.positive_id
    files, negatives = get_uploads(form, required=needed), get_uploads(form, "negative")
    if len(files) + len(negatives) + len(body.positive_id) + len(body.negative_id) > MAX_QUERY_IMAGES:
        raise make_field_error("file", f"files and ids are more than {MAX_QUERY_IMAGES} pictures together")
    return SearchInput(body, tuple(files), tuple(negatives))


def _parse_search_form(form: FormData, query_options: dict[str, Any]) -> SearchForm:
    """What the form says beside its files; what it leaves out, the address may say."""
    if query_options:
        _parse_query_options(query_options)  # wrong is wrong, though the form says otherwise
    fields = SearchForm.model_fields.keys() & form.keys()
    given = {name: form.getlist(name) if name in _LIST_FIELDS else form[name] for name in fields}
    try:
        return SearchForm.model_validate(query_options | given)
    except ValidationError as error:
        raise RequestValidationError(locate_errors(error, "body")) from None


def _merge_options(body: SearchRequest, options: SearchOptions) -> SearchRequest:
    """The body, with what only the address says."""
    given = options.model_dump(exclude_unset=True)
    return body.model_copy(update={name: one for name, one in given.items() if name not in body.model_fields_set})


def _parse_json(data: bytes, model: type[BodyModel]) -> BodyModel:
    try:
        # Strict: "5", 5.0 and true are no ids.
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = locate_errors(error, "body")
        if found[0]["type"] == "json_invalid":
            raise HTTPException(400, f"{found[0]['msg']}.") from None
        raise RequestValidationError(found) from None


def locate_errors(error: ValidationError, location: str) -> list[Mapping[str, Any]]:
    """What is wrong, and where in the request; part: `body` or `query`."""
    return [{**one, "loc": (location, *one["loc"])} for one in error.errors(include_url=False, include_input=False)]


async def _read_body(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise make_too_large_error(max_bytes)
    return bytes(data)


def get_media_type(request: Request) -> str:
    """What the body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def make_field_error(field: str, reason: str) -> RequestValidationError:
    """The 422 for a field of the body."""
    return RequestValidationError([{"loc": ("body", field), "msg": reason, "type": "value_error"}])
