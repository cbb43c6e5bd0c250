"""The path prefix of a reverse proxy (SIMILE_ROOT_PATH)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.service import urls


class RootPathMiddleware:
    """Outermost ASGI middleware: removes the prefix from the path of a request, and adds it to all links.

    A proxy may pass the prefix on or remove it. The application itself works with paths without the prefix.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        urls.ROOT_PATH.set(self.root_path)
        if scope["path"] == self.root_path or scope["path"].startswith(f"{self.root_path}/"):
            scope["path"] = scope["path"].removeprefix(self.root_path) or "/"
            scope["raw_path"] = (scope.get("raw_path") or b"").removeprefix(self.root_path.encode()) or b"/"

        async def send_with_prefix(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                location = urlsplit(headers.get("Location", ""))
                if location.netloc:  # Starlette's redirect to the URL without a slash at its end
                    headers["Location"] = location._replace(path=self.root_path + location.path).geturl()
            await send(message)

        await self.app(scope, receive, send_with_prefix)
