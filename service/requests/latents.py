"""Reading what the routes of the latent space are asked with: pictures in a form, with what else it says, or JSON.

In a form a field is JSON where it can be read as such (`steps=16`, `attributes={"smile": 1}`), and text otherwise
(`how=spherical`). A list is one JSON list, or its field repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from simile.search.queries import AskedPicture
from simile.search.searcher import Searcher
from simile.service.requests.search import (
    JSON,
    MULTIPART,
    Upload,
    form_of,
    located,
    media_type,
    read_json,
    refused,
    uploads_in,
)

FILE = "file"

Said = TypeVar("Said", bound=BaseModel)


@dataclass(frozen=True)
class Wanted(Generic[Said]):
    """What a request wants. uploads: the pictures of a form; none with JSON."""

    said: Said
    uploads: Sequence[Upload] = ()

    def pictures(self, searcher: Searcher) -> list[AskedPicture]:
        """The uploads, decoded. Raises UnreadableImage, NothingIndexed."""
        return [searcher.prepare(one.read(), one.name) for one in self.uploads]


@asynccontextmanager
async def read_wanted(
    request: Request, of_json: type[Said], of_form: type[Said], files: int = 1
) -> AsyncIterator[Wanted[Said]]:
    """JSON, or a form with one to `files` pictures in its field `file`. Raises what becomes 400, 413, 415 or 422."""
    kind = media_type(request)
    if kind == MULTIPART:
        async with form_of(request, files) as form:
            yield Wanted(said_in(form, of_form), uploads_in(form, needed=True))
    elif kind == JSON:
        yield Wanted(await read_json(request, of_json))
    else:
        raise HTTPException(415, f"Send pictures as {MULTIPART} (field `file`), or what is indexed as {JSON}.")


def said_in(form: FormData, kind: type[Said]) -> Said:
    """What a form says beside its files. Raises RequestValidationError, also for a field that nobody knows."""
    given = {name: _value(form, name, kind) for name in form if name != FILE}
    try:
        return kind.model_validate(given, strict=True)
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from None


def _value(form: FormData, name: str, kind: type[BaseModel]) -> Any:
    values = [_read(name, one) for one in form.getlist(name)]
    if len(values) == 1 and (isinstance(values[0], list) or not _holds_list(kind, name)):
        return values[0]
    return values


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise refused(name, "it came as a file: send it as text")
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value


def _holds_list(kind: type[BaseModel], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and get_origin(field.annotation) is list
