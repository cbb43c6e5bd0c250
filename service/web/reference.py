"""The API reference at `/docs`, rendered from the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from simile.service import urls
from simile.service.web.rendering import View, render_page

router = APIRouter(include_in_schema=False)


@router.get(urls.DOCS)
def show_reference(request: Request) -> Response:
    """Show every operation with its parameters and responses."""
    return render_page(request, "reference.html", _make_reference(request.app))


@lru_cache(4)
def _make_reference(app: FastAPI) -> View:
    """Return the operations of the OpenAPI document by tag, each with its anchor on the page."""
    document = app.openapi()
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            anchor = re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-")
            named = {"method": method.upper(), "path": path, "anchor": anchor}
            groups.setdefault(operation.get("tags", ["service"])[0], []).append(operation | named)
    return {
        "groups": groups,
        "schemas": document["components"]["schemas"],
        "format_type": _format_type,
        "format_json": _format_json,
    }


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
