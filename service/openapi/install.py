"""Complete the OpenAPI document: errors, examples, and bodies that handlers read themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    ProblemResponse,
    SearchBatchRequest,
    SearchForm,
    SearchOptions,
    SearchRequest,
)
from simile.service.security import scopes

ResponseDocs = dict[int | str, dict[str, Any]]

NOT_MODIFIED_RESPONSE: ResponseDocs = {304: {"description": "Not modified: the ETag is in If-None-Match"}}
_SCALAR_TYPES = ("string", "integer", "number", "boolean")
_BINARY_CONTENT = {"schema": {"type": "string", "format": "binary"}}
_FILE_SCHEMA = {"type": "string", "format": "binary", "description": "The image."}


def document_errors(*statuses: int) -> ResponseDocs:
    """Document the problems of a route."""
    schema = {"$ref": f"#/components/schemas/{ProblemResponse.__name__}"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def document_json(
    model: type[BaseModel], description: str = "Successful Response", binary_media_types: Iterable[str] = ()
) -> ResponseDocs:
    """Document a JSON response of a route that serialises it itself, and the binary forms that `Accept` may name."""
    content = dict.fromkeys(binary_media_types, _BINARY_CONTENT)
    return {200: {"model": model, "description": description, "content": content}}


def document_image(*media_types: str, cacheable: bool = False) -> ResponseDocs:
    """Document an image as the response; `cacheable`: with an ETag, so that 304 is possible."""
    content = dict.fromkeys(media_types, _BINARY_CONTENT)
    return {200: {"description": "The image", "content": content}} | (NOT_MODIFIED_RESPONSE if cacheable else {})


def upload_body(form_model: type[BaseModel] | None = None) -> dict[str, Any]:
    """Document a form with one file, and fields of `form_model` that hold JSON."""
    fields = {} if form_model is None else _make_schema(form_model)["properties"]
    return _make_request_body({MULTIPART_MEDIA_TYPE: _make_form_schema(_FILE_SCHEMA, fields, ["file"])}, list(fields))


def search_body() -> dict[str, Any]:
    """Document a form with files and options, or JSON."""
    files = _make_files_schema(MAX_QUERY_IMAGES, "One or more images that the hits should resemble.")
    negatives = {"negative": files | {"description": "Images that the hits should not resemble."}}
    form = _make_form_schema(files, negatives | _make_schema(SearchForm)["properties"])
    form["anyOf"] = [{"required": ["file"]}, {"required": ["positive_id"]}, {"required": ["text"]}]
    body = _make_request_body({MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _make_schema(SearchRequest)})
    return _document_search_options() | body


def search_batch_body() -> dict[str, Any]:
    """Document a form with one search for each file, or JSON."""
    files = _make_files_schema(MAX_BATCH_SEARCHES, "Each image is a separate search.")
    form = _make_form_schema(files, _make_schema(SearchOptions)["properties"], ["file"])
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
    form = _make_form_schema(file, fields, ["file"]) | {"additionalProperties": False}
    json_fields = [name for name, schema in fields.items() if schema.get("type") not in _SCALAR_TYPES]
    return _make_request_body({MULTIPART_MEDIA_TYPE: form, JSON_MEDIA_TYPE: _make_schema(json_model)}, json_fields)


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Document a JSON body."""
    return _make_request_body({JSON_MEDIA_TYPE: _make_schema(model)})


def install_openapi(app: FastAPI) -> None:
    """Complete the app's document with security and examples."""
    make_document = app.openapi

    def make_complete_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make_document()
            if root_path := app.state.settings.root_path:
                document["servers"] = [{"url": root_path}]
            scopes.add_security(document)
            examples.add_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = make_complete_document  # type: ignore[method-assign]  # as FastAPI's documentation does


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
