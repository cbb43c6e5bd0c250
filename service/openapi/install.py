"""Complete the OpenAPI document: errors, examples, and bodies that handlers read themselves."""

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

# Errors of all routes, before the path is looked at.
_COMMON_ERRORS = {
    status: {
        "description": HTTPStatus(int(status)).phrase,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemResponse.__name__}"}}},
    }
    for status in ("400", "414", "431")
}
_SCALAR_TYPES = ("string", "integer", "number", "boolean")
_FILE_SCHEMA = {"type": "string", "format": "binary", "description": "The image."}


def document_errors(*statuses: int) -> ResponseDocs:
    """Document the problems of a route."""
    return {status: {"model": ProblemResponse, "description": HTTPStatus(status).phrase} for status in statuses}


def document_json(model: type[BaseModel]) -> ResponseDocs:
    """Document a JSON response of a route that serialises it itself."""
    return {200: {"model": model, "description": "Successful Response"}}


def document_image(*media_types: str, cacheable: bool = False) -> ResponseDocs:
    """Document an image as the response; `cacheable`: with an ETag, so that 304 is possible."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    not_modified: ResponseDocs = {304: {"description": "Not modified: the ETag is in If-None-Match"}}
    return {200: {"description": "The image", "content": content}} | (not_modified if cacheable else {})


def upload_body() -> dict[str, Any]:
    """Document a form with one file."""
    return _make_request_body({MULTIPART_MEDIA_TYPE: _make_form_schema(_FILE_SCHEMA, {}, required=["file"])})


def image_upload_body() -> dict[str, Any]:
    """Document a form with one file and its metadata."""
    fields = {"metadata": _make_schema(MetadataRequest)["properties"]["metadata"]}
    form = _make_form_schema(_FILE_SCHEMA, fields, required=["file"])
    return _make_request_body({MULTIPART_MEDIA_TYPE: form}, ["metadata"])


def search_body() -> dict[str, Any]:
    """Document a form with files and options, or JSON."""
    files = _make_files_schema(MAX_QUERY_IMAGES, "One or more images that the hits should resemble.")
    negatives = {"negative": files | {"description": "Images that the hits should not resemble."}}
    form = _make_form_schema(files, negatives | _make_schema(SearchForm)["properties"])
    form["anyOf"] = [{"required": ["file"]}, {"required": ["positive_id"]}]
    body = _make_request_body({MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _make_schema(SearchRequest)})
    return _document_search_options() | body


def search_batch_body() -> dict[str, Any]:
    """Document a form with one search for each file, or JSON."""
    files = _make_files_schema(MAX_BATCH_SEARCHES, "Each image is a separate search.")
    form = _make_form_schema(files, _make_schema(SearchOptions)["properties"], required=["file"])
    body = _make_request_body({MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _make_schema(SearchBatchRequest)})
    return _document_search_options() | body


def _document_search_options() -> dict[str, Any]:
    """Document the options of a search as query parameters; service/requests/search.py parses them."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            | ({"description": schema["description"]} if "description" in schema else {})
            for name, schema in _make_schema(SearchOptions)["properties"].items()
        ]
    }


def image_or_json_body(json_model: type[BaseModel], form_model: type[BaseModel], max_files: int = 1) -> dict[str, Any]:
    """Document a form with up to `max_files` images and the fields of `form_model`, or JSON of `json_model`."""
    file = _FILE_SCHEMA if max_files == 1 else _make_files_schema(max_files, "One or more images.")
    fields = _make_schema(form_model)["properties"]
    form = _make_form_schema(file, fields, required=["file"]) | {"additionalProperties": False}
    json_fields = [name for name, schema in fields.items() if schema.get("type") not in _SCALAR_TYPES]
    return _make_request_body({MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _make_schema(json_model)}, json_fields)


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Document a JSON body."""
    return _make_request_body({JSON_MEDIA_TYPE: _make_schema(model)})


def install_openapi(app: FastAPI) -> None:
    """Complete the app's document with the media type of errors, security and examples."""
    make_document = app.openapi

    def make_complete_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make_document()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"] = deepcopy(_COMMON_ERRORS) | operation["responses"]
                    _set_problem_media_type(operation["responses"])
            scopes.add_security(document)
            examples.add_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = make_complete_document  # type: ignore[method-assign]  # as FastAPI's documentation does


def _set_problem_media_type(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and JSON_MEDIA_TYPE in content:
            content[PROBLEM_MEDIA_TYPE] = content.pop(JSON_MEDIA_TYPE)


def _make_files_schema(max_files: int, description: str) -> dict[str, Any]:
    items = {"type": "string", "format": "binary"}
    return {"type": "array", "items": items, "minItems": 1, "maxItems": max_files, "description": description}


def _make_form_schema(file: dict[str, Any], fields: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": file, **fields}}
    return form | ({"required": list(required)} if required else {})


def _make_request_body(schemas: dict[str, dict[str, Any]], json_fields: Sequence[str] = ()) -> dict[str, Any]:
    """Return a body by media type; the form fields `json_fields` hold JSON."""
    content: dict[str, Any] = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    if json_fields:
        content[MULTIPART_MEDIA_TYPE]["encoding"] = {name: {"contentType": JSON_MEDIA_TYPE} for name in json_fields}
    return {"requestBody": {"required": True, "content": content}}


def _make_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema without `$defs`, where OpenAPI does not look: every reference is replaced."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(definitions[part["$ref"].rpartition("/")[2]])
            return {name: resolve(value) for name, value in part.items()}
        return [resolve(item) for item in part] if isinstance(part, list) else part

    return cast(dict[str, Any], resolve(schema))
