"""Security, CORS and caching headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox"
_DEFAULT_POLICY = "default-src 'none'; frame-ancestors 'none'"  # for responses that are not pages

# For pages of the origins in SIMILE_CORS_ORIGINS. They send a key; cookies are only for the service's own pages.
CORS_OPTIONS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "DELETE"],
    "allow_headers": ["Authorization", "X-API-Key", "Content-Type", "If-None-Match", "Last-Event-ID"],
    "expose_headers": ["ETag", "Location", "Retry-After", "X-Request-Id"],
    "allow_credentials": False,
}

HSTS_SECONDS = 365 * 24 * 3600  # browsers that saw the service over https do not ask it over http
# An image may be deleted, and a home may change its encoder: browsers cache the bytes and revalidate them.
CACHE_AND_REVALIDATE = "private, no-cache"


class SecurityHeadersMiddleware:
    """ASGI middleware that adds security headers: no content sniffing, no referrer, no framing by other sites."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
                headers.setdefault("X-Frame-Options", "DENY")
                headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
                headers.setdefault("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", f"max-age={HSTS_SECONDS}")
                if not headers.get("Content-Type", "").startswith("text/html"):  # pages bring a policy of their own
                    headers.setdefault("Content-Security-Policy", _DEFAULT_POLICY)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class HeadRequestMiddleware:
    """ASGI middleware that handles HEAD as GET and sends no body: every URL that has GET has HEAD (RFC 9110)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)
        # A copy: the server must know that no body follows. `state` is shared, `route` is for the log.
        scope.setdefault("state", {})
        inner_scope = {**scope, "method": "GET"}
        is_ended = False

        async def send_headers(message: Message) -> None:
            nonlocal is_ended
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
            elif message.get("more_body"):  # a long file, or an endless stream of events
                is_ended = True
                raise OSError("A response to HEAD has no body.")

        try:
            await self.app(inner_scope, receive, send_headers)
        except Exception:
            if not is_ended:  # otherwise the error of `send_headers`, possibly wrapped
                raise
        finally:
            scope["route"] = inner_scope.get("route")


def make_etag_response(request: Request, tag: str, make: Callable[[], tuple[bytes, str]]) -> Response:
    """Make an image response (bytes, media type) with an ETag; 304 without rendering for a known ETag."""
    etag = f'"{tag}"'
    kept = {"ETag": etag, "Cache-Control": CACHE_AND_REVALIDATE, "Content-Security-Policy": FILE_POLICY}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=kept)
    data, media_type = make()
    return Response(data, headers=kept, media_type=media_type)


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether the client already has the content with this ETag."""
    known = [item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known
