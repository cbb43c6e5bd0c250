"""What OpenAPI says of errors and of bodies that handlers read on their own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from service.bodies import JSON, MULTIPART
from service.problems import MEDIA_TYPE
from service.schemas import ProblemOut, SearchBody, SearchOptions

Responses = dict[int | str, dict[str, Any]]

_FILE = {"type": "string", "format": "binary", "description": "The picture."}


def errors(*statuses: int) -> Responses:
    """The problem documents that a route can answer with."""
    return {status: {"model": ProblemOut, "description": HTTPStatus(status).phrase} for status in statuses}


def pictures(*media_types: str) -> Responses:
    """A picture as the answer."""
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}}}


def upload_body() -> dict[str, Any]:
    """A form with one file."""
    return _body({MULTIPART: _form({})})


def search_body() -> dict[str, Any]:
    """A form with one file and options, or JSON."""
    options = SearchOptions.model_json_schema()["properties"]
    return _body({MULTIPART: _form(options), JSON: SearchBody.model_json_schema()})


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """JSON of this shape."""
    return _body({JSON: _inlined(kind.model_json_schema())})


def install(app: FastAPI) -> None:
    """Makes the app's document name the media type that its errors really have."""
    plain = app.openapi

    def documented() -> dict[str, Any]:
        document = plain()
        for path in document["paths"].values():
            for operation in path.values():
                _rename_errors(operation["responses"])
        return document

    app.openapi = documented  # type: ignore[method-assign]  # the way that FastAPI documents


def _rename_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and JSON in content:
            content[MEDIA_TYPE] = content.pop(JSON)


def _form(options: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["file"], "properties": {"file": _FILE, **options}}


def _body(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what it refers to written out: a `$defs` inside a path is not where OpenAPI would look."""
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(definitions[part["$ref"].rpartition("/")[2]])
            return {name: resolved(value) for name, value in part.items()}
        return [resolved(one) for one in part] if isinstance(part, list) else part

    return cast(dict[str, Any], resolved(schema))
