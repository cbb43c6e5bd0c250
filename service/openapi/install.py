"""What OpenAPI says of errors and of bodies that handlers read on their own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from simile.service.errors import MEDIA_TYPE
from simile.service.openapi import examples
from simile.service.requests.search import JSON, MULTIPART
from simile.service.schemas.search import (
    MOST_ASKED,
    MOST_SEARCHES,
    BatchBody,
    MetadataIn,
    ProblemOut,
    SearchBody,
    SearchForm,
    SearchOptions,
)
from simile.service.security import scopes

Responses = dict[int | str, dict[str, Any]]

# What can be wrong with a request of any kind, before its address is looked at.
_OF_ANY_REQUEST = {
    status: {
        "description": HTTPStatus(int(status)).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}},
    }
    for status in ("400", "414", "431")
}
_PLAIN = ("string", "integer", "number", "boolean")
_FILE = {"type": "string", "format": "binary", "description": "The picture."}
_FILES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "maxItems": MOST_ASKED,
    "description": "One picture, or several to be like together.",
}


def errors(*statuses: int) -> Responses:
    """The problem documents that a route can answer with."""
    return {status: {"model": ProblemOut, "description": HTTPStatus(status).phrase} for status in statuses}


def answers(model: type[BaseModel]) -> Responses:
    """JSON of this shape as the answer, for a route that writes it itself."""
    return {200: {"model": model, "description": "Successful Response"}}


def pictures(*media_types: str, keeps: bool = False) -> Responses:
    """A picture as the answer. `keeps`: who has it under its ETag gets 304."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    kept: Responses = {304: {"description": "You have it: it is what If-None-Match names"}} if keeps else {}
    return {200: {"description": "The picture", "content": content}} | kept


def upload_body() -> dict[str, Any]:
    """A form with one file."""
    return _body({MULTIPART: _form(_FILE, {}, required=["file"])})


def addition_body() -> dict[str, Any]:
    """A form with one file, and what to say of it."""
    said = _inlined(MetadataIn.model_json_schema())["properties"]["metadata"]
    body = _body({MULTIPART: _form(_FILE, {"metadata": said}, required=["file"])})
    body["requestBody"]["content"][MULTIPART]["encoding"] = {"metadata": {"contentType": JSON}}
    return body


def search_body() -> dict[str, Any]:
    """A form with files and options, or JSON."""
    fields = SearchForm.model_json_schema()["properties"]
    form = _form(_FILES, {"negative": _FILES | {"description": "Pictures to be unlike."}} | fields)
    form["anyOf"] = [{"required": ["file"]}, {"required": ["positive_id"]}]
    return _options() | _body({MULTIPART: form, JSON: SearchBody.model_json_schema()})


def batch_body() -> dict[str, Any]:
    """A form with files, each a search of its own, or JSON."""
    fields = SearchOptions.model_json_schema()["properties"]
    files = _FILES | {"maxItems": MOST_SEARCHES, "description": "Each picture is a search of its own."}
    form = _form(files, fields, required=["file"])
    return _options() | _body({MULTIPART: form, JSON: _inlined(BatchBody.model_json_schema())})


def picture_or_json_body(kind: type[BaseModel], beside: type[BaseModel], files: int = 1) -> dict[str, Any]:
    """A form with one picture or up to so many, and what it says beside them; or JSON of this shape."""
    fields = _inlined(beside.model_json_schema())["properties"]
    file = _FILE if files == 1 else _FILES | {"maxItems": files, "description": "One picture, or several."}
    form = _form(file, fields, required=["file"]) | {"additionalProperties": False}
    body = _body({MULTIPART: form, JSON: _inlined(kind.model_json_schema())})
    nested = [name for name, schema in fields.items() if schema.get("type") not in _PLAIN]
    body["requestBody"]["content"][MULTIPART]["encoding"] = {name: {"contentType": JSON} for name in nested}
    return body


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """JSON of this shape."""
    return _body({JSON: _inlined(kind.model_json_schema())})


def install(app: FastAPI) -> None:
    """Makes the app's document name the media type that its errors really have."""
    plain = app.openapi

    def documented() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"] = deepcopy(_OF_ANY_REQUEST) | operation["responses"]
                    _rename_errors(operation["responses"])
            scopes.document(document)
            examples.document(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]  # the way that FastAPI documents


def _rename_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and JSON in content:
            content[MEDIA_TYPE] = content.pop(JSON)


def _form(file: dict[str, Any], fields: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": file, **fields}}
    return form | ({"required": list(required)} if required else {})


def _options() -> dict[str, Any]:
    """Those of a search, in its address."""
    fields = SearchOptions.model_json_schema()["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            | ({"description": schema["description"]} if "description" in schema else {})
            for name, schema in fields.items()
        ]
    }


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
