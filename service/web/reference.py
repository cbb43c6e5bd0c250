"""The API reference at `/docs`, rendered from the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from simile.service import urls
from simile.service.web.rendering import render_page

pass

router = APIRouter(include_in_schema=False)


@router.get(urls.DOCS)
def show_reference(request: Request) -> Response:
    """Show every operation with its parameters and responses."""
    return render_page(request, "reference.html", _get_reference(request.app))


@lru_cache(4)
def _get_reference(app: FastAPI) -> ApiReference:
    return make_reference(app.openapi())


@dataclass(frozen=True)
class ReferenceField:
    """A parameter or a field of a body."""

    name: str
    type: str
    required: bool
    text: str


@dataclass(frozen=True)
class ReferenceBody:
    """A request body of one media type. examples: JSON by name."""

    media_type: str
    fields: list[ReferenceField]
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class ReferenceResponse:
    """A response. example: JSON of a successful response."""

    status: str
    text: str
    media_types: list[str]
    example: str | None


@dataclass(frozen=True)
class ReferenceOperation:
    """One method of one path. anchor: its anchor on the page."""

    method: str
    path: str
    anchor: str
    title: str
    text: str
    parameters: list[ReferenceField]
    bodies: list[ReferenceBody]
    responses: list[ReferenceResponse]


@dataclass(frozen=True)
class ApiReference:
    """All operations, by tag."""

    groups: list[tuple[str, list[ReferenceOperation]]]


def make_reference(document: Mapping[str, Any]) -> ApiReference:
    """Make the reference of an OpenAPI document."""
    groups: dict[str, list[ReferenceOperation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            about = (operation.get("tags") or ["service"])[0]
            groups.setdefault(about, []).append(_make_operation(method.upper(), path, operation, document))
    return ApiReference(list(groups.items()))


def _make_operation(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> ReferenceOperation:
    bodies = operation.get("requestBody", {}).get("content", {})
    return ReferenceOperation(
        method,
        path,
        re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-"),
        operation.get("summary", ""),
        operation.get("description", ""),
        [_make_parameter(item) for item in operation.get("parameters", [])],
        [_make_body(kind, content, document) for kind, content in bodies.items()],
        [_make_response(status, response) for status, response in operation["responses"].items()],
    )


def _make_parameter(parameter: Mapping[str, Any]) -> ReferenceField:
    return ReferenceField(
        parameter["name"],
        _format_type(parameter.get("schema", {})),
        bool(parameter.get("required")),
        parameter.get("description", ""),
    )


def _make_body(media_type: str, content: Mapping[str, Any], document: Mapping[str, Any]) -> ReferenceBody:
    schema = _resolve_ref(content.get("schema", {}), document)
    needed = schema.get("required", [])
    fields = [
        ReferenceField(name, _format_type(item), name in needed, item.get("description", ""))
        for name, item in schema.get("properties", {}).items()
    ]
    examples = [(name, _format_json(item["value"])) for name, item in content.get("examples", {}).items()]
    return ReferenceBody(media_type, fields, examples)


def _make_response(status: str, response: Mapping[str, Any]) -> ReferenceResponse:
    content = response.get("content", {})
    examples = [item["example"] for item in content.values() if "example" in item]
    return ReferenceResponse(
        status, response.get("description", ""), list(content), _format_json(examples[0]) if examples else None
    )


def _resolve_ref(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _format_type(schema: Mapping[str, Any]) -> str:
    """Describe a type in words: `integer`, `array of string`, `a or b`; with its default value."""
    description = " or ".join(dict.fromkeys(_iter_types(schema))) or "any"
    default = schema.get("default")
    return description if default in (None, [], {}) else f"{description} = {json.dumps(default)}"


def _iter_types(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield " | ".join(map(str, schema["enum"]))
    elif "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    elif "anyOf" in schema:
        for item in schema["anyOf"]:
            yield from _iter_types(item)
    elif schema.get("type") == "array":
        yield f"array of {' or '.join(_iter_types(schema.get('items', {}))) or 'any'}"
    elif schema.get("format") == "binary":
        yield "file"
    elif schema.get("type") != "null":
        kind = schema.get("type", "any")
        yield " or ".join(kind) if isinstance(kind, list) else str(kind)


def _format_json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r"(data:image/png;base64,.{12})[^\"]*", r"\1…", text)
