"""The page at `/docs`: the API, from the document that programs read at `/openapi.json`."""

from __future__ import annotations

from functools import lru_cache

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from simile.service import urls
from simile.service.web.rendering import render_page

pass
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

router = APIRouter(include_in_schema=False)


@router.get(urls.DOCS)
def show_reference(request: Request) -> Response:
    """Every operation, what it takes, and what it answers."""
    return render_page(request, "reference.html", _reference(request.app))


@lru_cache(4)
def _reference(app: FastAPI) -> Reference:
    return reference(app.openapi())


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a body."""

    name: str
    kind: str
    needed: bool
    text: str


@dataclass(frozen=True)
class Body:
    """What is sent, as one media type. examples: JSON, by name."""

    media_type: str
    fields: list[Field]
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Response:
    """An answer. example: JSON, of one that went well."""

    status: str
    text: str
    media_types: list[str]
    example: str | None


@dataclass(frozen=True)
class Operation:
    """One method of one address. anchor: of its place in the page."""

    method: str
    path: str
    anchor: str
    title: str
    text: str
    parameters: list[Field]
    bodies: list[Body]
    responses: list[Response]


@dataclass(frozen=True)
class Reference:
    """All operations, by what they are about."""

    groups: list[tuple[str, list[Operation]]]


def reference(document: Mapping[str, Any]) -> Reference:
    """The page of an OpenAPI document."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            about = (operation.get("tags") or ["service"])[0]
            groups.setdefault(about, []).append(_operation(method.upper(), path, operation, document))
    return Reference(list(groups.items()))


def _operation(method: str, path: str, said: Mapping[str, Any], document: Mapping[str, Any]) -> Operation:
    bodies = said.get("requestBody", {}).get("content", {})
    return Operation(
        method,
        path,
        re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-"),
        said.get("summary", ""),
        said.get("description", ""),
        [_parameter(one) for one in said.get("parameters", [])],
        [_body(kind, content, document) for kind, content in bodies.items()],
        [_response(status, response) for status, response in said["responses"].items()],
    )


def _parameter(said: Mapping[str, Any]) -> Field:
    return Field(said["name"], _kind(said.get("schema", {})), bool(said.get("required")), said.get("description", ""))


def _body(media_type: str, said: Mapping[str, Any], document: Mapping[str, Any]) -> Body:
    schema = _resolved(said.get("schema", {}), document)
    needed = schema.get("required", [])
    fields = [
        Field(name, _kind(one), name in needed, one.get("description", ""))
        for name, one in schema.get("properties", {}).items()
    ]
    examples = [(name, _pretty(one["value"])) for name, one in said.get("examples", {}).items()]
    return Body(media_type, fields, examples)


def _response(status: str, said: Mapping[str, Any]) -> Response:
    content = said.get("content", {})
    examples = [one["example"] for one in content.values() if "example" in one]
    return Response(status, said.get("description", ""), list(content), _pretty(examples[0]) if examples else None)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words: `integer`, `array of string`, `a or b`; with its default where there is one."""
    said = " or ".join(dict.fromkeys(_kinds(schema))) or "any"
    default = schema.get("default")
    return said if default in (None, [], {}) else f"{said} = {json.dumps(default)}"


def _kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield " | ".join(map(str, schema["enum"]))
    elif "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _kinds(one)
    elif schema.get("type") == "array":
        yield f"array of {' or '.join(_kinds(schema.get('items', {}))) or 'any'}"
    elif schema.get("format") == "binary":
        yield "file"
    elif schema.get("type") != "null":
        kind = schema.get("type", "any")
        yield " or ".join(kind) if isinstance(kind, list) else str(kind)


def _pretty(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r"(data:image/png;base64,.{12})[^\"]*", r"\1…", text)
