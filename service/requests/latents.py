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

from simile.search.queries import QueryImage
from simile.search.searcher import Searcher
from simile.service.requests.search import (
    JSON_MEDIA_TYPE,
    MULTIPART_MEDIA_TYPE,
    Upload,
    get_media_type,
    get_uploads,
    locate_errors,
    make_field_error,
    open_form,
    read_json,
)

FILE_FIELD = "file"

RequestModel = TypeVar("RequestModel", bound=BaseModel)


@dataclass(frozen=True)
class LatentRequestData(Generic[RequestModel]):
    """What a request wants. uploads: the pictures of a form; none with JSON."""

    params: RequestModel
    uploads: Sequence[Upload] = ()

    def prepare_images(self, searcher: Searcher) -> list[QueryImage]:
        """The uploads, decoded. Raises UnreadableImage, NothingIndexed."""
        return [searcher.prepare_query_image(one.read(), one.name) for one in self.uploads]


@asynccontextmanager
async def read_latent_request(
    request: Request, json_model: type[RequestModel], form_model: type[RequestModel], max_files: int = 1
) -> AsyncIterator[LatentRequestData[RequestModel]]:
    """JSON, or a form with one to `files` pictures in its field `file`. Raises what becomes 400, 413, 415 or 422."""
    kind = get_media_type(request)
    if kind == MULTIPART_MEDIA_TYPE:
        async with open_form(request, max_files) as form:
            yield LatentRequestData(parse_form(form, form_model), get_uploads(form, required=True))
    elif kind == JSON_MEDIA_TYPE:
        yield LatentRequestData(await read_json(request, json_model))
    else:
        raise HTTPException(
            415, f"Send pictures as {MULTIPART_MEDIA_TYPE} (field `file`), or what is indexed as {JSON_MEDIA_TYPE}."
        )


def parse_form(form: FormData, model: type[RequestModel]) -> RequestModel:
    """What a form says beside its files. Raises RequestValidationError, also for a field that nobody knows."""
    given = {name: _get_form_value(form, name, model) for name in form if name != FILE_FIELD}
    try:
        return model.model_validate(given, strict=True)
    except ValidationError as error:
        raise RequestValidationError(locate_errors(error, "body")) from None


def _get_form_value(form: FormData, name: str, model: type[BaseModel]) -> Any:
    values = [_parse_form_text(name, one) for one in form.getlist(name)]
    if len(values) == 1 and (isinstance(values[0], list) or not _is_list_field(model, name)):
        return values[0]
    return values


def _parse_form_text(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise make_field_error(name, "it came as a file: send it as text")
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value


def _is_list_field(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    return field is not None and get_origin(field.annotation) is list
