"""Reading what a request brings: a file in a form, or JSON. What is wrong with it becomes a 4xx that says so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.limits import too_large
from service.schemas import SearchBody, SearchOptions

Body = TypeVar("Body", bound=BaseModel)

MULTIPART = "multipart/form-data"
JSON = "application/json"
MAX_JSON_BYTES = 1 << 20  # 65,536 numbers need less
_OPTIONS = frozenset(SearchOptions.model_fields)
_LISTS = frozenset({"include", "where", "format"})  # fields that a form may repeat


@dataclass(frozen=True)
class Upload:
    """A file that came with a form. `name` is for display only: it never becomes a path."""

    name: str
    file: BinaryIO

    def read(self) -> bytes:
        """All of it; blocks on the disk, so call it in a thread."""
        return self.file.read()


@dataclass(frozen=True)
class SearchRequest:
    """One search: exactly one of upload, image_id and vector, and how much of an answer is wanted."""

    options: SearchOptions
    upload: Upload | None = None
    image_id: int | None = None
    vector: list[float] | None = None


async def read_upload(request: Request) -> AsyncIterator[Upload]:
    """Dependency: the one file of a form's field `file`."""
    if _media_type(request) != MULTIPART:
        raise HTTPException(415, f"Send the picture as {MULTIPART}, in the field `file`.")
    async with form_of(request) as form:
        yield upload_in(form)


async def read_search(request: Request, options: Annotated[SearchOptions, Query()]) -> AsyncIterator[SearchRequest]:
    """Dependency: a search by file (form) or by id or vector (JSON). Options in the body win over the address."""
    kind = _media_type(request)
    if kind == MULTIPART:
        async with form_of(request) as form:
            yield SearchRequest(options=_options_in(form, options), upload=upload_in(form))
    elif kind == JSON:
        body = _parse(await _read_limited(request, MAX_JSON_BYTES), SearchBody)
        chosen = options.model_copy(update=body.model_dump(include=set(_OPTIONS & body.model_fields_set)))
        yield SearchRequest(options=chosen, image_id=body.image_id, vector=body.vector)
    else:
        raise HTTPException(415, f"Send a picture as {MULTIPART} (field `file`), or image_id or vector as {JSON}.")


async def read_json(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body. Raises what becomes 400, 413, 415 or 422."""
    if _media_type(request) != JSON:
        raise HTTPException(415, f"Send it as {JSON}.")
    return _parse(await _read_limited(request, MAX_JSON_BYTES), kind)


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """The request's form; its temporary files are closed at the end."""
    async with request.form(max_files=1, max_fields=128) as form:
        yield form


def upload_in(form: FormData) -> Upload:
    """The form's field `file`. Raises RequestValidationError if it is no file, or no file was chosen."""
    file = form.get("file")
    if file is None:
        found = ", ".join(sorted(form)[:5]) or "no field at all"
        raise _refused("file", f"the form has no field `file` (it has: {found})")
    if not isinstance(file, UploadFile):
        raise _refused("file", "it came as text: send it as a file, with a file name")
    if not file.filename and not file.size:
        raise _refused("file", "no file was chosen")
    return Upload(display_name(file.filename or ""), file.file)


def display_name(name: str) -> str:
    """A client's file name, fit to be shown: no folders, nothing invisible, not endless."""
    last = re.split(r"[/\\]", name)[-1]
    # Category C: control characters, and those that turn the direction of the text around them.
    visible = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return visible[:200] or "upload"


def _options_in(form: FormData, options: SearchOptions) -> SearchOptions:
    given: dict[str, Any] = {name: form[name] for name in (_OPTIONS - _LISTS) & form.keys()}
    given |= {name: form.getlist(name) for name in _LISTS & form.keys()}
    try:
        return SearchOptions.model_validate(options.model_dump() | given)
    except ValidationError as error:
        raise RequestValidationError(_in_body(error)) from None


def _parse(data: bytes, kind: type[Body]) -> Body:
    try:
        # Strict: "5", 5.0 and true are no ids.
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = _in_body(error)
        if found[0]["type"] == "json_invalid":
            raise HTTPException(400, f"{found[0]['msg']}.") from None
        raise RequestValidationError(found) from None


def _in_body(error: ValidationError) -> list[Mapping[str, Any]]:
    return [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False, include_input=False)]


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    return bytes(data)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refused(name: str, reason: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("body", name), "msg": reason, "type": "value_error"}])
