"""Request ids, the request log and request metrics."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simile.service.middleware.limits import UploadLimiter
from simile.service.observability.metrics import ServiceMetrics

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
_QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})  # requested every few seconds: logged only if they fail

log = logging.getLogger("simile.requests")


class RequestLogMiddleware:
    """Outermost ASGI middleware: request id, log line and metrics of every request.

    The id is the client's X-Request-Id if it is short and plain, otherwise a new one; the ids of one process start with
    the same eight letters. Logged are method, path, route, status, time, bytes and the key's name; never a key, a URL's
    query or image data.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, upload_limiter: UploadLimiter) -> None:
        self.app = app
        self.metrics = metrics
        self.upload_limiter = upload_limiter
        self._process_id = os.urandom(4).hex()
        self._request_counter = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = _get_client_request_id(scope) or f"{self._process_id}-{next(self._request_counter):x}"
        scope.setdefault("state", {})["request_id"] = request_id
        started, status, came, went = time.perf_counter(), 500, 0, 0

        async def counted_receive() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            return message

        async def noted_send(message: Message) -> None:
            nonlocal status, went
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if self.upload_limiter.is_draining:
                    headers["Connection"] = "close"
            else:
                went += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, counted_receive, noted_send)
        finally:
            self._log_request(scope, status, time.perf_counter() - started, came, went)

    def _log_request(self, scope: Scope, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        self.metrics.observe_stage("total", seconds)
        self.metrics.count_response(route, scope["method"] if route != "none" else "any", status)
        level = logging.DEBUG if scope["path"] in _QUIET_PATHS and status < 400 else logging.INFO
        if log.isEnabledFor(level):
            fields = _make_log_fields(scope, route, status, seconds, bytes_in, bytes_out)
            log.log(level, "%(method)s %(path)s %(status)d %(ms).1f ms %(id)s", fields, extra={"fields": fields})


def _make_log_fields(
    scope: Scope, route: str, status: int, seconds: float, bytes_in: int, bytes_out: int
) -> dict[str, Any]:
    visitor = scope["state"].get("visitor")
    return {
        "id": scope["state"]["request_id"],
        "method": scope["method"],
        "path": scope["path"].encode("ascii", "backslashreplace").decode()[:1024],
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 2),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "key": getattr(visitor, "name", None),
    }


def _get_client_request_id(scope: Scope) -> str | None:
    """Return the client's request id if it is safe to repeat in headers and logs."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode("ascii") if _REQUEST_ID_PATTERN.fullmatch(value) else None
    return None
