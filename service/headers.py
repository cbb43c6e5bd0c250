"""Headers that tell browsers what they may do with an answer, and how long they may keep it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox"

# A picture may be deleted, and a home may change its encoder: browsers keep the bytes, and ask whether they still hold.
_KEEP_AND_ASK = "private, no-cache"


class SafeHeaders:
    """ASGI middleware: no answer is taken for another type than it says, none tells other sites where it was."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def picture(request: Request, tag: str, make: Callable[[], tuple[bytes, str]]) -> Response:
    """A picture (bytes, media type) under an ETag that names its content; 304, and nothing made, for a known tag."""
    etag = f'"{tag}"'
    kept = {"ETag": etag, "Cache-Control": _KEEP_AND_ASK, "Content-Security-Policy": FILE_POLICY}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=kept)
    data, media_type = make()
    return Response(data, headers=kept, media_type=media_type)
