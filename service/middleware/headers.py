"""Headers that tell browsers what they may do with an answer, and how long they may keep it."""

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
_DEFAULT_POLICY = "default-src 'none'; frame-ancestors 'none'"  # of answers that show and run nothing

# What pages of the origins in SIMILE_CORS_ORIGINS may do. They bring a key; cookies are for the service's own page.
CORS_OPTIONS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "DELETE"],
    "allow_headers": ["Authorization", "X-API-Key", "Content-Type", "If-None-Match", "Last-Event-ID"],
    "expose_headers": ["ETag", "Location", "Retry-After", "X-Request-Id"],
    "allow_credentials": False,
}

# A picture may be deleted, and a home may change its encoder: browsers keep the bytes, and ask whether they still hold.
CACHE_AND_REVALIDATE = "private, no-cache"


class SecurityHeadersMiddleware:
    """ASGI middleware: no answer is taken for another type than it says, none tells other sites where it was."""

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
                if not headers.get("Content-Type", "").startswith("text/html"):  # pages bring a policy of their own
                    headers.setdefault("Content-Security-Policy", _DEFAULT_POLICY)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def make_etag_response(request: Request, tag: str, make: Callable[[], tuple[bytes, str]]) -> Response:
    """A picture (bytes, media type) under an ETag that names its content; 304, and nothing made, for a known tag."""
    etag = f'"{tag}"'
    kept = {"ETag": etag, "Cache-Control": CACHE_AND_REVALIDATE, "Content-Security-Policy": FILE_POLICY}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=kept)
    data, media_type = make()
    return Response(data, headers=kept, media_type=media_type)


def is_not_modified(request: Request, etag: str) -> bool:
    """Whether the client has what this ETag names."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known
