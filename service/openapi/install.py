"""What OpenAPI says of errors and of bodies that handlers read on their own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from simile.service.errors import PROBLEM_MEDIA_TYPE
from simile.service.openapi import examples
from simile.service.requests.search import JSON_MEDIA_TYPE, MULTIPART_MEDIA_TYPE
from simile.service.schemas.search import (
    MAX_BATCH_SEARCHES,
    MAX_QUERY_IMAGES,
    MetadataRequest,
    ProblemResponse,
    SearchBatchRequest,
    SearchForm,
    SearchOptions,
    SearchRequest,
)
from simile.service.security import scopes

ResponseDocs = dict[int | str, dict[str, Any]]

# What can be wrong with a request of any kind, before its address is looked at.
_COMMON_ERRORS = {
    status: {
        "description": HTTPStatus(int(status)).phrase,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemResponse"}}},
    }
    for status in ("400", "414", "431")
}
_SCALAR_TYPES = ("string", "integer", "number", "boolean")
_FILE_SCHEMA = {"type": "string", "format": "binary", "description": "The picture."}
_FILES_SCHEMA = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "maxItems": MAX_QUERY_IMAGES,
    "description": "One picture, or several to be like together.",
}


def document_errors(*statuses: int) -> ResponseDocs:
    """The problem documents that a route can answer with."""
    return {status: {"model": ProblemResponse, "description": HTTPStatus(status).phrase} for status in statuses}


def document_json(model: type[BaseModel]) -> ResponseDocs:
    """JSON of this shape as the answer, for a route that writes it itself."""
    return {200: {"model": model, "description": "Successful Response"}}


def document_image(*media_types: str, cacheable: bool = False) -> ResponseDocs:
    """A picture as the answer. `keeps`: who has it under its ETag gets 304."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    kept: ResponseDocs = {304: {"description": "You have it: it is what If-None-Match names"}} if cacheable else {}
    return {200: {"description": "The picture", "content": content}} | kept


def upload_body() -> dict[str, Any]:
    """A form with one file."""
    return _make_request_body({MULTIPART_MEDIA_TYPE: _make_form_schema(_FILE_SCHEMA, {}, required=["file"])})


def image_upload_body() -> dict[str, Any]:
    """A form with one file, and what to say of it."""
    said = _inline_definitions(MetadataRequest.model_json_schema())["properties"]["metadata"]
    body = _make_request_body(
        {MULTIPART_MEDIA_TYPE: _make_form_schema(_FILE_SCHEMA, {"metadata": said}, required=["file"])}
    )
    body["requestBody"]["content"][MULTIPART_MEDIA_TYPE]["encoding"] = {"metadata": {"contentType": JSON_MEDIA_TYPE}}
    return body


def search_body() -> dict[str, Any]:
    """A form with files and options, or JSON."""
    fields = SearchForm.model_json_schema()["properties"]
    form = _make_form_schema(
        _FILES_SCHEMA, {"negative": _FILES_SCHEMA | {"description": "Pictures to be unlike."}} | fields
    )
    form["anyOf"] = [{"required": ["file"]}, {"required": ["positive_id"]}]
    return _make_query_parameters() | _make_request_body(
        {MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: SearchRequest.model_json_schema()}
    )


def search_batch_body() -> dict[str, Any]:
    """A form with files, each a search of its own, or JSON."""
    fields = SearchOptions.model_json_schema()["properties"]
    files = _FILES_SCHEMA | {"maxItems": MAX_BATCH_SEARCHES, "description": "Each picture is a search of its own."}
    form = _make_form_schema(files, fields, required=["file"])
    return _make_query_parameters() | _make_request_body(
        {MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _inline_definitions(SearchBatchRequest.model_json_schema())}
    )


def image_or_json_body(json_model: type[BaseModel], form_model: type[BaseModel], max_files: int = 1) -> dict[str, Any]:
    """A form with one picture or up to so many, and what it says beside them; or JSON of this shape."""
    fields = _inline_definitions(form_model.model_json_schema())["properties"]
    file = (
        _FILE_SCHEMA
        if max_files == 1
        else _FILES_SCHEMA | {"maxItems": max_files, "description": "One picture, or several."}
    )
    form = _make_form_schema(file, fields, required=["file"]) | {"additionalProperties": False}
    body = _make_request_body(
        {MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _inline_definitions(json_model.model_json_schema())}
    )
    nested = [name for name, schema in fields.items() if schema.get("type") not in _SCALAR_TYPES]
    body["requestBody"]["content"][MULTIPART_MEDIA_TYPE]["encoding"] = {
        name: {"contentType": JSON_MEDIA_TYPE} for name in nested
    }
    return body


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """JSON of this shape."""
    return _make_request_body({JSON_MEDIA_TYPE: _inline_definitions(model.model_json_schema())})


def install_openapi(app: FastAPI) -> None:
    """Makes the app's document name the media type that its errors really have."""
    plain = app.openapi

    def documented() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"] = deepcopy(_COMMON_ERRORS) | operation["responses"]
                    _set_problem_media_type(operation["responses"])
            scopes.add_security(document)
            examples.add_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]  # the way that FastAPI documents


def _set_problem_media_type(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and JSON_MEDIA_TYPE in content:
            content[PROBLEM_MEDIA_TYPE] = content.pop(JSON_MEDIA_TYPE)


def _make_form_schema(file: dict[str, Any], fields: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": file, **fields}}
    return form | ({"required": list(required)} if required else {})


def _make_query_parameters() -> dict[str, Any]:
    """Those of a search, in its address."""
    fields = SearchOptions.model_json_schema()["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            | ({"description": schema["description"]} if "description" in schema else {})
            for name, schema in fields.items()
        ]
    }


def _make_request_body(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _inline_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what it refers to written out: a `$defs` inside a path is not where OpenAPI would look."""
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(definitions[part["$ref"].rpartition("/")[2]])
            return {name: resolved(value) for name, value in part.items()}
        return [resolved(one) for one in part] if isinstance(part, list) else part

    return cast(dict[str, Any], resolved(schema))
