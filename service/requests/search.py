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

from simile.search.attributes import pushed_question
from simile.search.queries import Question
from simile.search.searcher import Searcher
from simile.service.errors import too_large
from simile.service.schemas.search import (
    MOST_ASKED,
    MOST_SEARCHES,
    BatchBody,
    MetadataIn,
    SearchBody,
    SearchForm,
    SearchOptions,
)

Body = TypeVar("Body", bound=BaseModel)

MULTIPART = "multipart/form-data"
JSON = "application/json"
MAX_JSON_BYTES = 1 << 20  # 65,536 numbers need less
MAX_BATCH_BYTES = 8 << 20
MAX_FIELDS = 192
_LISTS = frozenset(
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
class Addition:
    """A picture to add. said: metadata of it; None: nothing is said."""

    upload: Upload
    said: dict[str, str] | None


@dataclass(frozen=True)
class SearchRequest:
    """One search. Of a form: its files, those to be unlike, and the rest of it; else `body`."""

    body: SearchBody | SearchForm
    files: tuple[Upload, ...] = ()
    negatives: tuple[Upload, ...] = ()

    @property
    def include(self) -> frozenset[str]:
        return self.body.included()

    @property
    def decodes(self) -> bool:
        """Whether pictures have to be decoded or encoded for it."""
        return bool(self.files or self.negatives or self.body.plus or self.body.minus)

    def question(self, searcher: Searcher) -> Question:
        """The same for a Searcher; decodes. Raises UnreadableImage, BadSetting, NothingIndexed."""
        return pushed_question(searcher, self._plain(searcher), self.body.plus, self.body.minus, self.body.strength)

    def _plain(self, searcher: Searcher) -> Question:
        if isinstance(self.body, SearchBody):
            return self.body.question()
        asked = self.body.asked()
        like = [searcher.prepare(one.read(), one.name) for one in self.files]
        unlike = [searcher.prepare(one.read(), one.name) for one in self.negatives]
        return Question((*like, *self.body.positive_id), (*unlike, *self.body.negative_id), asked)


async def read_upload(request: Request) -> AsyncIterator[Upload]:
    """Dependency: the one file of a form's field `file`."""
    if media_type(request) != MULTIPART:
        raise HTTPException(415, f"Send the picture as {MULTIPART}, in the field `file`.")
    async with form_of(request) as form:
        yield upload_in(form)


async def read_addition(request: Request) -> AsyncIterator[Addition]:
    """Dependency: a picture to add, in a form's field `file`, and what to say of it, in its field `metadata`."""
    if media_type(request) != MULTIPART:
        raise HTTPException(415, f"Send the picture as {MULTIPART}, in the field `file`.")
    async with form_of(request) as form:
        said = field_in(form, "metadata", MetadataIn)
        yield Addition(upload_in(form), None if said is None else said.texts())


@asynccontextmanager
async def read_search(request: Request) -> AsyncIterator[SearchRequest]:
    """A search by files (form), or by id, vector or several ids (JSON). The body wins over the address."""
    kind, said = media_type(request), _address(request)
    if kind == MULTIPART:
        async with form_of(request, MOST_ASKED) as form:
            yield _search_in(form, said)
    elif kind == JSON:
        options = _options(said)
        yield SearchRequest(_merged(_parse(await _read_limited(request, MAX_JSON_BYTES), SearchBody), options))
    else:
        raise HTTPException(415, f"Send pictures as {MULTIPART} (field `file`), or image_id or vector as {JSON}.")


@asynccontextmanager
async def read_batch(request: Request) -> AsyncIterator[list[SearchRequest]]:
    """Several searches, each by one file (form), or as JSON."""
    kind, said = media_type(request), _address(request)
    if kind == MULTIPART:
        async with form_of(request, MOST_SEARCHES) as form:
            body = _form_body(form, said)
            if body.positive_id or body.negative_id or form.getlist("negative"):
                raise refused("negative", "each file of a batch is a search of its own")
            yield [SearchRequest(body, (upload,)) for upload in uploads_in(form, needed=True)]
    elif kind == JSON:
        options = _options(said)
        batch = _parse(await _read_limited(request, MAX_BATCH_BYTES), BatchBody)
        yield [SearchRequest(_merged(body, options)) for body in batch.searches]
    else:
        raise HTTPException(415, f"Send pictures as {MULTIPART} (field `file`, repeated), or `searches` as {JSON}.")


async def read_json(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body. Raises what becomes 400, 413, 415 or 422."""
    if media_type(request) != JSON:
        raise HTTPException(415, f"Send it as {JSON}.")
    return _parse(await _read_limited(request, MAX_JSON_BYTES), kind)


@asynccontextmanager
async def form_of(request: Request, files: int = 1) -> AsyncIterator[FormData]:
    """The request's form, with at most so many files; its temporary files are closed at the end."""
    async with request.form(max_files=files, max_fields=MAX_FIELDS) as form:
        yield form


def upload_in(form: FormData) -> Upload:
    """The form's field `file`. Raises RequestValidationError if it is no file, or no file was chosen."""
    return uploads_in(form, needed=True)[0]


def uploads_in(form: FormData, field: str = "file", *, needed: bool = False) -> list[Upload]:
    """The files of a field, without those that nobody chose. Raises RequestValidationError for text in their place.

    needed: and where there is none.
    """
    values = form.getlist(field)
    if any(not isinstance(value, UploadFile) for value in values):
        raise refused(field, "it came as text: send it as a file, with a file name")
    files = [value for value in values if isinstance(value, UploadFile) and (value.filename or value.size)]
    if needed and not files:
        found = ", ".join(sorted(form)[:5]) or "no field at all"
        chosen = "no file was chosen" if values else f"the form has no field `{field}` (it has: {found})"
        raise refused(field, chosen)
    return [Upload(display_name(value.filename or ""), value.file) for value in files]


def field_in(form: FormData, field: str, kind: type[Body]) -> Body | None:
    """A field that holds JSON; None where there is none. Raises RequestValidationError."""
    value = form.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise refused(field, "it came as a file: send it as text")
    try:
        return kind.model_validate({field: from_json(value)}, strict=True)
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from None
    except ValueError as error:
        raise refused(field, f"it is no JSON: {error}") from None


def display_name(name: str) -> str:
    """A client's file name, fit to be shown: no folders, nothing invisible, not endless."""
    last = re.split(r"[/\\]", name)[-1]
    # Category C: control characters, and those that turn the direction of the text around them.
    visible = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return visible[:200] or "upload"


def _address(request: Request) -> dict[str, Any]:
    """The options that the address gives, as text. Read by hand: FastAPI takes longer over them than over the rest."""
    said = request.query_params
    names = said.keys() & SearchOptions.model_fields.keys()
    return {name: said.getlist(name) if name in _LISTS else said[name] for name in names}


def _options(said: dict[str, Any]) -> SearchOptions:
    try:
        return SearchOptions.model_validate(said)
    except ValidationError as error:
        raise RequestValidationError(located(error, "query")) from None


def _search_in(form: FormData, said: dict[str, Any]) -> SearchRequest:
    body = _form_body(form, said)
    needed = not body.positive_id
    files, negatives = uploads_in(form, needed=needed), uploads_in(form, "negative")
    if len(files) + len(negatives) + len(body.positive_id) + len(body.negative_id) > MOST_ASKED:
        raise refused("file", f"files and ids are more than {MOST_ASKED} pictures together")
    return SearchRequest(body, tuple(files), tuple(negatives))


def _form_body(form: FormData, said: dict[str, Any]) -> SearchForm:
    """What the form says beside its files; what it leaves out, the address may say."""
    if said:
        _options(said)  # wrong is wrong, though the form says otherwise
    fields = SearchForm.model_fields.keys() & form.keys()
    given = {name: form.getlist(name) if name in _LISTS else form[name] for name in fields}
    try:
        return SearchForm.model_validate(said | given)
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from None


def _merged(body: SearchBody, options: SearchOptions) -> SearchBody:
    """The body, with what only the address says."""
    given = options.model_dump(exclude_unset=True)
    return body.model_copy(update={name: one for name, one in given.items() if name not in body.model_fields_set})


def _parse(data: bytes, kind: type[Body]) -> Body:
    try:
        # Strict: "5", 5.0 and true are no ids.
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = located(error, "body")
        if found[0]["type"] == "json_invalid":
            raise HTTPException(400, f"{found[0]['msg']}.") from None
        raise RequestValidationError(found) from None


def located(error: ValidationError, part: str) -> list[Mapping[str, Any]]:
    """What is wrong, and where in the request; part: `body` or `query`."""
    return [{**one, "loc": (part, *one["loc"])} for one in error.errors(include_url=False, include_input=False)]


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    return bytes(data)


def media_type(request: Request) -> str:
    """What the body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def refused(name: str, reason: str) -> RequestValidationError:
    """The 422 for a field of the body."""
    return RequestValidationError([{"loc": ("body", name), "msg": reason, "type": "value_error"}])
