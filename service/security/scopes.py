"""The scope that each route requires, in one table. The application does not start with a route that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path

from simile.core.errors import BadSetting
from simile.core.keys import Scope

RequiredScope = Scope | Literal["public"]

# public: no key. search: read and search. write: add, describe, decide and delete. admin: long jobs, and changes
# that affect every search. HEAD requires what GET requires.
ROUTE_SCOPES: dict[str, RequiredScope] = {
    "GET /livez": "public",
    "GET /readyz": "public",
    "GET /signin": "public",
    "POST /signin": "public",
    "POST /signout": "public",
    "GET /static": "public",
    "GET /": "search",
    "POST /": "search",
    "GET /pictures/{image_id}": "search",
    "GET /collection": "search",
    "GET /duplicates": "search",
    "GET /quality": "search",
    "POST /duplicates": "write",
    "GET /jobs": "write",
    "GET /map": "search",
    "GET /latent": "search",
    "GET /docs": "search",
    "GET /openapi.json": "search",
    "GET /metrics": "search",
    "POST /mcp": "search",
    "GET /v1/status": "search",
    "POST /v1/search": "search",
    "POST /v1/search/batch": "search",
    "POST /v1/reconstructions": "search",
    "POST /v1/latents": "search",
    "POST /v1/morphs": "search",
    "POST /v1/samples": "search",
    "POST /v1/traversals": "search",
    "POST /v1/uncertainty": "search",
    "GET /v1/facets": "search",
    "GET /v1/words": "search",
    "GET /v1/outliers": "search",
    "GET /v1/attributes": "search",
    "POST /v1/attributes": "write",
    "GET /v1/attributes/{name}": "search",
    "DELETE /v1/attributes/{name}": "write",
    "POST /v1/attributes/{name}/apply": "search",
    "GET /v1/images": "search",
    "POST /v1/images": "write",
    "GET /v1/images/{image_id}": "search",
    "DELETE /v1/images/{image_id}": "write",
    "PUT /v1/images/{image_id}/metadata": "write",
    "GET /v1/images/{image_id}/file": "search",
    "GET /v1/images/{image_id}/thumbnail": "search",
    "GET /v1/images/{image_id}/reconstruction": "search",
    "GET /v1/images/{image_id}/neighbours": "search",
    "GET /v1/quality": "search",
    "GET /v1/duplicates": "search",
    "GET /v1/duplicates/plan": "search",
    "GET /v1/duplicates/difference": "search",
    "POST /v1/duplicates/decisions": "write",
    "GET /v1/map": "search",
    "POST /v1/map": "write",
    "GET /v1/map/points": "search",
    "GET /v1/map/tiles/{tile}": "search",
    "GET /v1/encoders": "search",
    "GET /v1/encoders/{fingerprint}": "search",
    "POST /v1/encoders/{fingerprint}/activate": "admin",
    "GET /v1/jobs": "write",
    "POST /v1/jobs": "admin",
    "GET /v1/jobs/{job_id}": "write",
    "POST /v1/jobs/{job_id}/cancel": "admin",
    "GET /v1/jobs/{job_id}/failures": "write",
    "GET /v1/jobs/{job_id}/events": "write",
}

# The router's own patterns, so that both agree on paths such as "/v1/jobs\n".
_SCOPE_PATTERNS = [
    (method, compile_path(path)[0], required)
    for (method, _, path), required in ((route.partition(" "), required) for route, required in ROUTE_SCOPES.items())
]
_REFUSAL_PHRASES = {"401": "Unauthorized", "403": "Forbidden", "421": "Misdirected Request", "429": "Too Many Requests"}
_COOKIE_DESCRIPTION = "The session cookie set by /signin."
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key made by `simile keys create`."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "simile_session", "description": _COOKIE_DESCRIPTION},
}


def get_required_scope(method: str, path: str) -> RequiredScope:
    """Return the scope that a request requires; `search` for unknown paths, so that they reveal nothing."""
    method = "GET" if method == "HEAD" else method
    if path.startswith("/static/"):
        return "public"
    exact = ROUTE_SCOPES.get(f"{method} {path}")
    if exact is not None:
        return exact
    found = (required for known, pattern, required in _SCOPE_PATTERNS if known == method and pattern.match(path))
    return next(found, "search")


def check_routes(app: FastAPI) -> None:
    """Raise RuntimeError for a route that is missing in the table."""
    missing = [route for route in list_routes(app.router.routes) if route not in ROUTE_SCOPES]
    if missing:
        routes = ", ".join(missing)
        raise RuntimeError(f"No scope for {routes}. Add its scope to ROUTE_SCOPES in service/security/scopes.py.")


def list_routes(routes: Iterable[BaseRoute]) -> list[str]:
    """Return `METHOD /path` of every route, as in the table; a mounted application has only GET."""
    return [
        f"{method} {context.path}"
        for context in iter_route_contexts(list(routes))
        for method in sorted((context.methods or {"GET"}) - {"HEAD"})
    ]


def add_security(document: dict[str, Any]) -> None:
    """Add security schemes, required scopes and the responses 401, 403, 421 and 429 to an OpenAPI document."""
    document.setdefault("components", {})["securitySchemes"] = _SECURITY_SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            required = get_required_scope(method.upper(), path)
            if required == "public":
                operation["security"] = []
                continue
            operation["security"] = [{name: []} for name in _SECURITY_SCHEMES] + [{}]
            description = operation.get("description", "").rstrip()
            operation["description"] = f"{description}\n\nRequires the scope `{required}` if the home has keys.".strip()
            for status, phrase in _REFUSAL_PHRASES.items():
                operation["responses"].setdefault(status, _make_refusal_response(phrase))


def _make_refusal_response(phrase: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemResponse"}
    return {"description": phrase, "content": {"application/problem+json": {"schema": schema}}}


def check_root_path(root_path: str | None) -> None:
    """Raise BadSetting if a path below the prefix of a proxy could also be one of the application's own."""
    first = (root_path or "").strip("/").split("/")[0]
    if first and first in {route.split("/")[1] for route in ROUTE_SCOPES}:
        raise BadSetting(f"SIMILE_ROOT_PATH can't begin with /{first}, a path of simile itself. Choose another prefix.")
